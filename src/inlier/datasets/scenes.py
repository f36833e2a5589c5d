"""Street scenes with a label for every pixel, drawn from a seed.

A scene is a street in three dimensions (a curving road, pavements, houses, trees, cars, people, signs), put through a
pinhole camera and painted from far to near. What the street looks like is its *world*: palette, light, season and
camera; a network trained on some worlds meets a real shift in the others. Nothing is downloaded, and a seed gives the
same scene again (with the same NumPy and Pillow).
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CLASSES",
    "TRAINING_WORLDS",
    "UNSEEN_WORLDS",
    "WORLDS",
    "Camera",
    "Light",
    "Palette",
    "Scene",
    "Season",
    "World",
    "draw",
    "draw_many",
]

CLASSES = ("sky", "building", "road", "lane marking", "pavement", "tree", "car", "person", "sign")
SKY, BUILDING, ROAD, MARKING, PAVEMENT, TREE, CAR, PERSON, SIGN = range(len(CLASSES))

Colour: TypeAlias = tuple[int, int, int]
Tint: TypeAlias = tuple[float, float, float]
Point: TypeAlias = tuple[float, float, float]  # metres: to the right of the camera, above the ground, ahead
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Palette:
    """Colours (RGB, 0-255) under white light of strength one; `horizon` is also the colour of haze."""

    zenith: Colour
    horizon: Colour
    road: Colour
    pavement: Colour
    marking: Colour
    facades: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    leaves: tuple[Colour, ...]


@dataclass(frozen=True)
class Light:
    """Where the light comes from, on an ordinary day; each scene has more or less sun and haze.

    Args:
        elevation: of the sun, in degrees above the horizon; its azimuth is drawn for each scene.
        direct, ambient: strength of sun and sky on a white surface that faces them.
        tint: of the direct light, one factor a channel.
        visibility: metres at which haze has taken 63 % of an object's contrast.
        clouds: share of the sky that clouds cover.
        lamps: share of windows that are lit from inside.
    """

    elevation: float
    direct: float
    ambient: float
    tint: Tint
    visibility: float
    clouds: float
    lamps: float = 0.0


@dataclass(frozen=True)
class Season:
    """How trees stand and what lies on the ground: `cover` hides a share `covered` of road and pavement in patches."""

    foliage: Literal["full", "thin", "bare", "conifer", "palm"]
    cover: Colour
    covered: float


@dataclass(frozen=True)
class Camera:
    """A pinhole camera and its faults, on average: each scene is exposed, blurred and noisy to another degree.

    Args:
        focal: focal length in image widths.
        height: metres above the ground.
        horizon: row of the horizon, as a share of the image's height.
        tilt: largest roll in degrees.
        exposure: gain.
        noise: standard deviation of the sensor's noise on the 0-255 scale.
        vignetting: loss of light in the corners.
        blur: radius of the lens's blur, in pixels of an image 320 wide.
    """

    focal: float
    height: float
    horizon: float
    tilt: float
    exposure: float
    noise: float
    vignetting: float
    blur: float


@dataclass(frozen=True)
class World:
    """A kind of place at a kind of hour: everything about a scene that its seed does not choose."""

    name: str
    palette: Palette
    light: Light
    season: Season
    camera: Camera
    storeys: tuple[int, int]
    drives_on: Literal["right", "left"] = "right"


class Scene(NamedTuple):
    """A drawn image and, for each of its pixels, the index in `CLASSES`."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]


TRAINING_WORLDS = ("summer", "autumn", "winter", "evening")
UNSEEN_WORLDS = ("desert", "coast")

WORLDS = {
    world.name: world
    for world in (
        World(
            "summer",
            Palette(
                zenith=(66, 122, 206), horizon=(186, 212, 238), road=(104, 104, 108), pavement=(168, 162, 152),
                marking=(238, 238, 232),
                facades=((196, 160, 124), (168, 92, 74), (222, 208, 178), (146, 152, 162), (204, 182, 140)),
                roofs=((138, 70, 54), (96, 88, 88), (116, 60, 52)),
                leaves=((64, 112, 44), (82, 130, 54), (54, 96, 50)),
            ),
            Light(elevation=58, direct=0.62, ambient=0.52, tint=(1.04, 1.0, 0.92), visibility=340, clouds=0.3),
            Season("full", cover=(150, 142, 122), covered=0.06),
            Camera(focal=0.86, height=1.4, horizon=0.46, tilt=1.0, exposure=1.0, noise=5, vignetting=0.22, blur=0.5),
            storeys=(2, 6),
        ),
        World(
            "autumn",
            Palette(
                zenith=(150, 156, 164), horizon=(206, 208, 208), road=(82, 84, 90), pavement=(128, 124, 122),
                marking=(206, 206, 200),
                facades=((150, 120, 100), (126, 78, 66), (176, 170, 156), (108, 114, 124), (160, 142, 108)),
                roofs=((92, 60, 54), (72, 72, 78), (84, 78, 66)),
                leaves=((176, 106, 40), (150, 76, 36), (188, 140, 52), (112, 104, 50)),
            ),
            Light(elevation=40, direct=0.12, ambient=0.8, tint=(1.0, 1.0, 1.0), visibility=130, clouds=0.9, lamps=0.1),
            Season("thin", cover=(156, 98, 46), covered=0.2),
            Camera(focal=0.78, height=1.6, horizon=0.5, tilt=1.5, exposure=1.0, noise=8, vignetting=0.3, blur=0.6),
            storeys=(2, 5),
        ),
        World(
            "winter",
            Palette(
                zenith=(112, 156, 208), horizon=(240, 222, 200), road=(124, 126, 134), pavement=(226, 230, 238),
                marking=(232, 232, 230),
                facades=((178, 142, 122), (196, 188, 178), (134, 106, 98), (214, 190, 150), (120, 130, 142)),
                roofs=((222, 226, 234), (206, 212, 222), (120, 110, 112)),
                leaves=((86, 72, 64), (70, 60, 56), (98, 88, 82)),
            ),
            Light(elevation=14, direct=0.7, ambient=0.52, tint=(1.12, 0.97, 0.78), visibility=210, clouds=0.25),
            Season("bare", cover=(244, 246, 252), covered=0.42),
            Camera(focal=0.94, height=1.3, horizon=0.43, tilt=1.0, exposure=1.16, noise=6, vignetting=0.25, blur=0.5),
            storeys=(3, 7),
        ),
        World(
            "evening",
            Palette(
                zenith=(38, 46, 88), horizon=(214, 128, 96), road=(92, 90, 98), pavement=(132, 124, 126),
                marking=(222, 216, 196),
                facades=((160, 124, 108), (112, 98, 110), (146, 84, 74), (184, 164, 142), (94, 106, 130)),
                roofs=((78, 58, 58), (58, 58, 68), (92, 72, 66)),
                leaves=((50, 74, 44), (62, 84, 50), (44, 62, 46)),
            ),
            Light(elevation=7, direct=0.3, ambient=0.4, tint=(1.2, 0.86, 0.66), visibility=180, clouds=0.45, lamps=0.5),
            Season("full", cover=(150, 118, 128), covered=0.12),
            Camera(focal=0.82, height=1.45, horizon=0.47, tilt=1.5, exposure=1.4, noise=11, vignetting=0.38, blur=0.7),
            storeys=(3, 8),
        ),
        World(
            "desert",
            Palette(
                zenith=(118, 156, 196), horizon=(236, 218, 186), road=(146, 134, 118), pavement=(206, 176, 130),
                marking=(232, 196, 84),
                facades=((222, 190, 146), (204, 164, 120), (234, 218, 190), (188, 140, 106)),
                roofs=((196, 156, 116), (170, 130, 98)),
                leaves=((112, 124, 66), (96, 112, 62), (134, 136, 82)),
            ),
            Light(elevation=44, direct=0.74, ambient=0.5, tint=(1.1, 1.0, 0.82), visibility=150, clouds=0.08),
            Season("palm", cover=(216, 184, 136), covered=0.3),
            Camera(focal=0.7, height=1.9, horizon=0.4, tilt=2.0, exposure=1.08, noise=6, vignetting=0.4, blur=0.6),
            storeys=(1, 3),
        ),
        World(
            "coast",
            Palette(
                zenith=(176, 188, 196), horizon=(214, 220, 222), road=(72, 78, 84), pavement=(150, 152, 150),
                marking=(226, 226, 220),
                facades=((232, 232, 226), (130, 162, 178), (206, 148, 138), (226, 206, 138), (150, 178, 150)),
                roofs=((84, 92, 104), (110, 112, 112)),
                leaves=((44, 76, 58), (54, 88, 66), (38, 66, 54)),
            ),
            Light(elevation=30, direct=0.1, ambient=0.86, tint=(0.96, 1.0, 1.04), visibility=48, clouds=0.6, lamps=0.1),
            Season("conifer", cover=(128, 136, 142), covered=0.15),
            Camera(focal=1.02, height=2.3, horizon=0.38, tilt=1.0, exposure=1.02, noise=7, vignetting=0.3, blur=0.9),
            storeys=(2, 4),
            drives_on="left",
        ),
    )
}  # fmt: skip


def draw(world: World, seed: int, size: tuple[int, int] = (160, 320)) -> Scene:
    """Scene number `seed` of `world`, as an image of `size` (h, w); at another size it is another scene.

    Raises:
        ValueError: the size is below 32 pixels, where nothing could be told apart, or the seed is negative.
    """
    if min(size) < 32:
        raise ValueError(f"A scene needs at least 32 x 32 pixels, not {size}.")
    if seed < 0:
        raise ValueError(f"A scene's seed is 0 or more, not {seed}.")
    rng = np.random.default_rng([seed, zlib.crc32(world.name.encode())])
    view = View(world.camera, size, rng)
    painter = Painter(world, view, rng)
    Street(painter, rng).paint()
    return develop(painter, rng)


def draw_many(
    world: World, count: int, seed: int, size: tuple[int, int] = (160, 320)
) -> tuple[Float[Tensor, "n 3 h w"], Int64[Tensor, "n h w"]]:
    """The scenes number `seed`, `seed + 1`, ... as (images in [0, 1], labels) for a network.

    Raises:
        ValueError: `count` is below 1, or `draw` refuses the size or the seed.
    """
    import torch

    if count < 1:
        raise ValueError(f"At least one scene must be drawn, not {count}.")
    scenes = [draw(world, seed + index, size) for index in range(count)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    labels = torch.from_numpy(np.stack([scene.labels for scene in scenes]))
    return images.permute(0, 3, 1, 2).float() / 255, labels.long()


OVERSAMPLING = 2
NEAR = 1.0  # metres; what is nearer is drawn as if it were there, which is outside the picture
FAR = 130.0  # metres at which the skyline stands
HAZE_STEPS = (NEAR, 6.0, 12.0, 24.0, 45.0, 80.0, 1000.0)  # metres; the ground is painted band by band
TEXTURE = 256  # side of the tiling noise, a power of two
TEXELS = 14  # of that noise, a metre of ground
WRAP = TEXTURE - 1  # index & WRAP tiles it


@functools.cache
def noise_tile(finest: int) -> Floats:
    """Tiling noise in [-1, 1], (256, 256): octaves from 4 cells down to cells of `finest` pixels, mean 0.

    Linear interpolation of random lattices uses sums and products alone, so that no machine's libm shows in it.
    """
    rng = np.random.default_rng([TEXTURE, finest])
    total = np.zeros((TEXTURE, TEXTURE), np.float32)
    cells, weight = 4, 1.0
    while cells <= TEXTURE // finest:
        lattice = rng.random((cells, cells), np.float32) - np.float32(0.5)
        total += np.float32(weight) * _interpolated(_interpolated(lattice).T).T
        cells, weight = cells * 2, weight * 0.7
    total -= total.mean()
    total /= np.abs(total).max()
    return total


def _interpolated(lattice: Floats) -> Floats:
    """Rows stretched to `TEXTURE`, periodic."""
    position = np.arange(TEXTURE, dtype=np.float32) * np.float32(len(lattice) / TEXTURE)
    lower = position.astype(np.intp)
    share = (position - lower.astype(np.float32))[:, None]
    stretched: Floats = lattice[lower] * (1 - share) + lattice[(lower + 1) % len(lattice)] * share
    return stretched


@functools.lru_cache(maxsize=8)
def falloff(size: tuple[int, int]) -> Floats:
    """Squared distance from the image's centre, 1 in the corners."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    squares: Floats = np.add.outer(rows * rows, columns * columns) / np.float32(2)
    return squares


class View:
    """A camera at one moment: metres to pixels of the canvas, and pixels of the image back to the ground."""

    def __init__(self, camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.size = size
        self.height = camera.height * rng.uniform(0.93, 1.07)
        self.focal = camera.focal * size[1] * OVERSAMPLING
        self.centre = size[1] * OVERSAMPLING / 2
        self.horizon = (camera.horizon + rng.uniform(-0.03, 0.03)) * size[0] * OVERSAMPLING
        self.roll = math.radians(camera.tilt) * rng.uniform(-1, 1)

    def project(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Canvas coordinates (x, y) of points in space."""
        focal, height, roll, centre, horizon = self.focal, self.height, self.roll, self.centre, self.horizon
        out = []
        for x, y, z in points:
            scale = focal / (z if z > NEAR else NEAR)
            right, down = x * scale, (height - y) * scale
            # For a small angle the roll is a shear, which `planes` undoes.
            out.append((centre + right - roll * down, horizon + down + roll * right))
        return out

    def pixels(self, metres: float, z: float) -> float:
        """What a length across the view at distance z measures on the canvas."""
        return metres * self.focal / max(z, NEAR)

    def planes(self, step: int = 1) -> tuple[Floats, Floats]:
        """Columns right of the centre (w,) and rows below the horizon (h, w), at every `step`-th pixel."""
        rows, columns = (np.arange(0, side, step, dtype=np.float32) + np.float32(step / 2) for side in self.size)
        right = columns - np.float32(self.centre / OVERSAMPLING)
        return right, rows[:, None] - np.float32(self.horizon / OVERSAMPLING) - np.float32(self.roll) * right


class Painter:
    """Three layers that are painted together: colour, labels, and the shadows that will fall on the ground."""

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
        self.offset = rng.integers(0, TEXTURE, 2)

        height, width = (side * OVERSAMPLING for side in view.size)
        self.image = Image.fromarray(self.sky()).resize((width, height), Image.Resampling.BILINEAR)
        self.labels = Image.new("L", (width, height), SKY)
        self.shadows = Image.new("L", (width, height), 0)
        self.colour_pen, self.label_pen = ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels)
        self.shadow_pen = ImageDraw.Draw(self.shadows)

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

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour, label: int | None = None) -> None:
        """Fill an ellipse on the canvas."""
        box = (x - rx, y - ry, x + rx, y + ry)
        self.colour_pen.ellipse(box, fill=colour)
        if label is not None:
            self.label_pen.ellipse(box, fill=label)

    def shadow(self, points: Sequence[Point], strength: int = 255) -> None:
        """The shadow of a polygon in space on the ground."""
        reach_x, reach_z = (min(6.0, 1 / self.sun[1]) * part for part in (self.sun[0], self.sun[2]))
        fallen = [(x - y * reach_x, 0.0, z - y * reach_z) for x, y, z in points]
        if max(z for _, _, z in fallen) > NEAR:
            self.shadow_pen.polygon(self.view.project(fallen), fill=strength)

    def sky(self) -> UInt8[np.ndarray, "h w 3"]:
        """Gradient, clouds on a plane far above, and the sun's glow where it is ahead."""
        palette, light = self.world.palette, self.world.light
        right, below = self.view.planes(step=2)  # clouds are soft: half the resolution will do
        above = np.maximum(-below, 0) / np.float32(self.view.size[0])
        share = np.minimum(above * np.float32(2.2), 1)[..., None]
        horizon = np.array(palette.horizon, np.float32)
        sky = horizon + share * (np.array(palette.zenith, np.float32) - horizon)
        depth = 60 / (above + np.float32(0.06))
        column = (right / np.float32(self.view.size[1]) * depth * 2).astype(np.intp) + self.offset[0]
        row = (depth * 2).astype(np.intp) + self.offset[1]
        density = noise_tile(4)[row & WRAP, column & WRAP] + np.float32(1.1 * light.clouds - 0.55)
        cover = np.clip(density * 3, 0, 1)[..., None] * np.float32(0.7)
        sky += cover * (horizon * np.float32(1.06 if light.direct > 0.2 else 0.93) - sky)
        if self.sun[2] > 0.1 and light.direct > 0.2:
            focal = self.view.focal / OVERSAMPLING
            dx = right - np.float32(self.sun[0] / self.sun[2] * focal)
            dy = below + np.float32(self.sun[1] / self.sun[2] * focal)
            distance = (dx * dx + dy * dy) / np.float32((0.22 * self.view.size[1]) ** 2)
            sky += (150 * self.direct / (1 + 4 * distance))[..., None] * np.array(light.tint, np.float32)
        clipped: UInt8[np.ndarray, "h w 3"] = np.clip(sky, 0, 255).astype(np.uint8)
        return clipped


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
LAMP: Colour = (255, 214, 140)
PAINTS: tuple[Colour, ...] = (
    (172, 30, 32), (34, 62, 128), (212, 214, 216), (148, 152, 156), (36, 38, 42),
    (238, 238, 234), (60, 92, 74), (196, 150, 44), (110, 76, 58), (92, 128, 166),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (186, 46, 48), (44, 62, 112), (40, 42, 46), (222, 218, 206), (96, 116, 78), (204, 160, 62), (122, 72, 118),
    (98, 88, 80),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((234, 196, 168), (206, 160, 124), (146, 102, 74), (92, 62, 46))
POSTERS: tuple[Colour, ...] = (
    (210, 60, 50), (240, 206, 70), (60, 120, 190), (240, 240, 236), (40, 44, 50), (90, 170, 110),
)  # fmt: skip
WHEEL = tuple((math.cos(k * math.pi / 5), math.sin(k * math.pi / 5)) for k in range(10))


class Street:
    """One street: its course and what stands along it. Positions on it are (metres across, metres ahead)."""

    def __init__(self, painter: Painter, rng: np.random.Generator) -> None:
        self.painter, self.rng = painter, rng
        self.world = painter.world
        self.hand = 1 if self.world.drives_on == "right" else -1
        self.lanes = int(rng.choice([1, 1, 1, 2]))  # in each direction
        self.lane = rng.uniform(2.9, 3.5)
        self.parking = rng.uniform(2.0, 2.3) if rng.random() < 0.55 else 0.4
        self.half = self.lanes * self.lane + self.parking
        self.kerb = rng.uniform(1.8, 4.2)
        self.position = -self.hand * (self.lanes - 0.5) * self.lane + rng.uniform(-0.3, 0.3)
        self.heading = rng.uniform(-0.05, 0.05)
        self.bend = rng.uniform(-1, 1) * float(rng.choice([0.0006, 0.0025, 0.006]))
        start = rng.uniform(9, 45)
        self.junction = (start, start + rng.uniform(7, 12)) if rng.random() < 0.5 else (math.inf, math.inf)
        self.objects: list[tuple[float, Callable[[], None]]] = []

    def at(self, across: float, y: float, z: float) -> Point:
        """A position on the street, y metres above it, in space."""
        return (self.position + z * (self.heading + z * self.bend / 2) + across, y, z)

    def direction(self, z: float) -> float:
        """The street's angle to the view at z, in radians."""
        return math.atan(self.heading + z * self.bend)

    def chance(self, share: float) -> bool:
        """True in that share of the cases."""
        return bool(self.rng.random() < share)

    def paint(self) -> None:
        """The whole street, from far to near."""
        self.ground()
        self.skyline()
        for side in (-1, 1):
            self.houses(side)
            self.pavement_life(side)
        self.traffic()
        for _, paint in sorted(self.objects, key=lambda entry: -entry[0]):
            paint()

    # The ground

    def strip(self, left: float, right: float, start: float, end: float, colour: Colour, label: int) -> None:
        """A band along the street, bent with it."""
        count = max(2, int(6 * math.log(end / start)) + 2)
        zs = [start * (end / start) ** (k / (count - 1)) for k in range(count)]
        there = [self.at(left, 0, z) for z in zs]
        self.painter.polygon([*there, *(self.at(right, 0, z) for z in reversed(zs))], colour, label)

    def ground(self) -> None:
        """Pavement everywhere, the road in it, the road that crosses, and what is painted on them."""
        palette, half, rng = self.world.palette, self.half, self.rng
        light = self.painter.ground_light
        road, stone = self.painter.pick([palette.road], 0.15), self.painter.pick([palette.pavement], 0.12)
        marking = self.painter.pick([palette.marking], 0.06)

        def tone(colour: Colour, z: float, gain: float = 1.0) -> Colour:
            return self.painter.seen(colour, light, z, gain)

        bands = list(pairwise(HAZE_STEPS))
        for start, end in bands:
            self.strip(-3 * end - 40, 3 * end + 40, start, end, tone(stone, start), PAVEMENT)
        for start, end in bands:
            self.strip(-half, half, start, end, tone(road, start), ROAD)
            for side in (-half - 0.12, half + 0.12):
                self.strip(side - 0.14, side + 0.14, start, end, tone(stone, start, 1.18), PAVEMENT)
        first, last = self.junction
        if first < math.inf:
            across: list[Point] = [(-90, 0, first), (90, 0, first), (90, 0, last), (-90, 0, last)]
            self.painter.polygon(across, tone(road, first), ROAD)
        for _ in range(int(rng.integers(0, 5))):  # mended asphalt
            z, left = 4 + 40 * rng.random() ** 2, rng.uniform(-half, half - 1)
            width, length, wear = rng.uniform(0.5, 2), rng.uniform(0.6, 6), rng.uniform(0.72, 1.2)
            self.strip(left, left + width, z, z + length, tone(road, z, wear), ROAD)

        def line(across: float, start: float, end: float, width: float = 0.14) -> None:
            for z, until in ((start, min(end, first)), (max(start, last), end)):
                if until - z > 0.3:
                    self.strip(across - width / 2, across + width / 2, z, until, tone(marking, z), MARKING)

        dash, gap = rng.uniform(2, 4), rng.uniform(3, 6)
        phase = rng.uniform(0, dash + gap)
        dashes = [NEAR + phase + k * (dash + gap) for k in range(int(75 / (dash + gap)))]
        solid = self.chance(0.3)
        for number in range(-self.lanes + 1, self.lanes):
            if number == 0 and solid:
                line(-0.16 if self.lanes > 1 else 0, NEAR, 80)
                if self.lanes > 1:
                    line(0.16, NEAR, 80)
                continue
            for z in dashes:
                line(number * self.lane, z, z + dash)
        if self.chance(0.6):
            for edge in (-1, 1):
                line(edge * self.lanes * self.lane, NEAR, 80, 0.12)
        if self.chance(0.45) or first < 40:
            self.crossing(min(first - 4, 30) if first < math.inf else rng.uniform(7, 24), marking, light)
        if self.chance(0.25):
            self.arrow(self.hand * (self.lanes - 0.5) * self.lane, rng.uniform(6, 14), marking, light)

    def crossing(self, z: float, colour: Colour, light: Tint) -> None:
        """A zebra crossing, with a stop line before it."""
        if z < 3:
            return
        tone, width = self.painter.seen(colour, light, z), self.rng.uniform(0.4, 0.6)
        for k in range(int(2 * self.half / (2 * width))):
            across = -self.half + 0.2 + 2 * k * width
            self.strip(across, across + width, z, z + 2.8, tone, MARKING)
        near = 0 if self.hand > 0 else -self.half
        self.strip(near, near + self.half, z - 1.2, z - 0.8, tone, MARKING)

    def arrow(self, across: float, z: float, colour: Colour, light: Tint) -> None:
        """Straight on."""
        tone = self.painter.seen(colour, light, z)
        self.strip(across - 0.1, across + 0.1, z, z + 3, tone, MARKING)
        head = [self.at(across + dx, 0, z + dz) for dx, dz in ((-0.45, 3), (0, 4.6), (0.45, 3))]
        self.painter.polygon(head, tone, MARKING)

    # Along the street

    def skyline(self) -> None:
        """What closes the view: far houses and far trees."""
        painter, rng = self.painter, self.rng
        light = painter.lit((0, 0, -1))
        x, end = -FAR, FAR
        while x < end:
            width, wooded = rng.uniform(5, 22), self.chance(0.45)
            if wooded:
                tone = painter.seen(painter.pick(self.world.palette.leaves), light, FAR, 0.8)
                for _ in range(int(width / 3)):
                    ((u, v),) = painter.view.project([(x + rng.uniform(0, width), rng.uniform(1, 5), FAR)])
                    radius = painter.view.pixels(rng.uniform(2.0, 4.5), FAR)
                    painter.disc(u, v, radius, radius, tone, TREE)
            low = [(x, 0, FAR), (x + width, 0, FAR)]
            height = 2.5 if wooded else rng.uniform(4, 4 + 2.6 * self.world.storeys[1])
            colours = self.world.palette.leaves if wooded else self.world.palette.facades
            tone = painter.seen(painter.pick(colours), light, FAR, 0.85)
            high: list[Point] = [(x + width, height, FAR), (x, height, FAR)]
            painter.polygon([*low, *high], tone, TREE if wooded else BUILDING)
            x += width * 0.95

    def add(self, z: float, paint: Callable[[], None]) -> None:
        """Have something painted once everything beyond z is there."""
        self.objects.append((z, paint))

    def houses(self, side: int) -> None:
        """A row of houses and gardens on one side (-1 left, 1 right), with the junction left open."""
        rng, (lowest, highest) = self.rng, self.world.storeys
        z, built, line = rng.uniform(-6, 4), rng.uniform(0.5, 0.95), self.half + self.kerb
        while z < 105:
            until = z + rng.uniform(6, 18)
            first, last = self.junction[0] - 1, self.junction[1] + 1
            if z < last and until > first:
                if first - z < 4:
                    z = last
                    continue
                until = first
            start = max(z, NEAR)
            if until > start + 1:
                if self.chance(built):
                    across = side * (line + rng.uniform(0, 1.2))
                    self.add(until, partial(self.house, across, start, until, int(rng.integers(lowest, highest + 1))))
                else:
                    self.add(until, partial(self.garden, side * line, start, until))
            z = until + (rng.uniform(1, 5) if self.chance(0.25) else 0)

    def house(self, across: float, z0: float, z1: float, storeys: int) -> None:
        """A box with its two visible walls, a roof, and the shadow of the whole."""
        painter, rng, palette = self.painter, self.rng, self.world.palette
        side = math.copysign(1, across)
        storey, depth = rng.uniform(2.8, 3.4), side * rng.uniform(7, 12)
        top, z = storeys * storey + 0.6, (z0 + z1) / 2
        wall, roof = painter.pick(palette.facades, 0.2), painter.pick(palette.roofs)
        near, far = self.at(across, 0, z0), self.at(across, 0, z1)
        foot = [near, far, (far[0] + depth, 0.0, z1), (near[0] + depth, 0.0, z0)]
        head = [(x, top, z_) for x, _, z_ in foot]
        painter.shadow(head)
        for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
            painter.shadow([foot[a], foot[b], head[b], head[a]])

        gable, street = painter.lit((0, 0, -1)), painter.lit((-side, 0, 0))
        if top < 13 and self.chance(0.7):  # a pitched roof, its ridge along the street
            ridge = [(x + depth / 2, top + 3, z_) for x, _, z_ in (near, far)]
            slope = painter.lit((-side * 0.5, 0.8, 0))
            painter.polygon([head[0], head[1], ridge[1], ridge[0]], painter.seen(roof, slope, z), BUILDING)
            painter.polygon([head[0], ridge[0], head[3]], painter.seen(wall, gable, z0), BUILDING)
        self.wall([foot[3], near], top, painter.seen(wall, gable, z0), 0 if self.chance(0.5) else storeys, storey)
        (near_u, _), (far_u, _) = painter.view.project([near, far])
        if side * (near_u - far_u) > 0:  # else the street has turned this wall away
            self.wall([near, far], top, painter.seen(wall, street, z), storeys, storey)
            eaves = [(x, y + 0.4, z_) for x, y, z_ in (head[1], head[0])]
            painter.polygon([head[0], head[1], *eaves], painter.seen(roof, street, z), BUILDING)

    def wall(self, ends: list[Point], top: float, colour: Colour, storeys: int, storey: float) -> None:
        """A wall between two points of the ground: windows, and a door or a shop; blind if it has no storeys."""
        painter, rng, view = self.painter, self.rng, self.painter.view
        (xa, _, za), (xb, _, zb) = ends
        z, length = (za + zb) / 2, math.hypot(xb - xa, zb - za)
        (left, _), (right, _) = view.project(ends)

        def panel(t0: float, t1: float, y0: float, y1: float, fill: Colour, label: int | None = None) -> None:
            x0, z0, x1, z1 = xa + t0 * (xb - xa), za + t0 * (zb - za), xa + t1 * (xb - xa), za + t1 * (zb - za)
            painter.polygon([(x0, y0, z0), (x1, y0, z1), (x1, y1, z1), (x0, y1, z0)], fill, label)

        panel(0, 1, 0, top, colour, BUILDING)
        panel(0, 1, 0, 0.5, scaled(colour, 0.75))
        columns = min(int(length / rng.uniform(2.2, 3.4)), int(abs(right - left) / 4))
        if columns < 1:
            return
        daylight = painter.ground_light
        if self.chance(0.2):
            low, start = rng.uniform(1, max(1.1, top - 4)), rng.uniform(0.1, 0.5)
            panel(start, start + 0.35, low, low + rng.uniform(1.5, 3), painter.seen(painter.pick(POSTERS), daylight, z))
        if storeys == 0:
            return
        wide, sill, lintel = rng.uniform(0.22, 0.34) / columns, rng.uniform(0.8, 1.1), rng.uniform(2.1, 2.5)
        glass, frame = self.world.palette.zenith, scaled(colour, 0.6 if self.chance(0.5) else 1.25)
        margin = 0.12 / length if view.pixels(0.12, z) > 0.7 else 0
        shop = self.chance(0.35)
        values = rng.random((storeys, columns))
        for row in range(int(shop), storeys):
            y0, y1 = row * storey + sill, row * storey + lintel
            for column in range(columns):
                t, value = (column + 0.5) / columns, float(values[row, column])
                if margin:
                    panel(t - wide - margin, t + wide + margin, y0 - 0.12, y1 + 0.12, frame)
                if value < self.world.light.lamps:
                    fill = painter.seen(LAMP, (1.0, 1.0, 1.0), z, 0.7 + value / 2)
                else:
                    fill = painter.seen(glass, daylight, z, 0.25 + 0.5 * value)
                panel(t - wide, t + wide, y0, y1, fill)
        if shop:
            lit = self.world.light.lamps > 0.2
            pane = painter.seen(LAMP, (0.9, 0.9, 0.9), z) if lit else painter.seen(glass, daylight, z, 0.4)
            panel(0.05, 0.95, 0.5, 2.3, pane)
            panel(0.03, 0.97, 2.4, 3.0, painter.seen(painter.pick(POSTERS), daylight, z))
            for k in range(1, columns):
                panel(k / columns - margin, k / columns + margin, 0.5, 2.3, frame)
        else:
            t = rng.uniform(0.1, 0.8)
            panel(t, t + 1.1 / length, 0, 2.1, scaled(colour, 0.45))

    def garden(self, across: float, z0: float, z1: float) -> None:
        """A gap between houses: a wall or a hedge along the street, often with trees behind it."""
        painter, rng = self.painter, self.rng
        side, hedge = math.copysign(1, across), self.chance(0.5)
        if self.chance(0.7):
            self.tree(across + side * rng.uniform(2, 5), z1)
        ends = [self.at(across, 0, z0), self.at(across, 0, z1)]
        height = rng.uniform(0.8, 1.9)
        colours = self.world.palette.leaves if hedge else self.world.palette.facades
        tone = painter.seen(painter.pick(colours), painter.lit((-side, 0, 0)), (z0 + z1) / 2, 0.85)
        top = [(x, height, z) for x, _, z in reversed(ends)]
        painter.shadow([*ends, *top])
        painter.polygon([*ends, *top], tone, TREE if hedge else BUILDING)
        if not hedge:
            coping = [(x, height + 0.15, z) for x, _, z in ends]
            painter.polygon([*top, *coping], scaled(tone, 1.2), BUILDING)
            return
        for _ in range(int(3 * (z1 - z0))):
            x, _, z = self.at(across, 0, rng.uniform(z0, z1))
            ((u, v),) = painter.view.project([(x, height * rng.uniform(0.3, 1.0), z)])
            radius = painter.view.pixels(rng.uniform(0.15, 0.35), z)
            painter.disc(u, v, radius, radius, scaled(tone, rng.uniform(0.7, 1.25)), TREE)

    def pavement_life(self, side: int) -> None:
        """Trees, signs, people and parked cars of one side."""
        rng = self.rng
        edge = side * (self.half + 0.6)
        if self.chance(0.7):
            step = rng.uniform(7, 16)
            for k in range(int(80 / step)):
                z = 4 + (k + rng.uniform(-0.25, 0.25)) * step
                if self.chance(0.75) and not self.in_junction(z, 2):
                    self.add(z, partial(self.tree, edge, z))
        for _ in range(int(rng.integers(1, 6))):
            z = rng.uniform(5, 40)
            if not self.in_junction(z, 0):
                self.add(z, partial(self.sign, edge - side * rng.uniform(0, 0.4), z))
        for _ in range(int(rng.integers(0, 7))):
            z = 4.5 + 35 * rng.random() ** 1.5
            across = edge + side * rng.uniform(0.2, max(0.5, self.kerb - 1))
            for companion in range(2 if self.chance(0.3) else 1):
                beside = across - side * 0.6 * companion
                self.add(z, partial(self.person, beside, z + 0.1 * companion))
        if self.parking > 1:
            z, parked = rng.uniform(3, 14), rng.uniform(0.2, 0.9)
            while z < 70:
                if self.chance(parked) and not self.in_junction(z + 2, 5):
                    across = side * (self.half - self.parking / 2 + rng.uniform(-0.15, 0.15))
                    towards = side != self.hand
                    self.add(z + 2, partial(self.car, across, z + 2, math.pi if towards else 0.0))
                z += rng.uniform(5.3, 7)

    def in_junction(self, z: float, margin: float) -> bool:
        return self.junction[0] - margin < z < self.junction[1] + margin

    def traffic(self) -> None:
        """Cars in both directions, some crossing at the junction, and people on the road."""
        rng, density = self.rng, self.rng.uniform(0, 1.3)
        for lane in range(-self.lanes, self.lanes):
            across = (lane + 0.5) * self.lane
            away = across * self.hand > 0
            own = abs(across + self.position) < 1
            z = rng.uniform(9 if own else 5, 30)
            while z < 90:
                if self.chance(density * 0.6):
                    self.add(z, partial(self.car, across + rng.uniform(-0.2, 0.2), z, 0.0 if away else math.pi))
                z += rng.uniform(7, 28)
        first, last = self.junction
        if first < 40 and self.chance(0.5):
            z = rng.uniform(first + 1, last - 2)
            turn = math.pi / 2 * (1 if self.chance(0.5) else -1)
            self.add(z, partial(self.car, rng.uniform(-9, 9), z, turn))
        for _ in range(int(rng.integers(0, 3))):
            z = rng.uniform(8, 32)
            self.add(z, partial(self.person, rng.uniform(-self.half, self.half), z))

    # What stands there

    def tree(self, across: float, z: float) -> None:
        """A tree as the season has it."""
        painter, rng, view = self.painter, self.rng, self.painter.view
        foliage = self.world.season.foliage
        x, _, _ = self.at(across, 0, z)
        height = rng.uniform(4, 8.5)
        clear = height * rng.uniform(0.28, 0.42)  # of branches
        bark = painter.seen(painter.pick(((92, 72, 56), (78, 66, 58))), painter.lit((0, 0, -1)), z)
        thick, spread = 0.02 * height, height * rng.uniform(0.22, 0.32)
        trunk_top = clear if foliage in ("full", "thin") else height * 0.9
        trunk = [(x - thick, 0.0, z), (x + thick, 0.0, z), (x + thick / 2, trunk_top, z), (x - thick / 2, trunk_top, z)]
        painter.shadow(trunk)
        painter.polygon(trunk, bark, TREE)
        leaf = painter.pick(self.world.palette.leaves)
        light = painter.lit((0, 0.7, -0.7))
        if foliage == "bare":
            self.branches(x, clear, z, height - clear, bark)
            return
        if foliage == "palm":
            self.fronds(x, trunk_top, z, painter.seen(leaf, light, z))
            return
        middle = (clear + height) / 2
        ring = [(x + spread * a, middle + (height - clear) / 2 * b, z) for a, b in WHEEL]
        painter.shadow(ring, 255 if foliage != "thin" else 170)
        if foliage == "conifer":
            for k in range(14):
                low = 0.7 + k * (height - 0.7) / 15
                wide = spread * (1 - k / 15) * rng.uniform(0.75, 1.1)
                hem = ((-1, -0.2), (-0.5, 0.25), (0, -0.2), (0.5, 0.25), (1, -0.2))
                droop = [(x + wide * a, low + b, z) for a, b in hem]
                shade = painter.seen(leaf, light, z, 0.7 + 0.02 * k + rng.uniform(0, 0.2))
                painter.polygon([*droop, (x, min(height, low + height / 5), z)], shade, TREE)
            return
        ((u, v),) = view.project([(x, middle, z)])
        rx, ry = view.pixels(spread, z), view.pixels((height - clear) / 2, z)
        count = int(min(60, max(10, rx * 1.1)))
        size = 0.34 if foliage == "full" else 0.2
        for k in range(count):
            angle, radius = rng.random() * 2 * math.pi, math.sqrt(rng.random()) * 0.8
            a, b = radius * math.cos(angle), radius * math.sin(angle)
            # From the dark inside to leaves that catch the light: later, smaller, higher.
            share = k / count
            bright = 0.62 + 0.5 * share - 0.25 * b + 0.12 * painter.sun[0] * a
            r = (size + 0.22 * (1 - share)) * rx * rng.uniform(0.5, 1)
            painter.disc(u + a * rx, v + b * ry, r, r * 0.85, painter.seen(leaf, light, z, bright), TREE)

    def branches(self, x: float, y: float, z: float, reach: float, colour: Colour) -> None:
        """A crown without leaves: two generations of twigs."""
        painter, rng = self.painter, self.rng
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

    def fronds(self, x: float, y: float, z: float, colour: Colour) -> None:
        """The crown of a palm."""
        for k in range(9):
            angle = math.pi * (k / 8 - 0.5) * 1.35 + self.rng.uniform(-0.1, 0.1)
            out, reach = math.sin(angle), self.rng.uniform(1.5, 2.3)
            mid = (x + out * reach * 0.55, y + 0.5 * math.cos(angle) + 0.35, z)
            tip = (x + out * reach, y + reach * (0.55 * math.cos(angle) - 0.35 * abs(out)), z)
            blade = [(x, y - 0.1, z), (mid[0], mid[1] - 0.3, z), tip, mid]
            self.painter.polygon(blade, scaled(colour, self.rng.uniform(0.75, 1.2)), TREE)
            self.painter.shadow(blade)

    def sign(self, across: float, z: float) -> None:
        """A post with a plate or a traffic light."""
        painter, rng = self.painter, self.rng
        x, _, _ = self.at(across, 0, z)
        light, high = painter.lit((0, 0, -1)), rng.uniform(2.2, 3.0)
        grey = painter.seen((128, 130, 134), light, z)
        post: list[Point] = [(x - 0.05, 0, z), (x + 0.05, 0, z), (x + 0.05, high, z), (x - 0.05, high, z)]
        painter.shadow(post)
        painter.polygon(post, grey, SIGN)

        def plate(form: Sequence[tuple[float, float]], size: float, fill: Colour, gain: float = 1.0) -> None:
            shape = [(x + a * size, high + b * size, z) for a, b in form]
            painter.polygon(shape, painter.seen(fill, light, z, gain), SIGN)

        square = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
        kind = int(rng.integers(0, 6))
        size = rng.uniform(0.3, 0.42)
        if kind == 0:  # forbidden: red ring
            plate(WHEEL, size, (200, 32, 36))
            plate(WHEEL, size * 0.68, (240, 240, 236))
            plate(((-0.9, -0.25), (0.9, -0.25), (0.9, 0.25), (-0.9, 0.25)), size * 0.4, (30, 30, 32))
        elif kind == 1:  # danger: triangle
            triangle = ((-1.1, -0.8), (1.1, -0.8), (0.0, 1.1))
            plate(triangle, size, (200, 32, 36))
            plate(triangle, size * 0.62, (242, 240, 226))
        elif kind == 2:  # priority: diamond
            diamond = ((-1.1, 0.0), (0.0, -1.1), (1.1, 0.0), (0.0, 1.1))
            plate(diamond, size, (240, 240, 236))
            plate(diamond, size * 0.75, (236, 190, 40))
        elif kind == 3:  # information: blue
            plate(square, size, (36, 84, 170))
            plate(((-0.5, -0.6), (0.5, -0.6), (0.0, 0.6)), size, (240, 240, 240))
        elif kind == 4:  # name of the street or a direction
            board = ((-2.4, -0.5), (2.4, -0.5), (2.4, 0.5), (-2.4, 0.5))
            plate(board, size * 0.8, painter.pick(((40, 110, 74), (240, 238, 228))))
        else:  # traffic light
            plate(((-0.45, -1.4), (0.45, -1.4), (0.45, 1.0), (-0.45, 1.0)), 0.42, (34, 36, 38))
            on = int(rng.integers(0, 3))
            for k, lamp in enumerate(((224, 50, 40), (236, 180, 40), (60, 200, 110))):
                bulb = [(a * 0.28, b * 0.28 + 0.6 - 0.8 * k) for a, b in WHEEL]
                plate(bulb, 0.42, lamp, 1.3 if k == on else 0.35)

    def person(self, across: float, z: float) -> None:
        """Someone walking, seen from the front, the side or behind: the same outline."""
        painter, rng = self.painter, self.rng
        x, _, _ = self.at(across, 0, z)
        tall, step = rng.uniform(1.5, 1.92), rng.uniform(-0.24, 0.24)
        light, build = painter.lit((0, 0.3, -0.9)), rng.uniform(0.17, 0.24)
        top, legs, skin, hair = (
            painter.seen(painter.pick(colours), light, z)
            for colours in (CLOTHES, CLOTHES, SKINS, ((44, 34, 30), (96, 70, 46), (160, 130, 90), (70, 70, 74)))
        )
        coat = rng.uniform(0.3, 0.46)  # where it ends, as a share of the height

        def part(outline: Sequence[tuple[float, float]], colour: Colour) -> None:
            shape = [(x + a, b * tall, z) for a, b in outline]
            painter.polygon(shape, colour, PERSON)

        for end, tone in ((step, 1.0), (-step, 0.8)):
            part(((-0.09, 0.48), (0.09, 0.48), (end + 0.07, 0), (end - 0.07, 0)), scaled(legs, tone))
        for end, tone in ((step, 0.85), (-step, 0.85)):
            part(((-0.07, 0.8), (0.07, 0.8), (end * 1.5 + 0.05, 0.44), (end * 1.5 - 0.05, 0.44)), scaled(top, tone))
        shoulder = build / 2
        part(((-build, 0.8), (-shoulder, 0.84), (shoulder, 0.84), (build, 0.8), (build, coat), (-build, coat)), top)
        if self.chance(0.35):  # a bag
            bag, colour = math.copysign(build, step), painter.seen(painter.pick(CLOTHES), light, z)
            part(((bag, 0.72), (bag * 1.9, 0.7), (bag * 1.9, 0.5), (bag, 0.5)), colour)
        ((u, v),) = painter.view.project([(x, tall * 0.92, z)])
        radius = painter.view.pixels(0.07 * tall, z)
        painter.disc(u, v - radius * 0.2, radius * 0.9, radius, hair, PERSON)
        painter.disc(u, v + radius * 0.15, radius * 0.75, radius * 0.85, skin, PERSON)
        painter.shadow([(x - build, 0, z), (x + build, 0, z), (x + build, tall, z), (x - build, tall, z)])

    def car(self, across: float, z: float, turn: float) -> None:
        """A car as a body of polygons; `turn` is its direction against the street's, in radians (0: away from us)."""
        painter, rng = self.painter, self.rng
        body = BODIES[int(rng.integers(0, len(BODIES)))]
        paint = painter.pick(PAINTS, 0.1)
        length, half = body.outline[-1][0], rng.uniform(0.84, 0.95)
        angle = self.direction(z) + turn
        (x, _, _), sine, cosine = self.at(across, 0, z), math.sin(angle), math.cos(angle)

        def at(along: float, aside: float, y: float) -> Point:
            aside *= half * (1 - 0.16 * min(1.0, max(0.0, (y - 1) / 0.45)))  # the cabin is narrower
            along -= length / 2
            return (x + along * sine + aside * cosine, y, z + along * cosine - aside * sine)

        def tone(colour: Colour, along: float, aside: float, y: float, gain: float = 1.0) -> Colour:
            normal = (along * sine + aside * cosine, y, along * cosine - aside * sine)
            return painter.seen(colour, painter.lit(normal), z, gain)

        # The camera in the car's own frame tells which faces are visible.
        ahead = -x * sine - z * cosine + length / 2
        aside = -x * cosine + z * sine
        height = painter.view.height
        shadow = [at(a, s, 0.02) for a, s in ((0, -1), (0, 1), (length, 1), (length, -1))]
        painter.shadow_pen.polygon(painter.view.project(shadow), fill=255)
        painter.shadow([at(a, 0.0, y) for a, y in body.outline])
        for end in (0, 1):
            painter.shadow([at(end * length, s, y) for s, y in ((-1, 0.3), (1, 0.3), (1, 0.95), (-1, 0.95))])
        dark = painter.seen((22, 22, 24), (0.7, 0.7, 0.7), z)
        floor = [at(a, s, 0.12) for a, s in ((0.3, -1), (0.3, 1), (length - 0.3, 1), (length - 0.3, -1))]
        painter.polygon(floor, dark, CAR)
        rear_seen, front_seen = ahead < 0, ahead > length
        bumper = 0.05 if rear_seen else length - 0.05
        if rear_seen or front_seen:
            for s in (-0.95, 0.55):
                tyre = [at(bumper, a, y) for a, y in ((s, 0.0), (s + 0.4, 0.0), (s + 0.4, 0.4), (s, 0.4))]
                painter.polygon(tyre, dark, CAR)

        pieces = []
        for k, ((a0, y0), (a1, y1)) in enumerate(pairwise(body.outline)):
            normal_a, normal_y = y0 - y1, a1 - a0  # outward: the outline runs from the rear over the roof
            if normal_a * (ahead - a0) + normal_y * (height - y0) > 0:
                pieces.append((abs(ahead - (a0 + a1) / 2), k, (a0, y0), (a1, y1)))
        for _, k, (a0, y0), (a1, y1) in sorted(pieces, reverse=True):
            size = math.hypot(a1 - a0, y1 - y0)
            na, ny = (y0 - y1) / size, (a1 - a0) / size
            panel = [at(a0, -1, y0), at(a0, 1, y0), at(a1, 1, y1), at(a1, -1, y1)]
            painter.polygon(panel, tone(paint, na, 0, ny), CAR)
            if k in body.glass:
                low, high = y0 + 0.02, y1 - 0.04
                pane = [at(a0, -0.86, low), at(a0, 0.86, low), at(a1, 0.84, high), at(a1, -0.84, high)]
                painter.polygon(pane, tone(self.world.palette.zenith, na, 0, ny, 0.42))

        if abs(aside) > half:
            side = math.copysign(1, aside)
            painter.polygon([at(a, side, y) for a, y in body.outline], tone(paint, 0, side, 0), CAR)
            painter.polygon([at(a, side, y) for a, y in body.window], tone(self.world.palette.zenith, 0, side, 0, 0.4))
            post = (body.window[0][0] + body.window[-1][0]) / 2
            pillar = [at(post + a, side, y) for a, y in ((-0.05, 1.0), (0.05, 1.0), (0.05, 1.4), (-0.05, 1.4))]
            painter.polygon(pillar, tone(paint, 0, side, 0))
            for along in (0.85, length - 0.85):
                painter.polygon([at(along + 0.36 * a, side, 0.34 + 0.36 * b) for a, b in WHEEL], dark, CAR)
                painter.polygon([at(along + 0.18 * a, side, 0.34 + 0.18 * b) for a, b in WHEEL], scaled(dark, 4))
        if rear_seen or front_seen:
            self.lights(at, 0.0 if rear_seen else length, rear_seen, z)

    def lights(self, at: Callable[[float, float, float], Point], along: float, rear: bool, z: float) -> None:
        """Lamps, number plate and bumper on the end of a car that we see."""
        painter = self.painter
        dusk = self.world.light.lamps > 0.2
        lamp: Colour = (190, 26, 24) if rear else (244, 240, 220)
        glow = painter.seen(lamp, (1.0, 1.0, 1.0), z, 1.35 if dusk else (0.9 if rear else 0.75))
        dim = painter.ground_light

        def patch(s0: float, s1: float, y0: float, y1: float, fill: Colour) -> None:
            painter.polygon([at(along, s, y) for s, y in ((s0, y0), (s1, y0), (s1, y1), (s0, y1))], fill)

        patch(-0.98, 0.98, 0.32, 0.46, painter.seen((40, 40, 42), dim, z))
        for side in (-1, 1):
            patch(side * 0.94, side * 0.62, 0.62, 0.8, glow)
        patch(-0.28, 0.28, 0.5, 0.62, painter.seen((236, 232, 210), dim, z))
        if not rear:
            patch(-0.5, 0.5, 0.64, 0.76, painter.seen((30, 30, 32), dim, z))


def scaled(colour: Colour, gain: float) -> Colour:
    """The same colour, lighter or darker."""
    red, green, blue = (min(255, int(c * gain)) for c in colour)
    return red, green, blue


def develop(painter: Painter, rng: np.random.Generator) -> Scene:
    """Canvas to photograph: texture and shadows on surfaces, what lies on the ground, then lens and sensor."""
    world, view, offset = painter.world, painter.view, painter.offset
    camera = world.camera
    labels = np.asarray(painter.labels)[::OVERSAMPLING, ::OVERSAMPLING].copy()
    image = np.asarray(painter.image.reduce(OVERSAMPLING)).astype(np.float32)

    rows, columns = (np.arange(side) * 2 + shift for side, shift in zip(view.size, offset, strict=True))
    gain = 1 + np.float32(0.13) * noise_tile(2)[(rows & WRAP)[:, None], columns & WRAP]
    gain[labels == SKY] = 1

    right, below = view.planes()
    top = int(np.argmax(below.max(1) > 0))
    depth = np.float32(view.focal / OVERSAMPLING * view.height) / np.maximum(below[top:], 1)
    across = right * depth * np.float32(OVERSAMPLING / view.focal)
    row, column = ((metres * TEXELS).astype(np.intp) for metres in (depth, across))
    fine = noise_tile(2)[(row + offset[0]) & WRAP, (column + offset[1]) & WRAP]
    coarse = noise_tile(16)[(row // 4 + offset[1]) & WRAP, (column // 4 + offset[0]) & WRAP]
    kind = labels[top:]
    hidden = np.array([0, 0, 0.5, 0.6, 0.8, 0, 0, 0, 0], np.float32)[kind]  # how much what lies there covers, by class
    ground = hidden > 0
    hidden *= np.clip((coarse - np.float32(0.55 - 1.3 * world.season.covered)) * 5, 0, 1)
    cover = np.array(painter.seen(world.season.cover, painter.ground_light, 0), np.float32)
    image[top:] += hidden[..., None] * (cover - image[top:])
    blurred = painter.shadows.reduce(OVERSAMPLING).filter(ImageFilter.BoxBlur(1))
    light = 1 - np.asarray(blurred, np.float32)[top:] * np.float32((1 - painter.in_shadow) / 255)
    gain[top:] = np.where(ground, (1 + np.float32(0.4) * fine) * light, gain[top:])

    gain *= 1 - np.float32(camera.vignetting) * falloff(view.size)
    warmth, exposure = rng.uniform(-0.05, 0.05), camera.exposure * rng.uniform(0.75, 1.2)
    image *= gain[..., None] * np.array([exposure + warmth, exposure, exposure - warmth], np.float32)
    photo = Image.fromarray(np.clip(image, 0, 255, out=image).astype(np.uint8))
    photo = photo.filter(ImageFilter.BoxBlur(camera.blur * view.size[1] / 320 * rng.uniform(0.4, 1.7)))
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(camera.noise * math.exp(rng.uniform(-1.0, 0.6)))
    noise += np.asarray(photo)
    return Scene(np.clip(noise, 0, 255, out=noise).astype(np.uint8), labels)
