"""Cars: bodies of polygons, of which those are painted that face the camera."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from inlier.datasets.scenes.classes import CAR
from inlier.datasets.scenes.painter import ROUND, Painter, scaled
from inlier.datasets.scenes.view import Point
from inlier.datasets.scenes.worlds import Colour

__all__ = ["paint_car"]


class Body(NamedTuple):
    """A car from its side, in (metres from the rear, metres above the ground).

    `outline` runs from the rear over the roof to the front; `glass` are the indices of its pieces that are windows.
    """

    outline: tuple[tuple[float, float], ...]
    glass: tuple[int, ...]
    window: tuple[tuple[float, float], ...]


BODIES = (
    Body(
        ((0, 0.32), (0, 0.95), (0.6, 1.0), (1.15, 1.42), (2.55, 1.45), (3.3, 1.0), (4.3, 0.84), (4.4, 0.32)),
        (2, 4),
        ((0.85, 1.0), (1.25, 1.36), (2.5, 1.38), (3.1, 1.0)),
    ),
    Body(
        ((0, 0.32), (0.04, 0.98), (0.4, 1.5), (2.4, 1.52), (3.1, 1.05), (3.9, 0.92), (4.0, 0.32)),
        (1, 3),
        ((0.3, 1.02), (0.6, 1.42), (2.3, 1.44), (2.9, 1.05)),
    ),
    Body(
        ((0, 0.35), (0, 1.2), (0.1, 2.05), (3.7, 2.1), (4.4, 1.25), (5.0, 1.08), (5.1, 0.35)),
        (1, 3),
        ((3.0, 1.25), (3.0, 1.85), (3.7, 1.85), (4.2, 1.25)),
    ),
)
PAINTS: tuple[Colour, ...] = (
    (172, 30, 32), (34, 62, 128), (212, 214, 216), (148, 152, 156), (36, 38, 42),
    (238, 238, 234), (60, 92, 74), (196, 150, 44), (110, 76, 58), (92, 128, 166),
)  # fmt: skip


def paint_car(painter: Painter, x: float, z: float, angle: float) -> None:
    """A car whose middle is at (x, 0, z); `angle` is its direction against the view's, in radians (0: away from us)."""
    car = Car(painter, x, z, angle)
    car.paint_shadow()
    car.paint_underside()
    car.paint_panels()
    if abs(car.camera_aside) > car.half:
        car.paint_flank()
    if car.rear_seen or car.front_seen:
        car.paint_end()


class Car:
    """A car in its own frame: metres along it from the rear, half widths aside to the right, metres up."""

    def __init__(self, painter: Painter, x: float, z: float, angle: float) -> None:
        self.painter, self.x, self.z = painter, x, z
        self.body = BODIES[int(painter.rng.integers(0, len(BODIES)))]
        self.colour = painter.pick(PAINTS, 0.1)
        self.length, self.half = self.body.outline[-1][0], painter.rng.uniform(0.84, 0.95)
        self.sine, self.cosine = math.sin(angle), math.cos(angle)
        self.dark = painter.seen((22, 22, 24), (0.7, 0.7, 0.7), z)
        # The camera in this frame, but in metres aside, tells which faces are visible.
        self.camera_along = -x * self.sine - z * self.cosine + self.length / 2
        self.camera_aside = -x * self.cosine + z * self.sine
        self.rear_seen, self.front_seen = self.camera_along < 0, self.camera_along > self.length

    def at(self, along: float, aside: float, y: float) -> Point:
        """A point of the car in space."""
        aside *= self.half * (1 - 0.16 * min(1.0, max(0.0, (y - 1) / 0.45)))  # the cabin is narrower
        along -= self.length / 2
        return (
            self.x + along * self.sine + aside * self.cosine,
            y,
            self.z + along * self.cosine - aside * self.sine,
        )

    def tone(self, colour: Colour, along: float, aside: float, y: float, gain: float = 1.0) -> Colour:
        """The colour of a face with this normal."""
        normal = (along * self.sine + aside * self.cosine, y, along * self.cosine - aside * self.sine)
        return self.painter.seen(colour, self.painter.lit(normal), self.z, gain)

    def pane(self, along: float, aside: float, y: float, gain: float) -> Colour:
        """The colour of glass with this normal, which mirrors the sky."""
        return self.tone(self.painter.world.palette.zenith, along, aside, y, gain)

    def paint_shadow(self) -> None:
        """The dark beneath the car, and what its middle and its ends keep from the light."""
        painter, length = self.painter, self.length
        beneath = [self.at(a, s, 0.02) for a, s in ((0, -1), (0, 1), (length, 1), (length, -1))]
        painter.shadow_pen.polygon(painter.view.project(beneath), fill=255)
        painter.shadow([self.at(a, 0, y) for a, y in self.body.outline])
        for along in (0, length):
            painter.shadow([self.at(along, s, y) for s, y in ((-1, 0.3), (1, 0.3), (1, 0.95), (-1, 0.95))])

    def paint_underside(self) -> None:
        """The floor, and the tyres at the end that we see."""
        length = self.length
        floor = [self.at(a, s, 0.12) for a, s in ((0.3, -1), (0.3, 1), (length - 0.3, 1), (length - 0.3, -1))]
        self.painter.polygon(floor, self.dark, CAR)
        if self.rear_seen or self.front_seen:
            along = 0.05 if self.rear_seen else length - 0.05
            for s in (-0.95, 0.55):
                tyre = [self.at(along, a, y) for a, y in ((s, 0.0), (s + 0.4, 0.0), (s + 0.4, 0.4), (s, 0.4))]
                self.painter.polygon(tyre, self.dark, CAR)

    def paint_panels(self) -> None:
        """What faces the camera between the two sides, from far to near: rear, windows, roof, bonnet, front."""
        pieces = []
        for k, ((a0, y0), (a1, y1)) in enumerate(pairwise(self.body.outline)):
            along, up = y0 - y1, a1 - a0  # outward: the outline runs from the rear over the roof
            if along * (self.camera_along - a0) + up * (self.painter.view.height - y0) > 0:
                pieces.append((abs(self.camera_along - (a0 + a1) / 2), k, (a0, y0), (a1, y1)))
        for _, k, (a0, y0), (a1, y1) in sorted(pieces, reverse=True):
            size = math.hypot(a1 - a0, y1 - y0)
            along, up = (y0 - y1) / size, (a1 - a0) / size
            panel = [self.at(a0, -1, y0), self.at(a0, 1, y0), self.at(a1, 1, y1), self.at(a1, -1, y1)]
            self.painter.polygon(panel, self.tone(self.colour, along, 0, up), CAR)
            if k in self.body.glass:
                low, high = y0 + 0.02, y1 - 0.04
                pane = [
                    self.at(a, s, y)
                    for a, s, y in ((a0, -0.86, low), (a0, 0.86, low), (a1, 0.84, high), (a1, -0.84, high))
                ]
                self.painter.polygon(pane, self.pane(along, 0, up, 0.42))

    def paint_flank(self) -> None:
        """The side that we see: body, windows and wheels."""
        painter, window, side = self.painter, self.body.window, math.copysign(1, self.camera_aside)
        colour = self.tone(self.colour, 0, side, 0)
        painter.polygon([self.at(a, side, y) for a, y in self.body.outline], colour, CAR)
        painter.polygon([self.at(a, side, y) for a, y in window], self.pane(0, side, 0, 0.4))
        post = (window[0][0] + window[-1][0]) / 2
        pillar = ((-0.05, 1.0), (0.05, 1.0), (0.05, 1.4), (-0.05, 1.4))
        painter.polygon([self.at(post + a, side, y) for a, y in pillar], colour)
        for along in (0.85, self.length - 0.85):
            for radius, shade, label in ((0.36, self.dark, CAR), (0.18, scaled(self.dark, 4), None)):
                wheel = [self.at(along + radius * a, side, 0.34 + radius * b) for a, b in ROUND]
                painter.polygon(wheel, shade, label)

    def paint_end(self) -> None:
        """Lamps, number plate and bumper at the end that we see."""
        painter, rear, z = self.painter, self.rear_seen, self.z
        along, dim = 0.0 if rear else self.length, painter.ground_light
        lamp: Colour = (190, 26, 24) if rear else (244, 240, 220)
        glow = painter.seen(lamp, (1.0, 1.0, 1.0), z, 1.35 if painter.dusk else (0.9 if rear else 0.75))

        def patch(s0: float, s1: float, y0: float, y1: float, fill: Colour) -> None:
            painter.polygon([self.at(along, s, y) for s, y in ((s0, y0), (s1, y0), (s1, y1), (s0, y1))], fill)

        patch(-0.98, 0.98, 0.32, 0.46, painter.seen((40, 40, 42), dim, z))
        for side in (-1, 1):
            patch(side * 0.94, side * 0.62, 0.62, 0.8, glow)
        patch(-0.28, 0.28, 0.5, 0.62, painter.seen((236, 232, 210), dim, z))
        if not rear:
            patch(-0.5, 0.5, 0.64, 0.76, painter.seen((30, 30, 32), dim, z))
