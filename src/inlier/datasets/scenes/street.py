"""A street and where things stand on it; each is painted once all that is further away is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import TypeAlias

from inlier.datasets.scenes.cars import paint_car
from inlier.datasets.scenes.course import Course
from inlier.datasets.scenes.ground import paint_ground
from inlier.datasets.scenes.houses import paint_garden, paint_house, paint_skyline
from inlier.datasets.scenes.painter import Painter
from inlier.datasets.scenes.people import paint_person
from inlier.datasets.scenes.signs import paint_sign
from inlier.datasets.scenes.trees import paint_tree
from inlier.datasets.scenes.view import NEAR

__all__ = ["paint_street"]

Thing: TypeAlias = tuple[float, Callable[[], None]]  # metres ahead, and what paints it


def paint_street(painter: Painter) -> None:
    """A whole street, from far to near."""
    course = Course(painter.world, painter.rng)
    paint_ground(painter, course)
    paint_skyline(painter)
    things: list[Thing] = []
    for side in (-1, 1):
        things += _houses(painter, course, side)
        things += _pavement_life(painter, course, side)
    things += _traffic(painter, course)
    for _, paint in sorted(things, key=itemgetter(0), reverse=True):
        paint()


def _houses(painter: Painter, course: Course, side: int) -> Iterator[Thing]:
    """A row of houses and gardens on one side (-1 left, 1 right), with the junction left open."""
    rng, (lowest, highest) = painter.rng, painter.world.storeys
    z, built, line = rng.uniform(-6, 4), rng.uniform(0.5, 0.95), course.half + course.kerb
    first, last = course.junction[0] - 1, course.junction[1] + 1
    while z < 105:
        until = z + rng.uniform(6, 18)
        if z < last and until > first:
            if first - z < 4:
                z = last
                continue
            until = first
        start = max(z, NEAR)
        if until > start + 1:
            if painter.chance(built):
                across, storeys = side * (line + rng.uniform(0, 1.2)), int(rng.integers(lowest, highest + 1))
                yield until, partial(paint_house, painter, course, across, start, until, storeys)
            else:
                yield until, partial(paint_garden, painter, course, side * line, start, until)
        z = until + (rng.uniform(1, 5) if painter.chance(0.25) else 0)


def _pavement_life(painter: Painter, course: Course, side: int) -> Iterator[Thing]:
    """Trees, signs, people and parked cars of one side."""
    rng, edge = painter.rng, side * (course.half + 0.6)
    if painter.chance(0.7):
        step = rng.uniform(7, 16)
        for k in range(int(80 / step)):
            z = 4 + (k + rng.uniform(-0.25, 0.25)) * step
            if painter.chance(0.75) and not course.in_junction(z, 2):
                yield z, partial(paint_tree, painter, course.x(edge, z), z)
    for _ in range(int(rng.integers(1, 6))):
        z = rng.uniform(5, 40)
        if not course.in_junction(z, 0):
            yield z, partial(paint_sign, painter, course.x(edge - side * rng.uniform(0, 0.4), z), z)
    for _ in range(int(rng.integers(0, 7))):
        z = 4.5 + 35 * rng.random() ** 1.5
        across = edge + side * rng.uniform(0.2, max(0.5, course.kerb - 1))
        for companion in range(2 if painter.chance(0.3) else 1):
            there = z + 0.1 * companion
            yield z, partial(paint_person, painter, course.x(across - side * 0.6 * companion, there), there)
    if course.parking > 1:
        z, parked = rng.uniform(3, 14), rng.uniform(0.2, 0.9)
        while z < 70:
            if painter.chance(parked) and not course.in_junction(z + 2, 5):
                across = side * (course.half - course.parking / 2 + rng.uniform(-0.15, 0.15))
                yield _car(painter, course, across, z + 2, 0.0 if side == course.hand else math.pi)
            z += rng.uniform(5.3, 7)


def _traffic(painter: Painter, course: Course) -> Iterator[Thing]:
    """Cars in both directions, some crossing at the junction, and people on the road."""
    rng, density = painter.rng, painter.rng.uniform(0, 1.3)
    for lane in range(-course.lanes, course.lanes):
        across = (lane + 0.5) * course.lane
        own = abs(across + course.position) < 1
        z = rng.uniform(9 if own else 5, 30)
        while z < 90:
            if painter.chance(density * 0.6):
                turn = 0.0 if across * course.hand > 0 else math.pi
                yield _car(painter, course, across + rng.uniform(-0.2, 0.2), z, turn)
            z += rng.uniform(7, 28)
    first, last = course.junction
    if first < 40 and painter.chance(0.5):
        z = rng.uniform(first + 1, last - 2)
        turn = math.pi / 2 * (1 if painter.chance(0.5) else -1)
        yield _car(painter, course, rng.uniform(-9, 9), z, turn)
    for _ in range(int(rng.integers(0, 3))):
        z = rng.uniform(8, 32)
        yield z, partial(paint_person, painter, course.x(rng.uniform(-course.half, course.half), z), z)


def _car(painter: Painter, course: Course, across: float, z: float, turn: float) -> Thing:
    """A car turned by `turn` radians against the street (0: away from us)."""
    return z, partial(paint_car, painter, course.x(across, z), z, course.direction(z) + turn)
