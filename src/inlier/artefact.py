"""A monitor as a file: safetensors with a JSON manifest in its header, and the sampling key in a file of its own.

The key file lies beside the artefact, readable by its owner alone, and is found by the name in the manifest. Nothing
is unpickled, a checksum covers manifest and tensors, and every file is written whole or not at all: the key under a new
name first, then the artefact that names it, then the old key goes. Whatever ends a save, the old artefact or the new
one is there with its key; a hidden note names the keys that may be left over, and the next save removes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import abandoned, alone, discard, noted, packed, read_metadata, read_tensors, replacing, unfinished
from inlier.origin import key_digest
from inlier.sampling import SamplingKey

__all__ = ["FORMAT_VERSION", "DetectorEntry", "Manifest", "load", "save"]

FORMAT_VERSION = 1
MOST_PIXELS = 2**28
"""Of an image. Loading runs the backbone once on an image of the manifest's size, which must not exhaust the memory."""


MOST_NOTED = 2**16
"""Bytes of a note: it holds a few names of keys."""


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Side = Annotated[int, pydantic.Field(ge=1, le=2**16)]
Count = Annotated[int, pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.Field(gt=0, lt=1)]
KeyFile = Annotated[str, pydantic.Field(max_length=255, pattern=r"^[^/\\\x00]+\.key$")]


class DetectorEntry(Strict):
    """A detector's name in the table and the settings its factory was called with."""

    name: str
    settings: dict[str, Any]


class Manifest(Strict):
    """Everything of a monitor that is not a tensor."""

    format_version: int
    inlier_version: str
    backbone: str
    """The backbone's fingerprint."""
    size: tuple[Side, Side]
    channels: Annotated[int, pydantic.Field(ge=1, le=2**12)]
    taps: dict[str, tuple[Count, Count, Count]]
    detectors: Annotated[list[DetectorEntry], pydantic.Field(min_length=1)]
    fusion: Literal["max", "sum"]
    escalate: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    seed: int | None
    """Of the fits; None where it also fixed a sampling key, which could be drawn from it again."""
    clean: str
    """How the clean scores behind the calibration were made."""
    names: list[str]
    groups: list[str]
    fitted_to: list[str]
    """Names of the clean images that the detectors learnt from."""
    rule: Literal["order_statistic", "high_probability", "robust"]
    confidence: Share
    false_alarm_rate: Share
    key_file: KeyFile | None
    key_digest: str | None

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ValueError(f"images of {self.size[0]} x {self.size[1]} pixels")
        if not 0 < len(self.names) == len(self.groups):
            raise ValueError(f"{len(self.names)} names and {len(self.groups)} groups of clean images")
        if (self.key_file is None) != (self.key_digest is None):
            raise ValueError(f"key_file {self.key_file!r} and key_digest {self.key_digest!r}")
        return self


def save(path: Path, manifest: Manifest, tensors: Mapping[str, Tensor], key: SamplingKey | None) -> None:
    """Write artefact and key; `manifest.key_file` and `key_digest` are filled in here."""
    with alone(path.parent):
        # A key under another artefact's name is that artefact's: `path` was copied from it.
        spare = {name for name in _keys_named_by([path]) if name.startswith(f"{path.name}.")}
        left = [temporary for temporary in unfinished(path) if abandoned(temporary)]
        spare = spare.union(*(_noted_in(path, temporary) for temporary in left))
        if key is not None:
            digest = key_digest(key)
            manifest = manifest.model_copy(update={"key_file": f"{path.name}.{digest[:8]}.key", "key_digest": digest})
            assert manifest.key_file is not None
            if not (path.parent / manifest.key_file).exists():
                spare.add(manifest.key_file)  # until the artefact names it
        text = manifest.model_dump_json()
        content = packed(tensors, {"manifest": text, "sha256": _checksum(text, tensors)})
        with noted(path, json.dumps(sorted(spare)).encode()) as note:
            for temporary in left:  # now that what they noted is noted again
                discard(temporary)
            try:
                with replacing(path) as temporary:
                    temporary.write_bytes(content)
                    if key is not None and manifest.key_file is not None:
                        key.save(path.parent / manifest.key_file)
            finally:
                _remove_keys(path.parent, spare)
                note.unlink()


def load(path: Path) -> tuple[Manifest, dict[str, Tensor], SamplingKey | None]:
    """Read artefact and key.

    Raises:
        FileNotFoundError: there is no such artefact.
        Mismatch: it is no artefact, is damaged, is of another format version, or its key is missing or another one.
    """
    while True:
        seen = _state(path)
        try:
            return _read(path)
        except (Mismatch, FileNotFoundError):
            if _state(path) == seen:  # else it was replaced between artefact and key
                raise


def _read(path: Path) -> tuple[Manifest, dict[str, Tensor], SamplingKey | None]:
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'. Expected a monitor, which `inlier fit` writes.")
    tensors, metadata = read_tensors(path)
    text = metadata.get("manifest")
    if text is None:
        raise Mismatch(f"'{path}' is a safetensors file but no inlier monitor: it has no manifest")
    manifest = _manifest(path, text)
    if metadata.get("sha256") != _checksum(text, tensors):
        raise Mismatch(f"'{path}' is damaged: its checksum does not fit. Copy it again or fit the monitor again.")
    _check_clean_scores(path, manifest, tensors)
    if manifest.key_file is None:
        return manifest, tensors, None
    key_path = path.parent / manifest.key_file
    if not key_path.is_file():
        raise Mismatch(
            f"The sampling key '{manifest.key_file}' is not beside '{path}'. Put it there, or draw a new one with "
            "`inlier rekey`."
        )
    key = SamplingKey.load(key_path)
    if key_digest(key) != manifest.key_digest:
        raise Mismatch(f"'{key_path}' is not the key that '{path}' was fitted with")
    if key.volume[1:] != manifest.size:
        raise Mismatch(
            f"'{key_path}' was drawn for images of {key.volume[1]} x {key.volume[2]} (h x w), and '{path}' was fitted "
            f"to images of {manifest.size[0]} x {manifest.size[1]}. One of them is damaged: copy both again."
        )
    return manifest, tensors, key


def _manifest(path: Path, text: str) -> Manifest:
    try:
        version = json.loads(text).get("format_version")
        if version != FORMAT_VERSION:
            raise Mismatch(
                f"'{path}' has format version {version!r}; this inlier reads version {FORMAT_VERSION}. "
                "Fit the monitor again, or use the inlier that wrote it."
            )
        return Manifest.model_validate_json(text)
    except (ValueError, AttributeError, RecursionError) as error:
        raise Mismatch(f"The manifest of '{path}' is damaged: {_first_line(error)}") from error


def _check_clean_scores(path: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """That there is a number for each clean image where there should be, and that calibrations are made of these."""
    count = len(manifest.names)
    for name, tensor in tensors.items():
        if not name.startswith(("clean.", "calibration.scores")):
            continue
        kind = tensor.dtype == torch.int64 if name == "clean.folds" else tensor.dtype.is_floating_point
        if not kind or tensor.shape != (count,) or not tensor.isfinite().all():
            raise Mismatch(
                f"'{path}' is damaged: '{name}' should hold a finite number for each of its {count} clean images, and "
                f"it is {tuple(tensor.shape)} of {tensor.dtype}. Copy it again or fit the monitor again."
            )
        calibrated = tensors.get(f"calibrations.{name.removeprefix('clean.scores.')}.scores")
        if calibrated is not None and not torch.equal(tensor.double().sort().values, calibrated):
            raise Mismatch(
                f"'{path}' is damaged: '{name}' are not the scores that the detector was calibrated with. "
                "Copy it again or fit the monitor again."
            )


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _keys_named_by(files: Iterable[Path]) -> set[str]:
    """The key files that artefacts among these files name."""
    names = set()
    for file in files:
        try:
            name = json.loads(read_metadata(file)["manifest"])["key_file"]
        except (Mismatch, OSError, LookupError, ValueError, TypeError, RecursionError):
            continue  # no artefact, or a damaged one, of which no key is known
        if isinstance(name, str) and Path(name).name == name:
            names.add(name)
    return names


def _noted_in(path: Path, temporary: Path) -> set[str]:
    """The keys of `path` that a killed save noted in a file that it left."""
    try:
        if temporary.stat().st_size > MOST_NOTED:
            return set()
        names = json.loads(temporary.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()  # no note, but half an artefact or key
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return {name for name in names if name.startswith(f"{path.name}.") and Path(name).name == name}


def _remove_keys(folder: Path, names: Collection[str]) -> None:
    """Remove the key files that no artefact in the folder names, copies included."""
    if names:
        for name in set(names) - _keys_named_by(folder.iterdir()):
            (folder / name).unlink(missing_ok=True)


def _checksum(manifest: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(manifest.encode())
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().view(-1)
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
