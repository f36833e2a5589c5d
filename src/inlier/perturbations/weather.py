"""Weather between the camera and the scene, made by computation alone: no photographs of weather are needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.perturbations.base import Perturbation
from inlier.perturbations.blur import convolved, disc, fading, trail, zoomed
from inlier.perturbations.clouds import clouds
from inlier.perturbations.colour import luma
from inlier.perturbations.ice import ice
from inlier.types import Images

__all__ = ["Fog", "Frost", "Rain", "Snow"]


@dataclass(frozen=True)
class Fog(Perturbation):
    """A cloudy veil: x + density * plasma, scaled so that the brightest value of the image stays the brightest.

    Fog of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261), whose densities and roughnesses these are.
    Differs from it in size: there the plasma is a corner of a 256 x 256 map, here of the smallest power of two that
    covers the image.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        density, decay = FOGS[self.severity]
        height, width = images.shape[-2:]
        veil = clouds(len(images), height, width, decay, self.randomness(generator)).to(images)[:, None]
        brightest = images.amax((1, 2, 3), keepdim=True)
        return (images + density * veil) * (brightest / (brightest + density))


FOGS = {1: (1.5, 2.0), 2: (2.0, 2.0), 3: (2.5, 1.7), 4: (2.5, 1.5), 5: (3.0, 1.4)}  # severity: density, decay


@dataclass(frozen=True)
class Frost(Perturbation):
    """Ice on the windscreen: keep * x + cover * ice, clipped.

    Weights of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261). Differs from it in the ice: there a
    piece of one of five photographs, here drawn anew for every image (`inlier.perturbations.ice`).
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        keep, cover = FROSTS[self.severity]
        height, width = images.shape[-2:]
        layer = ice(len(images), height, width, self.randomness(generator)).to(images)[:, None]
        if images.shape[1] == 3:
            layer = layer * images.new_tensor(TINT).view(3, 1, 1)
        return keep * images + cover * layer


FROSTS = {1: (1.0, 0.4), 2: (0.8, 0.6), 3: (0.7, 0.7), 4: (0.65, 0.7), 5: (0.6, 0.75)}  # severity: keep, cover
TINT = (0.92, 0.97, 1.0)  # ice is a little blue


@dataclass(frozen=True)
class Snow(Perturbation):
    """Falling snow: flakes blurred by their fall, before a scene that is whiter than it was.

    Flakes are normal noise, magnified, less what lies below a threshold, and blurred along a line within 45 degrees of
    the vertical; the same turned by 180 degrees is laid over. The scene is mixed with max(x, 1.5 grey + .5). All
    numbers of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261), in pixels whatever the size.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        mean, deviation, zoom, threshold, radius, blur, keep = SNOWS[self.severity]
        source, (height, width) = self.randomness(generator), images.shape[-2:]
        drawn = torch.randn(len(images), 1, height, width, generator=source, device=source.device)
        angles = math.pi / 4 * (1 + 2 * torch.rand(len(images), generator=source, device=source.device))
        flakes = zoomed(mean + deviation * drawn, zoom)
        flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
        flakes = convolved(flakes, trail(fading(radius, blur), angles)).to(images)
        whiter = torch.maximum(images, 1.5 * luma(images) + 0.5)
        return torch.lerp(whiter, images, keep) + flakes + flakes.flip(-2, -1)


SNOWS = {  # severity: mean and deviation of the noise, zoom, threshold, radius and deviation of the trail, keep
    1: (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
    2: (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
    3: (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
    4: (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
    5: (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
}


@dataclass(frozen=True)
class Rain(Perturbation):
    """Rain: parallel streaks near and far, under a sky that is darker and a distance that is hazier.

    The streaks of an image lean by the same drawn angle of up to 20 degrees. Far ones are many, short and faint; near
    ones few, long, wide and brighter. Sizes scale with the height of the image.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        share, opacity, dark, haze = RAINS[self.severity]
        source, (height, width) = self.randomness(generator), images.shape[-2:]
        sideways = 2 * torch.rand(len(images), generator=source, device=source.device) - 1
        lean = math.pi / 2 + math.radians(20) * sideways
        # The same rain at every size: streaks are magnified for a larger image, and shorter but more in a smaller one.
        larger, smaller = max(height / 360, 1), min(height / 360, 1)
        far = streaks(height, width, share / smaller, 18 * smaller, lean, source)
        near = streaks(height, width, share / 8 / smaller, 50 * smaller, lean, source)
        near = convolved(near, disc(1, 0.5).to(near))
        water = 1 - (1 - 0.6 * far.clamp(0, 1)) * (1 - near.clamp(0, 1))
        water = zoomed(water, larger).to(images)
        grey = luma(images).mean((1, 2, 3), keepdim=True).clamp_min(0.2)
        scene = torch.lerp(dark * images, dark * (0.5 + 0.5 * grey), haze)
        return torch.lerp(scene, (0.4 + 0.6 * grey).expand_as(scene), opacity * water)


RAINS = {  # severity: streaks a pixel of 360 rows, their opacity, brightness and haze of the scene
    1: (0.002, 0.5, 0.95, 0.05),
    2: (0.004, 0.55, 0.9, 0.1),
    3: (0.007, 0.6, 0.85, 0.15),
    4: (0.01, 0.7, 0.75, 0.2),
    5: (0.015, 0.8, 0.65, 0.3),
}


def streaks(
    height: int, width: int, share: float, length: float, angles: Float[Tensor, " n"], generator: torch.Generator
) -> Float[Tensor, "n 1 h w"]:
    """Lines of a length in pixels, about one pixel wide, through a share of the pixels; each of its own brightness."""
    drawn = torch.rand(2, len(angles), 1, height, width, generator=generator, device=generator.device)
    starts = (drawn[0] < share) * (0.3 + 0.7 * drawn[1])
    line = torch.ones(max(2, round(length)))
    return convolved(starts, trail(line, angles))
