"""Affine coupling (Dinh et al., *Real NVP*, 2017, arXiv:1605.08803, section 3.2) with a soft clamp on the scale.

The first half of the dimensions decides, through a small network, how each of the others is scaled and shifted. The
decision does not depend on what is changed, so the inverse and the log-determinant cost no more than the forward pass.
With scales that multiply to one it is the coupling of GIN (Sorrenson et al., 2020, arXiv:2001.04872).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.base import Bijection

__all__ = ["GAIN", "AffineCoupling", "bounded", "centred"]

GAIN = 0.1
"""What the network says is divided by ten, so that a fresh coupling is close to the identity (as in FrEIA)."""


class AffineCoupling(Bijection):
    """y1 = x1, y2 = x2 exp(clamp tanh(0.1 a)) + 0.1 b with (a, b) = network(x1).

    x1 are the first d - d // 2 dimensions, x2 the others; the network is linear, ReLU, linear. The split, the clamp and
    the factor 0.1 are those of FrEIA's `AllInOneBlock`, which the reference implementation of DAAIN uses.

    Args:
        dim: number of dimensions d, at least 2.
        width: hidden units of the network.
        clamp: bound on |log scale|; twice that where volumes are kept.
        generator: draws the initial weights.
        keeps_volume: take the mean of a row's log scales off each of them, so that they sum to zero (GIN).

    Raises:
        ValueError: there are fewer than two dimensions, so that nothing could be split.
    """

    # Differs from the GIN paper, where the last log scale is minus the sum of the others, as large as that may be: with
    # the mean taken off all of them each is bounded. FrEIA does the same.

    def __init__(
        self, dim: int, width: int, clamp: float, generator: torch.Generator, *, keeps_volume: bool = False
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"A coupling splits its input, so it needs at least 2 dimensions, not {dim}.")
        self.sizes = [dim - dim // 2, dim // 2]
        self.clamp = clamp
        self.keeps_volume = keeps_volume
        self.enter = nn.Linear(self.sizes[0], width, device="meta").to_empty(device="cpu")
        self.leave = nn.Linear(width, 2 * self.sizes[1], device="meta").to_empty(device="cpu")
        self.draw(generator)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Start afresh: PyTorch's default initialisation, from `generator` instead of the global state."""
        for layer in (self.enter, self.leave):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx|."""
        kept, changed = torch.split(x, self.sizes, dim=1)
        log_scale, shift = self._affine(kept)
        return torch.cat([kept, torch.addcmul(shift, changed, log_scale.exp())], dim=1), log_scale.sum(1)

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        kept, changed = torch.split(y, self.sizes, dim=1)
        log_scale, shift = self._affine(kept)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.enter(kept).relu()
        a, b = F.linear(GAIN * hidden, self.leave.weight, GAIN * self.leave.bias).chunk(2, dim=1)
        log_scale = bounded(a, self.clamp)
        return (centred(log_scale) if self.keeps_volume else log_scale), b


def bounded(a: Tensor, clamp: float) -> Tensor:
    """clamp tanh(a), by way of the logistic function, which PyTorch computes ten times faster on a CPU."""
    return torch.sigmoid(2 * a) * (2 * clamp) - clamp


def centred(log_scale: Tensor) -> Tensor:
    """The log scales of each row less their mean, so that the row's scales multiply to one."""
    return log_scale - log_scale.mean(1, keepdim=True)
