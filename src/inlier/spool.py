"""Rows that come batch by batch and may be more than memory holds.

Up to a limit they stay in memory; beyond it they are in nameless temporary files, and the tensors are memory maps of
these. A nameless file goes with the last tensor that looks at it, also when the process is killed. The files lie where
`tempfile` puts them (`TMPDIR`), which should be a disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import IO

import numpy as np
import torch
from torch import Tensor

from inlier.errors import Mismatch

__all__ = ["MEMORY_LIMIT", "Spool", "check_alike", "chunk_rows", "gather", "raw", "row_bytes"]

MEMORY_LIMIT = 2_000_000_000
"""Bytes of readings that are held in memory unless another limit is given."""
CHUNK = 64_000_000
"""Bytes that are moved at a time."""


class Spool:
    """Collects named tensors (n, ...) along their first axis.

    Args:
        limit: bytes that may be held in memory. While the tensors are put together it can be twice as many.

    Raises:
        Mismatch: a batch has other names, types or trailing shapes than the first.
    """

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        if limit < 0:
            raise ValueError(f"The limit is a number of bytes of 0 or more, not {limit}")
        self.limit = limit
        self._held: dict[str, list[Tensor]] = {}
        self._bytes = 0
        self._files: dict[str, IO[bytes]] = {}
        self._like: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Append a batch."""
        if not self._like:
            self._like = {name: value[:0].cpu() for name, value in values.items()}
            self._held = {name: [] for name in values}
        check_alike(self._like, values)
        for name, value in values.items():
            self._held[name].append(value.detach())
        self._count += len(next(iter(values.values()))) if values else 0
        self._bytes += size_of(values)
        if self._bytes > self.limit:
            self._spill()

    def tensors(self) -> dict[str, Tensor]:
        """All that was added. The spool is empty afterwards."""
        if not self._files:
            whole = {}
            for name in list(self._held):
                whole[name] = torch.cat(self._held.pop(name))
            return whole
        self._spill()
        whole = {}
        for name, file in self._files.items():
            file.flush()
            whole[name] = mapped(file, self._like[name], self._count)
            file.close()  # the map keeps what it needs
        self._files = {}
        return whole

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():  # of a spool that was given up
            file.close()

    def _spill(self) -> None:
        for name, values in self._held.items():
            if name not in self._files:
                self._files[name] = tempfile.TemporaryFile(prefix="inlier-")  # noqa: SIM115 (closed when mapped)
            for value in values:
                for piece in torch.split(value, chunk_rows({name: value})):
                    self._files[name].write(raw(piece))
            values.clear()
        self._bytes = 0


def gather(values: Mapping[str, Tensor], indices: Tensor, limit: int = MEMORY_LIMIT) -> dict[str, Tensor]:
    """Some rows of named tensors, in memory if they fit into `limit` bytes."""
    if row_bytes(values) * len(indices) <= limit:
        return {name: value[indices] for name, value in values.items()}
    spool = Spool(limit)
    for chunk in torch.split(indices, chunk_rows(values)):
        spool.add({name: value[chunk] for name, value in values.items()})
    return spool.tensors()


def size_of(values: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(value.numel() * value.element_size() for value in values.values())


def row_bytes(values: Mapping[str, Tensor]) -> int:
    """Bytes that one row of all tensors takes."""
    return sum(value[:1].numel() * value.element_size() for value in values.values())


def chunk_rows(values: Mapping[str, Tensor]) -> int:
    """How many rows make a chunk, at least 1."""
    return max(1, CHUNK // max(1, row_bytes(values)))


def raw(value: Tensor) -> memoryview:
    """The bytes of a tensor in their order, for a file."""
    flat = value.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data


def mapped(file: IO[bytes], like: Tensor, count: int) -> Tensor:
    """The first `count` rows of a file as a memory map: (count, ...) of the type and trailing shape of `like`."""
    shape = (count, *like.shape[1:])
    length = like.element_size() * int(np.prod(shape, dtype=np.int64))
    if length == 0:  # an empty file cannot be mapped
        return like.new_empty(shape)
    return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(length,))).view(like.dtype).view(shape)


def check_alike(like: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Refuse a batch that cannot be put behind the first one, whose rows are like those of `like`."""
    if like.keys() != values.keys():
        raise Mismatch(f"Readings of {sorted(like)} came first, and then some of {sorted(values)}")
    for name, value in values.items():
        if (value.dtype, value.shape[1:]) != (like[name].dtype, like[name].shape[1:]):
            raise Mismatch(
                f"'{name}' is {tuple(like[name].shape[1:])} of {like[name].dtype} an image, and then "
                f"{tuple(value.shape[1:])} of {value.dtype}: read images of one size"
            )
