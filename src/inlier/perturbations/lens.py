"""What gets onto the glass before the camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from inlier.perturbations.base import Perturbation
from inlier.perturbations.blur import convolved, disc
from inlier.perturbations.clouds import clouds
from inlier.types import Images

__all__ = ["LensDrops", "Occlusion"]


@dataclass(frozen=True)
class LensDrops(Perturbation):
    """Drops of water on the glass: each shows the scene upside down, small and out of focus, and darkens at its rim.

    Sizes scale with the shorter side of the image.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        count, largest = DROPS[self.severity]
        source, (n, _, height, width) = self.randomness(generator), images.shape
        side = min(height, width)
        drawn = torch.rand(4, n, count, 1, 1, generator=source, device=source.device).to(images)
        radius = largest * side * (0.3 + 0.7 * drawn[2] ** 2)  # many small, few large
        x, y = drawn[0] * width, drawn[1] * height
        tall = 1 + 0.35 * drawn[3]
        # One slow warp for all drops: none is a perfect ellipse.
        warp = clouds(2 * n, height, width, 1.9, source).to(images).view(2, n, height, width) - 0.5
        across = torch.arange(width, device=images.device) + 0.5 + 0.1 * side * warp[0]
        down = torch.arange(height, device=images.device)[:, None] + 0.5 + 0.1 * side * warp[1]
        depth = images.new_full((n, height, width), -1.0)  # 1 at the middle of a drop, 0 at its rim
        seen_x, seen_y = torch.zeros_like(depth), torch.zeros_like(depth)
        for drop in range(count):
            aside, below = across - x[:, drop], down - y[:, drop]
            inside = 1 - ((aside / radius[:, drop]) ** 2 + (below / (tall[:, drop] * radius[:, drop])) ** 2).sqrt()
            nearer = inside > depth
            depth = torch.where(nearer, inside, depth)
            # A drop is a strong lens: whatever its size it shows a wide view, turned by 180 degrees about its middle.
            scale = VIEW * side / radius[:, drop]
            seen_x = torch.where(nearer, x[:, drop] - scale * aside, seen_x)
            seen_y = torch.where(nearer, y[:, drop] - scale * below, seen_y)
        grid = torch.stack([2 * seen_x / width - 1, 2 * seen_y / height - 1], dim=-1)
        blurred = convolved(images, disc(max(1, round(0.02 * side)), 0.5).to(images))
        view = F.grid_sample(blurred, grid, padding_mode="reflection", align_corners=False)
        rim = 0.7 + 0.3 * (depth.clamp(0, 1) / 0.3).clamp(0, 1)
        cover = (depth / 0.25 + 0.5).clamp(0, 1)  # the rim is out of focus
        return torch.lerp(images, view * rim[:, None], cover[:, None])


DROPS = {1: (8, 0.06), 2: (14, 0.065), 3: (22, 0.075), 4: (30, 0.085), 5: (40, 0.1)}  # severity: drops, largest radius
VIEW = 0.4  # what a drop shows from its middle to its rim, of the shorter side


@dataclass(frozen=True)
class Occlusion(Perturbation):
    """Mud on the glass: dark, of ragged outline and soft edge, about a drawn point. It hides the severity's share."""

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source, (n, _, height, width) = self.randomness(generator), images.shape
        cover = patch(n, height, width, HIDDEN[self.severity], source).to(images)[:, None]
        mottle = clouds(n, height, width, 1.6, source).to(images)[:, None]
        tone = images.new_tensor(DIRT if images.shape[1] == 3 else DIRT[1:2]).view(-1, 1, 1)
        return torch.lerp(images, tone * (0.6 + 0.8 * mottle), cover)


HIDDEN = {1: 0.05, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.45}
DIRT = (0.11, 0.09, 0.07)


def patch(n: int, height: int, width: int, share: float, generator: torch.Generator) -> Float[Tensor, "n h w"]:
    """How much of each pixel is hidden, 0 to 1; at least half in exactly a share of the pixels, one or more."""
    centre = torch.rand(2, n, 1, 1, generator=generator, device=generator.device)
    side = min(height, width)
    across = (torch.arange(width, device=generator.device) + 0.5 - width * centre[0]) / side
    down = (torch.arange(height, device=generator.device)[:, None] + 0.5 - height * centre[1]) / side
    ragged = clouds(n, height, width, 1.5, generator) - 0.5
    nearness = 0.9 * ragged - (across**2 + down**2).sqrt()
    hidden = max(1, round(share * height * width))
    rim = nearness.flatten(1).kthvalue(height * width - hidden + 1, dim=1).values.view(n, 1, 1)
    return ((nearness - rim) / SOFT + 0.5).clamp(0, 1)


SOFT = 0.03  # width of the edge, of the shorter side
