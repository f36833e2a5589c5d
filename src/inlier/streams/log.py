"""A log of verdicts that outlives whoever writes it: lines of JSON, appended whole, never changed.

What a killed writer leaves is a file of whole lines and perhaps one cut short at the end. That one is ended by the
next writer and left out by readers.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from inlier.errors import Mismatch

if sys.platform != "win32":
    import fcntl

__all__ = ["VerdictLog", "read_log"]

FORMAT = "inlier stream"
VERSION = 1
SYNC_SECONDS = 1.0
BINARY = getattr(os, "O_BINARY", 0)  # on Windows a line would end otherwise


def read_log(path: str | Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]], int]:
    """The settings that a log was begun with (None if it holds none yet), its rows, and how many lines are not whole.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: it is no log of this format.
    """
    settings: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = []
    broken = 0
    with Path(path).open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                broken += 1
            elif settings is not None:
                rows.append(row)
            elif row.get("log") == FORMAT and row.get("version") == VERSION and isinstance(row.get("settings"), dict):
                settings = row["settings"]
            else:
                raise Mismatch(
                    f"'{path}' is no log of a stream in the format of this inlier ({FORMAT} {VERSION}); give another "
                    "file"
                )
    if settings is None and broken > 1:  # one may be what a killed writer left of its first line
        raise Mismatch(f"'{path}' is no log of a stream: its lines are not JSON; give another file")
    return settings, rows, broken


class VerdictLog:
    """Appends rows to a file, each in one write of a whole line.

    A kill loses nothing that `append` returned from. A power cut loses at most what came in the last second, and
    nothing up to the last row that was appended with `sync`.

    Args:
        path: created, with its folder, if it is not there.
        settings: what the rows depend on; the first line.
        resume: go on after the rows that are there, if any.

    Attributes:
        rows: that were there.
        broken: how many lines there were cut short.

    Raises:
        FileExistsError: there are rows already, and they are not to be resumed.
        BlockingIOError: somebody else writes to it.
        Mismatch: it is no such log, or one of other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self.broken = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY, 0o666)
        self._cut = False
        self._synced = time.monotonic()
        try:
            self._begin(dict(settings), resume)
        except BaseException:
            os.close(self._handle)
            raise

    def append(self, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Write a row; with `sync` have it on the disk before returning.

        Raises:
            OSError: the file takes no more; what it took is ended by the next row.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        if self._cut:
            line = b"\n" + line
        while line:  # one write, unless the disk is full or a signal comes
            self._cut = True
            line = line[os.write(self._handle, line) :]
        self._cut = False
        if sync or time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Have all on the disk and let go of the file."""
        self._sync()
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, settings: dict[str, Any], resume: bool) -> None:
        regular = stat.S_ISREG(os.fstat(self._handle).st_mode)
        self._regular = regular
        if regular and sys.platform != "win32":
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if isinstance(error, BlockingIOError):  # else the file system has no locks
                    told = f"Somebody else is writing to '{self.path}'; give each stream a log of its own"
                    raise BlockingIOError(told) from error
        begun: dict[str, Any] | None = None
        if regular and os.fstat(self._handle).st_size:
            begun, self.rows, self.broken = read_log(self.path)
            self._cut = last_byte(self.path) != b"\n"
        if begun is None:
            self.append({"log": FORMAT, "version": VERSION, "settings": settings}, sync=True)
            return
        if not resume:
            raise FileExistsError(
                f"'{self.path}' holds {len(self.rows)} rows already: resume it (--resume), or give another file"
            )
        plain = json.loads(json.dumps(settings))
        if begun != plain:
            differing = sorted(name for name in {*begun, *plain} if begun.get(name) != plain.get(name))
            told = ", ".join(f"{name} {begun.get(name)!r} and now {plain.get(name)!r}" for name in differing)
            raise Mismatch(f"'{self.path}' was begun with other settings: {told}. Give the same, or another file.")

    def _sync(self) -> None:
        if self._regular:
            os.fsync(self._handle)
        self._synced = time.monotonic()


def last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
