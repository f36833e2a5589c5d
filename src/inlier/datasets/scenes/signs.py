"""Traffic signs and traffic lights."""

from __future__ import annotations

from collections.abc import Sequence

from inlier.datasets.scenes.classes import SIGN
from inlier.datasets.scenes.painter import ROUND, Painter
from inlier.datasets.scenes.view import Point
from inlier.datasets.scenes.worlds import Colour

__all__ = ["paint_sign"]

SQUARE = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
DIAMOND = ((-1.1, 0.0), (0.0, -1.1), (1.1, 0.0), (0.0, 1.1))
TRIANGLE = ((-1.1, -0.8), (1.1, -0.8), (0.0, 1.1))
BAR = ((-0.9, -0.25), (0.9, -0.25), (0.9, 0.25), (-0.9, 0.25))
BOARD = ((-2.4, -0.5), (2.4, -0.5), (2.4, 0.5), (-2.4, 0.5))
BOX = ((-0.45, -1.4), (0.45, -1.4), (0.45, 1.0), (-0.45, 1.0))
RED: Colour = (200, 32, 36)
WHITE: Colour = (240, 240, 236)


def paint_sign(painter: Painter, x: float, z: float) -> None:
    """A post at (x, 0, z) with a plate or a traffic light."""
    rng = painter.rng
    light, high = painter.lit((0, 0, -1)), rng.uniform(2.2, 3.0)
    post: list[Point] = [(x - 0.05, 0, z), (x + 0.05, 0, z), (x + 0.05, high, z), (x - 0.05, high, z)]
    painter.shadow(post)
    painter.polygon(post, painter.seen((128, 130, 134), light, z), SIGN)

    def plate(form: Sequence[tuple[float, float]], size: float, fill: Colour, gain: float = 1.0) -> None:
        shape = [(x + a * size, high + b * size, z) for a, b in form]
        painter.polygon(shape, painter.seen(fill, light, z, gain), SIGN)

    kind = int(rng.integers(0, 6))
    size = rng.uniform(0.3, 0.42)
    if kind == 0:  # forbidden
        plate(ROUND, size, RED)
        plate(ROUND, size * 0.68, WHITE)
        plate(BAR, size * 0.4, (30, 30, 32))
    elif kind == 1:  # danger
        plate(TRIANGLE, size, RED)
        plate(TRIANGLE, size * 0.62, (242, 240, 226))
    elif kind == 2:  # priority
        plate(DIAMOND, size, WHITE)
        plate(DIAMOND, size * 0.75, (236, 190, 40))
    elif kind == 3:  # information
        plate(SQUARE, size, (36, 84, 170))
        plate(((-0.5, -0.6), (0.5, -0.6), (0.0, 0.6)), size, (240, 240, 240))
    elif kind == 4:  # name of the street or a direction
        plate(BOARD, size * 0.8, painter.pick(((40, 110, 74), (240, 238, 228))))
    else:  # traffic light
        plate(BOX, 0.42, (34, 36, 38))
        on = int(rng.integers(0, 3))
        for k, lamp in enumerate(((224, 50, 40), (236, 180, 40), (60, 200, 110))):
            bulb = [(a * 0.28, b * 0.28 + 0.6 - 0.8 * k) for a, b in ROUND]
            plate(bulb, 0.42, lamp, 1.3 if k == on else 0.35)
