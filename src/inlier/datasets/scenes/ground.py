"""The ground of a street: pavement, road, and what is painted on it."""

from __future__ import annotations

import math
from itertools import pairwise

from inlier.datasets.scenes.classes import MARKING, PAVEMENT, ROAD
from inlier.datasets.scenes.course import Course
from inlier.datasets.scenes.painter import Painter
from inlier.datasets.scenes.view import NEAR, Point
from inlier.datasets.scenes.worlds import Colour

__all__ = ["paint_ground"]

BANDS = tuple(pairwise((NEAR, 6.0, 12.0, 24.0, 45.0, 80.0, 1000.0)))  # metres; in each the haze is the same
MARKED = 80.0  # metres to which lines are painted


def paint_ground(painter: Painter, course: Course) -> None:
    """Pavement everywhere, the road in it, the road that crosses, and what is painted on them."""
    palette = painter.world.palette
    road, stone = painter.pick([palette.road], 0.15), painter.pick([palette.pavement], 0.12)
    marking = painter.pick([palette.marking], 0.06)
    _paint_surfaces(painter, course, road, stone)
    _paint_lines(painter, course, marking)
    first = course.junction[0]
    if painter.chance(0.45) or first < 40:
        z = min(first - 4, 30) if first < math.inf else painter.rng.uniform(7, 24)
        _paint_crossing(painter, course, z, marking)
    if painter.chance(0.25):
        _paint_arrow(painter, course, painter.rng.uniform(6, 14), marking)


def _tone(painter: Painter, colour: Colour, z: float, gain: float = 1.0) -> Colour:
    return painter.seen(colour, painter.ground_light, z, gain)


def _paint_surfaces(painter: Painter, course: Course, road: Colour, stone: Colour) -> None:
    """Pavement, road and kerbs, the road that crosses, and mended asphalt."""
    rng, half = painter.rng, course.half
    for start, end in BANDS:
        wide = 3 * end + 40
        painter.polygon(course.strip(-wide, wide, start, end), _tone(painter, stone, start), PAVEMENT)
    for start, end in BANDS:
        painter.polygon(course.strip(-half, half, start, end), _tone(painter, road, start), ROAD)
        for kerb in (-half - 0.12, half + 0.12):
            edge = course.strip(kerb - 0.14, kerb + 0.14, start, end)
            painter.polygon(edge, _tone(painter, stone, start, 1.18), PAVEMENT)
    first, last = course.junction
    if first < math.inf:
        across: list[Point] = [(-90, 0, first), (90, 0, first), (90, 0, last), (-90, 0, last)]
        painter.polygon(across, _tone(painter, road, first), ROAD)
    for _ in range(int(rng.integers(0, 5))):
        z, left = 4 + 40 * rng.random() ** 2, rng.uniform(-half, half - 1)
        width, length, wear = rng.uniform(0.5, 2), rng.uniform(0.6, 6), rng.uniform(0.72, 1.2)
        painter.polygon(course.strip(left, left + width, z, z + length), _tone(painter, road, z, wear), ROAD)


def _paint_lines(painter: Painter, course: Course, colour: Colour) -> None:
    """Lines between the lanes, dashed or solid, and often along the edges; none in the junction."""
    rng, (first, last) = painter.rng, course.junction

    def line(across: float, start: float, end: float, width: float = 0.14) -> None:
        for z, until in ((start, min(end, first)), (max(start, last), end)):
            if until - z > 0.3:
                strip = course.strip(across - width / 2, across + width / 2, z, until)
                painter.polygon(strip, _tone(painter, colour, z), MARKING)

    dash, gap = rng.uniform(2, 4), rng.uniform(3, 6)
    phase = rng.uniform(0, dash + gap)
    dashes = [NEAR + phase + k * (dash + gap) for k in range(int(75 / (dash + gap)))]
    solid = painter.chance(0.3)
    for number in range(-course.lanes + 1, course.lanes):
        if number == 0 and solid:
            for across in (-0.16, 0.16) if course.lanes > 1 else (0.0,):
                line(across, NEAR, MARKED)
        else:
            for z in dashes:
                line(number * course.lane, z, z + dash)
    if painter.chance(0.6):
        for edge in (-1, 1):
            line(edge * course.lanes * course.lane, NEAR, MARKED, 0.12)


def _paint_crossing(painter: Painter, course: Course, z: float, colour: Colour) -> None:
    """A zebra crossing, with a stop line before it."""
    if z < 3:
        return
    tone, width = _tone(painter, colour, z), painter.rng.uniform(0.4, 0.6)
    for k in range(int(2 * course.half / (2 * width))):
        across = -course.half + 0.2 + 2 * k * width
        painter.polygon(course.strip(across, across + width, z, z + 2.8), tone, MARKING)
    near = 0 if course.hand > 0 else -course.half
    painter.polygon(course.strip(near, near + course.half, z - 1.2, z - 0.8), tone, MARKING)


def _paint_arrow(painter: Painter, course: Course, z: float, colour: Colour) -> None:
    """Straight on, in the outer lane."""
    tone, across = _tone(painter, colour, z), course.hand * (course.lanes - 0.5) * course.lane
    painter.polygon(course.strip(across - 0.1, across + 0.1, z, z + 3), tone, MARKING)
    head = [course.at(across + dx, z + dz) for dx, dz in ((-0.45, 3), (0, 4.6), (0.45, 3))]
    painter.polygon(head, tone, MARKING)
