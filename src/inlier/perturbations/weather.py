"""Weather between the camera and the scene, made by computation alone: no photographs of weather are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.perturbations.base import Perturbation
from inlier.types import Images

__all__ = ["Fog", "plasma"]


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
        size = 1 << (max(height, width) - 1).bit_length()
        veil = plasma(len(images), size, decay, self.randomness(generator)).to(images)[:, None, :height, :width]
        brightest = images.amax((1, 2, 3), keepdim=True)
        return (images + density * veil) * (brightest / (brightest + density))


FOGS = {1: (1.5, 2.0), 2: (2.0, 2.0), 3: (2.5, 1.7), 4: (2.5, 1.5), 5: (3.0, 1.4)}  # severity: density, decay


def plasma(count: int, size: int, decay: float, generator: torch.Generator) -> Float[Tensor, "count size size"]:
    """Random clouds in [0, 1] on a torus: the diamond-square fractal, `size` a power of two.

    Each halving of the grid adds uniform noise to the mean of the four neighbours. The noise falls by `decay` *squared*
    from grid to grid, as in ImageNet-C, where its amplitude multiplies noise already drawn within that amplitude.
    (Fournier, Fussell & Carpenter, Computer rendering of stochastic models, CACM 1982.)
    """
    grid = torch.zeros(count, 1, 1, device=generator.device)
    amplitude = 1.0
    while grid.shape[-1] < size:
        noise = torch.rand(3, *grid.shape, generator=generator, device=generator.device).sub_(0.5).mul_(2 * amplitude)
        rows = grid + grid.roll(-1, 2)
        centres = (rows + rows.roll(-1, 1)) / 4 + noise[0]
        across = (rows + centres + centres.roll(1, 1)) / 4 + noise[1]
        down = (grid + grid.roll(-1, 1) + centres + centres.roll(1, 2)) / 4 + noise[2]
        even, odd = torch.stack([grid, across], dim=3), torch.stack([down, centres], dim=3)
        grid = torch.stack([even.flatten(2), odd.flatten(2)], dim=2).flatten(1, 2)
        amplitude /= decay**2
    lowest, highest = grid.amin((1, 2), keepdim=True), grid.amax((1, 2), keepdim=True)
    return (grid - lowest) / (highest - lowest).clamp_min(torch.finfo(grid.dtype).tiny)
