"""The canvas and the light on it.

A painter fills shapes in space with colours as the light and the haze of the moment show them. It paints three layers
together: colour, labels, and the shadows that will fall on the ground when the picture is developed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from inlier.datasets.scenes.classes import SKY
from inlier.datasets.scenes.noise import PERIOD
from inlier.datasets.scenes.view import NEAR, OVERSAMPLING, Point, View
from inlier.datasets.scenes.worlds import Colour, Tint, World

__all__ = ["ROUND", "Painter", "scaled"]

ROUND = tuple((math.cos(k * math.pi / 5), math.sin(k * math.pi / 5)) for k in range(10))  # of radius one


class Painter:
    """One world under the light of one moment, and a canvas of `OVERSAMPLING` times the image's size."""

    def __init__(self, world: World, view: View, rng: np.random.Generator) -> None:
        self.world, self.view, self.rng = world, view, rng
        light = world.light
        azimuth = rng.uniform(0, 2 * math.pi)
        elevation = math.radians(light.elevation * rng.uniform(0.85, 1.15))
        self.sun = (
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        )
        self.direct = light.direct * rng.uniform(0.4, 1.1)  # a cloud may stand before the sun
        self.visibility = light.visibility * math.exp(rng.uniform(-1.0, 0.4))
        self.ground_light = self.lit((0, 1, 0))
        self.in_shadow = light.ambient / (light.ambient + self.direct * self.sun[1])
        self.dusk = light.lamps > 0.2
        self.offset = rng.integers(0, PERIOD, 2)  # of all noise

        height, width = (side * OVERSAMPLING for side in view.size)
        self.image = Image.new("RGB", (width, height))
        self.labels = Image.new("L", (width, height), SKY)
        self.shadows = Image.new("L", (width, height), 0)
        self.colour_pen, self.label_pen = ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels)
        self.shadow_pen = ImageDraw.Draw(self.shadows)

    def chance(self, share: float) -> bool:
        """True in that share of the cases."""
        return self.rng.random() < share

    def lit(self, normal: Point) -> Tint:
        """The light on a surface, one factor a channel."""
        light, (x, y, z) = self.world.light, self.sun
        facing = normal[0] * x + normal[1] * y + normal[2] * z
        direct, ambient = self.direct * max(0.0, facing), light.ambient
        red, green, blue = light.tint
        return (ambient + direct * red, ambient + direct * green, ambient + direct * blue)

    def seen(self, albedo: Colour, light: Tint, z: float, gain: float = 1.0) -> Colour:
        """The colour of a surface through z metres of haze."""
        clear = math.exp(-z / self.visibility)
        near, (red, green, blue) = gain * clear, self.world.palette.horizon
        return (
            min(255, int(albedo[0] * light[0] * near + red * (1 - clear))),
            min(255, int(albedo[1] * light[1] * near + green * (1 - clear))),
            min(255, int(albedo[2] * light[2] * near + blue * (1 - clear))),
        )

    def pick(self, colours: Sequence[Colour], spread: float = 0.12) -> Colour:
        """One of the colours, a little lighter or darker and a little off in each channel."""
        which, brighter, warmer, greener = self.rng.random(4).tolist()
        red, green, blue = colours[int(which * len(colours))]
        gain, warm = 1 + spread * (2 * brighter - 1), 16 * warmer - 8
        return (
            int(min(255.0, max(0.0, red * gain + warm))),
            int(min(255.0, green * gain + 10 * greener)),
            int(min(255.0, max(0.0, blue * gain - warm))),
        )

    def polygon(self, points: Sequence[Point], colour: Colour, label: int | None = None) -> None:
        """Fill a polygon in space; without a label it is a detail of what is already there."""
        flat = self.view.project(points)
        self.colour_pen.polygon(flat, fill=colour)
        if label is not None:
            self.label_pen.polygon(flat, fill=label)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour, label: int) -> None:
        """Fill an ellipse on the canvas."""
        box = (x - rx, y - ry, x + rx, y + ry)
        self.colour_pen.ellipse(box, fill=colour)
        self.label_pen.ellipse(box, fill=label)

    def ball(self, centre: Point, radius: float, colour: Colour, label: int) -> None:
        """Fill a sphere in space, the radius in metres."""
        ((x, y),) = self.view.project([centre])
        pixels = self.view.pixels(radius, centre[2])
        self.disc(x, y, pixels, pixels, colour, label)

    def shadow(self, points: Sequence[Point], strength: int = 255) -> None:
        """The shadow of a polygon in space on the ground."""
        reach_x, reach_z = (min(6.0, 1 / self.sun[1]) * part for part in (self.sun[0], self.sun[2]))
        fallen = [(x - y * reach_x, 0.0, z - y * reach_z) for x, y, z in points]
        if max(z for _, _, z in fallen) > NEAR:
            self.shadow_pen.polygon(self.view.project(fallen), fill=strength)


def scaled(colour: Colour, gain: float) -> Colour:
    """The same colour, lighter or darker."""
    red, green, blue = (min(255, int(c * gain)) for c in colour)
    return red, green, blue
