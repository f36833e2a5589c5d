"""What a drawn street can look like: its world.

A world fixes palette, light, season and camera; the seed of a scene chooses the rest. A network trained on the
`TRAINING_WORLDS` meets a real shift in the `UNSEEN_WORLDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "TRAINING_WORLDS",
    "UNSEEN_WORLDS",
    "WORLDS",
    "Camera",
    "Colour",
    "Light",
    "Palette",
    "Season",
    "Tint",
    "World",
]

Colour: TypeAlias = tuple[int, int, int]
Tint: TypeAlias = tuple[float, float, float]


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
