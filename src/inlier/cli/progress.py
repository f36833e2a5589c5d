"""Progress for people, on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from inlier.types import Progress

__all__ = ["plain_lines", "progress_bars"]

SECONDS_BETWEEN_LINES = 5.0
PROBE = 3
"""After so many steps it is told how long the rest will take."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yields what shows progress; a phase begins when it is first told of and ends when the next one begins."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines(sys.stderr)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                for task in tasks.values():
                    bars.remove_task(task)
                tasks.clear()
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield show


def plain_lines(out: TextIO, clock: Callable[[], float] = time.monotonic) -> Progress:
    """One line when a phase begins and one when it is done; in between, one with the time left after the first few
    steps of what takes long, and then one every few seconds."""
    phase = ""
    begun = told = 0.0
    first = calls = 0
    finished = False

    def show(name: str, done: int, total: int) -> None:
        nonlocal phase, begun, told, first, calls, finished
        now = clock()
        calls += 1
        left = (now - begun) * (total - done) / max(done - first, 1)
        probed = calls == 1 + PROBE and told == begun and left >= SECONDS_BETWEEN_LINES
        if name != phase or (finished and done < total):
            phase, begun, told, finished = name, now, now, done >= total
            first, calls = done, 1
            print(f"{name}: {done} of {total}", file=out, flush=True)
        elif done >= total and not finished:
            finished = True
            print(f"{name}: {total} of {total}, {now - begun:.1f} s", file=out, flush=True)
        elif done > first and (probed or now - told >= SECONDS_BETWEEN_LINES):
            told = now
            print(f"{name}: {done} of {total}, about {left:.0f} s left", file=out, flush=True)

    return show
