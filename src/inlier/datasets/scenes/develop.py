"""From canvas to photograph: what the ground and its shadows look like close up, then lens and sensor."""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter

from inlier.datasets.scenes.classes import CLASSES, MARKING, PAVEMENT, ROAD, SKY
from inlier.datasets.scenes.noise import noise_at
from inlier.datasets.scenes.painter import Painter
from inlier.datasets.scenes.view import OVERSAMPLING

__all__ = ["develop"]

TEXELS = 14  # of noise, a metre of ground
COVERABLE = np.zeros(len(CLASSES), np.float32)  # how much what lies on the ground can hide of it, by class
COVERABLE[[ROAD, MARKING, PAVEMENT]] = 0.5, 0.6, 0.8


def develop(painter: Painter) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Image and labels: texture and shadows on surfaces, what lies on the ground, then lens and sensor."""
    labels = np.asarray(painter.labels)[::OVERSAMPLING, ::OVERSAMPLING].copy()
    return _photographed(painter, *_textured(painter, labels)), labels


def _textured(
    painter: Painter, labels: UInt8[np.ndarray, "h w"]
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Colours with what lies on the ground, and a gain for each pixel: grain, and on the ground shadows."""
    view, offset, season = painter.view, painter.offset, painter.world.season
    image = np.asarray(painter.image.reduce(OVERSAMPLING)).astype(np.float32)
    rows, columns = (np.arange(side) * 2 + shift for side, shift in zip(view.size, offset, strict=True))
    gain = 1 + np.float32(0.13) * noise_at(2, rows[:, None], columns)
    gain[labels == SKY] = 1

    right, below = view.planes()
    top = int(np.argmax(below.max(1) > 0))
    depth = np.float32(view.focal / OVERSAMPLING * view.height) / np.maximum(below[top:], 1)
    across = right * depth * np.float32(OVERSAMPLING / view.focal)
    row, column = ((metres * TEXELS).astype(np.intp) for metres in (depth, across))
    fine = noise_at(2, row + offset[0], column + offset[1])
    coarse = noise_at(16, row // 4 + offset[1], column // 4 + offset[0])
    hidden = COVERABLE[labels[top:]]
    ground = hidden > 0
    hidden *= np.clip((coarse - np.float32(0.55 - 1.3 * season.covered)) * 5, 0, 1)
    cover = np.array(painter.seen(season.cover, painter.ground_light, 0), np.float32)
    image[top:] += hidden[..., None] * (cover - image[top:])
    blurred = painter.shadows.reduce(OVERSAMPLING).filter(ImageFilter.BoxBlur(1))
    light = 1 - np.asarray(blurred, np.float32)[top:] * np.float32((1 - painter.in_shadow) / 255)
    gain[top:] = np.where(ground, (1 + np.float32(0.4) * fine) * light, gain[top:])
    return image, gain


def _photographed(
    painter: Painter, image: Float32[np.ndarray, "h w 3"], gain: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Vignetting, exposure, blur and noise, each scene's own."""
    camera, rng, size = painter.world.camera, painter.rng, painter.view.size
    gain = gain * (1 - np.float32(camera.vignetting) * _falloff(size))
    warmth, exposure = rng.uniform(-0.05, 0.05), camera.exposure * rng.uniform(0.75, 1.2)
    image = image * (gain[..., None] * np.array([exposure + warmth, exposure, exposure - warmth], np.float32))
    photo = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    photo = photo.filter(ImageFilter.BoxBlur(camera.blur * size[1] / 320 * rng.uniform(0.4, 1.7)))
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(camera.noise * math.exp(rng.uniform(-1.0, 0.6)))
    noise += np.asarray(photo)
    return np.clip(noise, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _falloff(size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Squared distance from the image's centre, 1 in the corners."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    squares: Float32[np.ndarray, "h w"] = np.add.outer(rows * rows, columns * columns) / np.float32(2)
    return squares
