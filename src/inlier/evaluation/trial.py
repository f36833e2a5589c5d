"""Trials: images are changed, and detectors side by side say which of them they would flag.

Every detector has its own threshold, set once on the same clean images for the same false-alarm rate and never moved.
What is judged is what an 8-bit file would hold. A rate comes with the number of images it was observed on; it is
observed, and promises nothing about other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inlier.attacks.constraints import LinfBall
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Context, Objective, Sum, cross_entropy, damage, evasion, most_likely
from inlier.attacks.steppers import SignStep
from inlier.calibration import Calibration
from inlier.detectors.base import Detector
from inlier.errors import NotFitted
from inlier.evaluation.metrics import auroc, changed_share, rate_interval
from inlier.monitor import Monitor
from inlier.observation import Observation
from inlier.perturbations.base import to_8_bit
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = [
    "DAMAGED",
    "MONITOR",
    "Change",
    "CleanRow",
    "Kind",
    "Panel",
    "Picture",
    "Seen",
    "Trial",
    "TrialRow",
    "clean_rows",
    "evasive",
    "milliseconds",
    "take",
    "try_out",
]

Kind: TypeAlias = Literal["perturbation", "attack", "adaptive attack"]

MONITOR = "monitor"
"""The column of the monitor as a whole; the others are named by detector."""
DAMAGED = 0.3
"""Share of changed pixels from which an image counts as damaged."""
BATCH = 8


@dataclass(frozen=True, eq=False)
class Seen:
    """What a panel makes of n images: scores by column, and the predicted classes."""

    scores: Mapping[str, Scores]
    prediction: LabelMaps


class Panel:
    """Detectors side by side: a monitor, each of its detectors if it has several, and those of monitors beside it.

    Args:
        monitor: calibrated; its false-alarm rate is everybody's.
        beside: calibrated monitors of the same backbone, fitted to the same clean images.

    Raises:
        NotFitted: the monitor is not calibrated.
        ValueError: two detectors have one name.
    """

    def __init__(self, monitor: Monitor, *beside: Monitor) -> None:
        if monitor.false_alarm_rate is None:
            raise NotFitted("A panel needs a calibrated monitor: call fit(clean images), then calibrate()")
        self.monitor = monitor
        self.beside = beside
        self.false_alarm_rate = monitor.false_alarm_rate
        self.calibrations: dict[str, Calibration] = {MONITOR: monitor.calibration}
        members = [monitor, *beside] if len(monitor.detectors) > 1 else list(beside)
        for member in members:
            for name, calibration in member.calibrations.items():
                if name in self.calibrations:
                    raise ValueError(f"Two detectors of the panel are named '{name}'")
                assert isinstance(calibration, Calibration)
                self.calibrations[name] = calibration

    @property
    def columns(self) -> tuple[str, ...]:
        """`monitor`, then the detectors by name."""
        return tuple(self.calibrations)

    def thresholds(self) -> dict[str, float]:
        """The largest score that is not flagged, by column."""
        return {name: c.threshold(self.false_alarm_rate) for name, c in self.calibrations.items()}

    def flagged(self, scores: Mapping[str, Scores]) -> dict[str, Bool[Tensor, " n"]]:
        """Who flags which image."""
        return {name: self.calibrations[name].flagged(scores[name], self.false_alarm_rate) for name in scores}

    @torch.no_grad()
    def look(self, images: Images) -> Seen:
        """Score and predict images, in one forward pass for the monitor and one for each beside it."""
        observation = self.monitor.probe(images)
        scores = {MONITOR: self.monitor.objective(observation)}
        if len(self.monitor.detectors) > 1:
            scores |= {name: detector(observation) for name, detector in self.monitor.detectors.items()}
        for other in self.beside:
            scores |= other.scores(images)
        return Seen(scores, most_likely(observation.output))


def take(panel: Panel, images: Images, *, progress: Progress | None = None, phase: str = "scoring") -> Seen:
    """Look at many images, a few at a time."""
    parts = []
    for start in range(0, len(images), BATCH):
        parts.append(panel.look(images[start : start + BATCH]))
        if progress is not None:
            progress(phase, min(start + BATCH, len(images)), len(images))
    return Seen(
        {name: torch.cat([part.scores[name] for part in parts]) for name in panel.columns},
        torch.cat([part.prediction for part in parts]),
    )


# --- clean images ---------------------------------------------------------------------------------------------------


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


def clean_rows(
    panel: Panel, seen: Seen, labels: LabelMaps, groups: Sequence[str], known: Sequence[str]
) -> list[CleanRow]:
    """A row for each group of clean images, in order of appearance."""
    flagged = panel.flagged(seen.scores)
    wrong = (seen.prediction != labels).flatten(1).double().mean(1)
    rows = []
    for group in dict.fromkeys(groups):
        inside = torch.tensor([other == group for other in groups])
        rows.append(
            CleanRow(
                group,
                group in known,
                int(inside.sum()),
                wrong[inside].mean().item(),
                {name: int(alarm[inside].sum()) for name, alarm in flagged.items()},
                tuple(seen.scores[MONITOR][inside].tolist()),
            )
        )
    return rows


# --- changed images -------------------------------------------------------------------------------------------------


def _stay(maps: Tensor) -> Tensor:
    return maps


@dataclass(frozen=True)
class Change:
    """A way to change images.

    Args:
        name: for machines.
        label: for people.
        kind: natural, an attack on the network, or an attack on network and monitor at once.
        make: the changed images, of the same shape.
        moves: where the change puts each pixel, (n, h, w) -> (n, h, w): a prediction for a flipped image is compared
            with the flipped prediction.
    """

    name: str
    label: str
    kind: Kind
    make: Callable[[Images], Images]
    moves: Callable[[Tensor], Tensor] = _stay


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


@dataclass(frozen=True, eq=False)
class Trial:
    """One change tried on n images.

    Args:
        change: what was done.
        before, after: the panel's scores of the clean and of the changed images, by column.
        damage: the share of pixels whose predicted class changed.
        picture: the first image.
    """

    change: Change
    before: Mapping[str, Scores]
    after: Mapping[str, Scores]
    damage: Scores
    picture: Picture

    def row(self, panel: Panel, clean: Mapping[str, Scores]) -> TrialRow:
        """The numbers, with AUROC against the scores of the images in `clean`."""
        flagged = panel.flagged(self.after)
        eligible = ~panel.flagged(self.before)[MONITOR]
        evaded = eligible & ~flagged[MONITOR] & (self.damage >= DAMAGED)
        return TrialRow(
            self.change.name,
            self.change.label,
            self.change.kind,
            len(self.damage),
            self.damage.mean().item(),
            {name: auroc(clean[name], self.after[name]) for name in panel.columns},
            {name: flags.double().mean().item() for name, flags in flagged.items()},
            int(eligible.sum()),
            int(evaded.sum()),
            tuple(self.after[MONITOR].tolist()),
        )


def try_out(panel: Panel, change: Change, images: Images, *, progress: Progress | None = None) -> Trial:
    """Change images, keep them as 8-bit files would, and see what the panel says before and after."""
    after = []
    for start in range(0, len(images), BATCH):
        after.append(to_8_bit(change.make(images[start : start + BATCH])))
        if progress is not None:
            progress(change.label, min(start + BATCH, len(images)), len(images))
    changed = torch.cat(after)
    seen_before, seen_after = take(panel, images), take(panel, changed)
    moved = change.moves(seen_before.prediction)
    return Trial(
        change,
        seen_before.scores,
        seen_after.scores,
        changed_share(moved, seen_after.prediction),
        _picture(panel, change, images[:1], changed[:1]),
    )


@torch.no_grad()
def _picture(panel: Panel, change: Change, before: Images, after: Images) -> Picture:
    verdict = panel.monitor(after)
    was = panel.monitor.backbone(before)
    moved = change.moves(was.argmax(1))
    now = verdict.output
    heat = (change.moves(was.softmax(1)) - now.softmax(1)).abs().sum(1) / 2  # total variation
    return Picture(
        before[0],
        after[0],
        was.argmax(1)[0],
        now.argmax(1)[0],
        heat[0].clamp(0, 1),
        changed_share(moved, now.argmax(1)).item(),
        verdict.p_value.item(),
        bool(verdict.flagged.item()),
    )


def evasive(
    monitor: Monitor, eps: float = 0.01, *, step_size: float = 0.002, steps: int = 20, weight: float = 1.0
) -> Callable[[Images], Images]:
    """An attacker who has the network and the monitor: sign steps on cross-entropy minus `weight` times the score.

    Of the points on the way, the one with the most damage among those that the monitor lets pass is taken, image by
    image. (Carlini & Wagner, Adversarial examples are not easily detected, 2017, section 2.4.)
    """
    attack = Attack(LinfBall(eps), SignStep(step_size), steps, rule=Sum((1.0, weight)), keep="best")

    def make(images: Images) -> Images:
        objectives = (cross_entropy, evasion(Whole(monitor)))
        return attack(monitor.probe, images, objectives, better=unnoticed(monitor)).images

    return make


class Whole(Detector):
    """A monitor as one detector, so that what evades a detector evades it."""

    name = MONITOR

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor

    def forward(self, observation: Observation) -> Scores:
        return self.monitor.objective(observation)


def unnoticed(monitor: Monitor) -> Objective:
    """Damage where the monitor is silent; else minus how far the score is above the threshold."""
    rate = monitor.false_alarm_rate
    if rate is None:
        raise NotFitted("The monitor is not calibrated: call fit(clean images), then calibrate()")
    threshold = monitor.calibration.threshold(rate)

    def objective(observation: Observation, context: Context) -> Scores:
        above = monitor.objective(observation) - threshold
        return damage(most_likely(observation.output), context).where(above <= 0, -above)

    return objective


def milliseconds(call: Callable[[], object], repeats: int = 15) -> float:
    """The median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(1000 * (perf_counter() - start))
    return sorted(times)[repeats // 2]
