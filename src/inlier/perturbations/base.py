"""A perturbation is a natural change of an image: weather, a turned camera, sensor noise; nobody means to deceive.

It maps images in [0, 1] to images in [0, 1]. Severity 0 leaves them as they are, bit for bit, and 1 to 5 change them
more and more. What is drawn at random comes from the generator that is handed over, and differs from image to image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Shaped
from torch import Tensor

from inlier.types import Images

__all__ = ["SEVERITIES", "Perturbation", "Pixelwise", "to_8_bit"]

SEVERITIES = range(6)

Pixelwise: TypeAlias = Shaped[Tensor, "n *chw"]
"""Maps of n images, (n, h, w) or (n, c, h, w), of any type."""


@dataclass(frozen=True)
class Perturbation(ABC):
    """Changes images; subclasses implement `perturb`.

    Args:
        severity: 0 (the images themselves) to 5.

    Raises:
        ValueError: the severity is none of these.
    """

    severity: int = 1

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(
                f"Severity of {type(self).__name__} must be an integer from 0 (unchanged) to 5, not {self.severity!r}."
            )

    def __call__(self, images: Images, generator: torch.Generator | None = None) -> Images:
        """The perturbed images, in [0, 1].

        Raises:
            ValueError: images are not (n, c, h, w) in [0, 1], or the perturbation is random and has no generator.
        """
        check_images(images)
        if self.severity == 0 or not images.numel():
            return images
        return self.perturb(images, generator).clamp(0, 1)

    def move(self, maps: Pixelwise, generator: torch.Generator | None = None) -> Pixelwise:
        """Maps of the images, with every pixel where the perturbation puts it: those of the perturbed images.

        What says something about each pixel of an image, as labels or a prediction do, must move with the image before
        it is compared with the perturbed one. Most perturbations move nothing, and neither does severity 0.

        Args:
            maps: (n, h, w) or (n, c, h, w), of the images' height and width and of any type; (n,) and (n, c) say
                nothing about pixels and stay as they are. Values are taken over, never mixed.
            generator: in the state in which `__call__` was handed it, so that the same is drawn. Images may have come
                in smaller batches since, by the same generator: what moves draws image by image.

        Raises:
            ValueError: the perturbation moves pixels at random and has no generator.

        Example:
            >>> from inlier.perturbations.geometric import Shift
            >>> shift, generator = Shift(severity=5), torch.Generator().manual_seed(0)
            >>> images, labels = torch.rand(1, 3, 8, 8), torch.arange(64).view(1, 8, 8)
            >>> same = generator.clone_state()
            >>> shifted, moved = shift(images, generator), shift.move(labels, same)
            >>> torch.equal(shifted[0, :, 4, 4], images[0].flatten(1)[:, moved[0, 4, 4]])
            True
        """
        if self.severity == 0 or maps.ndim < 3 or not maps.numel():
            return maps
        return self.displace(maps, generator)

    def displace(self, maps: Pixelwise, generator: torch.Generator | None) -> Pixelwise:
        """What `move` does at a severity of 1 to 5. To be overridden where pixels move, with the draw of `perturb`."""
        return maps

    @abstractmethod
    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        """The images changed by a severity of 1 to 5; clipped to [0, 1] by the caller."""

    def randomness(self, generator: torch.Generator | None) -> torch.Generator:
        """The generator, or an error that says it is needed."""
        if generator is None:
            raise ValueError(
                f"{type(self).__name__} is random: hand it a generator, as torch.Generator().manual_seed(0)."
            )
        return generator


def check_images(images: Images) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"Expected floating-point images (n, c, h, w), not {images.dtype} of shape {tuple(images.shape)}."
        )
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):  # nan is in no range
        raise ValueError(
            f"Expected images in [0, 1], not in [{images.amin():.4g}, {images.amax():.4g}]. Divide 8-bit images by 255."
        )


def to_8_bit(images: Images) -> Images:
    """The images as an 8-bit file would keep them: the nearest of k / 255. It has no gradient."""
    return images.mul(255).round().div(255)
