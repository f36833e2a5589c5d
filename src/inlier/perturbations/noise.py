"""Noise of the sensor, and a noise that should alarm nobody."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inlier.perturbations.base import Perturbation
from inlier.types import Images

__all__ = ["GaussianNoise", "SignNoise"]


@dataclass(frozen=True)
class GaussianNoise(Perturbation):
    """Independent normal noise on every value.

    Standard deviations of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261).
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source = self.randomness(generator)
        noise = torch.randn(images.shape, generator=source, device=source.device).to(images)
        return images + STANDARD_DEVIATIONS[self.severity] * noise


STANDARD_DEVIATIONS = {1: 0.08, 2: 0.12, 3: 0.18, 4: 0.26, 5: 0.38}


@dataclass(frozen=True)
class SignNoise(Perturbation):
    """Plus or minus `eps` on every value, by the toss of a coin, at every severity from 1.

    The harmless control of an attack of that size: a monitor that flags it reacts to noise, not to attacks.

    Args:
        eps: size of the change, in [0, 1] units.

    Raises:
        ValueError: also if `eps` is not in (0, 1].
    """

    eps: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps <= 1:
            raise ValueError(f"eps must be above 0 and at most 1, not {self.eps!r}. Images are in [0, 1].")

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source = self.randomness(generator)
        coins = torch.randint(2, images.shape, generator=source, device=source.device)
        return images + self.eps * (2 * coins - 1).to(images)
