"""Readings as a file: safetensors, written batch by batch, whole or not at all, and memory-mapped when read.

What is more than memory is never in memory: the file is streamed, and its tensors are views of the file. While images
are still being read, what there is lies in a folder beside the file, so that reading goes on where a kill ended it.

Whoever has sampled activations, the images and the network can find out the sampling key. So a file of readings that
were made with a key is readable by its owner alone, as the key is.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pydantic
import torch
from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import PRIVATE, read_tensors, replacing, write_bytes, write_tensors
from inlier.origin import Origin
from inlier.spool import check_alike, chunk_rows, raw

__all__ = ["FORMAT_VERSION", "READINGS", "Contents", "Loaded", "Unfinished", "load_readings", "save_readings"]

READINGS = ".readings"
"""How the name of a file of readings ends."""

FORMAT_VERSION = 1
VALUES = "values."
"""Prefix of the tensors that are readings."""
INDEX = "index"
LABELS = "labels"

NO_DIGEST = "0" * 64

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the types that readings have."""


class Contents(pydantic.BaseModel):
    """What a file of readings holds besides tensors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format_version: int
    inlier_version: str
    origin: Origin
    digest: str
    """A SHA-256 of all that the file holds but this; the same readings of the same inlier have the same."""


@dataclass(frozen=True)
class Stream:
    """A tensor that is known piece by piece, along its first axis."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Tensor]]

    @classmethod
    def of(cls, tensor: Tensor) -> Stream:
        rows = chunk_rows({"": tensor})
        return cls(tensor.dtype, tuple(tensor.shape), lambda: iter(torch.split(tensor, rows)))

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Loaded:
    """What a file of readings held; the tensors are views of the file."""

    values: dict[str, Tensor]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Tensor | None
    contents: Contents


def save_readings(
    path: Path,
    values: Mapping[str, Tensor],
    names: Sequence[str],
    groups: Sequence[str],
    labels: Tensor | None,
    origin: Origin,
) -> None:
    """Write a whole file or nothing, a chunk at a time; with mode 0600 where a key was used."""
    streams = {VALUES + name: Stream.of(value) for name, value in values.items()}
    if labels is not None:
        streams[LABELS] = Stream.of(labels)
    write_streams(path, streams, names, groups, origin)


def load_readings(path: Path, verify: bool = True) -> Loaded:
    """Read a file; `verify` goes through all of it once, to compare its digest.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: it holds no readings, is damaged, or is of another format version.
    """
    tensors, metadata = read_tensors(path)
    text = metadata.get("readings")
    if text is None:
        raise Mismatch(f"'{path}' is a safetensors file but holds no readings: make one with `inlier read`")
    try:
        found = json.loads(text)["format_version"]
        if found != FORMAT_VERSION:
            raise Mismatch(
                f"'{path}' has format version {found!r}; this inlier reads version {FORMAT_VERSION}. "
                "Read the images again, or use the inlier that wrote it."
            )
        contents = Contents.model_validate_json(text)
        if verify and digest_of(path, text) != contents.digest:
            raise Mismatch(f"'{path}' is damaged: its digest does not fit. Copy it again or read the images again.")
        index = json.loads(bytes(raw(tensors.pop(INDEX))))
        names, groups = tuple(index["names"]), tuple(index["groups"])
        labels = tensors.pop(LABELS, None)
        values = {name: tensors.pop(VALUES + name) for name in index["values"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"The header of '{path}' is damaged: {' '.join(str(error).split())[:200]}") from error
    lengths = {len(names), len(groups), *(len(value) for value in values.values())}
    if len(lengths) > 1 or tensors:
        raise Mismatch(
            f"'{path}' is damaged: its readings are of lengths {sorted(lengths)}, with {sorted(tensors)} left"
        )
    return Loaded(values, names, groups, labels, contents)


class Unfinished:
    """Readings on their way to the file `path`: a file a batch, in a hidden folder beside it.

    A kill loses the batch at hand and no other. One process at a time may read into one file.

    Args:
        path: of the file that is being made.
        described: what is being read, and how; batches of anything else are thrown away and read again.
    """

    def __init__(self, path: Path, described: str) -> None:
        self.path = path
        self.folder = path.parent / f".{path.name}.partial"
        note = self.folder / "described.json"
        if not note.is_file() or note.read_text(encoding="utf-8") != described:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(mode=0o700, parents=True)
            write_bytes(note, described.encode())
        self._count = 0
        self._rows = 0
        self._like: dict[str, Tensor] = {}

    def holds(self, names: Sequence[str]) -> bool:
        """Whether the next batch is here already, and of these images; if so it counts as added."""
        try:
            values, metadata = read_tensors(self._file(self._count))
            here = json.loads(metadata["names"])
        except (FileNotFoundError, Mismatch, KeyError, ValueError):
            return False
        if here != list(names) or any(len(value) != len(names) for value in values.values()):
            return False
        self._take(values, len(names))
        return True

    def add(self, values: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """Append a batch."""
        write_tensors(self._file(self._count), values, {"names": json.dumps(list(names))}, PRIVATE)
        self._take(values, len(names))

    def finish(self, names: Sequence[str], groups: Sequence[str], labels: Tensor | None, origin: Origin) -> None:
        """Make one file of all batches, and drop these."""
        streams = {
            VALUES + name: Stream(like.dtype, (self._rows, *like.shape[1:]), partial(self._pieces, name))
            for name, like in self._like.items()
        }
        if labels is not None:
            streams[LABELS] = Stream.of(labels)
        write_streams(self.path, streams, names, groups, origin)
        shutil.rmtree(self.folder)

    def _take(self, values: Mapping[str, Tensor], rows: int) -> None:
        if not self._like:
            self._like = {name: value[:0].cpu().clone() for name, value in values.items()}
        check_alike(self._like, values)
        self._count += 1
        self._rows += rows

    def _pieces(self, name: str) -> Iterator[Tensor]:
        for number in range(self._count):
            yield read_tensors(self._file(number))[0][name]

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:07d}.safetensors"


def write_streams(
    path: Path, streams: dict[str, Stream], names: Sequence[str], groups: Sequence[str], origin: Origin
) -> None:
    # Some detectors go by the first reading, so their order matters.
    order = [name.removeprefix(VALUES) for name in streams if name.startswith(VALUES)]
    index = json.dumps({"names": list(names), "groups": list(groups), "values": order}).encode()
    streams = streams | {INDEX: Stream.of(torch.frombuffer(bytearray(index), dtype=torch.uint8))}
    # Wide types first, so that every tensor is aligned.
    streams = dict(sorted(streams.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    contents = Contents(
        format_version=FORMAT_VERSION, inlier_version=version("inlier"), origin=origin, digest=NO_DIGEST
    )
    with replacing(path, None if origin.key is None else PRIVATE) as temporary, temporary.open("rb+") as file:
        start = header(streams, contents)
        digest = hashlib.sha256(start)
        file.write(start)
        for stream in streams.values():
            for piece in stream.pieces():
                content = raw(piece)
                digest.update(content)
                file.write(content)
        file.seek(0)  # the digest is as long as what stood in its place
        file.write(header(streams, contents.model_copy(update={"digest": digest.hexdigest()})))


def header(streams: Mapping[str, Stream], contents: Contents) -> bytes:
    """How a safetensors file begins: the length of a JSON object, and the object."""
    told: dict[str, object] = {"__metadata__": {"readings": contents.model_dump_json()}}
    end = 0
    for name, stream in streams.items():
        if stream.dtype not in TYPES:
            raise TypeError(f"'{name.removeprefix(VALUES)}' is of {stream.dtype}, which no file of readings holds")
        start, end = end, end + stream.bytes
        told[name] = {"dtype": TYPES[stream.dtype], "shape": stream.shape, "data_offsets": [start, end]}
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def digest_of(path: Path, text: str) -> str:
    """The digest of a file as it was when no digest stood in it."""
    found = json.loads(text)["digest"].encode()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = file.read(8)
        start = length + file.read(int.from_bytes(length, "little"))
        digest.update(start.replace(found, NO_DIGEST.encode(), 1))
        while content := file.read(1 << 22):
            digest.update(content)
    return digest.hexdigest()
