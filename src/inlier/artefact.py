"""A monitor as a file: safetensors with a JSON manifest in its header, and the sampling key in a file of its own.

The key file lies beside the artefact, readable by its owner alone, and is found by the name in the manifest. Nothing
is unpickled, a checksum covers manifest and tensors, and every file is written whole or not at all: the key under a new
name first, then the artefact that names it, then the old key goes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors
from inlier.sampling import SamplingKey
from inlier.taps import Shape

__all__ = ["FORMAT_VERSION", "DetectorEntry", "Manifest", "load", "save"]

FORMAT_VERSION = 1


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


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
    size: tuple[int, int]
    channels: int
    taps: dict[str, Shape]
    detectors: list[DetectorEntry]
    fusion: Literal["max", "sum"]
    seed: int | None
    """Of the fits; None where it also fixed a sampling key, which could be drawn from it again."""
    clean: str
    """How the clean scores behind the calibration were made."""
    names: list[str]
    groups: list[str]
    fitted_to: list[str]
    """Names of the clean images that the detectors learnt from."""
    rule: Literal["order_statistic", "high_probability", "robust"]
    confidence: float
    false_alarm_rate: float
    key_file: str | None
    key_digest: str | None


def save(path: Path, manifest: Manifest, tensors: Mapping[str, Tensor], key: SamplingKey | None) -> None:
    """Write artefact and key; `manifest.key_file` and `key_digest` are filled in here."""
    old = _old_key_file(path)
    if key is not None:
        digest = _key_digest(key)
        manifest = manifest.model_copy(update={"key_file": f"{path.name}.{digest[:8]}.key", "key_digest": digest})
        assert manifest.key_file is not None
        key.save(path.parent / manifest.key_file)
    text = manifest.model_dump_json()
    write_tensors(path, tensors, {"manifest": text, "sha256": _checksum(text, tensors)})
    # A key under another artefact's name is that artefact's: `path` was copied from it.
    if old is not None and old != manifest.key_file and old.startswith(f"{path.name}."):
        (path.parent / old).unlink(missing_ok=True)


def load(path: Path) -> tuple[Manifest, dict[str, Tensor], SamplingKey | None]:
    """Read artefact and key.

    Raises:
        FileNotFoundError: there is no such artefact.
        Mismatch: it is no artefact, is damaged, is of another format version, or its key is missing or another one.
    """
    tensors, metadata = read_tensors(path)
    text = metadata.get("manifest")
    if text is None:
        raise Mismatch(f"'{path}' is a safetensors file but no inlier monitor: it has no manifest")
    try:
        version = json.loads(text).get("format_version")
        if version != FORMAT_VERSION:
            raise Mismatch(
                f"'{path}' has format version {version!r}; this inlier reads version {FORMAT_VERSION}. "
                "Fit the monitor again, or use the inlier that wrote it."
            )
        manifest = Manifest.model_validate_json(text)
    except (ValueError, AttributeError) as error:
        raise Mismatch(f"The manifest of '{path}' is damaged: {_first_line(error)}") from error
    if metadata.get("sha256") != _checksum(text, tensors):
        raise Mismatch(f"'{path}' is damaged: its checksum does not fit. Copy it again or fit the monitor again.")
    if manifest.key_file is None:
        return manifest, tensors, None
    key_path = path.parent / manifest.key_file
    if Path(manifest.key_file).name != manifest.key_file or not key_path.is_file():
        raise Mismatch(
            f"The sampling key '{manifest.key_file}' is not beside '{path}'. Put it there, or draw a new one with "
            "`inlier rekey`."
        )
    key = SamplingKey.load(key_path)
    if _key_digest(key) != manifest.key_digest:
        raise Mismatch(f"'{key_path}' is not the key that '{path}' was fitted with")
    return manifest, tensors, key


def _old_key_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        name = json.loads(read_tensors(path)[1]["manifest"])["key_file"]
    except (Mismatch, KeyError, ValueError, TypeError):
        return None  # whatever lies there is replaced, and nothing is known of its key
    return name if isinstance(name, str) and Path(name).name == name and name.endswith(".key") else None


def _checksum(manifest: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(manifest.encode())
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _key_digest(key: SamplingKey) -> str:
    return hashlib.sha256(key.points.contiguous().numpy().tobytes()).hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
