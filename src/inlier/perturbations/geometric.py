"""Changes of where the camera looks from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inlier.perturbations.base import Perturbation
from inlier.types import Images

__all__ = ["VerticalFlip"]


@dataclass(frozen=True)
class VerticalFlip(Perturbation):
    """The image upside down: its rows in reverse order, at every severity from 1."""

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        return images.flip(-2)
