"""Profile: how strong the activations are at the end of every stage, and how sure the prediction is.

These are a handful of numbers, so that what is normal is learnt from a few dozen images and carries over better to
drives, sites and seasons that were not among them: thousands of channel means tell one clean drive from the next above
all.
With a second look, how far the prediction moves under compression is one number more, which sees attacks that leave
nothing else to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.densities.gaussian import Gaussian
from inlier.detectors.base import Detector
from inlier.looks import Copy, CopyKind, copy_look
from inlier.observation import Observation, Readings
from inlier.readers import ActivationNorms, Reader
from inlier.types import Logits, Progress, Scores

__all__ = ["Profile", "profile"]

LEAST = 1e-2
"""Added before the logarithm of an entropy (nats) or a disagreement: far below it they tell of rounding alone."""
LEAST_NORM = 1e-12
NORMS = "norms at inner stage ends"
PREDICTIONS = 2_500
"""Pixels of a prediction that suffice for its mean entropy; they lie on a grid."""


class Profile(Detector):
    """Squared Mahalanobis distance of a few logarithms to their clean mean, Ledoit-Wolf covariance, over their number.

    The logarithms are of the L2 norms of the activations at the taps, of the prediction's mean entropy (nats), and,
    with a second look, of the mean over pixels of sum_c |p_c - p'_c|, p and p' being the softmax probabilities on the
    image and on its copy.

    Args:
        reader: of the norms.
        look: what is shown the second time, which costs a second forward pass; None for one pass.

    Raises:
        NotFitted: scores are asked for before `fit`.
    """

    name = "profile"
    carries_over = True

    def __init__(self, reader: Reader, look: Copy | None = None) -> None:
        super().__init__()
        self.requires = (reader,)
        self.norms = reader.name
        self.look = look
        self.passes = 1 if look is None else 2
        self.reading = "entropy" if look is None else f"entropy and disagreement, {look!r}"
        self.density = Gaussian(reader.size + (1 if look is None else 2))

    @property
    def measures(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        return {self.reading: self.measure}

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        """Learn mean and covariance from at least 3 clean images.

        Raises:
            Mismatch: the images were read without this detector's measures.
        """
        self.density.fit(logarithms(readings.values[self.norms], readings.measured(self.reading)))
        return self

    def forward(self, observation: Observation) -> Scores:
        measured = observation.measured(self.reading, self.measure)
        numbers = logarithms(observation.readings[self.norms], measured)
        return self.density.mahalanobis(numbers) / numbers.shape[1]

    def measure(self, observation: Observation) -> Float[Tensor, "n k"]:
        """The mean entropy in nats and, with a look, the mean disagreement, from 0 to 2."""
        surprise = thinned(observation.output).log_softmax(1)
        p = surprise.exp()
        measured = [-(p * surprise).sum(1).reshape(len(p), -1).mean(1)]
        if self.look is not None:
            again = thinned(self.look.back(observation.look(self.look).output)).softmax(1)
            measured.append((p - again).abs().sum(1).reshape(len(p), -1).mean(1))
        return torch.stack(measured, dim=1)

    def extra_repr(self) -> str:
        return f"look={self.look!r}"


def logarithms(norms: Float[Tensor, "n taps"], measured: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
    return torch.cat([norms.clamp_min(LEAST_NORM).log(), (measured + LEAST).log()], dim=1)


def thinned(logits: Logits) -> Float[Tensor, "n classes *grid"]:
    """The logits of a grid of pixels, not much more than `PREDICTIONS` of them; a classifier's as they are."""
    if logits.ndim == 2:
        return logits
    step = max(1, math.isqrt(logits.shape[-2] * logits.shape[-1] // PREDICTIONS))
    return logits[..., ::step, ::step]


def profile(anatomy: Anatomy, *, look: CopyKind | None = None, strength: float | None = None) -> Profile:
    """The detector for any backbone; the norms are those of the ends of its stages, without the prediction.

    See `Anatomy.inner_stage_ends`.

    `look` and `strength` are the second look, see `disagreement`; without one a score costs a single pass.
    """
    shapes = anatomy.inner_stage_ends()
    reader = anatomy.shared(NORMS, lambda: ActivationNorms(tuple(shapes), NORMS))
    return Profile(reader, None if look is None else copy_look(look, strength))
