"""The sky, which is painted before all else."""

from __future__ import annotations

import numpy as np
from PIL import Image

from inlier.datasets.scenes.noise import noise_at
from inlier.datasets.scenes.painter import Painter
from inlier.datasets.scenes.view import OVERSAMPLING

__all__ = ["paint_sky"]


def paint_sky(painter: Painter) -> None:
    """Gradient, clouds on a plane far above, and the sun's glow where it is ahead."""
    palette, light, view, sun = painter.world.palette, painter.world.light, painter.view, painter.sun
    right, below = view.planes(step=2)  # clouds are soft: half the resolution will do
    above = np.maximum(-below, 0) / np.float32(view.size[0])
    share = np.minimum(above * np.float32(2.2), 1)[..., None]
    horizon = np.array(palette.horizon, np.float32)
    sky = horizon + share * (np.array(palette.zenith, np.float32) - horizon)

    depth = 60 / (above + np.float32(0.06))
    column = (right / np.float32(view.size[1]) * depth * 2).astype(np.intp) + painter.offset[0]
    row = (depth * 2).astype(np.intp) + painter.offset[1]
    density = noise_at(4, row, column) + np.float32(1.1 * light.clouds - 0.55)
    cover = np.clip(density * 3, 0, 1)[..., None] * np.float32(0.7)
    sky += cover * (horizon * np.float32(1.06 if light.direct > 0.2 else 0.93) - sky)

    if sun[2] > 0.1 and light.direct > 0.2:
        focal = view.focal / OVERSAMPLING
        dx = right - np.float32(sun[0] / sun[2] * focal)
        dy = below + np.float32(sun[1] / sun[2] * focal)
        distance = (dx * dx + dy * dy) / np.float32((0.22 * view.size[1]) ** 2)
        sky += (150 * painter.direct / (1 + 4 * distance))[..., None] * np.array(light.tint, np.float32)
    painted = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    painter.image.paste(painted.resize(painter.image.size, Image.Resampling.BILINEAR))
