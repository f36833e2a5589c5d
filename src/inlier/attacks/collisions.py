"""Collisions of an encoder: other images that it maps to the same features, so that no detector of these can tell.

The attack and its measure are those of Liang's paper on attacking encoders. Any reader is an encoder here: a
bottleneck, the logits, all taps, or what a sampling key reads; and so is a detector, such as the likelihood of a flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.attacks.constraints import Constraint, L2Ball, LinfBall
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Context, Objective
from inlier.attacks.steppers import Adamax, L2Step, SignStep, Stepper
from inlier.observation import Observation
from inlier.readers import Reader
from inlier.types import Images, Scores

__all__ = ["Start", "collide", "collision", "mape", "start_images"]

Start: TypeAlias = Literal["noise", "checkerboard", "spiral"]
"""Images that are nothing a camera sees, to start from."""


def collision(
    encoder: Reader | Callable[[Observation], Float[Tensor, "n *k"]], features: Float[Tensor, "m *k"]
) -> Objective:
    """Minus the summed squared difference between what an encoder makes of images and given features.

    Source: Liang, algorithm 1, line 3.

    Args:
        encoder: a reader of what ought to collide, which the probe must have; or a function of observations, such as a
            detector, whose score is one number an image.
        features: what it makes of the images to collide with, a row for each image of the attack or one for all.
    """

    def objective(observation: Observation, context: Context) -> Scores:
        read = observation.readings[encoder.name] if isinstance(encoder, Reader) else encoder(observation)
        whole = len(features) == 1 or context.places is None
        wanted = features if whole else features[context.places.to(features.device)]  # type: ignore[union-attr]
        return -(read - wanted.to(read)).square().reshape(len(read), -1).sum(1)

    objective.__name__ = f"collision({getattr(encoder, 'name', type(encoder).__name__)})"
    return objective


def collide(
    eps: float,
    norm: Literal["l2", "linf"] = "l2",
    steps: int = 1000,
    *,
    values: int | None = None,
    optimiser: Literal["adamax", "pgd"] = "adamax",
    restarts: int = 1,
) -> Attack:
    """The collision attack: from a random point of the ball, down the distance of the features; the nearest is kept.

    Source: Liang (`An algorithm to attack neural network encoder-based out-of-distribution sample detector`), algorithm
    1: Adamax on the gradient at unit length (its sign in Linf), then the ball and [0, 1]; what is optimised is the
    image after that. The paper does not give its step size; here the first step is a tenth of the ball's radius long.

    Args:
        eps: radius, in the norm over all of an image's values.
        values: of one image, height times width times channels; Adamax in L2 needs it.
        optimiser: `pgd` takes plain steps of 2.5 eps / steps.

    Raises:
        ValueError: no such norm or optimiser, or Adamax in L2 without `values`.
    """
    if norm not in ("l2", "linf") or optimiser not in ("adamax", "pgd"):
        raise ValueError(f"norm is 'l2' or 'linf' and optimiser 'adamax' or 'pgd', not {norm!r} and {optimiser!r}")
    constraint: Constraint = L2Ball(eps) if norm == "l2" else LinfBall(eps)
    stepper: Stepper
    if optimiser == "pgd":
        stepper = L2Step(2.5 * eps / steps) if norm == "l2" else SignStep(2.5 * eps / steps)
    elif norm == "linf":
        stepper = Adamax(eps / 10, unit="sign")
    elif values is None:
        raise ValueError("Adamax moves every value by about its size: give values=, how many an image has")
    else:
        stepper = Adamax(eps / 10 / math.sqrt(values), unit="l2")
    return Attack(constraint, stepper, steps, start="random", keep="best", restarts=restarts)


def mape(read: Float[Tensor, "n *k"], wanted: Float[Tensor, "m *k"]) -> Scores:
    """How far features are apart: mean |difference| over the largest magnitude of those wanted; 0 for a collision.

    Source: Liang, section III, the mean absolute percentage error MAPE.
    """
    apart = (read - wanted).abs().flatten(1).mean(1)
    return apart / wanted.abs().flatten(1).amax(1)


def start_images(kind: Start, count: int, size: tuple[int, int], *, channels: int = 3, seed: int = 0) -> Images:
    """Images (n, channels, *size) in [0, 1] to start from; noise is uniform, the other two are drawn, all alike.

    Raises:
        ValueError: no such kind.
    """
    height, width = size
    if kind == "noise":
        return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    if kind == "checkerboard":
        square = max(1, min(size) // 8)
        one = ((rows // square + columns // square) % 2).float()
    elif kind == "spiral":
        down, across = rows - (height - 1) / 2, columns - (width - 1) / 2
        radius, angle = (down**2 + across**2).sqrt(), torch.atan2(down, across)
        one = 0.5 + 0.5 * torch.sin(angle + 2 * math.pi * radius / max(2, min(size) / 6))
    else:
        raise ValueError(f"There is no start {kind!r}: expected one of {', '.join(get_args(Start))}")
    return one.expand(count, channels, -1, -1).clone()
