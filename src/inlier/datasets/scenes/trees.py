"""Trees, as the season has them."""

from __future__ import annotations

import math

from inlier.datasets.scenes.classes import TREE
from inlier.datasets.scenes.painter import ROUND, Painter, scaled
from inlier.datasets.scenes.worlds import Colour, Tint

__all__ = ["paint_tree"]


def paint_tree(painter: Painter, x: float, z: float) -> None:
    """A tree that stands at (x, 0, z), and its shadow."""
    rng, foliage = painter.rng, painter.world.season.foliage
    height = rng.uniform(4, 8.5)
    clear = height * rng.uniform(0.28, 0.42)  # of branches
    bark = painter.seen(painter.pick(((92, 72, 56), (78, 66, 58))), painter.lit((0, 0, -1)), z)
    thick, spread = 0.02 * height, height * rng.uniform(0.22, 0.32)
    top = clear if foliage in ("full", "thin") else height * 0.9
    trunk = [(x - thick, 0.0, z), (x + thick, 0.0, z), (x + thick / 2, top, z), (x - thick / 2, top, z)]
    painter.shadow(trunk)
    painter.polygon(trunk, bark, TREE)
    leaf, light = painter.pick(painter.world.palette.leaves), painter.lit((0, 0.7, -0.7))
    if foliage == "bare":
        _paint_branches(painter, x, clear, z, height - clear, bark)
    elif foliage == "palm":
        _paint_fronds(painter, x, top, z, painter.seen(leaf, light, z))
    else:
        middle, half = (clear + height) / 2, (height - clear) / 2
        crown = [(x + spread * a, middle + half * b, z) for a, b in ROUND]
        painter.shadow(crown, 170 if foliage == "thin" else 255)
        if foliage == "conifer":
            _paint_tiers(painter, x, height, z, spread, leaf, light)
        else:
            _paint_leaves(painter, x, middle, z, spread, half, leaf, light)


def _paint_branches(painter: Painter, x: float, y: float, z: float, reach: float, colour: Colour) -> None:
    """A crown without leaves: two generations of twigs."""
    rng = painter.rng
    for _ in range(8):
        angle, start = rng.uniform(-1.2, 1.2), y + reach * rng.uniform(-0.1, 0.45)
        length, fork = reach * rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.7)
        for bend, origin, part in ((0.0, 0.0, 1.0), (fork, 0.5, 0.45), (-fork, 0.5, 0.45)):
            x0, y0 = x + origin * length * math.sin(angle), start + origin * length * math.cos(angle)
            x1, y1 = x0 + part * length * math.sin(angle + bend), y0 + part * length * math.cos(angle + bend)
            line = painter.view.project([(x0, y0, z), (x1, y1, z)])
            width = max(1, round(painter.view.pixels(0.07, z)))
            painter.colour_pen.line(line, fill=colour, width=width)
            painter.label_pen.line(line, fill=TREE, width=width + 1)


def _paint_fronds(painter: Painter, x: float, y: float, z: float, colour: Colour) -> None:
    """The crown of a palm."""
    rng = painter.rng
    for k in range(9):
        angle = math.pi * (k / 8 - 0.5) * 1.35 + rng.uniform(-0.1, 0.1)
        out, reach = math.sin(angle), rng.uniform(1.5, 2.3)
        mid = (x + out * reach * 0.55, y + 0.5 * math.cos(angle) + 0.35, z)
        tip = (x + out * reach, y + reach * (0.55 * math.cos(angle) - 0.35 * abs(out)), z)
        blade = [(x, y - 0.1, z), (mid[0], mid[1] - 0.3, z), tip, mid]
        painter.polygon(blade, scaled(colour, rng.uniform(0.75, 1.2)), TREE)
        painter.shadow(blade)


def _paint_tiers(painter: Painter, x: float, height: float, z: float, spread: float, leaf: Colour, light: Tint) -> None:
    """The boughs of a conifer, from the lowest to the tip."""
    hem = ((-1, -0.2), (-0.5, 0.25), (0, -0.2), (0.5, 0.25), (1, -0.2))
    for k in range(14):
        low = 0.7 + k * (height - 0.7) / 15
        wide = spread * (1 - k / 15) * painter.rng.uniform(0.75, 1.1)
        shade = painter.seen(leaf, light, z, 0.7 + 0.02 * k + painter.rng.uniform(0, 0.2))
        bough = [*((x + wide * a, low + b, z) for a, b in hem), (x, min(height, low + height / 5), z)]
        painter.polygon(bough, shade, TREE)


def _paint_leaves(
    painter: Painter, x: float, y: float, z: float, spread: float, half: float, leaf: Colour, light: Tint
) -> None:
    """A round crown, `spread` metres to each side and `half` up and down: from its dark inside to lit leaves."""
    rng, view = painter.rng, painter.view
    ((u, v),) = view.project([(x, y, z)])
    rx, ry = view.pixels(spread, z), view.pixels(half, z)
    count = int(min(60, max(10, rx * 1.1)))
    size = 0.34 if painter.world.season.foliage == "full" else 0.2
    for k in range(count):
        angle, radius = rng.random() * 2 * math.pi, math.sqrt(rng.random()) * 0.8
        a, b = radius * math.cos(angle), radius * math.sin(angle)
        # Leaves that catch the light are painted later, smaller and higher.
        share = k / count
        bright = 0.62 + 0.5 * share - 0.25 * b + 0.12 * painter.sun[0] * a
        r = (size + 0.22 * (1 - share)) * rx * rng.uniform(0.5, 1)
        painter.disc(u + a * rx, v + b * ry, r, r * 0.85, painter.seen(leaf, light, z, bright), TREE)
