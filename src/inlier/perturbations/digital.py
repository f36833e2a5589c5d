"""What is lost when an image is stored or sent."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inlier.perturbations.base import Perturbation
from inlier.perturbations.colour import has_colour
from inlier.types import Images

__all__ = ["Jpeg", "Pixelate"]


@dataclass(frozen=True)
class Jpeg(Perturbation):
    """The image as a JPEG file gives it back: rounded to 8 bit, compressed, decoded. It has no gradient.

    Baseline JPEG with the colours at half size, by Pillow. Qualities of ImageNet-C (Hendrycks & Dietterich, ICLR 2019,
    arXiv:1903.12261).

    Args:
        quality: 1 to 100, the same at every severity from 1, in place of the severity's. 90 is a harmless control: what
            a camera may do to every image.

    Raises:
        ValueError: also if the quality is no whole number from 1 to 100, or images are neither RGB nor grey.
    """

    quality: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality is not None and self.quality not in range(1, 101):
            raise ValueError(f"quality of Jpeg must be a whole number from 1 to 100, not {self.quality!r}.")

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        quality = QUALITIES[self.severity] if self.quality is None else self.quality
        colour = has_colour(images)
        pixels = images.detach().mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        decoded = [through_jpeg(one if colour else one[..., 0], quality) for one in pixels]
        return torch.from_numpy(np.stack(decoded)).view(pixels.shape).permute(0, 3, 1, 2).to(images) / 255


QUALITIES = {1: 25, 2: 18, 3: 15, 4: 10, 5: 7}


def through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """8-bit pixels (h, w, 3) or (h, w), written to a JPEG file in memory and read again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.asarray(image)


@dataclass(frozen=True)
class Pixelate(Perturbation):
    """The image made smaller and larger again: every block of pixels becomes its mean.

    Scales of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261), with its box filter both ways, and
    without rounding to 8 bit in between.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        for axis in (-2, -1):
            images = in_blocks(images, axis, SCALES[self.severity])
        return images


SCALES = {1: 0.6, 2: 0.5, 3: 0.4, 4: 0.3, 5: 0.25}


def in_blocks(images: Images, axis: int, scale: float) -> Images:
    """Along an axis, every pixel replaced by the mean of those that fall on the same one of the smaller image."""
    size = images.shape[axis]
    small = max(1, int(size * scale))
    middles = (torch.arange(size, device=images.device) * 2 + 1) * small
    # A pixel whose middle is on the border of two blocks counts to the first and shows the second, as in Pillow.
    block, shown = (middles - 1) // (2 * size), middles // (2 * size)
    shape = list(images.shape)
    shape[axis] = small
    total = images.new_zeros(shape).index_add_(axis, block, images)
    counts: Tensor = block.bincount(minlength=small).to(images)
    return (total / (counts if axis == -1 else counts[:, None])).index_select(axis, shown)
