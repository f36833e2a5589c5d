"""A learnt linear map as a product of two triangular ones (Kingma & Dhariwal, *Glow*, 2018, section 3.2).

y = L (U + diag(exp(log_scale))) x with ones on L's diagonal: after a fixed permutation P, which the block has, this is
the decomposition W = P L (U + diag(s)) of an invertible 1x1 convolution. The log-determinant is the sum of the log
scales, and the inverse two substitutions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.base import Bijection

__all__ = ["Triangular"]


class Triangular(Bijection):
    """y = L (U + diag(exp(log_scale))) x, the identity at first.

    L below, U above and log_scale on the diagonal of one matrix, `factors`: d^2 numbers, 3.2 million for d = 1784.

    Args:
        dim: number of dimensions d.
    """

    # Differs from Glow, which starts at a random rotation: here a fresh block mixes by its permutation alone, like the
    # default form, and nothing has to be decomposed. The scales are positive; signs are not learnt there either.

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(dim, dim))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """The identity again; there is nothing to draw."""
        self.factors.zero_()

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx|."""
        log_scale = self.factors.diagonal()
        x = torch.addcmul(x @ self.factors.triu(1).T, x, log_scale.exp())
        return x + x @ self.factors.tril(-1).T, log_scale.sum().expand(len(x))

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        y = torch.linalg.solve_triangular(self.factors, y.T, upper=False, unitriangular=True)
        x: Tensor = torch.linalg.solve_triangular(self._upper(), y, upper=True)
        return x.T

    def matrix(self) -> Float[Tensor, "d d"]:
        """W with y = W x."""
        upper = self._upper()
        return upper + self.factors.tril(-1) @ upper

    def _upper(self) -> Tensor:
        return self.factors.triu(1) + self.factors.diagonal().exp().diag()
