"""Steppers say how a gradient becomes a move: `init` makes a state, `update` a move and the next state.

Moves are added to the parameters, and they climb. All norms are taken image by image, over all pixels and channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from inlier.attacks.objectives import peaks

__all__ = ["Adam", "L2Step", "MomentumSign", "SignStep", "Stepper"]


@runtime_checkable
class Stepper(Protocol):
    def init(self, parameters: Tensor) -> Any:
        """The state before the first step."""

    def update(self, gradient: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The move along a finite gradient, and the next state. A gradient of zeros moves nothing by itself."""


@dataclass(frozen=True)
class SignStep:
    """`size` in the direction of each entry's sign (Goodfellow et al. 2015, arXiv:1412.6572)."""

    size: float

    def init(self, parameters: Tensor) -> None:
        return None

    def update(self, gradient: Tensor, state: None) -> tuple[Tensor, None]:
        return self.size * gradient.sign(), None


@dataclass(frozen=True)
class L2Step:
    """A move of L2 length `size` along the gradient (Madry et al. 2018, arXiv:1706.06083)."""

    size: float

    def init(self, parameters: Tensor) -> None:
        return None

    def update(self, gradient: Tensor, state: None) -> tuple[Tensor, None]:
        return self.size * _unit(gradient, 2), None


@dataclass(frozen=True)
class MomentumSign:
    """MI-FGSM: the gradient is brought to unit L1 norm, *then* accumulated, and the sum's sign is taken.

    Source: Dong et al. 2018 (arXiv:1710.06081), eqs. 6 and 7.
    """

    size: float
    decay: float = 1.0

    def init(self, parameters: Tensor) -> Tensor:
        return torch.zeros_like(parameters)

    def update(self, gradient: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        momentum = self.decay * state + _unit(gradient, 1)
        return self.size * momentum.sign(), momentum


@dataclass(frozen=True)
class Adam:
    """Each entry moves by about `size`, along its mean gradient over the root of its mean square.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1, climbing. `epsilon` is in units of the gradient.
    """

    size: float
    decays: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def init(self, parameters: Tensor) -> tuple[int, Tensor, Tensor]:
        return 0, torch.zeros_like(parameters), torch.zeros_like(parameters)

    def update(self, gradient: Tensor, state: tuple[int, Tensor, Tensor]) -> tuple[Tensor, tuple[int, Tensor, Tensor]]:
        count, mean, square = state
        count += 1
        mean = mean.lerp(gradient, 1 - self.decays[0])
        square = square.lerp(gradient.square(), 1 - self.decays[1])
        unbiased, root = mean / (1 - self.decays[0] ** count), (square / (1 - self.decays[1] ** count)).sqrt()
        return self.size * unbiased / (root + self.epsilon), (count, mean, square)


def _unit(gradient: Tensor, order: int) -> Tensor:
    scaled = gradient / peaks(gradient).view(-1, 1, 1, 1)
    norm: Tensor = torch.linalg.vector_norm(scaled, order, dim=(1, 2, 3), keepdim=True)
    return scaled / norm.where(norm > 0, 1.0)
