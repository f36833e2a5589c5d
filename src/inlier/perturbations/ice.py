"""Frost on a pane, drawn: ferns of ice that creep in from the rim."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from inlier.perturbations.clouds import clouds

__all__ = ["ice"]

STEMS = 34  # ferns of an image
BRANCHES = 24  # pairs along a stem
TWIGS = 8  # pairs along a branch
ANGLE = math.pi / 3  # ice is hexagonal: what branches off does so at 60 degrees


@dataclass(frozen=True)
class Strokes:
    """Arcs in the plane: start, heading there (radians), length, and by how much the heading turns; of one shape."""

    x: Tensor
    y: Tensor
    heading: Tensor
    length: Tensor
    bend: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Strokes:
        """The same change of what is kept of every arc."""
        return Strokes(*map(change, (self.x, self.y, self.heading, self.length, self.bend)))

    def at(self, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and heading after a share of the length. The chord of an arc is exact, also of a straight one."""
        turned = self.bend * share
        chord = self.length * share * torch.sinc(turned / (2 * math.pi))
        middle = self.heading + turned / 2
        return self.x + chord * middle.cos(), self.y + chord * middle.sin(), middle + turned / 2

    def drawn(self, height: int, width: int) -> Float[Tensor, "n h w"]:
        """The length of stroke, in pixels, that lies in each pixel; of strokes (n, k)."""
        n, k = self.x.shape
        points = self.length.flatten().ceil().clamp_min(1).long()  # one a pixel, however long a stroke is
        stroke = torch.arange(len(points), device=points.device).repeat_interleave(points)
        nth = torch.arange(len(stroke), device=points.device) - (points.cumsum(0) - points)[stroke]
        x, y, _ = self.each(lambda part: part.flatten()[stroke]).at((nth + 0.5) / points[stroke])
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        pixel = ((stroke // k * height + y.long()) * width + x.long())[inside]
        weight = (self.length.flatten() / points)[stroke][inside]
        canvas = torch.zeros(n * height * width, device=x.device)
        return canvas.index_add_(0, pixel, weight).view(n, height, width)


def ice(n: int, height: int, width: int, generator: torch.Generator) -> Float[Tensor, "n h w"]:
    """Frost in [0, 1], 1 where the ice is thick: ferns with branches and twigs over a cloudy glaze.

    Most ferns start at the rim and grow inwards in slight curves, so the middle is the clearest. Everything scales with
    the shorter side; where it is short, the finest lines blend into a veil.
    """

    def draw(*shape: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)

    side = min(height, width)
    stems = sprouts(n, height, width, draw)
    branches = sprung(stems, BRANCHES, 0.4, draw)
    twigs = sprung(branches, TWIGS, 0.32, draw)
    strokes = 2.0 * stems.drawn(height, width) + branches.drawn(height, width) + 0.7 * twigs.drawn(height, width)
    unit = side / 360  # lines widen, or grow faint, with the size, so that the ice covers as much of any image
    lines = 0.22 * widened(strokes, unit) + 0.4 * widened(strokes, 3 * unit)
    crystals = 1 - (-unit * lines).exp()
    patches, grain = clouds(n, height, width, 2.0, generator), clouds(n, height, width, 1.25, generator)
    glaze = 0.15 + 0.35 * patches + 0.25 * (grain - 0.5)
    return (glaze + (0.5 + 0.5 * patches) * (0.6 + 0.6 * grain) * crystals).clamp(0, 1)


def sprouts(n: int, height: int, width: int, draw: Callable[..., Tensor]) -> Strokes:
    """Stems: most from the rim inwards, some from anywhere to anywhere."""
    side, rim = min(height, width), 2.0 * (height + width)
    around, far = draw(STEMS, low=0, high=rim), draw(STEMS, low=0, high=1).round()
    flat = around < 2 * width  # on the upper or lower edge
    x, y = torch.where(flat, around % width, far * width), torch.where(flat, far * height, around % height)
    heading = torch.atan2(height / 2 - y, width / 2 - x) + draw(STEMS, low=-0.9, high=0.9)
    free = draw(STEMS, low=0, high=1) < 0.15
    x, y = x.where(~free, draw(STEMS, low=0, high=width)), y.where(~free, draw(STEMS, low=0, high=height))
    length = side * draw(STEMS, low=0.15, high=0.65)
    return Strokes(x, y, heading, length, draw(STEMS, low=-0.8, high=0.8))


def sprung(strokes: Strokes, pairs: int, reach: float, draw: Callable[..., Tensor]) -> Strokes:
    """Branches in pairs, left and right, shorter towards the tip; the longest has `reach` of its stroke's length."""
    count = strokes.x.shape[1]
    places = (torch.arange(pairs, device=strokes.x.device) + draw(count, pairs, low=0.1, high=0.9)) / pairs
    x, y, heading = strokes.each(lambda part: part[..., None]).at(places)
    sides = []
    for turn in (-ANGLE, ANGLE):
        lengths = strokes.length[..., None] * reach * (1 - places) ** 0.8 * draw(count, pairs, low=0.4, high=1)
        headings = heading + turn + draw(count, pairs, low=-0.12, high=0.12)
        sides.append((x, y, headings, lengths, strokes.bend[..., None].expand_as(x) / 2))
    return Strokes(*(torch.cat(parts, dim=-1).flatten(1) for parts in zip(*sides, strict=True)))


def widened(strokes: Float[Tensor, "n h w"], width: float) -> Float[Tensor, "n h w"]:
    """Lines spread evenly over about a width in pixels, an odd number of them."""
    reach = max(0, round((width - 1) / 2))
    size = 2 * reach + 1
    return F.avg_pool2d(strokes[:, None], size, stride=1, padding=reach, count_include_pad=False)[:, 0]
