"""What attackers of a prediction raise in place of its errors, which have no gradient: pixel by pixel, or of one class.

Each is the mean over an image's valid pixels (a classifier has one). Labels are those of the context: the truth where
it was given, the model's own prediction where not. Plain cross-entropy is in `objectives`; it is weak on segmentation,
since pixels that are wrong already keep pulling.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from inlier.attacks.objectives import Context, Objective, most_likely
from inlier.observation import Observation
from inlier.types import LabelMaps, Logits, Scores

__all__ = [
    "correct_cross_entropy",
    "dag",
    "hinge",
    "houdini",
    "jensen_shannon",
    "margins",
    "segpgd",
    "smooth_count",
]


def correct_cross_entropy(observation: Observation, context: Context) -> Scores:
    """The cross-entropy of the pixels that are still right; those that are wrong have had enough.

    Source: Croce et al. 2024 (arXiv:2306.12941), section 2.2, the masked cross-entropy.
    """
    output, labels = observation.output, context.labels
    return context.mean(F.cross_entropy(output, labels, reduction="none") * right(output, labels))


def segpgd(observation: Observation, context: Context) -> Scores:
    """Cross-entropy with weight 1 - l on right pixels and l on wrong ones, l = t / 2T at step t of T.

    Source: Gu et al. 2022 (arXiv:2207.12391), eqs. 4 and 5; their t runs from 1 and has 1 taken off.
    """
    output, labels = observation.output, context.labels
    on_wrong = context.step / (2 * max(context.steps, 1))
    weights = torch.where(right(output, labels), 1 - on_wrong, on_wrong)
    return context.mean(F.cross_entropy(output, labels, reduction="none") * weights)


def jensen_shannon(observation: Observation, context: Context) -> Scores:
    """The divergence (nats) of the softmax to the label: bounded by log 2, so that no pixel outweighs the others.

    Source: Croce et al. 2024 (arXiv:2306.12941), section 2.2. With p the label's probability it is
    log 2 + (p log p - (1 + p) log(1 + p)) / 2.
    """
    log_p = observation.output.log_softmax(1).gather(1, context.labels[:, None])[:, 0]
    p = log_p.exp()
    return context.mean(math.log(2) + 0.5 * (p * log_p - (1 + p) * torch.log1p(p)))


def hinge(enough: float = 0.5) -> Objective:
    """The margin by which a pixel is wrong, up to `enough` (logits): once it has flipped by that much it is left alone.

    After the margin of Carlini and Wagner 2017 (arXiv:1608.04644), eq. 6, with kappa = `enough`.
    """

    def objective(observation: Observation, context: Context) -> Scores:
        return context.mean(margins(observation.output, context.labels).clamp_max(enough))

    objective.__name__ = f"hinge({enough:g})"
    return objective


def smooth_count(width: float = 1.0) -> Objective:
    """The share of wrong pixels, each counted by the sigmoid of its margin over `width` (logits)."""

    def objective(observation: Observation, context: Context) -> Scores:
        return context.mean((margins(observation.output, context.labels) / width).sigmoid())

    objective.__name__ = f"smooth_count({width:g})"
    return objective


def dag(observation: Observation, context: Context) -> Scores:
    """Dense adversary generation: on pixels that are not the target yet, its logit less that of the class predicted.

    Source: Xie et al. 2017 (arXiv:1703.08603), eq. 2, which subtracts the logit of the original label; their code takes
    the class that is predicted at the time, as this does.

    Raises:
        ValueError: the attack was given no target.
    """
    output, target = observation.output, wanted(context)
    best = output.max(1)
    active = best.indices != target
    return context.mean((logit(output, target) - best.values) * active)


def houdini(observation: Observation, context: Context) -> Scores:
    """Minus Phi(s_predicted - s_target) times the cross-entropy to the target, Phi the normal distribution function.

    Source: Cisse et al. 2017 (arXiv:1707.05373), eqs. 5 and 6. Without a target the runner-up of each pixel that is
    still right is its target: on the model's own prediction the untargeted loss has no gradient.
    """
    output = observation.output
    if context.target is not None:
        target, active = context.target, torch.ones_like(context.valid)
    else:
        target, active = runner_up(output, context.labels), right(output, context.labels)
    ahead = output.max(1).values - logit(output, target)
    surrogate = torch.special.ndtr(ahead) * F.cross_entropy(output, target, reduction="none")
    return -context.mean(surrogate * active)


def margins(output: Logits, labels: LabelMaps) -> Float[Tensor, "n *hw"]:
    """The largest logit of another class less the label's: above 0 where the prediction is wrong."""
    own = labels[:, None]
    return output.scatter(1, own, -torch.inf).amax(1) - output.gather(1, own)[:, 0]


def right(output: Logits, labels: LabelMaps) -> Bool[Tensor, "n *hw"]:
    return most_likely(output) == labels


def runner_up(output: Logits, labels: LabelMaps) -> LabelMaps:
    """The most likely class besides the label."""
    return output.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)


def logit(output: Logits, labels: LabelMaps) -> Float[Tensor, "n *hw"]:
    return output.gather(1, labels[:, None])[:, 0]


def wanted(context: Context) -> LabelMaps:
    if context.target is None:
        raise ValueError("A targeted objective needs a target; call the attack with target= a class or a label map")
    return context.target
