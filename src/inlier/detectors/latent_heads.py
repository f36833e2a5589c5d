"""Heads on the latent z of a flow: how unusual is this point for a standard normal, or for the clean rows seen?

They are the scores of von Baußnern et al. (*DAAIN*, section 3.3 a to d), each a module with `fit(z)` on clean rows and
`forward(z)`, larger = more anomalous. `LatentMahalanobis` and `HBOS` learn; the other two have nothing to learn.
`Logistic`, which the paper mentions and leaves out, learns from labelled anomalies too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Self, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn

from inlier.densities.bijections.actnorm import usable_std
from inlier.densities.gaussian import Gaussian
from inlier.densities.histogram import Histogram
from inlier.errors import NotFitted
from inlier.types import Scores

__all__ = ["HBOS", "ClippedHBOS", "Euclidean", "HarmonicMean", "LatentMahalanobis", "Logistic"]

TINY = 1e-12
Rows: TypeAlias = Tensor | Iterable[Tensor]
"""Latent rows (n, d), or batches of them that can be iterated again."""

FEW = 10
"""Labelled anomalies below which `Logistic` warns."""

CONSTANT = 1e-3
"""Share of the median standard deviation below which `Logistic` takes a feature for constant on clean rows."""

FAR = 100.0
"""Standard deviations of the clean rows beyond which `Logistic` takes an anomaly for no farther: 10^6 of them in one
dimension say no more than 100, and leave nothing to be learnt from the others."""

FLAT = 1e-4
"""Slope of its objective above which `Logistic` says that it was not minimised."""


class Euclidean(nn.Module):
    """mean_i z_i^2: up to constants, -log density under the flow's prior (DAAIN, section 3.3 a)."""

    def fit(self, z: Rows) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        return z.square().mean(1)


class HarmonicMean(nn.Module):
    """Harmonic mean of z_i^2 (DAAIN, section 3.3 b); about chance, since its smallest term decides.

    Squares below 1e-12 count as 1e-12, which keeps score and gradient finite.
    """

    def fit(self, z: Rows) -> Self:
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

    def fit(self, z: Rows) -> Self:
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

    def fit(self, z: Rows) -> Self:
        """Learn the histograms from clean rows."""
        self.histogram.fit(z)
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        scores: Tensor = self.histogram(z)
        return scores


class ClippedHBOS(HBOS):
    """`HBOS` scaled to [0, 1] by its range on the clean rows and clipped there, as the reference implementation has it.

    All that is worse than the worst clean row ties. It is kept to show what that costs; use `HBOS`.
    """

    low: Tensor
    high: Tensor

    def __init__(self, dim: int, bins: int = 30) -> None:
        super().__init__(dim, bins)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def fit(self, z: Rows) -> Self:
        """Learn the histograms, then the range of the score, from clean rows.

        Raises:
            ValueError: all clean rows score the same, so that there is no range.
        """
        super().fit(z)
        scores = torch.cat([self.histogram(rows) for rows in ((z,) if isinstance(z, Tensor) else z)])
        if scores.amin() == scores.amax():
            raise ValueError(f"All {len(scores)} clean rows score the same, so that there is no range; use HBOS.")
        self.low.copy_(scores.amin())
        self.high.copy_(scores.amax())
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        return ((super().forward(z) - self.low) / (self.high - self.low)).clamp(0, 1)


class Logistic(nn.Module):
    """The log-odds of anomalous against clean, linear in all z_i and z_i^2 (DAAIN, section 3.3, first sentence).

    Both classes count alike, however many rows they have. Features are standardised by the clean rows, and what is
    minimised is (mean loss of clean rows + mean loss of anomalies) / 2 + penalty / 2 |weights|^2, which has one
    minimum: the fit is deterministic.

    Args:
        dim: number of dimensions d.
        penalty: on the weights of the standardised features, above 0. With more dimensions than rows any anomalies can
            be told from any clean rows, and this alone decides how: the larger, the nearer to weighing each
            dimension by itself.

    `count` is the number of anomalies it was fitted to, 0 before `fit`.

    Raises:
        NotFitted: used before `fit`.
    """

    # Differs from the paper, whose classifier is linear in z: that cannot tell anomalies that lie around the clean rows
    # on all sides. Squares can, and their weights are kept at 0 or more: else those that noise made negative would call
    # an anomaly of a kind that nobody labelled the cleaner, the farther out it is.

    def __init__(self, dim: int, penalty: float = 1.0) -> None:
        super().__init__()
        if not penalty > 0:
            raise ValueError(f"penalty must be above 0, not {penalty}: without it the weights grow without end.")
        self.dim, self.penalty = dim, penalty
        self.count: Tensor
        self.linear: Tensor
        self.square: Tensor
        self.intercept: Tensor
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("linear", torch.zeros(dim))
        self.register_buffer("square", torch.zeros(dim))
        self.register_buffer("intercept", torch.zeros(()))

    @torch.no_grad()
    def fit(self, z: Float[Tensor, "n d"], anomalies: Float[Tensor, "m d"]) -> Self:
        """Learn from clean rows and labelled anomalies; fewer than 10 anomalies give a warning.

        Raises:
            ValueError: there are no rows of either kind, they are not `dim` wide, or they are not finite.
        """
        for name, rows in (("clean rows", z), ("anomalies", anomalies)):
            if rows.ndim != 2 or rows.shape[1] != self.dim or len(rows) == 0 or not rows.isfinite().all():
                raise ValueError(
                    f"This head is fitted to finite {name} (n, {self.dim}) with n > 0; {tuple(rows.shape)} came, "
                    f"{int((~rows.isfinite()).sum())} of the numbers not finite."
                )
        std, mean = torch.std_mean(z.double(), dim=0, correction=0)
        reach = FAR * usable_std(std, CONSTANT)
        near = torch.minimum(torch.maximum(anomalies.double(), mean - reach), mean + reach)
        if len(anomalies) < FEW:
            warnings.warn(
                f"The logistic head has {len(anomalies)} labelled anomalies; with fewer than {FEW} it knows little "
                "more than these. Label more, or use a head that needs none, such as hbos.",
                stacklevel=2,
            )
        clean = _with_squares(z)
        std, mean = torch.std_mean(clean, dim=0, correction=0)
        std = usable_std(std, CONSTANT)
        weights, intercept = self._minimise((clean - mean) / std, (_with_squares(near) - mean) / std)
        weights = weights / std
        linear, square = weights.chunk(2)
        self.linear.copy_(linear)
        self.square.copy_(square)
        self.intercept.copy_(intercept - weights @ mean)
        self.count.fill_(len(anomalies))
        return self

    def forward(self, z: Float[Tensor, "n d"]) -> Scores:
        """The log-odds; 0 is where both classes, taken to be equally frequent, are equally likely."""
        if not torch.compiler.is_compiling() and self.count.item() == 0:
            raise NotFitted("The logistic head has seen no anomalies. Call fit(z, anomalies) first.")
        scores: Tensor = self.intercept + (z * (self.linear + self.square * z)).sum(1)
        return scores

    def _minimise(self, clean: Tensor, anomalies: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([clean, anomalies]).numpy()
        sign = np.repeat([-1.0, 1.0], [len(clean), len(anomalies)])
        share = np.repeat([0.5 / len(clean), 0.5 / len(anomalies)], [len(clean), len(anomalies)])

        def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights, intercept = parameters[:-1], parameters[-1]
            margin = sign * (x @ weights + intercept)
            slope = -sign * share * expit(-margin)
            value = share @ np.logaddexp(0, -margin) + self.penalty / 2 * (weights @ weights)
            return float(value), np.append(x.T @ slope + self.penalty * weights, slope.sum())

        bounds = [(None, None)] * self.dim + [(0, None)] * self.dim + [(None, None)]
        found = minimize(
            objective,
            np.zeros(x.shape[1] + 1),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-7},
        )
        slope = np.where((found.x == 0) & (np.arange(len(found.x)) >= self.dim), np.minimum(found.jac, 0), found.jac)
        if np.abs(slope).max() > FLAT:
            warnings.warn(
                f"The logistic head's fit did not settle (slope {np.abs(slope).max():.1e}): its scores are usable but "
                "not the best. Raise the penalty.",
                stacklevel=3,
            )
        best = torch.from_numpy(found.x)
        return best[:-1], best[-1]


def _with_squares(z: Tensor) -> Tensor:
    z = z.detach().to("cpu", torch.float64)
    return torch.cat([z, z.square()], dim=1)
