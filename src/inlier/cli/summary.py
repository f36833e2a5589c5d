"""What commands say about a monitor and about alarms in groups of images."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inlier.datasets.base import Dataset
    from inlier.monitor import Monitor
    from inlier.observation import Readings

__all__ = ["alarms", "describe", "say", "say_alarms", "say_skipped", "tell", "telling_of_skipped"]


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def alarms(groups: Sequence[str], flagged: Sequence[bool]) -> list[dict[str, Any]]:
    """Observed alarms in every group and over all, with 95 % Clopper-Pearson intervals."""
    from inlier.evaluation.metrics import rate_interval

    rows = []
    for group in [*dict.fromkeys(groups), None]:
        inside = [flag for name, flag in zip(groups, flagged, strict=True) if group in (None, name)]
        low, high = rate_interval(sum(inside), len(inside))
        rows.append(
            {
                "group": group or "all",
                "images": len(inside),
                "flagged": sum(inside),
                "rate": sum(inside) / len(inside),
                "interval": [low, high],
            }
        )
    return rows if len(rows) > 2 else rows[-1:]


def say_alarms(rows: list[dict[str, Any]]) -> None:
    """The rows of `alarms`, a line each."""
    width = max(len(row["group"]) for row in rows)
    for row in rows:
        low, high = row["interval"]
        say(
            f"  {row['group']:{width}}  {row['flagged']:5d} of {row['images']:5d} flagged: "
            f"{100 * row['rate']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        )


def say_skipped(folder: Dataset) -> None:
    """Images that could not be read, and what was left out of those that could.

    Where not one could be read nothing is said: the error that `Dataset.batches` raises says it.
    """
    if len(folder.skipped) == len(folder):
        return
    for skipped in folder.skipped:
        say(f"inlier: skipped {skipped.name}: {skipped.reason}")
    if folder.skipped:
        say(f"inlier: {len(folder.skipped)} of {len(folder)} images skipped")
    for text, count in Counter(note.text for note in folder.notes).items():
        say(f"inlier: {count} of {len(folder)} images: {text}")


@contextmanager
def telling_of_skipped(source: Dataset | Readings | None) -> Iterator[None]:
    """`say_skipped` after work on images, also where it fails: there may be too few for want of those skipped."""
    from inlier.datasets.base import Dataset

    try:
        yield
    finally:
        if isinstance(source, Dataset):
            say_skipped(source)


def describe(monitor: Monitor) -> dict[str, Any]:
    """What a monitor is, in plain values."""
    from inlier.detectors.base import Detector

    assert monitor.clean is not None
    assert monitor.false_alarm_rate is not None
    flagged = monitor.calibration.flagged(monitor.calibration_scores, monitor.false_alarm_rate).tolist()
    return {
        "detectors": [spec.name if isinstance(spec, Detector) else str(spec) for spec in monitor.specs],
        "passes": round(monitor.passes, 2),
        "clean_scores": monitor.clean.made,
        "rule": monitor.calibration.rule,
        "false_alarm_rate": monitor.false_alarm_rate,
        "threshold": monitor.calibration.threshold(monitor.false_alarm_rate),
        "clean_images": len(monitor.clean.names),
        "clean_alarms": alarms(monitor.clean.groups, flagged),
    }


def tell(monitor: Monitor, as_json: bool, more: dict[str, Any]) -> None:
    """`describe` and more, for people or for machines."""
    told = describe(monitor) | more
    if as_json:
        print(json.dumps(told))
        return
    say(f"detectors     {', '.join(told['detectors'])}")
    if told["passes"] > 1:
        say(f"passes        {told['passes']:g} forward passes a clean image, on average")
    say(f"clean scores  {told['clean_images']} images, {told['clean_scores']}")
    say(f"threshold     {told['threshold']:.6g} at a false-alarm rate of {told['false_alarm_rate']:g} ({told['rule']})")
    say("alarms on these clean images, by group (observed, 95 % interval):")
    say_alarms(told["clean_alarms"])
    for name, value in more.items():
        say(f"{name.replace('_', ' '):13} {value}")
