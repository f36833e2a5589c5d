"""Street scenes with a label for every pixel, drawn from a seed.

A scene is a street in three dimensions (a curving road, pavements, houses, trees, cars, people, signs), put through a
pinhole camera and painted from far to near. Nothing is downloaded, and a seed gives the same scene again (with the
same NumPy and Pillow).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from inlier.datasets.scenes.develop import develop
from inlier.datasets.scenes.painter import Painter
from inlier.datasets.scenes.sky import paint_sky
from inlier.datasets.scenes.street import paint_street
from inlier.datasets.scenes.view import View
from inlier.datasets.scenes.worlds import World

__all__ = ["Scene", "draw", "draw_many"]


class Scene(NamedTuple):
    """A drawn image and, for each of its pixels, the index in `CLASSES`."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]


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
    painter = Painter(world, View(world.camera, size, rng), rng)
    paint_sky(painter)
    paint_street(painter)
    return Scene(*develop(painter))


def draw_many(
    world: World, count: int, seed: int, size: tuple[int, int] = (160, 320)
) -> tuple[Float[Tensor, "n 3 h w"], Int64[Tensor, "n h w"]]:
    """The scenes number `seed`, `seed + 1`, ... as (images in [0, 1], labels) for a network.

    Raises:
        ValueError: `count` is below 1, or `draw` refuses the size or the seed.
    """
    if count < 1:
        raise ValueError(f"At least one scene must be drawn, not {count}.")
    scenes = [draw(world, seed + index, size) for index in range(count)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    labels = torch.from_numpy(np.stack([scene.labels for scene in scenes]))
    return images.permute(0, 3, 1, 2).float() / 255, labels.long()
