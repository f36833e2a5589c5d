"""Attacks on a network and its monitor at once, as a row each: how the attacker weighs the two against one another.

Success is one thing throughout: at least so much of the prediction changed, and no alarm, on the image as an 8-bit file
holds it, counted over images that raised no alarm before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.constraints import Constraint, L2Ball, LinfBall, Parametrisation, Pixels
from inlier.attacks.engine import Attack, AttackResult
from inlier.attacks.objectives import (
    Dual,
    Objective,
    Orthogonal,
    Rule,
    Selective,
    Sum,
    alarm,
    evasion,
    fooled,
    n_plus_one,
    share_changed,
    unseen,
)
from inlier.attacks.steppers import Cosine, L2Step, MomentumSign, Stepper
from inlier.attacks.surrogates import hinge
from inlier.errors import NotFitted
from inlier.monitor import Monitor
from inlier.observation import Observation
from inlier.probe import Probe
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = [
    "DEAD", "WAYS", "MonitorAttack", "Outcome", "Watched", "Way", "attack_monitor", "change_norms", "judged", "limit_of"
]  # fmt: skip

DEAD = 0.01
"""The share of gradients that may be zero or not finite before an attack is a poor witness."""

Score = Callable[[Observation], Scores]


class Watched(NamedTuple):
    """What an attacker has before him of a monitor, or of several of his own as one.

    Args:
        probe: whose observations are scored.
        score: differentiable, (n,).
        aim: up to which score he keeps silent.
    """

    probe: Probe
    score: Score
    aim: float


@dataclass(frozen=True)
class Way:
    """A row: what is raised, how it is combined, which iterate is the best, and where it is from.

    Args:
        objectives: of the network's surrogate, the monitor's score and the limit above which it is flagged.
        rule: of that limit, a weight and the share of the prediction that is to change.
        better: of the score and the limit.
        knows: whether the attacker knows of the monitor.
        paper: source.
    """

    objectives: Callable[[Objective, Score, float], tuple[Objective, ...]]
    rule: Callable[[float, float, float], Rule]
    better: Callable[[Score, float], Objective]
    knows: bool
    paper: str


def both(model: Objective, score: Score, limit: float) -> tuple[Objective, ...]:
    return model, evasion(score)


WAYS: Mapping[str, Way] = {
    "oblivious": Way(
        lambda model, score, limit: (model,), lambda limit, weight, share: Sum(),
        lambda score, limit: share_changed, False, "the recipe that it is of",
    ),
    "weighted": Way(
        both, lambda limit, weight, share: Sum((1.0, weight)), unseen, True,
        "Carlini and Wagner 2017, arXiv:1705.07263",
    ),
    "selective": Way(
        both, lambda limit, weight, share: Selective(fooled(share)), unseen, True,
        "Bryniarski et al. 2021, arXiv:2106.15023",
    ),
    "orthogonal": Way(
        both, lambda limit, weight, share: Orthogonal(fooled(share)), unseen, True,
        "Bryniarski et al. 2021, arXiv:2106.15023",
    ),
    "dual": Way(both, lambda limit, weight, share: Dual(limit, weight), unseen, True, "inlier"),
    "n_plus_one": Way(
        lambda model, score, limit: (n_plus_one(score, limit),), lambda limit, weight, share: Sum(), unseen, True,
        "Carlini and Wagner 2017, arXiv:1705.07263",
    ),
    "hide": Way(
        lambda model, score, limit: (evasion(score),), lambda limit, weight, share: Sum(),
        lambda score, limit: evasion(score), True, "the attack on the score, near-OOD paper",
    ),
    "false_alarm": Way(
        lambda model, score, limit: (alarm(score),), lambda limit, weight, share: Sum(),
        lambda score, limit: alarm(score), True, "the attack on the score, near-OOD paper",
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outcome:
    """Of attacked images: what the monitor and the network made of them, and with that the one definition of success.

    Args:
        before, after: (n,) the monitor's scores of the clean and of the attacked images.
        damage: (n,) of the prediction, as in `AttackResult`.
        limit: the largest score that is not flagged.
    """

    before: Tensor
    after: Tensor
    damage: Tensor
    limit: float

    @property
    def silent(self) -> Bool[Tensor, " n"]:
        """Whether each image raised no alarm before it was attacked."""
        return self.before <= self.limit

    @property
    def detected(self) -> Bool[Tensor, " n"]:
        """Whether each attacked image is flagged; a score that is nan is."""
        return ~(self.after <= self.limit)

    def evaded(self, share: float = 0.3) -> Bool[Tensor, " n"]:
        """Whether at least `share` of the prediction changed without an alarm, where there was none before."""
        return (self.damage >= share) & ~self.detected & self.silent

    def success(self, share: float = 0.3) -> float:
        """The share of images that evaded, among those silent before; nan if there are none."""
        silent = int(self.silent.sum())
        return float(self.evaded(share).sum()) / silent if silent else float("nan")


@dataclass(frozen=True, eq=False)
class MonitorAttack(Outcome):
    """What an attack on a monitor came to, on the images as 8-bit files hold them.

    Args:
        result: of the engine, whose images are not rounded; with its trace, moves, seed and config.
        images: rounded; a change may exceed eps by half a grey level.
        prediction: on these.
        unrounded: (n,) the monitor's scores of the engine's own images.
    """

    result: AttackResult
    images: Images
    prediction: LabelMaps
    unrounded: Tensor

    @property
    def norms(self) -> dict[str, Scores]:
        """The size of each image's change as the file holds it: L0, L1, L2 and Linf over all its values."""
        return change_norms(self.result.clean, self.images)

    def lost(self, share: float = 0.3) -> Bool[Tensor, " n"]:
        """Whether each image evaded before it was rounded, and not after: a success that went unseen."""
        won = (self.result.damage >= share) & (self.unrounded <= self.limit) & self.silent
        return won & ~self.evaded(share)

    def raised(self, share: float = 0.3) -> tuple[str, ...]:
        """What makes this attack a poor witness if it failed, a sentence each; none if nothing does."""
        told = []
        if self.result.dead_gradients > DEAD:
            told.append(f"{self.result.dead_gradients:.0%} of the gradients were zero or not finite")
        if lost := int(self.lost(share).sum()):
            told.append(f"{lost} of {len(self.images)} images evaded before they were rounded to 8 bit, and not after")
        return tuple(told)


def change_norms(clean: Images, changed: Images) -> dict[str, Scores]:
    """L0, L1, L2 and Linf of each image's change, over all values of all channels."""
    delta = (changed - clean).flatten(1)
    orders = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": float("inf")}
    return {name: torch.linalg.vector_norm(delta, order, dim=1) for name, order in orders.items()}


@torch.no_grad()
def judged(monitor: Monitor, result: AttackResult, limit: float) -> MonitorAttack:
    """What monitor and network make of an attack's images, rounded to 8 bit, whoever made them and knowing what.

    Args:
        limit: the largest score that is not flagged.
    """
    stored = result.to_8_bit()
    before, unrounded = monitor.score(result.clean), monitor.score(result.images)
    observation = monitor.probe(stored)
    after, prediction = monitor.objective(observation), observation.output.argmax(1)
    return MonitorAttack(
        before, after, result.damage_of(prediction), limit, result, stored, prediction, unrounded
    )  # fmt: skip


def attack_monitor(
    monitor: Monitor,
    images: Images,
    eps: float,
    *,
    way: str = "dual",
    loss: Objective | None = None,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 50,
    step_size: float | None = None,
    share: float = 0.3,
    weight: float = 0.1,
    margin: float = 0.1,
    rate: float | None = None,
    through: Watched | None = None,
    restarts: int = 1,
    initial: Tensor | None = None,
    labels: LabelMaps | None = None,
    parametrisation: Parametrisation | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MonitorAttack:
    """Attack a calibrated monitor and its network, by somebody from whom nothing is hidden, or who has other monitors.

    Momentum sign steps (in L2 along the gradient) that shrink along a cosine; the best iterate is kept, clean images
    included.

    Args:
        monitor: calibrated.
        images: in [0, 1], at the size at which they are attacked.
        eps: radius of the ball, in the norm over all values.
        way: a row of `WAYS`.
        loss: what stands for the network's errors; by default the hinge of half a logit.
        step_size: of the first step; by default eps / 4.
        share: of the prediction that is to change, for the ways that go by turns.
        weight: of the monitor, where the way has one; at the start, where it finds its own.
        margin: how far below the threshold the attacker aims, as a share of it, so that rounding raises no alarm.
        rate: the nominal false-alarm rate; by default the monitor's own.
        through: what the attacker has instead of the monitor, which then judges images that were made without it.
        restarts: random starts; with 1 the start is the clean image.
        initial: where to start instead.
        parametrisation: what is moved, such as the pixels of a patch; by default all pixels.

    Raises:
        LookupError: no such way.
        NotFitted: the monitor is not calibrated.
        ValueError: settings or images that cannot be attacked.
    """
    if way not in WAYS:
        raise LookupError(f"No way to attack a monitor is named '{way}'. There are {', '.join(WAYS)}.")
    row, limit = WAYS[way], limit_of(monitor, rate)
    seen = through or Watched(monitor.probe, monitor.objective, limit - margin * abs(limit))
    size = eps / 4 if step_size is None else step_size
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm is 'linf' or 'l2', not {norm!r}")
    ball: Constraint = LinfBall(eps) if norm == "linf" else L2Ball(eps)
    stepper: Stepper = MomentumSign(size, 0.75) if norm == "linf" else L2Step(size)
    attack = Attack(
        ball, Cosine(stepper, steps), steps, parametrisation or Pixels(), rule=row.rule(seen.aim, weight, share),
        keep="best", start="clean" if restarts == 1 else "random", restarts=restarts,
    )  # fmt: skip
    result = attack(
        seen.probe, images, row.objectives(loss or hinge(), seen.score, seen.aim), labels=labels,
        better=row.better(seen.score, seen.aim), initial=initial, seed=seed, progress=progress,
    )  # fmt: skip
    return judged(monitor, result, limit)


def limit_of(monitor: Monitor, rate: float | None = None) -> float:
    """The largest score that a calibrated monitor does not flag, at its own false-alarm rate or at another.

    Raises:
        NotFitted: the monitor is not calibrated.
        ValueError: too few clean images for the rate.
    """
    rate = monitor.false_alarm_rate if rate is None else rate
    if rate is None:
        raise NotFitted("The monitor is not calibrated: call fit(clean images), then calibrate()")
    return monitor.calibration.threshold(rate)
