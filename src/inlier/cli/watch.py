"""`inlier watch`: a verdict for every frame of a stream, alarms that are events, and drift."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, height_and_width, unpacked

if TYPE_CHECKING:
    from inlier.monitor import Monitor
    from inlier.streams.alarm import AlarmRule
    from inlier.streams.false_alarms import FalseAlarms
    from inlier.streams.frames import Frame
    from inlier.streams.log import VerdictLog
    from inlier.streams.stream import Moment, Stream

__all__ = ["watch"]

GATE_FAILED = 3
SECONDS_BETWEEN_LINES = 30.0
STDIN = "-"
BEARABLE = 1.0
"""Alarms an hour to offer when there would be more."""


@unpacked
def watch(
    monitor: options.MonitorArgument,
    backbone: BackboneArguments,
    images: Annotated[
        str,
        typer.Option(
            metavar="FOLDER | FILE | -",
            help="A folder of frames, a file of several (GIF, WebP, PNG, TIFF), or - for paths on stdin, one a line.",
        ),
    ],
    raw: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="On stdin there are frames of 8-bit RGB of this height and width."),
    ] = None,
    resize: Annotated[str | None, typer.Option(metavar="HxW", help="Resize every frame to this as it is read.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more files in the folder.")] = False,
    frame_rate: Annotated[
        float | None, typer.Option(help="Frames a second that come, to say what rates mean in an hour.")
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            min=1,
            help="Look at every so many frames: as many as lie between two of the clean images, if they are sparse.",
        ),
    ] = 1,
    alarm_at: Annotated[
        int | None, typer.Option(min=1, help="Flagged frames that raise an alarm; by default 5.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, max=12, help="Among so many of the latest.")] = 10,
    clear_after: Annotated[
        int | None, typer.Option(help="Unflagged frames in a row that clear it; by default as the window.")
    ] = None,
    alarms_per_hour: Annotated[
        float | None, typer.Option(help="Choose --alarm-at so that clean frames raise at most so many alarms.")
    ] = None,
    adapt: Annotated[
        int, typer.Option(min=0, help="Subtract the running median of so many unflagged scores; 0 does not.")
    ] = 0,
    drift: Annotated[float, typer.Option(help="Chance to declare drift falsely, ever.")] = 0.001,
    drift_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Look for drift at every so many; by default as many as clean scores stay correlated."
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Append every row to this file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the log ends.")] = False,
    events_only: Annotated[bool, typer.Option("--events-only", help="Print rows at which something happened.")] = False,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help="Exit with 3 if an alarm was raised or drift declared.")
    ] = False,
    batch_size: options.BatchSizeOption = 1,
    seed: Annotated[int, typer.Option(help="Fixes how ties between scores are broken.")] = 0,
) -> None:
    """Watch a stream of frames: a row each on stdout as JSON, alarms and drift as events on stderr.

    Ends with the frames, with Ctrl-C or when terminated, each time with a summary.
    """
    _check(images, raw, follow, frame_rate, alarm_at, alarms_per_hour, log, resume)
    from inlier.cli.summary import say
    from inlier.monitor import Monitor
    from inlier.streams.alarm import AlarmRule
    from inlier.streams.false_alarms import FalseAlarms, rule_for
    from inlier.streams.stream import Stream

    loaded = Monitor.load(monitor, backbone.load())
    assert loaded.anatomy is not None
    assert loaded.clean is not None
    clean, groups = loaded.calibration_scores, loaded.clean.groups
    looked = None if frame_rate is None else frame_rate / every
    rule = AlarmRule(min(5, window) if alarm_at is None else alarm_at, window, clear_after)
    stream = Stream.of(loaded, rule=rule, adapt=adapt, drift=drift, drift_every=drift_every, seed=seed)
    expected, offered = FalseAlarms.of(stream, clean, groups), None
    if looked is not None:
        choose = partial(rule_for, stream, clean, groups, frame_rate=looked, window=window, quiet=clear_after)
        if alarms_per_hour is not None:
            expected = choose(alarms_per_hour=alarms_per_hour)
            stream = stream.begun_anew(rule=expected.rule)
        elif max(expected.observed_per_hour(looked), expected.independent_per_hour(looked)) > BEARABLE:
            with suppress(ValueError):  # there is none to offer
                offered = choose(alarms_per_hour=BEARABLE).rule
    _say_what_to_expect(stream, expected, looked, alarms_per_hour, offered)
    settings = {
        "monitor": hashlib.sha256(monitor.read_bytes()).hexdigest(),
        "alarm": str(stream.alarm.rule),
        "adapt": adapt,
        "drift": drift,
        "drift_every": stream.drift_every,
        "every": every,
        "resize": resize,
        "seed": seed,
    }
    with _opened(log, settings, resume) as book:
        rows = [] if book is None else book.rows
        if book is not None and book.broken:
            say(f"inlier: {book.broken} line(s) of '{log}' cut short by a kill, left out")
        _replay(stream, rows, log)
        size, channels = height_and_width("--resize", resize), loaded.anatomy.channels
        frames = _frames(images, raw, follow, size, channels, rows, every)
        with _ending_when_terminated(), _display() as show:
            watched = Watched(loaded, stream, book, show, events_only)
            try:
                watched.all(_thinned(frames, every, 1 if rows else 0), batch_size)
            except KeyboardInterrupt:
                say("inlier: interrupted")
    watched.summarise(looked)
    if fail_on_alarm and watched.alarms + watched.drifts:
        raise typer.Exit(GATE_FAILED)


class Watched:
    """Frames go in; rows, events and counts come out.

    Args:
        monitor: scores frames.
        stream: says what scores mean in turn.
        book: takes every row, if there is one.
        show: is told of every frame.
        events_only: print only rows at which something happened.
    """

    def __init__(
        self,
        monitor: Monitor,
        stream: Stream,
        book: VerdictLog | None,
        show: Callable[[str, Moment], None],
        events_only: bool,
    ) -> None:
        self.monitor = monitor
        self.stream = stream
        self.book = book
        self.show = show
        self.events_only = events_only
        self.frames = self.flagged = self.unreadable = self.alarms = self.drifts = self.in_alarm = 0

    def all(self, frames: Iterator[Frame | None], batch_size: int) -> None:
        """Watch until there are no more; frames of one size share a forward pass."""
        waiting: list[Frame] = []
        for frame in frames:
            alike = frame is not None and frame.pixels is not None
            if waiting and (not alike or _shape(waiting[0]) != _shape(frame)):
                self._score(waiting)
                waiting = []
            if frame is not None and alike:
                waiting.append(frame)
                if len(waiting) == batch_size:
                    self._score(waiting)
                    waiting = []
            elif frame is not None:
                self._unreadable(frame)
        if waiting:
            self._score(waiting)

    def summarise(self, looked: float | None) -> None:
        """What came, on stderr."""
        from inlier.cli.summary import say
        from inlier.evaluation.metrics import rate_interval

        say(f"frames        {self.frames}" + (f", {self.unreadable} unreadable" if self.unreadable else ""))
        if self.frames:
            low, high = rate_interval(self.flagged, self.frames)
            share = f"{100 * self.flagged / self.frames:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            say(f"flagged       {self.flagged}: {share} (as if frames were independent)")
        lasting = "" if looked is None else f", {self.in_alarm / looked:.3g} s"
        say(f"alarms        {self.alarms} raised; on for {self.in_alarm} frames{lasting}")
        capital = f"10^{self.stream.martingale.log_largest / 2.302585092994046:.1f}"
        said = "declared" if self.stream.drifted else "not declared"
        say(f"drift         {said}; largest capital {capital}, declared at {1 / self.stream.drift:g}")

    def _score(self, frames: list[Frame]) -> None:
        import torch

        batch = torch.stack([frame.pixels for frame in frames if frame.pixels is not None])
        for frame, moment in zip(frames, self.stream.update(self.monitor(batch).score), strict=True):
            self.frames += 1
            self.flagged += moment.flagged
            self.in_alarm += moment.alarm
            self.alarms += "alarm raised" in moment.events
            self.drifts += "drift declared" in moment.events
            self._write({"image": frame.name, "time": _now()} | moment.row(), bool(moment.events))
            self.show(frame.name, moment)

    def _unreadable(self, frame: Frame) -> None:
        from inlier.cli.summary import say

        self.unreadable += 1
        self._write({"image": frame.name, "time": _now(), "problem": frame.problem}, True)
        say(f"inlier: skipped {frame.name}: {frame.problem}")

    def _write(self, row: dict[str, Any], happened: bool) -> None:
        if self.book is not None:
            self.book.append(row, sync=happened)
        if happened or not self.events_only:
            print(json.dumps(row), flush=True)


def _check(
    images: str,
    raw: str | None,
    follow: bool,
    frame_rate: float | None,
    alarm_at: int | None,
    alarms_per_hour: float | None,
    log: Path | None,
    resume: bool,
) -> None:
    if raw is not None and images != STDIN:
        raise ValueError(f"--raw says what is on stdin: give --images -, not --images {images}")
    if follow and images == STDIN:
        raise ValueError("--follow waits for files in a folder; stdin is followed to its end anyway")
    if frame_rate is not None and not frame_rate > 0:
        raise ValueError(f"--frame-rate is above 0 frames a second, not {frame_rate:g}")
    if alarms_per_hour is not None and frame_rate is None:
        raise ValueError("--alarms-per-hour needs to know how many frames an hour has: give --frame-rate")
    if alarms_per_hour is not None and alarm_at is not None:
        raise ValueError("--alarms-per-hour chooses --alarm-at: give one of the two")
    if resume and log is None:
        raise ValueError("--resume goes on where a log ends: give --log")


def _say_what_to_expect(
    stream: Stream,
    expected: FalseAlarms,
    looked: float | None,
    alarms_per_hour: float | None,
    offered: AlarmRule | None,
) -> None:
    from inlier.cli.summary import say
    from inlier.streams.false_alarms import flags_told, frames_for

    rate = stream.false_alarm_rate
    say(f"threshold     {stream.threshold:.6g} at a false-alarm rate of {rate:g}")
    if looked is not None:
        say(f"flags         {flags_told(rate, looked)}")
    say(f"alarm         {stream.alarm.rule}")
    say(f"on clean      {_number(expected.alarms, 'alarm')} on {expected.frames} clean images in their order")
    if looked is not None:
        most = expected.at_most_per_hour(looked)
        say(
            f"in an hour    {_number(expected.observed_per_hour(looked), 'alarm')} at that rate, with 95 % confidence "
            f"at most {_number(most)}; {_number(expected.independent_per_hour(looked))} if frames were independent, "
            "which they are not"
        )
        if offered is not None:
            say(f"              --alarms-per-hour {BEARABLE:g} would take {offered}")
        if alarms_per_hour is not None and most > alarms_per_hour:
            needed = frames_for(alarms_per_hour, looked)
            say(
                f"inlier: warning: {expected.frames} clean images cannot bear out {_number(alarms_per_hour, 'alarm')} "
                f"an hour at {looked:g} frames a second: that takes {needed:,} without an alarm. Count alarms on "
                "clean streams, calibrate with more images, or look at fewer frames (--every)."
            )
    apart = "every frame" if stream.drift_every == 1 else f"1 frame in {stream.drift_every}"
    say(
        f"drift         looked for at {apart}; falsely declared in at most "
        f"{stream.drift:g} of streams whose frames so far apart are exchangeable with the clean ones"
    )


@contextmanager
def _opened(log: Path | None, settings: dict[str, Any], resume: bool) -> Iterator[VerdictLog | None]:
    from inlier.streams.log import VerdictLog

    if log is None:
        yield None
        return
    with VerdictLog(log, settings, resume=resume) as book:
        yield book


def _replay(stream: Stream, rows: list[dict[str, Any]], log: Path | None) -> None:
    """Tell the stream the scores of the log again, which brings it to where it was."""
    import torch

    from inlier.errors import Mismatch

    judged = [row for row in rows if "problem" not in row]
    scores = [float("inf") if row.get("score") is None else row["score"] for row in judged]
    for row, moment in zip(judged, stream.update(torch.tensor(scores, dtype=torch.float64)), strict=True):
        if {name: row.get(name) for name in moment.row()} != moment.row():
            raise Mismatch(
                f"'{log}' does not add up at frame {row.get('frame')} ({row.get('image')}): lines before it are "
                "missing or changed, or another version wrote them. Give another file."
            )


def _frames(
    images: str,
    raw: str | None,
    follow: bool,
    size: tuple[int, int] | None,
    channels: int,
    rows: list[dict[str, Any]],
    every: int,
) -> Iterator[Frame | None]:
    from inlier.streams.frames import animation_frames, folder_frames, path_frames, raw_frames

    shape = height_and_width("--raw", raw)
    if images == STDIN and shape is not None:
        return raw_frames(sys.stdin.buffer, shape, start=len(rows) * every, size=size, channels=channels)
    if images == STDIN:
        return path_frames(sys.stdin, size=size, channels=channels)
    done = {str(row.get("image")) for row in rows}
    if Path(images).is_file():
        return animation_frames(images, skip=done, size=size, channels=channels)
    # Of frames that were passed over the log knows nothing but that they lie before its last.
    after = str(rows[-1].get("image")) if rows and every > 1 else None
    return folder_frames(images, skip=done, after=after, follow=follow, size=size, channels=channels)


def _thinned(frames: Iterator[Frame | None], every: int, start: int) -> Iterator[Frame | None]:
    number = start
    for frame in frames:
        if frame is None or number % every == 0:
            yield frame
        number += frame is not None


@contextmanager
def _ending_when_terminated() -> Iterator[None]:
    """Take a termination for an interruption, so that the log is closed and the summary told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _display() -> Iterator[Callable[[str, Moment], None]]:
    """A live line on a terminal; elsewhere a line for every event, and one now and then."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from inlier.cli.summary import say

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        told = time.monotonic()

        def line(name: str, moment: Moment) -> None:
            nonlocal told
            for event in _events(name, moment):
                say(event)
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                say(_status(name, moment))

        yield line
        return
    # Rows that go to the same terminal must not be written into the live line.
    with Live(console=console, redirect_stdout=sys.stdout.isatty(), transient=True) as live:

        def update(name: str, moment: Moment) -> None:
            for event in _events(name, moment):
                console.print(Text(event, style="bold red" if moment.alarm or moment.drift else "bold green"))
            live.update(Text(_status(name, moment), style="red" if moment.alarm else ""))

        yield update


def _events(name: str, moment: Moment) -> list[str]:
    why = {
        "alarm raised": f"{moment.recent} of the latest frames over the threshold",
        "alarm cleared": "quiet again",
        "drift declared": f"these frames are not exchangeable with the clean ones (capital 10^{moment.martingale:.1f})",
    }
    return [f"frame {moment.frame} ({name}): {event}: {why[event]}" for event in moment.events]


def _status(name: str, moment: Moment) -> str:
    alarm = "ALARM" if moment.alarm else "no alarm"
    drift = "DRIFT" if moment.drift else "no drift"
    return (
        f"frame {moment.frame} ({name}): p {moment.p_value:.3g}, {moment.recent} lately over, {alarm}, {drift} "
        f"(10^{moment.martingale:.1f})"
    )


def _number(value: float, noun: str = "") -> str:
    told = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{told} {noun}{'' if told == '1' else 's'}" if noun else told


def _shape(frame: Frame | None) -> tuple[int, ...]:
    return () if frame is None or frame.pixels is None else tuple(frame.pixels.shape)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
