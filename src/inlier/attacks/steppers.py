"""Steppers say how a gradient becomes a move: `init` makes a state, `update` a move and the next state.

Moves are added to the parameters, and they climb. All norms are taken image by image, over all pixels and channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from inlier.attacks.objectives import peaks

__all__ = ["Adam", "Adamax", "AutoStep", "Cosine", "L2Step", "MomentumSign", "PeakStep", "SignStep", "Stepper", "Where"]


@dataclass(frozen=True, eq=False)
class Where:
    """Where a step starts: for steppers that look around.

    Args:
        parameters: there.
        values: (n,) the height, image by image.
        project: brings parameters back to where the attacker may be.
    """

    parameters: Tensor
    values: Tensor
    project: Callable[[Tensor], Tensor]


@runtime_checkable
class Stepper(Protocol):
    def init(self, parameters: Tensor) -> Any:
        """The state before the first step: tensors with a row an image, numbers, and tuples of these."""

    def update(self, gradient: Tensor, state: Any, where: Where | None = None) -> tuple[Tensor, Any]:
        """The move along a finite gradient, and the next state. A gradient of zeros moves nothing by itself."""


@dataclass(frozen=True)
class SignStep:
    """`size` in the direction of each entry's sign (Goodfellow et al. 2015, arXiv:1412.6572)."""

    size: float

    def init(self, parameters: Tensor) -> None:
        return None

    def update(self, gradient: Tensor, state: None, where: Where | None = None) -> tuple[Tensor, None]:
        return self.size * gradient.sign(), None


@dataclass(frozen=True)
class L2Step:
    """A move of L2 length `size` along the gradient (Madry et al. 2018, arXiv:1706.06083)."""

    size: float

    def init(self, parameters: Tensor) -> None:
        return None

    def update(self, gradient: Tensor, state: None, where: Where | None = None) -> tuple[Tensor, None]:
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

    def update(self, gradient: Tensor, state: Tensor, where: Where | None = None) -> tuple[Tensor, Tensor]:
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

    def update(
        self, gradient: Tensor, state: tuple[int, Tensor, Tensor], where: Where | None = None
    ) -> tuple[Tensor, tuple[int, Tensor, Tensor]]:
        count, mean, square = state
        count += 1
        mean = mean.lerp(gradient, 1 - self.decays[0])
        square = square.lerp(gradient.square(), 1 - self.decays[1])
        unbiased, root = mean / (1 - self.decays[0] ** count), (square / (1 - self.decays[1] ** count)).sqrt()
        return self.size * unbiased / (root + self.epsilon), (count, mean, square)


@dataclass(frozen=True)
class PeakStep:
    """`size` times the gradient over its largest magnitude: the entry that matters most moves by `size`.

    Source: DAG, Xie et al. 2017 (arXiv:1703.08603), algorithm 1.
    """

    size: float

    def init(self, parameters: Tensor) -> None:
        return None

    def update(self, gradient: Tensor, state: None, where: Where | None = None) -> tuple[Tensor, None]:
        return self.size * gradient / peaks(gradient).view(-1, 1, 1, 1), None


@dataclass(frozen=True)
class Adamax:
    """Each entry moves by about `size`, along its mean gradient over the largest of late.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 2, climbing. `unit` gives it the gradient's direction alone,
    as the collision attack on encoders does: `l2` at unit length, or its `sign`. `epsilon` is in units of what it is
    given.
    """

    size: float
    unit: Literal["none", "l2", "sign"] = "none"
    decays: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def init(self, parameters: Tensor) -> tuple[int, Tensor, Tensor]:
        return 0, torch.zeros_like(parameters), torch.zeros_like(parameters)

    def update(
        self, gradient: Tensor, state: tuple[int, Tensor, Tensor], where: Where | None = None
    ) -> tuple[Tensor, tuple[int, Tensor, Tensor]]:
        count, mean, largest = state
        count += 1
        along = {"none": lambda: gradient, "l2": lambda: _unit(gradient, 2), "sign": gradient.sign}[self.unit]()
        mean = mean.lerp(along, 1 - self.decays[0])
        largest = torch.maximum(self.decays[1] * largest, along.abs())
        return self.size / (1 - self.decays[0] ** count) * mean / (largest + self.epsilon), (count, mean, largest)


@dataclass(frozen=True)
class Cosine:
    """Another stepper's moves, which shrink to nothing over `steps`: times (1 + cos(pi t / steps)) / 2.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5, without restarts.
    """

    stepper: Stepper
    steps: int

    def init(self, parameters: Tensor) -> tuple[int, Any]:
        return 0, self.stepper.init(parameters)

    def update(
        self, gradient: Tensor, state: tuple[int, Any], where: Where | None = None
    ) -> tuple[Tensor, tuple[int, Any]]:
        count, inner = state
        move, inner = self.stepper.update(gradient, inner, where)
        return move * (0.5 + 0.5 * math.cos(math.pi * min(count / self.steps, 1))), (count + 1, inner)


@dataclass(frozen=True)
class AutoStep:
    """Auto-PGD: steps of 2 eps with momentum, halved image by image where they no longer lead up, from the best so far.

    Source: Croce and Hein 2020 (arXiv:2003.01690), algorithm 1 with its constants.

    Args:
        eps: radius of the ball.
        steps: how many there will be; the checkpoints depend on it.
        norm: of the ball: steps along the sign, or along the gradient at unit length.
    """

    eps: float
    steps: int
    norm: Literal["linf", "l2"] = "linf"

    def init(self, parameters: Tensor) -> _Climb:
        n = len(parameters)
        low, none = parameters.new_full((n,), -torch.inf), parameters.new_zeros(n)
        return _Climb(
            0, parameters, low, parameters, low, torch.zeros_like(parameters), parameters.new_full((n,), 2 * self.eps),
            none, low, torch.zeros(n, dtype=torch.bool, device=parameters.device),
        )  # fmt: skip

    def update(self, gradient: Tensor, state: _Climb, where: Where | None = None) -> tuple[Tensor, _Climb]:
        if where is None:
            raise ValueError("AutoStep looks at the heights on its way: it needs `where`")
        at, values = where.parameters, where.values.to(gradient)
        rises = state.rises + (values > state.value) if state.number > 0 else state.rises
        better = values > state.best_value
        best, best_value = _pick(better, at, state.best), values.where(better, state.best_value)
        best_gradient = _pick(better, gradient, state.best_gradient)
        size, halved = state.size, state.halved
        since = state.best_value_then if state.number > 0 else best_value
        start, along = at, gradient
        marks = checkpoints(self.steps)
        if state.number in marks[1:]:
            length = state.number - marks[marks.index(state.number) - 1]
            stuck = (rises < 0.75 * length) | (~halved & (since >= best_value))
            size = size.where(~stuck, size / 2)
            start, along = _pick(stuck, best, at), _pick(stuck, best_gradient, gradient)
            rises, since, halved = torch.zeros_like(rises), best_value, stuck
        step = along.sign() if self.norm == "linf" else _unit(along, 2)
        ahead = where.project(start + size.view(-1, 1, 1, 1) * step)
        if state.number > 0:
            ahead = where.project(start + 0.75 * (ahead - start) + 0.25 * (start - state.before))
        reached = _Climb(state.number + 1, start, values, best, best_value, best_gradient, size, rises, since, halved)
        return ahead - at, reached


class _Climb(NamedTuple):
    """What `AutoStep` remembers: the iterate before, the best one with its gradient, step sizes, and checkpoints."""

    number: int
    before: Tensor
    value: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    size: Tensor
    rises: Tensor
    best_value_then: Tensor
    halved: Tensor


def checkpoints(steps: int) -> list[int]:
    """The steps at which Auto-PGD asks whether it still climbs (arXiv:2003.01690, section 3.2).

    >>> checkpoints(100)[:6]
    [0, 22, 41, 57, 70, 80]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return list(dict.fromkeys(math.ceil(round(share * steps, 6)) for share in shares if share < 1))


def _pick(rows: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """`ours` in the rows that are true, `theirs` in the others."""
    return ours.where(rows.view(-1, *[1] * (ours.ndim - 1)), theirs)


def _unit(gradient: Tensor, order: int) -> Tensor:
    scaled = gradient / peaks(gradient).view(-1, 1, 1, 1)
    norm: Tensor = torch.linalg.vector_norm(scaled, order, dim=(1, 2, 3), keepdim=True)
    return scaled / norm.where(norm > 0, 1.0)
