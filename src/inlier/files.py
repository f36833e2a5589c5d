"""Reading and writing so that nothing is lost: safetensors in, whole files out.

A file is written beside its target and renamed over it, so a reader sees the old content or the new one, never half.
Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from inlier.errors import Mismatch

__all__ = ["read_tensors", "replacing", "write_bytes", "write_tensors"]

PRIVATE = 0o600
PUBLIC = 0o666  # before the umask


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a new empty file in the folder of `path`; on success it takes the place of `path`, else it disappears.

    `mode` fixes the permission bits from the first byte on; by default they are what the umask leaves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # created with mode 0600
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = PUBLIC & ~umask
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a whole file or nothing."""
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, mode: int | None = None
) -> None:
    """Write a whole safetensors file or nothing."""
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        dict(metadata) if metadata else None,
    )
    write_bytes(path, content, mode)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: the file is not a whole safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'. Expected a safetensors file.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except safetensors.SafetensorError as error:
        raise Mismatch(
            f"'{path}' is not a whole safetensors file ({error}). It may be cut short or of another format; "
            "inlier reads no pickled weights: convert them with safetensors.torch.save_file."
        ) from error
