"""One histogram a dimension, as if dimensions were independent (HBOS: Goldstein & Dengel, KI 2012; DAAIN, section 3.3).

The score is the sum of -log densities. It is a step function, so its own gradient is zero; `smooth` joins the middles
of the steps by straight lines and goes on downhill outside, and lends its gradient to the score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.actnorm import usable_std
from inlier.errors import NotFitted
from inlier.types import Scores

__all__ = ["Histogram"]

EMPTY = 0.5
"""Rows that an empty bin and the outside are taken to hold: the half count of Krichevsky & Trofimov (1981)."""

CONSTANT = 1e-3
"""A dimension whose range is at most this share of the median one gets the median range around its middle."""

SLACK = 1e-5
"""Share of the range added at either end, so that rounding throws no row out of the range that it made."""


class Histogram(nn.Module):
    """sum_i -log p_i(x_i), each p_i a histogram of equal-width bins on the range of the rows it was fitted to.

    An empty bin and everything outside the range have the density of half a row. Neither is clipped or rescaled.

    Args:
        dim: number of dimensions d.
        bins: of each histogram.

    `count` is the number of rows it was fitted to, 0 before `fit`.
    """

    def __init__(self, dim: int, bins: int = 30) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"A histogram needs at least 1 bin, not {bins}.")
        self.dim = dim
        self.bins = bins
        self.count: Tensor
        self.low: Tensor
        self.inverse_width: Tensor
        self.first: Tensor
        self.steps: Tensor
        self.nodes: Tensor
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("low", torch.zeros(dim))
        self.register_buffer("inverse_width", torch.ones(dim))
        self.register_buffer("first", torch.ones(dim))  # the row of `steps` that 0 lies in, as a real number
        self.register_buffer("steps", torch.zeros(bins + 2, dim))  # -log p of: below, each bin, above
        self.register_buffer("nodes", torch.zeros(bins + 2, dim))  # the same for `smooth`, at the bins' middles

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n d"] | Iterable[Float[Tensor, "b d"]]) -> Self:
        """Count the rows of `x`, which may come in batches that can be iterated twice: the ranges first, then counts.

        Raises:
            ValueError: there are no rows, they are not `dim` wide, or they are not finite.
        """
        batches = (x,) if isinstance(x, Tensor) else x
        count, wrong = 0, 0
        low, high = torch.full_like(self.low, torch.inf), torch.full_like(self.low, -torch.inf)
        for batch in batches:
            if batch.ndim != 2 or batch.shape[1] != self.dim:
                raise ValueError(f"This histogram is fitted to rows (n, {self.dim}), not to {tuple(batch.shape)}.")
            if len(batch) == 0:
                continue
            count += len(batch)
            wrong += int((~batch.isfinite()).any(1).sum())
            lowest, highest = batch.detach().to(self.low).aminmax(dim=0)
            low, high = torch.minimum(low, lowest), torch.maximum(high, highest)
        if count == 0:
            raise ValueError(f"This histogram is fitted to rows (n, {self.dim}) with n > 0, and none came.")
        if wrong:
            raise ValueError(f"{wrong} of {count} rows are not finite; leave them out.")
        span = usable_std(high - low, CONSTANT)
        low = torch.where(span == high - low, low, (low + high - span) / 2)
        self.low.copy_(low - SLACK * span)
        width = span * (1 + 2 * SLACK) / self.bins
        self.inverse_width.copy_(1 / width)
        self.first.copy_(1 - self.low / width)
        held = torch.zeros_like(self.steps)
        for batch in batches:
            rows = batch.detach().to(self.low)
            held.scatter_add_(0, self._bin(rows), torch.ones_like(rows))
        self.steps.copy_((count * width).log() - held.clamp(min=EMPTY).log())
        self.nodes.copy_(self.steps)
        # An end bin holds a row, so that outside is worse by log 2 or more; it must be so for constant dimensions too.
        self.nodes[0] = torch.maximum(self.steps[0], self.steps[1] + math.log(1 / EMPTY))
        self.nodes[-1] = torch.maximum(self.steps[-1], self.steps[-2] + math.log(1 / EMPTY))
        self.count.fill_(count)
        return self

    def forward(self, x: Float[Tensor, "n d"]) -> Scores:
        """The score; its gradient is that of `smooth`. What is not a number lies outside.

        Raises:
            NotFitted: before `fit`.
        """
        if not torch.compiler.is_compiling() and self.count.item() == 0:
            raise NotFitted("This histogram has seen no rows. Call fit(x) with clean rows first.")
        score = self.steps.gather(0, self._bin(x.detach())).sum(1)
        if torch.is_grad_enabled() and x.requires_grad:
            smooth = self.smooth(x)
            score = score + (smooth - smooth.detach())
        return score

    def smooth(self, x: Float[Tensor, "n d"]) -> Scores:
        """The score with each -log p_i interpolated between the middles of its bins, and rising outside for ever."""
        position = (x - self.low) * self.inverse_width + 0.5
        left = position.detach().nan_to_num().floor().clamp(0, self.bins).long()
        here, there = self.nodes.gather(0, left), self.nodes.gather(0, left + 1)
        return torch.addcmul(here, position - left, there - here).sum(1)

    def _bin(self, x: Tensor) -> Tensor:
        """(n, d) rows of `steps`: 0 is below the range, bins + 1 above."""
        position = torch.addcmul(self.first, x, self.inverse_width).nan_to_num(nan=torch.inf)
        return position.clamp(0, self.bins + 1).long()  # at least 0, so that to cut off is to round down
