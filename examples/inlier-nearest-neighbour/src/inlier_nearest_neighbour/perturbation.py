"""Less light on the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inlier.perturbations.base import Perturbation
from inlier.types import Images

__all__ = ["LowLight"]

PHOTONS = {1: 400, 2: 200, 3: 100, 4: 50, 5: 25}
"""Photons that a white pixel catches, by severity."""


@dataclass(frozen=True)
class LowLight(Perturbation):
    """Fewer photons: every value is a Poisson count of them, brought back to the brightness of the image.

    The variance of the noise is then the value over the photons of white: bright pixels are noisier than dark ones.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source = self.randomness(generator)
        photons = PHOTONS[self.severity]
        return torch.poisson((images * photons).to(source.device), generator=source).to(images) / photons
