"""Textures, drawn by chance: images of no thing and no place, to see what a monitor says of them. Nothing is loaded.

They stand in for the photographed textures that are a usual out-of-distribution set (Cimpoi et al., Describing Textures
in the Wild, CVPR 2014), and are plainer than these: a pattern in two colours, bent a little, unevenly lit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from inlier.datasets.base import Choice, Dataset
from inlier.datasets.pixels import Picture, with_channels
from inlier.perturbations.clouds import clouds

__all__ = ["KINDS", "SIZE", "Textures", "textures"]

SIZE = (360, 480)
"""Height and width, where no size is asked for."""
MOST = 1_000_000
TILES = 64
"""A side of what is drawn for tiles, which repeat after so many."""


class Plane(NamedTuple):
    """Where the pixels of a texture are, in its own units: turned, bent, one unit a repetition of its pattern.

    Args:
        along, across: coordinates.
        generator: of what the pattern draws.
    """

    along: Float[Tensor, "h w"]
    across: Float[Tensor, "h w"]
    generator: Generator

    def rough(self, decay: float) -> Float[Tensor, "h w"]:
        """Clouds in [0, 1] over the image."""
        return clouds(1, self.along.shape[0], self.along.shape[1], decay, self.generator)[0]

    def one(self, low: float, high: float) -> float:
        """A number drawn evenly."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def shade(self, column: Tensor, row: Tensor) -> Float[Tensor, "h w"]:
        """A number in [0, 1] for each tile, the same for all its pixels."""
        return torch.rand(TILES, TILES, generator=self.generator)[row.long() % TILES, column.long() % TILES]


def stripes(plane: Plane) -> Float[Tensor, "h w"]:
    """Bands, soft or sharp."""
    return edge((math.tau * plane.along).sin(), plane.one(0.05, 1.0))


def checks(plane: Plane) -> Float[Tensor, "h w"]:
    """A chessboard, soft or sharp."""
    return edge((math.pi * plane.along).sin() * (math.pi * plane.across).sin(), plane.one(0.05, 0.5))


def weave(plane: Plane) -> Float[Tensor, "h w"]:
    """Threads that lie above and below each other in turn, each round."""
    above = (plane.along.floor() + plane.across.floor()) % 2
    rounding = torch.where(above == 0, plane.along % 1, plane.across % 1)
    return (math.pi * rounding).sin() * (0.6 + 0.4 * above)


def bricks(plane: Plane) -> Float[Tensor, "h w"]:
    """Courses of bricks twice as long as high, of many shades, and mortar."""
    row = plane.across.floor()
    place = plane.along / 2 + 0.5 * (row % 2)
    joint = plane.one(0.04, 0.12)
    inside = (place % 1 > joint / 2) & (plane.across % 1 > joint)
    return torch.where(inside, 0.4 + 0.6 * plane.shade(place.floor(), row), 0.0)


def cells(plane: Plane) -> Float[Tensor, "h w"]:
    """Cells around scattered points, of many shades, with dark borders, as cracked mud, scales or giraffes have."""
    nearest, second, shade = scattered(plane, 1.0)
    return (0.4 + 0.6 * shade) * edge(second - nearest - plane.one(0.05, 0.2), 0.1)


def spots(plane: Plane) -> Float[Tensor, "h w"]:
    """Round spots, scattered."""
    nearest, _, shade = scattered(plane, 0.6)
    return edge(0.2 + 0.2 * shade - nearest, plane.one(0.02, 0.2))


def wood(plane: Plane) -> Float[Tensor, "h w"]:
    """Rings around a point somewhere, drawn out along one side."""
    centre, stretch = plane.one(-2, 2), plane.one(0.05, 1.0)
    radius = ((plane.across - centre).square() + (stretch * plane.along).square()).sqrt()
    return (radius + plane.rough(1.6)) % 1


def marble(plane: Plane) -> Float[Tensor, "h w"]:
    """Veins: bands bent by clouds beyond recognition."""
    return (math.pi * (plane.along / 4 + plane.one(2, 6) * plane.rough(1.5))).sin().abs()


def fur(plane: Plane) -> Float[Tensor, "h w"]:
    """Noise drawn out along one side: hair, grass, brushed metal."""
    fine, long = plane.one(2, 6), plane.one(0.1, 0.6)
    column, row = fine * plane.along * long, fine * plane.across
    start_column, start_row = column.floor(), row.floor()
    table = torch.rand(128, 128, generator=plane.generator)

    def height(right: int, below: int) -> Tensor:
        return table[(start_row + below).long() % 128, (start_column + right).long() % 128]

    right, below = column - start_column, row - start_row
    upper = torch.lerp(height(0, 0), height(1, 0), right)
    return torch.lerp(upper, torch.lerp(height(0, 1), height(1, 1), right), below)


def rough(plane: Plane) -> Float[Tensor, "h w"]:
    """Clouds, from soft to as grainy as stone."""
    return plane.rough(plane.one(1.1, 1.7))


KINDS: dict[str, Callable[[Plane], Float[Tensor, "h w"]]] = {
    kind.__name__: kind for kind in (stripes, checks, weave, bricks, cells, spots, wood, marble, fur, rough)
}
"""What a texture can be: a plane to values in [0, 1]."""


class Textures(Dataset):
    """So many textures, the same ones every time, of every kind in turn; each kind is a class, and a group.

    Args:
        count: how many.
        labelled: whether batches carry the kinds as labels.
        choice: see `Dataset`; `size` is the size that they are drawn at, `SIZE` by default.

    Raises:
        ValueError: a count below 1 or above a million; or see `Dataset`.

    Example:
        >>> batch = next(Textures(20, size=(32, 48)).batches(3))
        >>> batch.images.shape, batch.names
        (torch.Size([3, 3, 32, 48]), ('stripes_000000', 'checks_000001', 'weave_000002'))
    """

    def __init__(self, count: int, *, labelled: bool = True, **choice: Unpack[Choice]) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"Textures are drawn as many as you say, from 1 to {MOST:,}, not {count:,}")
        kinds = list(KINDS)
        super().__init__(
            [f"{kinds[place % len(kinds)]}_{place:06d}" for place in range(count)],
            f"textures:{count}",
            grouping=lambda name: name.partition("_")[0],
            classes=kinds if labelled else (),
            **choice,
        )

    def picture(self, place: int) -> Picture:
        """The texture of this number."""
        size, kind = self.size or SIZE, list(KINDS.values())[place % len(KINDS)]
        texture = drawn(kind, size, Generator().manual_seed(1_000_003 * place))
        return Picture(with_channels(texture, self.channels), size)

    def label(self, place: int) -> Int64[Tensor, ""]:
        """The number of its kind."""
        return torch.tensor(place % len(KINDS))


def textures(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> Textures:
    """So many textures; see `Textures`.

    Args:
        path: how many, since this layout has no files: `textures:120`.

    Raises:
        ValueError: it is no whole number; or see `Textures`.
    """
    if not str(path).isascii() or not str(path).isdigit():
        raise ValueError(f"Textures are drawn; say how many, such as textures:120, not 'textures:{path}'")
    return Textures(int(str(path)), labelled=labelled, **choice)


def drawn(
    kind: Callable[[Plane], Float[Tensor, "h w"]], size: tuple[int, int], generator: Generator
) -> Float[Tensor, "3 h w"]:
    """A texture: two colours, from grey to vivid, mixed by the pattern, unevenly lit."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / height, indexing="ij")
    scale, turn, bend, start = torch.rand(4, generator=generator).tolist()
    repetitions, turn, bend, start = 4 * 8**scale, math.pi * turn, 0.6 * bend, 100 * start
    bent = [bend * wave for wave in clouds(2, height, width, 1.8, generator)]
    along = repetitions * (x * math.cos(turn) + y * math.sin(turn)) + bent[0] + start
    across = repetitions * (y * math.cos(turn) - x * math.sin(turn)) + bent[1] + start
    pattern = kind(Plane(along, across, generator)).clamp(0, 1)
    colours = torch.rand(2, 3, 1, 1, generator=generator)
    grey = colours.mean(1, keepdim=True)
    low, high = torch.lerp(grey, colours, float(torch.rand((), generator=generator)))
    light = 0.7 + 0.3 * clouds(1, height, width, 1.8, generator)
    return torch.lerp(low, high, pattern) * light


def edge(values: Float[Tensor, "h w"], softness: float) -> Float[Tensor, "h w"]:
    """From 0 where values are far below zero to 1 where they are far above, linearly over twice the softness."""
    return (0.5 + values / (2 * softness)).clamp(0, 1)


def scattered(plane: Plane, freedom: float) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Of points scattered one a tile: the distances to the nearest and to the second, and the nearest's own shade.

    Args:
        freedom: the share of a tile, in its middle, that its point may be in.
    """
    table = torch.rand(3, TILES, TILES, generator=plane.generator)
    row, column = plane.across.floor(), plane.along.floor()
    distances, shades = [], []
    for below in (-1, 0, 1):
        for right in (-1, 0, 1):
            there_row, there_column = row + below, column + right
            of_tile = table[:, there_row.long() % TILES, there_column.long() % TILES]
            in_tile = 0.5 + freedom * (of_tile[:2] - 0.5)
            away = (there_column + in_tile[0] - plane.along).square() + (there_row + in_tile[1] - plane.across).square()
            distances.append(away.sqrt())
            shades.append(of_tile[2])
    ordered, order = torch.stack(distances).sort(0)
    return ordered[0], ordered[1], torch.stack(shades).gather(0, order[:1])[0]
