"""Trials: images are changed, and detectors side by side say which of them they would flag.

Every detector has its own threshold, set once on the same clean images for the same false-alarm rate and never moved.
What is judged is what an 8-bit file would hold. A rate comes with the number of images it was observed on; it is
observed, and promises nothing about other images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.constraints import LinfBall
from inlier.attacks.engine import Attack
from inlier.attacks.joint import limit_of
from inlier.attacks.objectives import Selective, Sum, cross_entropy, evasion, fooled, most_likely, unseen
from inlier.attacks.steppers import SignStep
from inlier.calibration import Calibration
from inlier.errors import NotFitted
from inlier.evaluation.metrics import auroc, changed_share
from inlier.evaluation.results import DAMAGED, MONITOR, CleanRow, Kind, Picture, TrialRow
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = ["Change", "Panel", "Seen", "Trial", "clean_rows", "evasive", "take", "try_out"]

BATCH = 8


@dataclass(frozen=True, eq=False)
class Seen:
    """What a panel makes of n images: scores by column, and the predicted classes."""

    scores: Mapping[str, Scores]
    prediction: LabelMaps

    def subset(self, indices: Tensor) -> Seen:
        """Of some of the images."""
        return Seen({name: scores[indices] for name, scores in self.scores.items()}, self.prediction[indices])


class Panel:
    """A monitor and each of its detectors side by side, in one forward pass.

    Args:
        monitor: calibrated; its false-alarm rate is everybody's.

    Raises:
        NotFitted: the monitor is not calibrated.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.false_alarm_rate = calibrated_rate(monitor)
        self.calibrations: dict[str, Calibration] = {MONITOR: monitor.calibration}
        if len(monitor.detectors) > 1:  # else the monitor is its detector
            self.calibrations |= {name: c for name, c in monitor.calibrations.items() if isinstance(c, Calibration)}

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
        """Score and predict images."""
        observation = self.monitor.probe(images)
        scores = {name: self.monitor.detectors[name](observation) for name in self.columns if name != MONITOR}
        return Seen({MONITOR: self.monitor.objective(observation), **scores}, most_likely(observation.output))


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
        moves: where the change puts each pixel of maps (..., h, w): the prediction for a flipped image is compared with
            the flipped prediction.
    """

    name: str
    label: str
    kind: Kind
    make: Callable[[Images], Images]
    moves: Callable[[Tensor], Tensor] = _stay


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


def try_out(panel: Panel, change: Change, images: Images, before: Seen, *, progress: Progress | None = None) -> Trial:
    """Change images of which the panel's view is `before`, keep them as 8-bit files would, and look again."""
    parts = []
    for start in range(0, len(images), BATCH):
        parts.append(to_8_bit(change.make(images[start : start + BATCH])))
        if progress is not None:
            progress(change.label, min(start + BATCH, len(images)), len(images))
    changed = torch.cat(parts)
    after = take(panel, changed)
    shares = changed_share(change.moves(before.prediction), after.prediction)
    return Trial(change, before.scores, after.scores, shares, _picture(panel, change, images[:1], changed[:1]))


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


def evasive(monitor: Monitor, eps: float, *, steps: int = 20, weight: float = 0.1) -> Callable[[Images], Images]:
    """An attacker who has the network and the monitor: sign steps on the cross-entropy minus `weight` times the score.

    From where that ends, as many steps on the cross-entropy where the damage is too small yet and on the score where it
    is large enough. Steps are eps / 5 long. Of all points on the way, the one with the most damage among those that the
    monitor lets pass is taken, image by image. (Carlini & Wagner, arXiv:1705.07263, attack detector and network at
    once; Bryniarski et al., arXiv:2106.15023, by turns.)

    Raises:
        NotFitted: the monitor is not calibrated.
    """
    stepper = SignStep(eps / 5)
    at_once = Attack(LinfBall(eps), stepper, steps, rule=Sum((1.0, weight)), keep="best")
    by_turns = Attack(LinfBall(eps), stepper, steps, rule=Selective(fooled(DAMAGED + 0.05)), keep="best")
    objectives = (cross_entropy, evasion(monitor.objective))
    # A tenth below the threshold, so that rounding to 8 bit does not raise the alarm.
    threshold = limit_of(monitor)
    better = unseen(monitor.objective, threshold - abs(threshold) / 10)

    def make(images: Images) -> Images:
        first = at_once(monitor.probe, images, objectives, better=better).images
        return by_turns(monitor.probe, images, objectives, better=better, initial=first).images

    return make


def calibrated_rate(monitor: Monitor) -> float:
    """The false-alarm rate of a calibrated monitor."""
    if monitor.false_alarm_rate is None:
        raise NotFitted("The monitor is not calibrated: call fit(clean images), then calibrate()")
    return monitor.false_alarm_rate
