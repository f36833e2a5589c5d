"""People on foot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inlier.datasets.scenes.classes import PERSON
from inlier.datasets.scenes.painter import Painter, scaled
from inlier.datasets.scenes.worlds import Colour

__all__ = ["paint_person"]

CLOTHES: tuple[Colour, ...] = (
    (186, 46, 48), (44, 62, 112), (40, 42, 46), (222, 218, 206), (96, 116, 78), (204, 160, 62), (122, 72, 118),
    (98, 88, 80),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((234, 196, 168), (206, 160, 124), (146, 102, 74), (92, 62, 46))
HAIRS: tuple[Colour, ...] = ((44, 34, 30), (96, 70, 46), (160, 130, 90), (70, 70, 74))


def paint_person(painter: Painter, x: float, z: float) -> None:
    """Someone who walks at (x, 0, z), seen from the front, the side or behind: the same outline."""
    rng = painter.rng
    tall, step = rng.uniform(1.5, 1.92), rng.uniform(-0.24, 0.24)
    light, build = painter.lit((0, 0.3, -0.9)), rng.uniform(0.17, 0.24)
    top, legs, skin, hair = (
        painter.seen(painter.pick(colours), light, z) for colours in (CLOTHES, CLOTHES, SKINS, HAIRS)
    )
    coat = rng.uniform(0.3, 0.46)  # where it ends, as a share of the height

    def part(outline: Sequence[tuple[float, float]], colour: Colour) -> None:
        painter.polygon([(x + a, b * tall, z) for a, b in outline], colour, PERSON)

    for end, tone in ((step, 1.0), (-step, 0.8)):
        part(((-0.09, 0.48), (0.09, 0.48), (end + 0.07, 0), (end - 0.07, 0)), scaled(legs, tone))
    for end in (step, -step):
        part(((-0.07, 0.8), (0.07, 0.8), (end * 1.5 + 0.05, 0.44), (end * 1.5 - 0.05, 0.44)), scaled(top, 0.85))
    shoulder = build / 2
    part(((-build, 0.8), (-shoulder, 0.84), (shoulder, 0.84), (build, 0.8), (build, coat), (-build, coat)), top)
    if painter.chance(0.35):
        hand, bag = math.copysign(build, step), painter.seen(painter.pick(CLOTHES), light, z)
        part(((hand, 0.72), (hand * 1.9, 0.7), (hand * 1.9, 0.5), (hand, 0.5)), bag)
    ((u, v),) = painter.view.project([(x, tall * 0.92, z)])
    radius = painter.view.pixels(0.07 * tall, z)
    painter.disc(u, v - radius * 0.2, radius * 0.9, radius, hair, PERSON)
    painter.disc(u, v + radius * 0.15, radius * 0.75, radius * 0.85, skin, PERSON)
    painter.shadow([(x - build, 0, z), (x + build, 0, z), (x + build, tall, z), (x - build, tall, z)])
