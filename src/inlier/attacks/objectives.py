"""Objectives say what an attacker raises; rules say how several of them become one direction.

An objective sees an observation, as a detector does, and the attack's context, and returns one value an image. A rule
turns the values of several objectives into one gradient, from one shared forward pass and as few backward passes as
it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inlier.observation import Observation
from inlier.readers import ActivationNorms
from inlier.types import Images, LabelMaps, Logits, Scores

__all__ = [
    "Condition",
    "Context",
    "Dual",
    "Objective",
    "Orthogonal",
    "Point",
    "Pull",
    "Rule",
    "Selective",
    "Sum",
    "alarm",
    "averaged",
    "cross_entropy",
    "damage",
    "evasion",
    "fooled",
    "log_norms",
    "most_likely",
    "n_plus_one",
    "peaks",
    "share_changed",
    "targeted",
    "unseen",
]


SMALLEST_NORM = 1e-12
"""Below it a norm counts as this: the logarithm of 0 has no gradient that could be followed."""


@dataclass(frozen=True)
class Context:
    """What an attacker knows besides the observation at hand.

    Args:
        step: of the evaluation, 0 to `steps`.
        steps: how many moves the attack makes.
        clean: the images attacked.
        prediction: the model's own on the clean images.
        labels: true ones where the caller gave them, else `prediction`.
        target: what the prediction shall become, where there is a target.
        valid: false where the given labels are void; such pixels count nowhere.
        places: of these images in the batch that is attacked, of which some may have left; None for all of it.
    """

    step: int
    steps: int
    clean: Images
    prediction: LabelMaps
    labels: LabelMaps
    target: LabelMaps | None
    valid: Bool[Tensor, "n *hw"]
    places: Int[Tensor, " n"] | None = None

    def subset(self, which: Tensor) -> Context:
        """Of some of the images, by their places in the batch."""
        target = None if self.target is None else self.target[which]
        clean, prediction, labels = self.clean[which], self.prediction[which], self.labels[which]
        return Context(self.step, self.steps, clean, prediction, labels, target, self.valid[which], which)

    def mean(self, values: Float[Tensor, "n *hw"]) -> Scores:
        """The mean over an image's valid pixels; a classifier has one value an image, which it is."""
        values, counted = values.reshape(len(values), -1), self.valid.reshape(len(values), -1)
        if counted.all():
            return values.sum(1) / counted.shape[1]  # the same, without a product and its gradient
        return (values * counted).sum(1) / counted.sum(1).clamp_min(1)


Objective: TypeAlias = Callable[[Observation, Context], Tensor]
"""(n,) values that the attacker raises."""

Condition: TypeAlias = Callable[[Observation, Context], Tensor]
"""(n,) bool."""


def cross_entropy(observation: Observation, context: Context) -> Scores:
    """The cross-entropy to the labels, averaged over valid pixels: the untargeted objective of FGSM and PGD."""
    return context.mean(F.cross_entropy(observation.output, context.labels, reduction="none"))


def targeted(observation: Observation, context: Context) -> Scores:
    """Minus the cross-entropy to the target, averaged over valid pixels.

    Raises:
        ValueError: the attack was given no target.
    """
    if context.target is None:
        raise ValueError("A targeted objective needs a target; call the attack with target= a class or a label map")
    return -context.mean(F.cross_entropy(observation.output, context.target, reduction="none"))


def evasion(score: Callable[[Observation], Scores]) -> Objective:
    """Keep a detector, or a monitor by its `objective`, silent; nothing else in the library negates a score."""
    return _named("evasion", score, lambda observation, context: -score(observation))


def alarm(score: Callable[[Observation], Scores]) -> Objective:
    """Make a detector, or a monitor by its `objective`, fire: the false-alarm attack."""
    return _named("alarm", score, lambda observation, context: score(observation))


def log_norms(reader: ActivationNorms) -> Objective:
    """The sum over taps of the log of the activation's L2 norm: what GD-UAP raises (arXiv:1801.08092, section 3).

    A tap where nothing but zeros pass adds a constant, and no gradient.
    """

    def objective(observation: Observation, context: Context) -> Scores:
        norms = observation.readings[reader.name]
        return norms.clamp_min(SMALLEST_NORM).log().sum(1)

    objective.__name__ = f"log_norms({reader.size} taps)"
    return objective


def _named(what: str, score: Callable[[Observation], Scores], objective: Objective) -> Objective:
    # Results are written with the name of what was raised: a detector's own, or that of a monitor's method.
    whose = getattr(score, "name", None) or getattr(score, "__qualname__", type(score).__name__)
    objective.__name__ = f"{what}({whose})"
    return objective


def damage(prediction: LabelMaps, context: Context) -> Scores:
    """How wrong a prediction is, in [0, 1]: the library's one measure of an attack's success.

    Segmentation: the share of valid pixels that differ from the model's own prediction on the clean image.
    Classification: 1 where the class is not the label.
    """
    reference = context.labels if prediction.ndim == 1 else context.prediction
    return context.mean((prediction != reference).float())


def share_changed(observation: Observation, context: Context) -> Scores:
    """The damage of the prediction; it has no gradient, and tells which iterate is the best."""
    return damage(most_likely(observation.output), context)


def most_likely(output: Logits) -> LabelMaps:
    """The class of the largest logit, the first one of several."""
    return output.detach().max(1).indices  # as argmax, and on maps about seven times as fast


def fooled(share: float = 0.5) -> Condition:
    """Whether at least a share of the prediction is damaged or, with a target, has reached it."""

    def condition(observation: Observation, context: Context) -> Bool[Tensor, " n"]:
        prediction = most_likely(observation.output)
        if context.target is not None:
            return context.mean((prediction == context.target).float()) >= share
        return damage(prediction, context) >= share

    condition.__name__ = f"fooled({share:g})"
    return condition


@runtime_checkable
class Pull(Protocol):
    def __call__(self, total: Tensor, *, again: bool = False) -> Tensor:
        """The gradient of a scalar with respect to what is optimised: one backward pass.

        Non-finite entries are 0. `again` keeps the graph for another pull.
        """


@dataclass(frozen=True)
class Point:
    """One evaluation: what was seen, every objective's value, and the way back to a gradient."""

    observation: Observation
    context: Context
    values: tuple[Scores, ...]
    pull: Pull


@runtime_checkable
class Rule(Protocol):
    """Makes one direction of several objectives; `state` is for rules that learn while the attack runs."""

    def init(self, images: int) -> Any:
        """The state for a number of images."""

    def direction(self, point: Point, state: Any) -> tuple[Tensor, Any]:
        """The direction to go, shaped as what is optimised, and the next state."""


@dataclass(frozen=True)
class Sum:
    """The gradient of the weighted sum: one backward pass. Without weights, each is 1."""

    weights: tuple[float, ...] | None = None

    def init(self, images: int) -> None:
        return None

    def direction(self, point: Point, state: None) -> tuple[Tensor, None]:
        weights = self.weights or (1.0,) * len(point.values)
        if len(weights) != len(point.values):
            raise ValueError(f"Sum has {len(weights)} weights, and the attack has {len(point.values)} objectives")
        total = sum((w * v for w, v in zip(weights[1:], point.values[1:], strict=True)), weights[0] * point.values[0])
        return point.pull(total.sum()), None


@dataclass(frozen=True)
class Selective:
    """Image by image, follow the first objective until `wrong` holds, then the second: one backward pass.

    Source: Bryniarski et al., *Evading adversarial example detection defenses with orthogonal projected gradient
    descent* (arXiv:2106.15023), the selective variant.
    """

    wrong: Condition = field(default_factory=fooled)

    def init(self, images: int) -> None:
        return None

    def direction(self, point: Point, state: None) -> tuple[Tensor, None]:
        first, second = _two(self, point.values)
        return point.pull(second.where(self.wrong(point.observation, point.context), first).sum()), None


@dataclass(frozen=True)
class Orthogonal:
    """As `Selective`, less the component along the other objective's gradient, which stays as it is to first order.

    Two backward passes. Source: Bryniarski et al. (arXiv:2106.15023), the orthogonal variant.
    """

    wrong: Condition = field(default_factory=fooled)

    def init(self, images: int) -> None:
        return None

    def direction(self, point: Point, state: None) -> tuple[Tensor, None]:
        first, second = _two(self, point.values)
        wrong = self.wrong(point.observation, point.context)
        gradient = point.pull(first.sum(), again=True)
        other = point.pull(second.sum())
        if len(gradient) != len(wrong):  # one delta for all images goes with the majority
            wrong = wrong.float().mean(0, keepdim=True) >= 0.5
        return _across(other, gradient).where(wrong.view(-1, 1, 1, 1), _across(gradient, other)), None


@dataclass(frozen=True)
class Dual:
    """The model's objective plus the monitor's, weighted image by image: more while it is flagged, less while not.

    The second objective is `evasion` of a score that is flagged above `limit`. One backward pass. The weight is the
    multiplier of the constraint that the score stays below the limit, found by multiplicative steps (as the penalty of
    Carlini and Wagner 2017, arXiv:1608.04644, is by bisection).

    Args:
        limit: the largest score that is not flagged, in units of the second objective's score.
        weight: at the start.
        up, down: factors of the weight after a step that ends flagged, and one that does not.
    """

    limit: float
    weight: float = 0.1
    up: float = 1.5
    down: float = 0.8

    def init(self, images: int) -> Tensor:
        return torch.full((images,), float(self.weight))

    def direction(self, point: Point, state: Tensor) -> tuple[Tensor, Tensor]:
        first, second = _two(self, point.values)
        state = state.to(second)
        flagged = -second.detach() > self.limit
        state = (state * torch.where(flagged, self.up, self.down)).clamp(1e-6, 1e6)
        return point.pull((first + state * second).sum()), state


def unseen(score: Callable[[Observation], Scores], limit: float) -> Objective:
    """What a joint attack is after, for `better`: the damage where the score is not above the limit, else below zero.

    Among flagged iterates the one nearest to the limit is the best.
    """

    def objective(observation: Observation, context: Context) -> Scores:
        over = score(observation).detach() - limit
        done = damage(most_likely(observation.output), context).to(over)
        return torch.where(over <= 0, done, -over)

    return _named("unseen", score, objective)


def n_plus_one(score: Callable[[Observation], Scores], limit: float) -> Objective:
    """The margin against the label and against being flagged, in one classifier of N + 1 classes.

    Its last logit is (s - limit + 1) max_c Z_c, which is the largest where the score s is above the limit. The margin
    is the largest wrong logit less the larger of the label's and the last one, averaged over pixels. Logits are shifted
    to be positive, else a flag would lower the last one.

    Source: Carlini and Wagner 2017 (arXiv:1705.07263), section 3.3, who have D(x) for s - limit.
    """

    def objective(observation: Observation, context: Context) -> Scores:
        output = observation.output
        positive = output - output.detach().amin(1, keepdim=True) + 1
        over = (score(observation) - limit + 1).view(-1, *[1] * (output.ndim - 2))
        flag = over * positive.amax(1)
        own = context.labels[:, None]
        wrong = positive.scatter(1, own, -torch.inf).amax(1)
        return context.mean(wrong - torch.maximum(positive.gather(1, own)[:, 0], flag))

    return _named("n_plus_one", score, objective)


def averaged(objective: Objective, draws: int) -> Objective:
    """The mean of a random objective over draws: the expectation over a random defence's choices.

    Source: Athalye et al. 2018 (arXiv:1707.07397), eq. 2.
    """

    def mean(observation: Observation, context: Context) -> Scores:
        return torch.stack([objective(observation, context) for _ in range(draws)]).mean(0)

    mean.__name__ = f"averaged({getattr(objective, '__name__', type(objective).__name__)}, {draws})"
    return mean


def _two(rule: Rule, values: Sequence[Scores]) -> tuple[Scores, Scores]:
    if len(values) != 2:
        raise ValueError(
            f"{type(rule).__name__} needs two objectives, the model's and the monitor's, not {len(values)}"
        )
    return values[0], values[1]


def _across(gradient: Tensor, other: Tensor) -> Tensor:
    """Each row of `gradient` less its component along that row of `other`."""
    unit = F.normalize(other.flatten(1) / peaks(other).view(-1, 1), dim=1)
    rows = gradient.flatten(1)
    return (rows - (rows * unit).sum(1, keepdim=True) * unit).view_as(gradient)


def peaks(gradient: Tensor) -> Tensor:
    """The largest magnitude of each row, or 1 where all is 0: dividing by it keeps norms from under- and overflow."""
    largest = gradient.flatten(1).abs().amax(1)
    return largest.where(largest > 0, 1.0)
