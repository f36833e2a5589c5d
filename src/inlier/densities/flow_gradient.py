"""A flow's loss and its gradient: worked out by hand for the default form, in about half the time of autograd.

Fitting is most of what a flow costs. Autograd keeps every intermediate result in memory of its own and visits each
several times; here rows are columns, so that a permutation moves whole lines of memory and halves need no copies, and
all steps write into the same places again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.block import Block
from inlier.densities.bijections.coupling import GAIN, AffineCoupling

__all__ = ["AutogradGradient", "Density", "FlowGradient"]


class Density(Protocol):
    """What has a loss and parameters that it depends on."""

    def loss(self, x: Tensor) -> Tensor:
        """The mean over the rows of x."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is learnt."""


class AutogradGradient:
    """What `FlowGradient` offers, for any form of flow.

    Args:
        flow: of any form; its parameters are read anew at each call.
        rows: taken at once where no gradient is wanted.
    """

    def __init__(self, flow: Density, rows: int) -> None:
        self.flow, self.rows = flow, rows

    @torch.no_grad()
    def loss(self, x: Float[Tensor, "n d"]) -> float:
        """`flow.loss(x)`, for any number of rows."""
        return sum(float(self.flow.loss(rows)) * len(rows) for rows in torch.split(x, self.rows)) / len(x)

    def __call__(self, x: Float[Tensor, "n d"]) -> None:
        """Put the gradient of `flow.loss(x)` into every parameter's `grad`."""
        for parameter in self.flow.parameters():
            parameter.grad = None
        self.flow.loss(x).backward()  # type: ignore[no-untyped-call]


class FlowGradient:
    """`gradient(x)` puts the gradient of `flow.loss(x)` into every parameter's `grad`; `loss(x)` is that loss.

    Args:
        blocks: of the flow; their parameters are read anew at each call.
        rows: of a batch, at most.
    """

    def __init__(self, blocks: Sequence[Block], rows: int) -> None:
        self.blocks, self.rows = blocks, rows
        self.sizes, self.clamp = self.blocks[0].coupling.sizes, self.blocks[0].coupling.clamp
        like = self.blocks[0].actnorm.offset
        count, width = len(self.blocks), self.blocks[0].coupling.enter.out_features
        self.dim, (_, changed) = len(like), self.sizes
        # What each block leaves behind for the way back; everything else is overwritten by the next one.
        self.whole = like.new_empty(count, self.dim, rows)
        self.before = like.new_empty(count, changed, rows)
        self.logistic = like.new_empty(count, changed, rows)
        self.scale = like.new_empty(count, changed, rows)
        self.hidden = like.new_empty(count, width, rows)
        self.here, self.there = like.new_empty(2, self.dim, rows)
        self.half = like.new_empty(changed, rows)
        for block in blocks:
            for parameter in block.parameters():
                parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def loss(self, x: Float[Tensor, "n d"]) -> float:
        """`flow.loss(x)`, for any number of rows."""
        total = 0.0
        for rows in torch.split(x, self.rows):
            squares = self._forward(rows).square().sum(dtype=torch.float64)
            logistic = self.logistic[:, :, : len(rows)].sum(dtype=torch.float64)
            total += float(0.5 * squares - 2 * self.clamp * logistic)
        stretched = sum(float(block.actnorm.log_scale.sum()) for block in self.blocks)
        return (total / len(x) + self.clamp * len(self.blocks) * self.sizes[1] - stretched) / self.dim

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "n d"]) -> None:
        n = len(x)
        kept, _ = self.sizes
        gradient, spare, half = self._forward(x), self.there[:, :n], self.half[:, :n]
        share = 1 / (n * self.dim)
        gradient.mul_(share)  # of half the sum of squares
        for number in reversed(range(len(self.blocks))):
            block = self.blocks[number]
            whole, before, logistic, scale, hidden = self._left(number, n)
            gradient, spare = torch.index_select(gradient, 0, block.permutation.inverse_index, out=spare), gradient
            changed = gradient[kept:]
            enter, (a_weight, b_weight), _ = _network(block.coupling)
            a_grad, b_grad = _grad(block.coupling.leave.weight).chunk(2)
            a_bias_grad, b_bias_grad = _grad(block.coupling.leave.bias).chunk(2)
            torch.addmm(b_grad, changed, hidden.T, beta=0, alpha=GAIN, out=b_grad)
            torch.sum(changed, 1, out=b_bias_grad).mul_(GAIN)
            behind = torch.mm(b_weight.T, changed).mul_(GAIN)
            changed.mul_(scale)
            # Of the log scale: it moves the point, and it is part of the log-determinant.
            torch.mul(changed, before, out=half).sub_(share)
            half.mul_(logistic.mul_(logistic.neg().add_(1))).mul_(4 * GAIN * self.clamp)
            torch.mm(half, hidden.T, out=a_grad)
            torch.sum(half, 1, out=a_bias_grad)
            behind.addmm_(a_weight.T, half).mul_(hidden > 0)
            torch.mm(behind, whole[:kept].T, out=_grad(enter.weight))
            torch.sum(behind, 1, out=_grad(enter.bias))
            gradient[:kept].addmm_(enter.weight.T, behind)
            whole[kept:] = before
            offset_grad = torch.sum(gradient, 1, out=_grad(block.actnorm.offset))
            scale_grad = torch.sum(whole.mul_(gradient), 1, out=_grad(block.actnorm.log_scale))
            scale_grad.addcmul_(block.actnorm.offset, offset_grad, value=-1).sub_(1 / self.dim)
            gradient.mul_(block.actnorm.log_scale.exp()[:, None])

    def _forward(self, x: Tensor) -> Tensor:
        n = len(x)
        kept, _ = self.sizes
        least = math.exp(-self.clamp)  # the log scale is 2 clamp logistic - clamp
        here: Tensor = self.here[:, :n]
        half = self.half[:, :n]
        here.copy_(x.T)
        for number, block in enumerate(self.blocks):
            whole, before, logistic, scale, hidden = self._left(number, n)
            offset, gain = block.actnorm.offset[:, None], block.actnorm.log_scale.exp()[:, None]
            torch.addcmul(offset[:kept], here[:kept], gain[:kept], out=whole[:kept])
            torch.addcmul(offset[kept:], here[kept:], gain[kept:], out=before)
            enter, (a_weight, b_weight), (a_bias, b_bias) = _network(block.coupling)
            torch.addmm(enter.bias[:, None], enter.weight, whole[:kept], out=hidden).relu_()
            torch.addmm(a_bias, a_weight, hidden, beta=2 * GAIN, alpha=2 * GAIN, out=logistic).sigmoid_()
            torch.mul(logistic, 2 * self.clamp, out=scale).exp_().mul_(least)
            torch.addmm(b_bias, b_weight, hidden, beta=GAIN, alpha=GAIN, out=half)
            torch.addcmul(half, before, scale, out=whole[kept:])
            torch.index_select(whole, 0, block.permutation.index, out=here)
        return here

    def _left(self, number: int, n: int) -> tuple[Tensor, ...]:
        places = (self.whole, self.before, self.logistic, self.scale, self.hidden)
        return tuple(place[number, :, :n] for place in places)


def _network(coupling: AffineCoupling) -> tuple[nn.Linear, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The first layer, and weights and biases of the last: of the log scale and of the shift."""
    return coupling.enter, coupling.leave.weight.chunk(2), coupling.leave.bias[:, None].chunk(2)


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
