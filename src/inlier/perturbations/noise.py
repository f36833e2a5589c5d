"""Noise of the sensor, and a noise that should alarm nobody."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inlier.perturbations.base import Perturbation
from inlier.types import Images

__all__ = ["GaussianNoise", "ImpulseNoise", "ShotNoise", "SignNoise"]


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
class ShotNoise(Perturbation):
    """Light comes in grains: a value x is a Poisson count of mean x * grains, over grains. It has no gradient.

    Grains of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261).
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source, grains = self.randomness(generator), GRAINS[self.severity]
        expected = grains * images.detach().to(source.device)
        return (torch.poisson(expected, generator=source) / grains).to(images)


GRAINS = {1: 60, 2: 25, 3: 12, 4: 5, 5: 3}


@dataclass(frozen=True)
class ImpulseNoise(Perturbation):
    """Salt and pepper: some values become 0 or 1, each as likely, channel by channel.

    Shares of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261).
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source = self.randomness(generator)
        drawn = torch.rand(images.shape, generator=source, device=source.device).to(images.device)
        share = SHARES[self.severity]
        struck = (drawn < share / 2).to(images)  # of those below the share, the lower half becomes 1
        return torch.where(drawn < share, struck, images)


SHARES = {1: 0.03, 2: 0.06, 3: 0.09, 4: 0.17, 5: 0.27}


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
