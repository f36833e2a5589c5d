"""Learnt reflections (Householder 1958; Tomczak & Welling 2016, arXiv:1611.09630): an orthogonal map at little cost.

Each turns x to its mirror image x - 2 v (v x) / |v|^2. d of them make any orthogonal map; a few already let every
dimension reach every other after a fixed permutation. Volumes stay as they are, and the inverse is the same reflections
in the other order.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.base import Bijection

__all__ = ["Householder"]


class Householder(Bijection):
    """y = H_1 H_2 ... H_m x, H_j the reflection that turns `vectors[j]` round.

    Args:
        dim: number of dimensions d.
        reflections: m, at least 1; m d numbers are learnt.
        generator: draws the first vectors.
    """

    def __init__(self, dim: int, reflections: int, generator: torch.Generator) -> None:
        super().__init__()
        if reflections < 1:
            raise ValueError(f"Mixing by reflections needs at least 1 of them, not {reflections}.")
        self.vectors = nn.Parameter(torch.empty(reflections, dim))
        self.draw(generator)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Directions anew, each equally likely; their lengths, about 1, only set how fast they turn when fitted."""
        reflections, dim = self.vectors.shape
        self.vectors.copy_(torch.randn(reflections, dim, generator=generator) / dim**0.5)

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx| = 0."""
        for unit in reversed(self._units()):
            x = x - 2 * torch.outer(x @ unit, unit)
        return x, x.new_zeros(len(x))

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        for unit in self._units():
            y = y - 2 * torch.outer(y @ unit, unit)
        return y

    def factors(self) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
        """A, B with y = x - B' A x: all reflections at once (the WY form of Bischof & Van Loan 1987)."""
        into = self.vectors.new_empty(0, self.vectors.shape[1])
        out = into
        for unit in self._units():
            # H_1 ... H_j = I - B' A, times (I - 2 u u'): what comes out along u is 2 (I - B' A) u.
            out = torch.cat([out, 2 * (unit - (into @ unit) @ out)[None]])
            into = torch.cat([into, unit[None]])
        return into, out

    def _units(self) -> tuple[Tensor, ...]:
        return tuple(self.vectors / self.vectors.norm(dim=1, keepdim=True))
