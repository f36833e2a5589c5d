"""Activation normalisation (Kingma & Dhariwal, *Glow*, 2018, arXiv:1807.03039, section 3.1).

One scale and one offset a dimension, learnt like any parameter, but first set from data so that its output has mean 0
and standard deviation 1. After that it is an ordinary affine bijection: a batch has no influence on its own result.
"""

from __future__ import annotations

from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.base import Bijection

__all__ = ["ActNorm", "usable_std"]

CONSTANT = 0.1
"""Share of the median standard deviation below which `initialise` takes a dimension for constant. It is high because
a coupling that reads one value of hundreds of standard deviations multiplies its error through all later blocks: of
cross-fitted clean CamVid training frames the worst is the further out the smaller this is."""


class ActNorm(Bijection):
    """y = exp(log_scale) x + offset; the identity until `initialise`.

    Args:
        dim: number of dimensions d.
        scaled: whether there is a scale. Without, log_scale stays 0 and the map keeps volumes.
    """

    def __init__(self, dim: int, *, scaled: bool = True) -> None:
        super().__init__()
        self.scaled = scaled
        self.log_scale: Tensor
        if scaled:
            self.log_scale = nn.Parameter(torch.zeros(dim))
        else:
            self.register_buffer("log_scale", torch.zeros(dim), persistent=False)
        self.offset = nn.Parameter(torch.zeros(dim))

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "n d"]) -> Self:
        """Give the output mean 0 and standard deviation 1 on the rows of `x`; constants as in `usable_std`.

        Without a scale the deviation stays what it is.
        """
        std, mean = torch.std_mean(x.double(), dim=0, correction=0)
        std = usable_std(std, CONSTANT) if self.scaled else torch.ones_like(std)
        self.log_scale.copy_(-std.log())
        self.offset.copy_(-mean / std)
        return self

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx|."""
        return torch.addcmul(self.offset, x, self.log_scale.exp()), self.log_scale.sum().expand(len(x))

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        return (y - self.offset) * (-self.log_scale).exp()


def usable_std(std: Float[Tensor, " d"], constant: float) -> Float[Tensor, " d"]:
    """Standard deviations to divide by: those of constant dimensions are replaced by the median of the others.

    Constant is what is below `constant` times that median. A feature that hardly moved on clean data has no scale of
    its own: divided by nearly nothing, its first movement would outweigh all other dimensions together; divided by the
    median it counts as much as in a typical one.
    """
    moving = std[std > 1e-9 * std.max()]  # less than that is rounding
    if len(moving) == 0:
        return torch.ones_like(std)
    median = moving.median()
    return torch.where(std > constant * median, std, median)
