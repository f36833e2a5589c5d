"""Walks: the way an attack on a score took, image by image, and what can be read off it for every size of change.

Between two steps the score is interpolated linearly over the norm of the change, for each image by itself, as in Fort's
paper on near out-of-distribution detection (2022, section 3.1). A hidden anomaly has got through when its score is no
longer above the limit, a clean image that is pushed to raise a false alarm when it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy.typing import NDArray
from torch import Tensor

from inlier.evaluation.intervals import Band, auroc_interval, aurocs, bootstrap, bootstrap_band, differences
from inlier.evaluation.metrics import auroc

__all__ = ["Direction", "Walk", "along", "area", "bands", "loss", "passed", "smallest_norm"]

Direction: TypeAlias = Literal["hide", "false_alarm"]
RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class Walk:
    """Where the attack on a score went.

    Args:
        way: down, to hide anomalies, or up, to raise false alarms.
        scores: after each step, the unattacked image's first.
        norms: of the change, by the norm's name.
        noise: scores under random signs instead.
        dead: share of gradients that were all zero or not finite.
    """

    way: Direction
    scores: Float64[Tensor, "steps n"]
    norms: Mapping[str, Float64[Tensor, "steps n"]]
    noise: Float64[Tensor, " n"]
    dead: float

    def at(self, norm: str, sizes: Sequence[float] | NDArray[np.float64]) -> Float64[Tensor, "k n"]:
        """The scores at some sizes of the change."""
        return along(self.norms[norm], self.scores, sizes)

    def begun(self, limit: float) -> Bool[Tensor, " n"]:
        """Which images have a way to go: anomalies that are flagged, clean images that are not."""
        return ~passed(self.scores[0], limit, self.way)

    def smallest(self, norm: str, limit: float) -> Float64[Tensor, " n"]:
        """The smallest norm with which each image gets through, infinity where the walk ended before."""
        return smallest_norm(self.norms[norm], self.scores, limit, self.way)


def along(
    norms: Float64[Tensor, "steps n"], scores: Float64[Tensor, "steps n"], sizes: Sequence[float] | NDArray[np.float64]
) -> Float64[Tensor, "k n"]:
    """The score of each image where the norm of its change has some size, linear between steps.

    A step that brings the norm no further is passed over, and beyond the largest norm the score stays as it was there:
    whoever may go farther may stay where he is.

    >>> norms = torch.tensor([[0.0], [1.0], [1.0], [2.0]]).double()
    >>> scores = torch.tensor([[4.0], [3.0], [9.0], [1.0]]).double()
    >>> along(norms, scores, [0.5, 1.5, 7.0]).tolist()
    [[3.5], [2.0], [1.0]]
    """
    every = []
    for size, score in zip(norms.T.numpy(), scores.T.numpy(), strict=True):
        farther = np.r_[True, size[1:] > np.maximum.accumulate(size)[:-1]]
        every.append(np.interp(np.asarray(sizes, dtype=np.float64), size[farther], score[farther]))
    return torch.from_numpy(np.stack(every, 1))


def passed(scores: Float64[Tensor, "*n"], limit: float, way: Direction) -> Bool[Tensor, "*n"]:
    """Whether scores are where the attacker wants them: not above the limit, or above it."""
    return scores <= limit if way == "hide" else scores > limit


def smallest_norm(
    norms: Float64[Tensor, "steps n"], scores: Float64[Tensor, "steps n"], limit: float, way: Direction
) -> Float64[Tensor, " n"]:
    """The norm at which each image's score first crosses the limit, linear between steps; infinity if it does not."""
    there = passed(scores, limit, way)
    first = there.int().argmax(0)
    n = torch.arange(scores.shape[1])
    before = (first - 1).clamp_min(0)
    low, high = scores[before, n], scores[first, n]
    part = torch.where(first > 0, (limit - low) / (high - low), torch.zeros_like(low)).clamp(0, 1)
    crossed = norms[before, n] + part * (norms[first, n] - norms[before, n])
    return crossed.where(there.any(0), torch.inf)


def area(attacked: Float64[Tensor, " n"], others: Float64[Tensor, " m"], way: Direction) -> float:
    """AUROC of attacked images against those of the other kind, which nobody attacked."""
    return auroc(others, attacked) if way == "hide" else auroc(attacked, others)


def bands(attacked: Float64[Tensor, "k n"], others: Float64[Tensor, " m"], way: Direction, seed: int) -> Band:
    """AUROC at k sizes of the change with pointwise 95 % intervals: the bootstrap's over both kinds of images.

    Where it has no width, at AUROC 0 and 1, the closed form stands in.
    """
    count = len(attacked)
    columns = others[:, None].expand(-1, count).contiguous()
    sides = (columns, attacked.T.contiguous())
    band = bootstrap_band(aurocs, *(sides if way == "hide" else sides[::-1]), resamples=RESAMPLES, seed=seed)
    low, high = band.low.clone(), band.high.clone()
    for k in (low == high).nonzero()[:, 0].tolist():
        found = auroc_interval(*((others, attacked[k]) if way == "hide" else (attacked[k], others)))
        low[k], high[k] = found.low, found.high
    return Band(band.value, low, high)


def loss(
    before: Float64[Tensor, " n"],
    after: Float64[Tensor, " n"],
    others: Float64[Tensor, " m"],
    way: Direction,
    seed: int,
) -> tuple[float, float, float]:
    """By how much the AUROC changed, after less before, on the same images; with its 95 % bootstrap interval."""
    pair, columns = torch.stack([before, after], 1), others[:, None].expand(-1, 2).contiguous()
    sides = (columns, pair) if way == "hide" else (pair, columns)
    found = bootstrap(differences(aurocs), *sides, resamples=RESAMPLES, seed=seed)
    return found.value, found.low, found.high
