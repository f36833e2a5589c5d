"""Reading and writing so that nothing is lost: safetensors in, whole files out.

A file is written beside its target and renamed over it, so a reader sees the old content or the new one, never half.
What a killed writer leaves is hidden, told apart from what a living one is at by a lock, and removed by the next one.
Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from inlier.errors import Mismatch

if sys.platform != "win32":
    import fcntl

__all__ = ["abandoned", "alone", "discard", "noted", "packed", "read_metadata", "read_tensors", "replacing",
           "unfinished", "write_bytes", "write_tensors"]  # fmt: skip

PRIVATE = 0o600
PUBLIC = 0o666  # before the umask
UNFINISHED = ".unfinished"
PATIENCE = 5.0
"""Seconds to wait for another writer. Without waiting at all writers leave keys of each other behind, no more."""


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a new empty file in the folder of `path`; on success it takes the place of `path`, else it disappears.

    `mode` fixes the permission bits from the first byte on; by default they are what the umask leaves. Several writers
    of one `path` do not disturb each other: the last one to finish wins. What is yielded is to be written into, not to
    be replaced.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"'{path}' is a folder or a device, and would be replaced by a file; give another name")
    with begun(path, mode) as temporary:
        ours = temporary.lstat()
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            if sys.platform != "win32":
                with suppress(OSError):  # not every file system can
                    sync(path.parent)  # so that the rename outlives a power cut
        finally:
            if is_at(ours, temporary):  # and not renamed, its name perhaps taken by another writer since
                temporary.unlink()


@contextmanager
def noted(path: Path, note: bytes) -> Iterator[Path]:
    """Write down something about the writing of `path`, for who comes after a kill; the file is the caller's to remove.

    Until then it is in `unfinished`, and after this context `abandoned`.
    """
    with begun(path, PRIVATE) as temporary:
        try:
            temporary.write_bytes(note)
            sync(temporary)
        except BaseException:
            temporary.unlink()
            raise
        yield temporary


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait, but not for long, until nobody else is within this context for the same folder, where there are locks."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + PATIENCE
        while not locked(handle) and time.monotonic() < until:
            time.sleep(0.005)
        yield
    finally:
        os.close(handle)


def unfinished(path: Path) -> list[Path]:
    """Files that writers of `path`, or of names that go on from its name, are at or were at when they were killed."""
    if not path.parent.is_dir():
        return []
    return sorted(
        file
        for file in path.parent.iterdir()
        if file.name.startswith(f".{path.name}.") and file.name.endswith(UNFINISHED)
    )


def abandoned(temporary: Path) -> bool:
    """Whether the writer of a file of `unfinished` is gone; False where there is no telling."""
    with taken(temporary) as ours:
        return ours


def discard(temporary: Path) -> bool:
    """Remove an abandoned file; False, and nothing done, where it is not."""
    with taken(temporary) as ours:
        if ours:
            temporary.unlink(missing_ok=True)
        return ours


@contextmanager
def taken(temporary: Path) -> Iterator[bool]:
    """Hold the lock of a file that nobody else holds, or that is gone; False if that cannot be."""
    if sys.platform == "win32":
        yield False
        return
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    try:
        yield locked(handle) and is_at(os.fstat(handle), temporary)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a whole file or nothing; into a device or a pipe, just write."""
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(content)
        return
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, mode: int | None = None
) -> None:
    """Write a whole safetensors file or nothing."""
    write_bytes(path, packed(tensors, metadata), mode)


def packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file."""
    content: bytes = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        dict(metadata) if metadata else None,
    )
    return content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: the file is not a whole safetensors file.
    """
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; its tensors are not read. Raises as `read_tensors`."""
    with opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'. Expected a safetensors file.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, RuntimeError) as error:  # the latter from PyTorch, which maps the file
        if not path.is_file():
            raise FileNotFoundError(f"'{path}' went away while it was being opened") from error
        raise Mismatch(
            f"'{path}' is not a whole safetensors file ({error}). It may be cut short or of another format; "
            "inlier reads no pickled weights: convert them with safetensors.torch.save_file."
        ) from error


@contextmanager
def begun(path: Path, mode: int | None) -> Iterator[Path]:
    """A new hidden file beside `path`, locked where there are locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        temporary = path.with_name(f".{path.name}.{number}{UNFINISHED}")
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, PUBLIC if mode is None else mode)
        except FileExistsError:
            number += not discard(temporary)
            continue
        if sys.platform == "win32":
            os.close(handle)  # a file that is open there cannot be renamed
            yield temporary
            return
        try:
            with suppress(OSError):  # wait, since whoever has the lock only looks whether the file is abandoned
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not is_at(os.fstat(handle), temporary):
                continue  # it was found to be
            if mode is not None:
                temporary.chmod(mode)  # whatever the umask is
            yield temporary
            return
        finally:
            os.close(handle)


def locked(handle: int) -> bool:
    """Lock an open file; False if somebody else holds it, or if the file system has no locks."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def is_at(file: os.stat_result, path: Path) -> bool:
    """Whether it is this file that has the name."""
    try:
        return os.path.samestat(file, path.lstat())
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
