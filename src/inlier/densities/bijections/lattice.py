"""1x1 convolutions over sampled points: the points of a key are matched to a lattice, and its positions share a flow.

DAAIN (von Baußnern et al., section 3.2) names 1x1 convolutions as one way to mix coordinates. They need an image, so
the points of the key, which lie anywhere in a volume channel x height x width, are put into the cells of a coarse
lattice (c, h, w). A 1x1 convolution over the lattice is one linear map of c numbers, the same at all h w positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inlier.densities.bijections.actnorm import ActNorm
from inlier.densities.bijections.base import Bijection, Chain
from inlier.densities.bijections.block import Block
from inlier.sampling import SamplingKey

__all__ = ["Cells", "Lattice", "OnLattice"]


@dataclass(frozen=True, repr=False, eq=False)
class Lattice:
    """Which point of a key is in which cell. As secret as the key: it is never printed.

    Args:
        index: (positions, channels) numbers of points, at position (row, column) = divmod(p, columns).
        shape: (channels, rows, columns) of the lattice.
        points: how many the key has; those not in `index` are in no cell.
    """

    index: Int[Tensor, "positions channels"]
    shape: tuple[int, int, int]
    points: int

    @classmethod
    def of(cls, key: SamplingKey) -> Lattice:
        """Match the points of a key, so that neighbours in the volume are neighbours in the lattice.

        Rows and columns are as many as make the cells most like cubes, a channel being as long as a pixel; channels as
        many as the points then fill, at least 2. What is left over, fewer points than there are positions, is taken
        evenly from the key, along its channels, and has no cell. The others are sorted by y and cut into rows of equal
        number, each row by x into columns, each column by channel. Only whole numbers and fractions are compared, so
        that the same key gives the same lattice everywhere: a loaded monitor makes it anew.

        Raises:
            ValueError: the key has fewer than 2 points.
        """
        count = len(key)
        if count < 2:
            raise ValueError(f"A lattice needs at least 2 points, and the key has {count}. Use a smaller distance.")
        channels, rows, columns = shape = _most_cubic(count, key.volume)
        spare = count - channels * rows * columns
        left_over = {(2 * i + 1) * count // (2 * spare) for i in range(spare)}
        places = key.points.tolist()
        within = [number for number in range(count) if number not in left_over]

        def cut(numbers: Sequence[int], axis: int, parts: int) -> list[list[int]]:
            ordered = sorted(numbers, key=lambda number: (places[number][axis], places[number], number))
            size = len(ordered) // parts
            return [ordered[start : start + size] for start in range(0, len(ordered), size)]

        cells = [
            [number for (number,) in cut(column, 0, channels)]
            for row in cut(within, 1, rows)
            for column in cut(row, 2, columns)
        ]
        return cls(torch.tensor(cells), shape, count)


def _most_cubic(count: int, volume: tuple[int, int, int]) -> tuple[int, int, int]:
    """The lattice of at most `count` cells whose longest side is the smallest multiple of the shortest."""

    def cells(rows: int, columns: int) -> tuple[int, int, int]:
        return count // (rows * columns), rows, columns

    def elongation(shape: tuple[int, int, int]) -> Fraction:
        sides = [Fraction(size, number) for size, number in zip(volume, shape, strict=True)]
        return max(sides) / min(sides)

    half = count // 2
    shapes = [cells(rows, columns) for rows in range(1, half + 1) for columns in range(1, half // rows + 1)]
    return min(shapes, key=lambda shape: (elongation(shape), shape))


class Cells(nn.Module):
    """Points to the cells of a lattice and back, by one gather each. None of it belongs to the state."""

    index: Tensor
    inverse_index: Tensor

    def __init__(self, lattice: Lattice) -> None:
        super().__init__()
        self.positions, self.channels = lattice.index.shape
        inside = lattice.index.flatten()
        outside = torch.ones(lattice.points, dtype=torch.bool)
        outside[inside] = False
        index = torch.cat([inside, outside.nonzero()[:, 0]])
        # Not persistent: an artefact must not tell the key.
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse_index", index.argsort(), persistent=False)

    def split(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "rows c"], Float[Tensor, "n rest"]]:
        """(n * positions, channels) of the lattice, and the points in no cell."""
        x = x.index_select(1, self.index)
        cells = self.positions * self.channels
        return x[:, :cells].reshape(-1, self.channels), x[:, cells:]

    def join(self, rows: Float[Tensor, "rows c"], rest: Float[Tensor, "n rest"]) -> Float[Tensor, "n d"]:
        """What `split` took apart."""
        return torch.cat([rows.reshape(len(rest), self.positions * self.channels), rest], dim=1).index_select(
            1, self.inverse_index
        )

    def total(self, changes: Float[Tensor, " rows"]) -> Float[Tensor, " n"]:
        """Log-determinants of an image: the sum of those at its positions."""
        return changes.view(-1, self.positions).sum(1)


class OnLattice(Bijection):
    """A scale and an offset a point, then blocks of 1x1 convolutions over the lattice; z_i belongs to point i.

    Every block is ActNorm a channel, coupling with a network of two 1x1 convolutions, and an invertible 1x1 convolution
    (Glow, section 3.2), as a `Block` of c numbers applied at every position. Points in no cell keep their scale and
    offset alone.

    Args:
        lattice: of the key. It is not part of the state, which must not tell the key.
        blocks: of as many dimensions as the lattice has channels.
    """

    # Differs from the reference: each point is normalised first. Those of one lattice channel come from different
    # channels of the network, whose values have different sizes.

    def __init__(self, lattice: Lattice, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.actnorm = ActNorm(lattice.points)
        self.cells = Cells(lattice)
        self.blocks = Chain(blocks)

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "n d"]) -> Self:
        """Set every ActNorm from what reaches it."""
        x, _ = self.actnorm.initialise(x)(x)
        rows, _ = self.cells.split(x)
        self.blocks.initialise(rows)
        return self

    def draw(self, generator: torch.Generator) -> None:
        """Start the blocks afresh."""
        self.blocks.draw(generator)

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """y and log |det dy/dx|."""
        x, scaled = self.actnorm(x)
        rows, rest = self.cells.split(x)
        rows, changes = self.blocks(rows)
        return self.cells.join(rows, rest), scaled + self.cells.total(changes)

    def inverse(self, y: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The x with forward(x) = y."""
        rows, rest = self.cells.split(y)
        return self.actnorm.inverse(self.cells.join(self.blocks.inverse(rows), rest))
