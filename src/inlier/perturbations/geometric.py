"""Changes of where the camera looks from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from inlier.perturbations.base import Perturbation, Pixelwise
from inlier.perturbations.edges import mirrored
from inlier.types import Images

__all__ = ["Roll", "Shift", "VerticalFlip"]


@dataclass(frozen=True)
class VerticalFlip(Perturbation):
    """The image upside down: its rows in reverse order, at every severity from 1."""

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        return images.flip(-2)

    def displace(self, maps: Pixelwise, generator: torch.Generator | None) -> Pixelwise:
        return maps.flip(-2)


@dataclass(frozen=True)
class Roll(Perturbation):
    """The camera turned about the line of sight, left or right, by half to all of the severity's angle, drawn by image.

    The image keeps its size; corners are filled from its mirror image. Bilinear; maps move by nearest neighbours.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        height, width = images.shape[-2:]
        x, y = (places.to(images) for places in self.places(len(images), height, width, generator))
        # From pixels to the [-1, 1] between the outermost pixels, about which "reflection" reflects, as `mirrored`.
        grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)

    def displace(self, maps: Pixelwise, generator: torch.Generator | None) -> Pixelwise:
        x, y = self.places(len(maps), maps.shape[-2], maps.shape[-1], generator)
        return taken(maps, x.round().long(), y.round().long())

    def places(
        self, n: int, height: int, width: int, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
        """Column and row, in pixels, of what each pixel of the turned images shows."""
        source = self.randomness(generator)
        drawn = torch.rand(n, 2, 1, 1, generator=source, device=source.device)
        angle = (1 + drawn[:, 0]) / 2 * math.radians(ANGLES[self.severity]) * torch.where(drawn[:, 1] < 0.5, -1, 1)
        x = torch.arange(width, device=source.device) - (width - 1) / 2
        y = torch.arange(height, device=source.device)[:, None] - (height - 1) / 2
        turned_x, turned_y = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
        return turned_x + (width - 1) / 2, turned_y + (height - 1) / 2


ANGLES = {1: 2.0, 2: 5.0, 3: 10.0, 4: 20.0, 5: 30.0}  # degrees


@dataclass(frozen=True)
class Shift(Perturbation):
    """The camera aimed elsewhere: the image moved by the severity's share of its shorter side, in a drawn direction.

    By whole pixels, at least one, so that nothing is blurred; what comes into view is the mirror image.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        return self.displace(images, generator)

    def displace(self, maps: Pixelwise, generator: torch.Generator | None) -> Pixelwise:
        height, width = maps.shape[-2:]
        source = self.randomness(generator)
        direction = 2 * math.pi * torch.rand(len(maps), 1, 1, generator=source, device=source.device)
        way = max(1, LENGTHS[self.severity] * min(height, width))
        shape = len(maps), height, width
        x = torch.arange(width, device=source.device) + (way * direction.cos()).round().long()
        y = torch.arange(height, device=source.device)[:, None] + (way * direction.sin()).round().long()
        return taken(maps, x.expand(shape), y.expand(shape))


LENGTHS = {1: 0.02, 2: 0.05, 3: 0.1, 4: 0.15, 5: 0.2}


def taken(maps: Pixelwise, x: Int[Tensor, "n h w"], y: Int[Tensor, "n h w"]) -> Pixelwise:
    """Maps whose every pixel is the one of column x and row y, mirrored where these lie outside."""
    height, width = maps.shape[-2:]
    place = (mirrored(y, height) * width + mirrored(x, width)).flatten(1).to(maps.device)
    layers = maps.reshape(len(maps), -1, height * width)
    return layers.gather(2, place[:, None].expand_as(layers)).view(maps.shape)
