"""An affine normalising flow: the density of DAAIN (von Baußnern et al., sections 3.2 and 4.2).

A bijection carries the data to a standard normal; the density of a row is that of its image there, times how much the
bijection stretches space around it. One block is ActNorm, affine coupling, fixed permutation, so that inverse and
log-determinant are exact and cost as little as the forward pass. Other forms keep volumes (GIN), learn how dimensions
are mixed, or convolve over a lattice of the sampled points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.densities.bijections.base import Chain
from inlier.densities.bijections.block import Block, Coupling
from inlier.densities.bijections.lattice import Lattice, OnLattice
from inlier.densities.flow_gradient import AutogradGradient, FlowGradient
from inlier.densities.fused_flow import FusedFlow, FusedMixing, FusedOnLattice, RunTimeFlow
from inlier.errors import Mismatch
from inlier.registry import nearest
from inlier.types import Progress

__all__ = ["Coupling", "Flow", "Mixing"]

Mixing = Literal["permutation", "lu", "householder", "conv1x1"]

MINIMUM_ROWS = 5
MOST_BLOCKS = 10_000
CHUNK = 2**24
"""Numbers of the rows to be fitted to that are in memory at a time, about 64 MB."""
CONVOLUTIONAL_WIDTH = 256
WIDTH = 10


class Flow(nn.Module):
    """x -> z with an exact density for x.

    Args:
        dim: number of dimensions d of a row, at least 2.
        blocks: number of blocks (DAAIN tries 4, 8 and 16).
        width: hidden units of each coupling's network; by default 10, and 256 with `conv1x1` (as in the reference).
        clamp: bound on |log scale| of each coupling.
        seed: draws the permutations and the initial weights.
        coupling: `affine`, or `gin`, whose scales multiply to one in every row (Sorrenson et al. 2020,
            arXiv:2001.04872): then the log-determinant is the same for all rows.
        mixing: what makes every coupling split the dimensions differently. `permutation` is fixed; before it, `lu`
            learns any linear map (Glow, section 3.2; d^2 numbers a block, 3.2 million for d = 1784) and `householder`
            an orthogonal one of few numbers. `conv1x1` is `lu` for the channels of a lattice, the same at every
            position.
        reflections: of `householder`, each d numbers a block.
        lattice: of the sampling key, for `conv1x1`.

    `count` is the number of rows it was fitted to, 0 before `fit`.
    """

    # Differs from GIN, which has no scales outside the couplings and lets the variances of the latent prior be learnt:
    # here the prior is standard, and the very first ActNorm has scales, a constant in the log-determinant. Those of
    # later blocks only shift. (With `lu` or `conv1x1` the learnt maps stretch too, all rows alike.)

    def __init__(
        self,
        dim: int,
        blocks: int = 16,
        width: int | None = None,
        clamp: float = 2.0,
        seed: int = 0,
        *,
        coupling: Coupling = "affine",
        mixing: Mixing = "permutation",
        reflections: int = 8,
        lattice: Lattice | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= blocks <= MOST_BLOCKS:
            raise ValueError(f"A flow needs at least 1 block and at most {MOST_BLOCKS}, not {blocks}.")
        _known("coupling", coupling, get_args(Coupling))
        _known("mixing", mixing, get_args(Mixing))
        generator = torch.Generator().manual_seed(seed)
        self.dim = dim
        convolves = mixing == "conv1x1"
        channels = dim
        if convolves != (lattice is not None):
            raise ValueError(
                f"mixing='conv1x1' and no other needs the lattice of a sampling key; mixing is {mixing!r} and "
                f"{'no lattice' if lattice is None else 'a lattice'} came."
            )
        if lattice is not None:
            channels = lattice.shape[0]
            if lattice.points != dim:
                raise Mismatch(f"The lattice was made of {lattice.points} points, and the flow has {dim} dimensions.")
        if width is None:
            width = CONVOLUTIONAL_WIDTH if convolves else WIDTH
        chain = [
            Block(
                channels,
                width,
                clamp,
                generator,
                coupling=coupling,
                mixing="lu" if mixing == "conv1x1" else mixing,
                reflections=reflections,
                scaled=coupling == "affine" or (number == 0 and not convolves),
            )
            for number in range(blocks)
        ]
        self.blocks = Chain(chain if lattice is None else [OnLattice(lattice, chain)])
        self.by_hand = coupling == "affine" and mixing == "permutation"
        self.count: Tensor
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """z and log |det dz/dx|."""
        return self.blocks.forward(x)

    def inverse(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = z."""
        return self.blocks.inverse(z)

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
        self.blocks.initialise(x)
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
            x: clean rows, at least 5; a memory map of a file is read in parts.
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
        x = x.detach()
        held = min(max(1, round(validation * len(x))), len(x) - 2)
        held_out, rest = torch.randperm(len(x), generator=generator).tensor_split([held])
        some = max(batch_size, CHUNK // self.dim)  # rows in memory at a time: x may be a map of a larger file

        def taken(rows: Tensor) -> Tensor:
            return x[rows].to(parameters[0])

        def held_out_loss() -> float:
            parts = torch.split(held_out, some)
            return sum(gradient.loss(taken(part)) * len(part) for part in parts) / held

        self.blocks.draw(generator)  # a second fit does not go on from the first
        # Differs from the reference, whose ActNorm starts as a constant scale.
        self.initialise(taken(rest[:some]))  # in random order, so that the first are a fair sample
        rows = min(batch_size, len(rest))
        gradient = FlowGradient(self._vector_blocks(), rows) if self.by_hand else AutogradGradient(self, rows)
        optimiser = torch.optim.Adam(parameters, learning_rate, betas, eps, weight_decay, fused=True)
        lowest, best, waited = held_out_loss(), [p.detach().clone() for p in parameters], 0
        for epoch in range(epochs):
            for batch in torch.split(rest[torch.randperm(len(rest), generator=generator)], batch_size):
                gradient(taken(batch))
                nn.utils.clip_grad_norm_(parameters, clip_norm)
                optimiser.step()
            if (loss := held_out_loss()) < lowest:
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
    def fused(self) -> RunTimeFlow:
        """The same map with all that does not depend on x worked out in advance: fewer steps, for run time."""
        first = self.blocks[0]
        if isinstance(first, OnLattice):
            return FusedOnLattice(first)
        blocks = self._vector_blocks()
        return FusedFlow(blocks) if blocks[0].mixing is None else FusedMixing(blocks)

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
        wrong = sum(int((~part.isfinite()).any(1).sum()) for part in torch.split(x, max(1, CHUNK // self.dim)))
        if wrong:
            raise ValueError(f"{wrong} of {len(x)} rows are not finite; leave them out.")

    def _vector_blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))


def _known(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be {', '.join(options[:-1])} or {options[-1]}. {nearest(value, list(options))}")


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
