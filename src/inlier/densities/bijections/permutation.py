"""A fixed random order of the dimensions, so that every coupling splits them differently.

The reference multiplies by dense permutation matrices; a gather gives the same numbers for the cost of a copy.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.densities.bijections.base import Bijection

__all__ = ["Permutation"]


class Permutation(Bijection):
    """y[:, i] = x[:, index[i]] for an index drawn from `generator`; volume-preserving."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.index: Tensor
        self.inverse_index: Tensor
        self.register_buffer("index", torch.randperm(dim, generator=generator))
        self.register_buffer("inverse_index", self.index.argsort())

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx| = 0."""
        return x.index_select(1, self.index), x.new_zeros(len(x))

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        return y.index_select(1, self.inverse_index)
