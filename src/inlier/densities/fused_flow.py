"""Flows for run time: the same maps with all that does not depend on the input worked out in advance.

What was fitted is constant from then on: scales, matrices, reflections and their log-determinants become tensors that
are only added and multiplied, so that nothing is decomposed, inverted or masked while images come in. Later changes of
the flow do not reach them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.actnorm import ActNorm
from inlier.densities.bijections.block import Block
from inlier.densities.bijections.coupling import GAIN, centred
from inlier.densities.bijections.householder import Householder
from inlier.densities.bijections.lattice import OnLattice
from inlier.densities.bijections.triangular import Triangular

__all__ = ["FusedFlow", "FusedMixing", "FusedOnLattice", "RunTimeFlow"]


class RunTimeFlow(nn.Module, ABC):
    """What `flow(x)` gives, faster, and z alone faster still. Nothing of it belongs to the state."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """z and log |det dz/dx|."""

    @abstractmethod
    def latent(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """z alone."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", super().__call__(x))

    def _keep(self, like: Tensor, **constants: Tensor) -> None:
        for name, value in constants.items():
            constant = value.detach().to(like.dtype) if value.is_floating_point() else value
            self.register_buffer(name, constant.clone(), persistent=False)


class OfVectors(RunTimeFlow):
    """A flow whose log-determinant is a constant and the log scales of its couplings; with GIN, the constant alone."""

    keeps_volume: bool
    log_det: Tensor

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """z and log |det dz/dx|."""
        if self.keeps_volume:
            return self.latent(x), self.log_det.expand(len(x))
        log_scales: list[Tensor] = []
        z = self.latent(x, log_scales)
        return z, self.log_det + torch.stack(log_scales).sum((0, 2))

    @abstractmethod
    def latent(self, x: Float[Tensor, "n d"], log_scales: list[Tensor] | None = None) -> Float[Tensor, "n d"]:
        """z alone; the log scales of each coupling are put into `log_scales`."""


class FusedFlow(OfVectors):
    """Blocks that mix by their permutations alone, in half the time.

    An affine map of single dimensions can be moved ahead of a coupling: what the coupling's network reads and what it
    adds then change by constants. So all ActNorms together become one scale and one offset of the input.
    """

    enter: Tensor
    enter_bias: Tensor
    leave: Tensor
    leave_bias: Tensor
    index: Tensor
    scale: Tensor
    offset: Tensor
    log_det: Tensor

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        first = blocks[0]
        self.sizes, self.clamp = first.coupling.sizes, first.coupling.clamp
        self.keeps_volume = first.coupling.keeps_volume
        like = first.actnorm.log_scale
        # Each block receives scale * x + offset in place of x, which undoes in advance what later ActNorms would do.
        scale = torch.ones_like(like, dtype=torch.float64)
        offset = torch.zeros_like(scale)
        log_det = scale.new_zeros(())
        stages = []
        for block in reversed(blocks):
            actnorm, coupling, permutation = block.actnorm, block.coupling, block.permutation
            scale, offset = scale[permutation.inverse_index], offset[permutation.inverse_index]
            kept, changed = torch.split(scale, self.sizes)
            kept_offset, changed_offset = torch.split(offset, self.sizes)
            none = torch.zeros_like(changed)
            enter = coupling.enter.weight / kept
            gain = GAIN * torch.cat([torch.full_like(changed, 2.0), changed])  # tanh(a) = 2 logistic(2 a) - 1
            stages.append(
                (
                    enter.T,
                    coupling.enter.bias - enter @ kept_offset,
                    (gain[:, None] * coupling.leave.weight).T,
                    gain * coupling.leave.bias + torch.cat([none, changed_offset]),
                    permutation.index,
                )
            )
            offset = torch.cat([kept_offset, none]) + scale * actnorm.offset
            scale = scale * actnorm.log_scale.double().exp()
            log_det = log_det + actnorm.log_scale.double().sum()
        constants = [torch.stack(stage) for stage in zip(*reversed(stages), strict=True)]
        names = ("enter", "enter_bias", "leave", "leave_bias", "index", "scale", "offset", "log_det")
        self._keep(like, **dict(zip(names, [*constants, scale, offset, log_det], strict=True)))

    def latent(self, x: Float[Tensor, "n d"], log_scales: list[Tensor] | None = None) -> Float[Tensor, "n d"]:
        """z alone; the log scales of each block, whose sum is its log-determinant, are put into `log_scales`."""
        x = torch.addcmul(self.offset, x, self.scale)
        here, there = (x, *torch.split(x, self.sizes, dim=1)), None
        if not x.requires_grad and not torch.compiler.is_compiling():  # two blocks of memory then do for all stages
            spare = torch.empty_like(x)
            there = (spare, *torch.split(spare, self.sizes, dim=1))
        span, least = x.new_tensor(2 * self.clamp), math.exp(-self.clamp)  # a number costs more than a tensor
        for enter, enter_bias, leave, leave_bias, index in zip(
            self.enter, self.enter_bias, self.leave, self.leave_bias, self.index, strict=True
        ):
            x, kept, changed = here
            a, shift = torch.addmm(leave_bias, torch.addmm(enter_bias, kept, enter).relu_(), leave).chunk(2, dim=1)
            log_scale = a.sigmoid() * span  # less the clamp, which `least` makes up for
            if self.keeps_volume:
                log_scale = centred(log_scale) + self.clamp
            if log_scales is not None:
                log_scales.append(log_scale - self.clamp)
            if there is not None:
                torch.addcmul(shift, changed, log_scale.exp_(), value=least, out=changed)
                torch.index_select(x, 1, index, out=there[0])
                here, there = there, here
            else:
                changed = torch.addcmul(shift, changed, log_scale.exp(), value=least)
                x = torch.cat([kept, changed], dim=1).index_select(1, index)
                here = (x, *torch.split(x, self.sizes, dim=1))
        return here[0]


class FusedMixing(OfVectors):
    """Blocks that mix by a learnt map: each is one matrix or a few directions, with the next ActNorm folded in."""

    scale: Tensor
    offset: Tensor
    log_det: Tensor

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        first = blocks[0].actnorm
        self.keeps_volume = blocks[0].coupling.keeps_volume
        following: list[ActNorm | None] = [*(block.actnorm for block in blocks[1:]), None]
        self.stages = nn.ModuleList(Stage(block, after) for block, after in zip(blocks, following, strict=True))
        log_det = sum((block.actnorm.log_scale.double().sum() for block in blocks), torch.zeros(()).double())
        for block in blocks:
            if isinstance(block.mixing, Triangular):
                log_det = log_det + block.mixing.factors.diagonal().double().sum()
        self._keep(first.offset, scale=first.log_scale.exp(), offset=first.offset, log_det=log_det)

    def latent(self, x: Float[Tensor, "n d"], log_scales: list[Tensor] | None = None) -> Float[Tensor, "n d"]:
        """z alone; the log scales of each coupling are put into `log_scales`."""
        x = torch.addcmul(self.offset, x, self.scale)
        for stage in self.stages:
            x, log_scale = stage(x)
            if log_scales is not None:
                log_scales.append(log_scale)
        return x


class Stage(nn.Module):
    """A coupling, what mixes after it, and the ActNorm that follows."""

    enter: Tensor
    enter_bias: Tensor
    leave: Tensor
    leave_bias: Tensor
    offset: Tensor
    matrix: Tensor
    index: Tensor
    scale: Tensor
    into: Tensor
    out: Tensor

    def __init__(self, block: Block, following: ActNorm | None) -> None:
        super().__init__()
        coupling, index = block.coupling, block.permutation.index
        self.sizes, self.clamp, self.keeps_volume = coupling.sizes, coupling.clamp, coupling.keeps_volume
        changed = coupling.leave.weight.new_ones(self.sizes[1])
        gain = GAIN * torch.cat([2 * changed, changed])  # tanh(a) = 2 logistic(2 a) - 1
        scale = torch.ones_like(index, dtype=changed.dtype) if following is None else following.log_scale.exp()
        offset = torch.zeros_like(scale) if following is None else following.offset
        constants = {
            "enter": coupling.enter.weight.T,
            "enter_bias": coupling.enter.bias,
            "leave": (gain[:, None] * coupling.leave.weight).T,
            "leave_bias": gain * coupling.leave.bias,
            "offset": offset,
        }
        self.whole = isinstance(block.mixing, Triangular)
        if isinstance(block.mixing, Triangular):
            constants |= {"matrix": (scale[:, None] * block.mixing.matrix()[index]).T}
        else:
            assert isinstance(block.mixing, Householder)
            into, out = block.mixing.factors()
            constants |= {"index": index, "scale": scale, "into": into.T, "out": scale * out[:, index]}
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What leaves the stage, and the coupling's log scales."""
        kept, changed = torch.split(x, self.sizes, dim=1)
        hidden = torch.addmm(self.enter_bias, kept, self.enter).relu()
        a, shift = torch.addmm(self.leave_bias, hidden, self.leave).chunk(2, dim=1)
        log_scale = a.sigmoid() * (2 * self.clamp) - self.clamp
        if self.keeps_volume:
            log_scale = centred(log_scale)
        x = torch.cat([kept, torch.addcmul(shift, changed, log_scale.exp())], dim=1)
        if self.whole:
            return torch.addmm(self.offset, x, self.matrix), log_scale
        mixed = torch.addcmul(self.offset, x.index_select(1, self.index), self.scale)
        return torch.addmm(mixed, x @ self.into, self.out, alpha=-1), log_scale


class FusedOnLattice(RunTimeFlow):
    """A scale and an offset a point, then the lattice's blocks at every position."""

    scale: Tensor
    offset: Tensor
    stretched: Tensor

    def __init__(self, on_lattice: OnLattice) -> None:
        super().__init__()
        actnorm = on_lattice.actnorm
        self.cells = on_lattice.cells
        self.blocks = FusedMixing([block for block in on_lattice.blocks if isinstance(block, Block)])
        stretched = actnorm.log_scale.double().sum()
        self._keep(actnorm.offset, scale=actnorm.log_scale.exp(), offset=actnorm.offset, stretched=stretched)

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """z and log |det dz/dx|."""
        rows, rest = self.cells.split(torch.addcmul(self.offset, x, self.scale))
        rows, changes = self.blocks(rows)
        return self.cells.join(rows, rest), self.stretched + self.cells.total(changes)

    def latent(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """z alone."""
        rows, rest = self.cells.split(torch.addcmul(self.offset, x, self.scale))
        return self.cells.join(self.blocks.latent(rows), rest)
