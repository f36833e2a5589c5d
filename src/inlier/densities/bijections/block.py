"""One block of a flow: what is repeated to make it deep."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlier.densities.bijections.actnorm import ActNorm
from inlier.densities.bijections.coupling import AffineCoupling
from inlier.densities.bijections.permutation import Permutation

__all__ = ["Block"]


class Block(nn.Module):
    """ActNorm, coupling, permutation."""

    # Differs from the reference, whose blocks start with the coupling: here the first network already sees
    # data of unit scale.

    def __init__(self, dim: int, width: int, clamp: float, generator: torch.Generator) -> None:
        super().__init__()
        self.actnorm = ActNorm(dim)
        self.coupling = AffineCoupling(dim, width, clamp, generator)
        self.permutation = Permutation(dim, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, scaled = self.actnorm(x)
        x, coupled = self.coupling(x)
        x, _ = self.permutation(x)  # keeps volumes
        return x, scaled + coupled

    def inverse(self, y: Tensor) -> Tensor:
        return self.actnorm.inverse(self.coupling.inverse(self.permutation.inverse(y)))
