"""Results: what trials of a monitor found, as plain values; reports are written from these and compute nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

from inlier.evaluation.metrics import rate_interval

__all__ = ["DAMAGED", "MONITOR", "Alarms", "CleanRow", "Kind", "Picture", "Results", "TrialRow"]

Kind: TypeAlias = Literal["perturbation", "attack", "adaptive attack"]

MONITOR = "monitor"
"""The column of the monitor as a whole; the others are named by detector."""
DAMAGED = 0.3
"""Share of changed pixels from which an image counts as damaged."""


@dataclass(frozen=True)
class CleanRow:
    """Clean images of one group.

    Args:
        group: its name.
        known: whether the monitor was fitted to images of this group.
        images: how many there were.
        wrong: the share of pixels that the network gets wrong on them.
        alarms: how many images each column flagged.
        scores: the monitor's.
    """

    group: str
    known: bool
    images: int
    wrong: float
    alarms: Mapping[str, int]
    scores: tuple[float, ...]

    def interval(self, column: str = MONITOR) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval of a column's rate of false alarms."""
        return rate_interval(self.alarms[column], self.images)


@dataclass(frozen=True, eq=False)
class Picture:
    """One image before and after a change.

    Args:
        before, after: the images, (3, h, w) in [0, 1].
        predicted_before, predicted_after: the classes, (h, w).
        heat: how much of the probability moved to other classes at each pixel, (h, w) in [0, 1].
        changed: the share of pixels whose class changed.
        p_value, flagged: what the monitor says of the changed image.
    """

    before: Float[Tensor, "c h w"]
    after: Float[Tensor, "c h w"]
    predicted_before: Int[Tensor, "h w"]
    predicted_after: Int[Tensor, "h w"]
    heat: Float[Tensor, "h w"]
    changed: float
    p_value: float
    flagged: bool


@dataclass(frozen=True)
class TrialRow:
    """What became of one change, in numbers.

    Args:
        name, label, kind: of the change.
        images: how many were changed.
        changed: mean share of pixels whose predicted class changed.
        auroc: by column, against the clean images; an attacker who stops below the threshold makes it mislead.
        caught: by column, the share flagged at the column's threshold.
        eligible: images that the monitor did not flag before the change.
        evaded: those of them with `DAMAGED` or more of their pixels changed and still no alarm of the monitor.
        scores: the monitor's.
    """

    name: str
    label: str
    kind: Kind
    images: int
    changed: float
    auroc: Mapping[str, float]
    caught: Mapping[str, float]
    eligible: int
    evaded: int
    scores: tuple[float, ...]

    def evasion_interval(self) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval of evaded / eligible."""
        return rate_interval(self.evaded, self.eligible)


class Alarms(NamedTuple):
    """How many of so many images were flagged, the 95 % interval of that rate, and the share of wrong pixels."""

    flagged: int
    images: int
    low: float
    high: float
    wrong: float


@dataclass(frozen=True, eq=False)
class Results:
    """All that was found out about one monitor.

    Args:
        network: its name; `parameters` and `classes` are the network's, `size` is (h, w) of the images.
        colours: of the classes on pictures, RGB in 0-255.
        detectors: of the monitor.
        fitted: how many clean images of each group it was fitted to.
        calibrated: how its threshold was made, in words.
        false_alarm_rate, thresholds: the rate, and the largest score not flagged by column.
        clean, trials: the rows.
        pictures: by name of the change.
        milliseconds: for one image, of the network alone and of network and monitor.
        seconds: by phase.
        seed: of everything that was drawn.
        command: what makes these results again.
    """

    network: str
    parameters: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    colours: tuple[tuple[int, int, int], ...]
    detectors: tuple[str, ...]
    fitted: Mapping[str, int]
    calibrated: str
    false_alarm_rate: float
    thresholds: Mapping[str, float]
    clean: tuple[CleanRow, ...]
    trials: tuple[TrialRow, ...]
    pictures: Mapping[str, Picture]
    milliseconds: tuple[float, float]
    seconds: Mapping[str, float]
    seed: int
    command: str

    def alarms(self, known: bool) -> Alarms:
        """The monitor's alarms on clean images of known or of unseen groups."""
        rows = [row for row in self.clean if row.known == known]
        flagged, images = sum(row.alarms[MONITOR] for row in rows), sum(row.images for row in rows)
        wrong = sum(row.wrong * row.images for row in rows) / max(images, 1)
        return Alarms(flagged, images, *rate_interval(flagged, images), wrong)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: everything but the pictures, with the 95 % intervals of the rates."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("pictures", "clean", "trials")}
        clean = [asdict(row) | {"interval": {name: row.interval(name) for name in row.alarms}} for row in self.clean]
        trials = [asdict(row) | {"evasion_interval": row.evasion_interval()} for row in self.trials]
        return told | {"damaged": DAMAGED, "clean": clean, "trials": trials}
