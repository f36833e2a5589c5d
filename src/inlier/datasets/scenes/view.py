"""Where a point in space is seen: a camera at one moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from inlier.datasets.scenes.worlds import Camera

__all__ = ["NEAR", "OVERSAMPLING", "Point", "View"]

Point: TypeAlias = tuple[float, float, float]  # metres: to the right of the camera, above the ground, ahead

OVERSAMPLING = 2  # pixels of the canvas for one of the image, in each direction
NEAR = 1.0  # metres; what is nearer is drawn as if it were there, which is outside the picture


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

    def planes(self, step: int = 1) -> tuple[Float32[np.ndarray, " w"], Float32[np.ndarray, "h w"]]:
        """Columns right of the centre and rows below the horizon, at every `step`-th pixel of the image."""
        rows, columns = (np.arange(0, side, step, dtype=np.float32) + np.float32(step / 2) for side in self.size)
        right = columns - np.float32(self.centre / OVERSAMPLING)
        return right, rows[:, None] - np.float32(self.horizon / OVERSAMPLING) - np.float32(self.roll) * right
