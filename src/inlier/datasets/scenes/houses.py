"""What lines a street: houses, the gardens between them, and the skyline that closes the view."""

from __future__ import annotations

import math

from inlier.datasets.scenes.classes import BUILDING, TREE
from inlier.datasets.scenes.course import Course
from inlier.datasets.scenes.painter import Painter, scaled
from inlier.datasets.scenes.trees import paint_tree
from inlier.datasets.scenes.view import Point
from inlier.datasets.scenes.worlds import Colour

__all__ = ["paint_garden", "paint_house", "paint_skyline"]

FAR = 130.0  # metres at which the skyline stands
LAMP: Colour = (255, 214, 140)
POSTERS: tuple[Colour, ...] = (
    (210, 60, 50), (240, 206, 70), (60, 120, 190), (240, 240, 236), (40, 44, 50), (90, 170, 110),
)  # fmt: skip


def paint_skyline(painter: Painter) -> None:
    """What closes the view: far houses and far trees."""
    rng, palette = painter.rng, painter.world.palette
    light = painter.lit((0, 0, -1))
    x = -FAR
    while x < FAR:
        width, wooded = rng.uniform(5, 22), painter.chance(0.45)
        if wooded:
            tone = painter.seen(painter.pick(palette.leaves), light, FAR, 0.8)
            for _ in range(int(width / 3)):
                crown = (x + rng.uniform(0, width), rng.uniform(1, 5), FAR)
                painter.ball(crown, rng.uniform(2.0, 4.5), tone, TREE)
        height = 2.5 if wooded else rng.uniform(4, 4 + 2.6 * painter.world.storeys[1])
        tone = painter.seen(painter.pick(palette.leaves if wooded else palette.facades), light, FAR, 0.85)
        box = [(x, 0, FAR), (x + width, 0, FAR), (x + width, height, FAR), (x, height, FAR)]
        painter.polygon(box, tone, TREE if wooded else BUILDING)
        x += width * 0.95


def paint_garden(painter: Painter, course: Course, across: float, z0: float, z1: float) -> None:
    """A gap between houses: a wall or a hedge along the street, often with trees behind it."""
    rng, palette = painter.rng, painter.world.palette
    side, hedge = math.copysign(1, across), painter.chance(0.5)
    if painter.chance(0.7):
        paint_tree(painter, course.x(across + side * rng.uniform(2, 5), z1), z1)
    ends = [course.at(across, z0), course.at(across, z1)]
    height = rng.uniform(0.8, 1.9)
    colour = painter.pick(palette.leaves if hedge else palette.facades)
    tone = painter.seen(colour, painter.lit((-side, 0, 0)), (z0 + z1) / 2, 0.85)
    top = [(x, height, z) for x, _, z in reversed(ends)]
    painter.shadow([*ends, *top])
    painter.polygon([*ends, *top], tone, TREE if hedge else BUILDING)
    if not hedge:
        coping = [(x, height + 0.15, z) for x, _, z in ends]
        painter.polygon([*top, *coping], scaled(tone, 1.2), BUILDING)
        return
    for _ in range(int(3 * (z1 - z0))):
        x, _, z = course.at(across, rng.uniform(z0, z1))
        centre, radius = (x, height * rng.uniform(0.3, 1.0), z), rng.uniform(0.15, 0.35)
        painter.ball(centre, radius, scaled(tone, rng.uniform(0.7, 1.25)), TREE)


def paint_house(painter: Painter, course: Course, across: float, z0: float, z1: float, storeys: int) -> None:
    """A box with its two visible walls, a roof, and the shadow of the whole."""
    rng, palette = painter.rng, painter.world.palette
    side = math.copysign(1, across)
    storey, depth = rng.uniform(2.8, 3.4), side * rng.uniform(7, 12)
    top, z = storeys * storey + 0.6, (z0 + z1) / 2
    wall, roof = painter.pick(palette.facades, 0.2), painter.pick(palette.roofs)
    near, far = course.at(across, z0), course.at(across, z1)
    foot = [near, far, (far[0] + depth, 0.0, z1), (near[0] + depth, 0.0, z0)]
    head = [(x, top, z_) for x, _, z_ in foot]
    painter.shadow(head)
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
        painter.shadow([foot[a], foot[b], head[b], head[a]])

    gable, street = painter.lit((0, 0, -1)), painter.lit((-side, 0, 0))
    if top < 13 and painter.chance(0.7):  # a pitched roof, its ridge along the street
        ridge = [(x + depth / 2, top + 3, z_) for x, _, z_ in (near, far)]
        slope = painter.lit((-side * 0.5, 0.8, 0))
        painter.polygon([head[0], head[1], ridge[1], ridge[0]], painter.seen(roof, slope, z), BUILDING)
        painter.polygon([head[0], ridge[0], head[3]], painter.seen(wall, gable, z0), BUILDING)
    blind = painter.chance(0.5)
    _paint_wall(painter, foot[3], near, top, painter.seen(wall, gable, z0), 0 if blind else storeys, storey)
    (near_u, _), (far_u, _) = painter.view.project([near, far])
    if side * (near_u - far_u) > 0:  # else the street has turned this wall away
        _paint_wall(painter, near, far, top, painter.seen(wall, street, z), storeys, storey)
        eaves = [(x, y + 0.4, z_) for x, y, z_ in (head[1], head[0])]
        painter.polygon([head[0], head[1], *eaves], painter.seen(roof, street, z), BUILDING)


def _paint_wall(
    painter: Painter, start: Point, end: Point, top: float, colour: Colour, storeys: int, storey: float
) -> None:
    """A wall between two points of the ground: windows, and a door or a shop; blind if it has no storeys."""
    rng, view, daylight = painter.rng, painter.view, painter.ground_light
    (xa, _, za), (xb, _, zb) = start, end
    z, length = (za + zb) / 2, math.hypot(xb - xa, zb - za)
    (left, _), (right, _) = view.project([start, end])

    def panel(t0: float, t1: float, y0: float, y1: float, fill: Colour, label: int | None = None) -> None:
        x0, z0, x1, z1 = xa + t0 * (xb - xa), za + t0 * (zb - za), xa + t1 * (xb - xa), za + t1 * (zb - za)
        painter.polygon([(x0, y0, z0), (x1, y0, z1), (x1, y1, z1), (x0, y1, z0)], fill, label)

    panel(0, 1, 0, top, colour, BUILDING)
    panel(0, 1, 0, 0.5, scaled(colour, 0.75))
    columns = min(int(length / rng.uniform(2.2, 3.4)), int(abs(right - left) / 4))
    if columns < 1:
        return
    if painter.chance(0.2):
        low, t = rng.uniform(1, max(1.1, top - 4)), rng.uniform(0.1, 0.5)
        panel(t, t + 0.35, low, low + rng.uniform(1.5, 3), painter.seen(painter.pick(POSTERS), daylight, z))
    if storeys == 0:
        return
    wide, sill, lintel = rng.uniform(0.22, 0.34) / columns, rng.uniform(0.8, 1.1), rng.uniform(2.1, 2.5)
    glass, frame = painter.world.palette.zenith, scaled(colour, 0.6 if painter.chance(0.5) else 1.25)
    margin = 0.12 / length if view.pixels(0.12, z) > 0.7 else 0
    shop = painter.chance(0.35)
    values = rng.random((storeys, columns)).tolist()
    for row in range(int(shop), storeys):
        y0, y1 = row * storey + sill, row * storey + lintel
        for column, value in enumerate(values[row]):
            t = (column + 0.5) / columns
            if margin:
                panel(t - wide - margin, t + wide + margin, y0 - 0.12, y1 + 0.12, frame)
            if value < painter.world.light.lamps:
                fill = painter.seen(LAMP, (1.0, 1.0, 1.0), z, 0.7 + value / 2)
            else:
                fill = painter.seen(glass, daylight, z, 0.25 + 0.5 * value)
            panel(t - wide, t + wide, y0, y1, fill)
    if shop:
        pane = painter.seen(LAMP, (0.9, 0.9, 0.9), z) if painter.dusk else painter.seen(glass, daylight, z, 0.4)
        panel(0.05, 0.95, 0.5, 2.3, pane)
        panel(0.03, 0.97, 2.4, 3.0, painter.seen(painter.pick(POSTERS), daylight, z))
        for k in range(1, columns):
            panel(k / columns - margin, k / columns + margin, 0.5, 2.3, frame)
    else:
        t = rng.uniform(0.1, 0.8)
        panel(t, t + 1.1 / length, 0, 2.1, scaled(colour, 0.45))
