"""Heads on the latent z of a flow: how unusual is this point for a standard normal, or for the clean rows seen?

They are the scores of Baur et al. (*DAAIN*, section 3.3 a to d), each a module with `fit(z)` on clean rows and
`forward(z)`, larger = more anomalous. `LatentMahalanobis` and `HBOS` learn; the other two have nothing to learn.
"""

from __future__ import annotations

from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.gaussian import Gaussian
from inlier.densities.histogram import Histogram
from inlier.types import Scores

__all__ = ["HBOS", "Euclidean", "HarmonicMean", "LatentMahalanobis"]

TINY = 1e-12


class Euclidean(nn.Module):
    """mean_i z_i^2: up to constants, -log density under the flow's prior (DAAIN, section 3.3 a)."""

    def fit(self, z: Float[Tensor, "n d"]) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        return z.square().mean(1)


class HarmonicMean(nn.Module):
    """Harmonic mean of z_i^2 (DAAIN, section 3.3 b); about chance, since its smallest term decides.

    Squares below 1e-12 count as 1e-12, which keeps score and gradient finite.
    """

    def fit(self, z: Float[Tensor, "n d"]) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        return 1 / z.square().clamp(min=TINY).reciprocal().mean(1)


class LatentMahalanobis(nn.Module):
    """Squared Mahalanobis distance to the clean rows (DAAIN, section 3.3 c).

    Raises:
        NotFitted: used before `fit`.
    """

    # Differs from the paper: the square, which has the same order and a gradient at the mean.
    # Differs from the reference implementation: the mean is a vector, where that has a scalar, and the covariance is
    # shrunk by Ledoit-Wolf, where that inverts a nearly singular one.

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gaussian = Gaussian(dim)

    def fit(self, z: Float[Tensor, "n d"]) -> Self:
        """Learn mean and covariance from at least 3 clean rows."""
        self.gaussian.fit(z)
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        return self.gaussian.mahalanobis(z)


class HBOS(nn.Module):
    """sum_i -log hist_i(z_i) with a histogram of `bins` bins a dimension (DAAIN, section 3.3 d).

    Raises:
        NotFitted: used before `fit`.
    """

    # Differs from the reference implementation, which scales the score by its range on the training rows and clips it
    # to [0, 1], so that all that is worse than the worst training row ties.

    def __init__(self, dim: int, bins: int = 30) -> None:
        super().__init__()
        self.histogram = Histogram(dim, bins)

    def fit(self, z: Float[Tensor, "n d"]) -> Self:
        """Learn the histograms from clean rows."""
        self.histogram.fit(z)
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        scores: Tensor = self.histogram(z)
        return scores
