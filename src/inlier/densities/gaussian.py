"""A Gaussian with a covariance that can be inverted, from few rows or from a long stream.

The covariance is shrunk towards a multiple of the identity by the amount that Ledoit and Wolf derive from the data
(*A well-conditioned estimator for large-dimensional covariance matrices*, J. Multivariate Analysis 88, 2004), so that
25 rows of 2,000 features suffice. Everything costly happens in `fit`: at run time a distance is one or two products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.actnorm import usable_std
from inlier.errors import NotFitted

__all__ = ["Gaussian", "Moments", "ledoit_wolf_shrinkage"]

MINIMUM_ROWS = 3
"""Two rows are equally far from their mean, which Ledoit-Wolf takes for a covariance known without error."""

LEAST_SHRINKAGE = 1e-6
"""Keeps the covariance invertible where the estimate is zero: with collinear features and very many rows."""


class Moments:
    """Count, mean, scatter and what Ledoit-Wolf needs beyond them, in float64, from rows that come in batches.

    Every update merges the batch's own centred sums (Chan, Golub & LeVeque 1979), so that a mean far larger than the
    standard deviation costs no digits, and the result does not depend on the batches but for rounding.

    Attributes, with y = row - mean:
        count: number of rows n.
        mean: (d,).
        scatter: (d, d), sum of y y'.
        cubic: (d,), sum of |y|^2 y.
        quartic: (), sum of |y|^4.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)
        self.cubic = torch.zeros(dim, dtype=torch.float64)
        self.quartic = torch.zeros((), dtype=torch.float64)

    def update(self, x: Float[Tensor, "n d"]) -> Self:
        """Take the rows of `x` in."""
        if len(x) == 0:
            return self
        x = x.detach().to("cpu", torch.float64)
        batch = Moments(0)
        batch.count, batch.mean = len(x), x.mean(0)
        y = x - batch.mean
        lengths = y.square().sum(1)
        batch.scatter, batch.cubic, batch.quartic = y.T @ y, lengths @ y, lengths @ lengths
        return self.merge(batch)

    def merge(self, other: Moments) -> Self:
        """Take in what `other` has seen."""
        count = self.count + other.count
        if other.count == 0:
            return self
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        mine, theirs = self._about(mean), other._about(mean)
        self.count, self.mean = count, mean
        self.scatter, self.cubic, self.quartic = (a + b for a, b in zip(mine, theirs, strict=True))
        return self

    def _about(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scatter, cubic and quartic sums about `point` instead of the mean; sums of y itself are zero."""
        e = self.mean - point
        length, trace, projected = e @ e, self.scatter.trace(), self.scatter @ e
        scatter = self.scatter + self.count * torch.outer(e, e)
        cubic = self.cubic + 2 * projected + (trace + self.count * length) * e
        quartic = self.quartic + 4 * (self.cubic @ e) + 4 * (projected @ e) + 2 * trace * length
        return scatter, cubic, quartic + self.count * length.square()


def ledoit_wolf_shrinkage(*, count: int, square: float, trace: float, quartic: float, dim: int) -> float:
    """The weight r of the identity in (1 - r) S + r (trace S / d) I (Ledoit & Wolf 2004, lemma 3.2 and section 3.3).

    Args:
        count: number of rows n.
        square: squared Frobenius norm of the covariance S = sum of y y' / n.
        trace: of S.
        quartic: mean over the rows of |y|^4.
        dim: number of dimensions d.
    """
    noise = (quartic - square) / count
    distance = square - trace**2 / dim
    return min(max(noise / distance, 0.0), 1.0) if distance > 0 else 0.0


class Gaussian(nn.Module):
    """Squared Mahalanobis distances and log-densities under one Gaussian.

    Args:
        dim: number of features d.
        standardise: bring every feature to unit variance before shrinking. Ledoit-Wolf shrinks towards a multiple of
            the identity, so without it the features with large numbers decide how much those with small ones count.
        constant: share of the median standard deviation below which a feature is taken for constant
            (see `usable_std`); used where `standardise` is.

    The covariance is kept as a factor, in the cheaper of two forms. From at least d / 2 rows: a (d, d) matrix W with
    distance |W y|^2. From fewer: W has a row for each direction in which the data varied, and what lies outside
    their span is divided by the variance that shrinkage gives it. Its height is therefore that of the loaded or
    fitted state. `count` is the number of rows it was fitted to, 0 before `fit`.
    """

    def __init__(self, dim: int, *, standardise: bool = True, constant: float = 1e-3) -> None:
        super().__init__()
        self.dim = dim
        self.standardise = standardise
        self.constant = constant
        self.count: Tensor
        self.mean: Tensor
        self.whitening: Tensor
        self.variances: Tensor
        self.outside: Tensor
        self.inverse_std: Tensor
        self.shrinkage: Tensor
        self.log_det: Tensor
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("inverse_std", torch.ones(dim))
        self.register_buffer("whitening", torch.zeros(0, dim))
        self.register_buffer("variances", torch.zeros(0))
        self.register_buffer("outside", torch.tensor(1.0))
        self.register_buffer("shrinkage", torch.tensor(1.0))
        self.register_buffer("log_det", torch.tensor(0.0))

    def fit(self, x: Float[Tensor, "n d"] | Iterable[Float[Tensor, "b d"]]) -> Self:
        """Learn mean and covariance from at least 3 rows, in two passes: the scale first, then the covariance.

        Args:
            x: rows, or batches of rows that can be iterated twice (a list, a data loader).

        Raises:
            TypeError: the batches can be iterated only once.
            ValueError: there are fewer than 3 rows, they are not `dim` wide or not finite, or none of them varies.
        """
        batches = (x,) if isinstance(x, Tensor) else x
        if iter(batches) is batches:
            raise TypeError(
                f"fit reads its batches twice, and a {type(batches).__name__} can be read only once. "
                "Give a list or a data loader."
            )
        count, mean, std = self._scale(batches)
        if not self.standardise:
            std = torch.ones_like(std)
        centred = ((batch.detach().to("cpu", torch.float64) - mean) / std for batch in batches)
        if 2 * count < self.dim:
            self._factor_rows(torch.cat(list(centred)))  # smaller than the scatter matrix would be
        else:
            moments = Moments(self.dim)
            for batch in centred:
                moments.update(batch)
            self._factor_scatter(moments)
        self.mean.copy_(mean)
        self.inverse_std.copy_(1 / std)
        self.log_det += 2 * std.log().sum()
        self.count.fill_(count)
        return self

    def mahalanobis(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Squared distance (x - mean)' covariance^-1 (x - mean).

        Raises:
            NotFitted: before `fit`.
        """
        if not torch.compiler.is_compiling() and self.count == 0:
            raise NotFitted("This Gaussian has seen no rows. Call fit(x) with features of clean images first.")
        y = (x - self.mean) * self.inverse_std
        white = F.linear(y, self.whitening)
        distance = white.square().sum(1)
        if len(self.whitening) == self.dim:
            return distance
        rest = y - (white * self.variances) @ self.whitening
        return distance + rest.square().sum(1) / self.outside

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log-density in nats, constants included."""
        return -0.5 * (self.mahalanobis(x) + self.log_det + self.dim * math.log(2 * math.pi))

    def _scale(self, batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
        """Count, mean and usable standard deviation of each feature."""
        count, mean = 0, torch.zeros(self.dim, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        for batch in batches:
            if batch.ndim != 2 or batch.shape[1] != self.dim:
                raise ValueError(f"This Gaussian is fitted to rows (n, {self.dim}), not to {tuple(batch.shape)}.")
            if not batch.isfinite().all():
                raise ValueError(f"{(~batch.isfinite()).any(1).sum()} rows are not finite; leave them out.")
            if len(batch) == 0:
                continue
            variance, batch_mean = torch.var_mean(batch.detach().to("cpu", torch.float64), dim=0, correction=0)
            total, difference = count + len(batch), batch_mean - mean
            squares += len(batch) * (variance + difference.square() * (count / total))
            mean += difference * (len(batch) / total)
            count = total
        if count < MINIMUM_ROWS:
            raise ValueError(f"A Gaussian needs at least {MINIMUM_ROWS} rows; {count} came. Give more clean images.")
        if squares.max() == 0:
            raise ValueError(f"All {count} rows are equal, so they have no covariance. Give rows that differ.")
        return count, mean, usable_std((squares / count).sqrt(), self.constant)

    def _shrink(self, count: int, square: Tensor, trace: Tensor, quartic: Tensor) -> tuple[float, float]:
        """The shrinkage r, and r times the mean variance."""
        shrinkage = ledoit_wolf_shrinkage(
            count=count, square=square.item(), trace=trace.item(), quartic=quartic.item(), dim=self.dim
        )
        # Differs from Ledoit & Wolf, who do not bound r away from 0.
        shrinkage = max(shrinkage, LEAST_SHRINKAGE)
        return shrinkage, shrinkage * trace.item() / self.dim

    def _factor_rows(self, y: Tensor) -> None:
        """From few centred rows, by the eigenvectors of their (n, n) products: no (d, d) matrix is built."""
        products = y @ y.T / len(y)
        lengths = products.diagonal() * len(y)
        shrinkage, least = self._shrink(len(y), products.square().sum(), products.trace(), lengths.square().mean())
        spread, vectors = torch.linalg.eigh(products)
        real = spread > 1e-12 * spread[-1]
        spread, vectors = spread[real], vectors[:, real]
        directions = (vectors / (spread * len(y)).sqrt()).T @ y
        variances = (1 - shrinkage) * spread + least
        log_det = variances.log().sum() + (self.dim - len(variances)) * math.log(least)
        self._store(shrinkage, directions / variances.sqrt()[:, None], variances, least, log_det)

    def _factor_scatter(self, moments: Moments) -> None:
        """From the covariance itself: the inverse of its Cholesky factor."""
        covariance = moments.scatter / moments.count
        shrinkage, least = self._shrink(
            moments.count, covariance.square().sum(), covariance.trace(), moments.quartic / moments.count
        )
        covariance *= 1 - shrinkage
        covariance.diagonal().add_(least)
        factor = torch.linalg.cholesky(covariance)
        eye = torch.eye(self.dim, dtype=factor.dtype)
        whitening = torch.linalg.solve_triangular(factor, eye, upper=False)
        self._store(shrinkage, whitening, factor.new_ones(self.dim), least, 2 * factor.diagonal().log().sum())

    def _store(self, shrinkage: float, whitening: Tensor, variances: Tensor, outside: float, log_det: Tensor) -> None:
        self.shrinkage.fill_(shrinkage)
        self.outside.fill_(outside)
        self.log_det.copy_(log_det)
        # As it comes back from a file, so that sums run in the same order.
        self.whitening, self.variances = whitening.to(self.mean).contiguous(), variances.to(self.mean)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        directions = len(state_dict.get(prefix + "whitening", self.whitening))
        self.whitening = self.whitening.new_empty(directions, self.dim)
        self.variances = self.variances.new_empty(directions)
        super()._load_from_state_dict(state_dict, prefix, *args)
