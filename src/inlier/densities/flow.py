"""An affine normalising flow: the density of DAAIN (von Baußnern et al., sections 3.2 and 4.2).

A bijection carries the data to a standard normal; the density of a row is that of its image there, times how much the
bijection stretches space around it. One block is ActNorm, affine coupling, fixed permutation, so that inverse and
log-determinant are exact and cost as little as the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.block import Block
from inlier.densities.bijections.coupling import GAIN
from inlier.densities.flow_gradient import FlowGradient
from inlier.types import Progress

__all__ = ["Flow", "FusedFlow"]

MINIMUM_ROWS = 5


class Flow(nn.Module):
    """x -> z with an exact density for x.

    Args:
        dim: number of dimensions d of a row, at least 2.
        blocks: number of blocks (DAAIN tries 4, 8 and 16).
        width: hidden units of each coupling's network.
        clamp: bound on |log scale| of each coupling.
        seed: draws the permutations and the initial weights.

    `count` is the number of rows it was fitted to, 0 before `fit`.
    """

    def __init__(self, dim: int, blocks: int = 16, width: int = 10, clamp: float = 2.0, seed: int = 0) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"A flow needs at least 1 block, not {blocks}.")
        generator = torch.Generator().manual_seed(seed)
        self.dim = dim
        self.blocks = nn.ModuleList(Block(dim, width, clamp, generator) for _ in range(blocks))
        self.count: Tensor
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """z and log |det dz/dx|."""
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            x, change = block(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = z."""
        for block in reversed(self._blocks):
            z = block.inverse(z)
        return z

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log-density in nats, constants included."""
        z, log_det = self._map(x)
        return log_det - 0.5 * (z.square().sum(1) + self.dim * math.log(2 * math.pi))

    def loss(self, x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """What `fit` minimises: mean of (0.5 sum z^2 - log det) / d, in nats a dimension and without the constant."""
        z, log_det = self._map(x)
        return (0.5 * z.square().sum(1) - log_det).mean() / self.dim

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count d"]:
        """Rows drawn from the density; `generator` lives on the CPU."""
        z = torch.randn(count, self.dim, generator=generator)
        return self.inverse(z.to(next(self.parameters())))

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "n d"]) -> Self:
        """Set each ActNorm from what reaches it, block after block (Glow, section 3.1)."""
        for block in self._blocks:
            block.actnorm.initialise(x)
            x, _ = block(x)
        return self

    def fit(
        self,
        x: Float[Tensor, "n d"],
        *,
        seed: int = 0,
        progress: Progress | None = None,
        epochs: int = 300,
        batch_size: int = 64,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.8, 0.8),
        eps: float = 1e-4,
        weight_decay: float = 1e-5,
        clip_norm: float = 0.5,
        validation: float = 0.2,
        patience: int = 3,
    ) -> Self:
        """Maximum likelihood by Adam with early stopping; the weights with the lowest validation loss are kept.

        Args:
            x: clean rows, at least 5.
            seed: draws the initial weights, the validation rows and the order of the others.
            progress: told ("flow", epochs done, epochs) after each; early stopping ends before the last.
            epochs: upper bound on the passes over the data.
            batch_size: rows a step. The reference accumulates 4 batches of 16: the same gradient as one of 64.
            learning_rate, betas, eps, weight_decay: Adam's.
            clip_norm: bound on the norm of the whole gradient.
            validation: share of the rows held out, at random, for early stopping.
            patience: epochs without a better validation loss after which it stops.

        Raises:
            ValueError: there are too few rows, they are not `dim` wide, or they are not finite.
        """
        self._check(x, validation)
        parameters = list(self.parameters())
        generator = torch.Generator().manual_seed(seed)
        x = x.detach().to(parameters[0])
        held = min(max(1, round(validation * len(x))), len(x) - 2)
        held_out, rest = x[torch.randperm(len(x), generator=generator)].tensor_split([held])
        for block in self._blocks:
            block.coupling.draw(generator)  # a second fit does not go on from the first
        # Differs from the reference, whose ActNorm starts as a constant scale.
        self.initialise(rest)
        gradient = FlowGradient(self._blocks, min(batch_size, len(rest)))
        optimiser = torch.optim.Adam(parameters, learning_rate, betas, eps, weight_decay, fused=True)
        lowest, best, waited = gradient.loss(held_out), [p.detach().clone() for p in parameters], 0
        for epoch in range(epochs):
            for batch in torch.split(rest[torch.randperm(len(rest), generator=generator)], batch_size):
                gradient(batch)
                nn.utils.clip_grad_norm_(parameters, clip_norm)
                optimiser.step()
            if (loss := gradient.loss(held_out)) < lowest:
                lowest, waited = loss, 0
                _copy(parameters, best)
            else:
                waited += 1
            if progress is not None:
                progress("flow", epoch + 1, epochs)
            if waited == patience:
                break
        _copy(best, parameters)
        optimiser.zero_grad()
        self.count.fill_(len(x))
        return self

    @torch.no_grad()
    def fused(self) -> FusedFlow:
        """The same map with every ActNorm folded into its neighbours: fewer steps, for run time."""
        return FusedFlow(self)

    def _map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", self(x))

    def _check(self, x: Tensor, validation: float) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"This flow is fitted to rows (n, {self.dim}), not to {tuple(x.shape)}.")
        if len(x) < MINIMUM_ROWS:
            raise ValueError(
                f"A flow needs at least {MINIMUM_ROWS} rows, some of which are held out; {len(x)} came. "
                "Give more clean images."
            )
        if not 0 < validation < 1:
            raise ValueError(f"validation is the share of rows held out, above 0 and below 1, not {validation}.")
        if not x.isfinite().all():
            raise ValueError(f"{(~x.isfinite()).any(1).sum()} of {len(x)} rows are not finite; leave them out.")

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


class FusedFlow(nn.Module):
    """What `flow(x)` gives, (z, log |det dz/dx|), in half the time; later changes of `flow` do not reach it.

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

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        first = flow._blocks[0]
        self.sizes, self.clamp = first.coupling.sizes, first.coupling.clamp
        like = first.actnorm.log_scale
        # Each block receives scale * x + offset in place of x, which undoes in advance what later ActNorms would do.
        scale = torch.ones_like(like, dtype=torch.float64)
        offset = torch.zeros_like(scale)
        log_det = scale.new_zeros(())
        stages = []
        for block in reversed(flow._blocks):
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
        for name, value in zip(names, [*constants, scale, offset, log_det], strict=True):
            self.register_buffer(name, value.to(like.dtype) if value.is_floating_point() else value, persistent=False)

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """z and log |det dz/dx|."""
        log_scales: list[Tensor] = []
        z = self.latent(x, log_scales)
        return z, self.log_det + torch.stack(log_scales).sum((0, 2))

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
