"""Defects of the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inlier.perturbations.base import Perturbation
from inlier.types import Images

__all__ = ["DeadRows"]


@dataclass(frozen=True)
class DeadRows(Perturbation):
    """Rows that the sensor does not read: the severity's share of them, at least one, is black. Drawn by image."""

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source, (n, _, height, _) = self.randomness(generator), images.shape
        dead = max(1, round(DEAD[self.severity] * height))
        order = torch.rand(n, height, generator=source, device=source.device).argsort(1)
        return images.masked_fill((order < dead).to(images.device)[:, None, :, None], 0)


DEAD = {1: 0.01, 2: 0.02, 3: 0.05, 4: 0.1, 5: 0.2}
