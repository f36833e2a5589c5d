"""Bijections: what a flow is a chain of.

A bijection gives y and log |det dy/dx| for rows x, and x again for y. Some learn by gradient, some are first set from
data, some have nothing to learn; all of them start afresh by `draw`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Bijection", "Chain"]


class Bijection(nn.Module, ABC):
    """An invertible map of rows (n, d) with a known log-determinant."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx|."""

    @abstractmethod
    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""

    def initialise(self, x: Float[Tensor, "n d"]) -> Self:
        """Set what is first set from data."""
        return self

    def draw(self, generator: torch.Generator) -> None:
        """Start afresh with weights from `generator`; what is fixed stays as it is."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", super().__call__(x))


class Chain(nn.ModuleList):
    """Bijections, each applied to what the one before gave."""

    def __iter__(self) -> Iterator[Bijection]:
        return cast("Iterator[Bijection]", super().__iter__())

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx|."""
        log_det = x.new_zeros(len(x))
        for bijection in self:
            x, change = bijection(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        for bijection in reversed(list(self)):
            y = bijection.inverse(y)
        return y

    def initialise(self, x: Float[Tensor, "n d"]) -> Self:
        """Set each from what reaches it, one after the other."""
        for bijection in self:
            x, _ = bijection.initialise(x)(x)
        return self

    def draw(self, generator: torch.Generator) -> None:
        """Start each afresh."""
        for bijection in self:
            bijection.draw(generator)
