"""One block of a flow: what is repeated to make it deep."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor

from inlier.densities.bijections.actnorm import ActNorm
from inlier.densities.bijections.base import Bijection
from inlier.densities.bijections.coupling import AffineCoupling
from inlier.densities.bijections.householder import Householder
from inlier.densities.bijections.permutation import Permutation
from inlier.densities.bijections.triangular import Triangular

__all__ = ["Block", "Coupling", "LinearMixing"]

Coupling = Literal["affine", "gin"]
LinearMixing = Literal["permutation", "lu", "householder"]


class Block(Bijection):
    """ActNorm, coupling, learnt mixing if any, permutation.

    Args:
        dim, width, clamp, generator: see `AffineCoupling`.
        coupling: `gin` keeps volumes.
        mixing: what comes before the permutation: nothing, `Triangular` or `Householder`.
        reflections: of `householder`.
        scaled: whether the ActNorm has a scale. With `gin` this, and the diagonal of `lu`, is all that changes volumes.
    """

    # Differs from the reference, whose blocks start with the coupling: here the first network already sees
    # data of unit scale.

    def __init__(
        self,
        dim: int,
        width: int,
        clamp: float,
        generator: torch.Generator,
        *,
        coupling: Coupling = "affine",
        mixing: LinearMixing = "permutation",
        reflections: int = 8,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        self.actnorm = ActNorm(dim, scaled=scaled)
        self.coupling = AffineCoupling(dim, width, clamp, generator, keeps_volume=coupling == "gin")
        self.permutation = Permutation(dim, generator)
        self.mixing: Triangular | Householder | None = None
        if mixing == "lu":
            self.mixing = Triangular(dim)
        elif mixing == "householder":
            self.mixing = Householder(dim, reflections, generator)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Self:
        """Set the ActNorm; see there."""
        self.actnorm.initialise(x)
        return self

    def draw(self, generator: torch.Generator) -> None:
        """Start the coupling and the mixing afresh; the permutation is fixed."""
        self.coupling.draw(generator)
        if self.mixing is not None:
            self.mixing.draw(generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, scaled = self.actnorm(x)
        x, coupled = self.coupling(x)
        log_det = scaled + coupled
        if self.mixing is not None:
            x, mixed = self.mixing(x)
            log_det = log_det + mixed
        x, _ = self.permutation(x)  # keeps volumes
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        y = self.permutation.inverse(y)
        if self.mixing is not None:
            y = self.mixing.inverse(y)
        return self.actnorm.inverse(self.coupling.inverse(y))
