"""Clouds: a random texture that looks alike at every size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["clouds", "plasma"]


def clouds(count: int, height: int, width: int, decay: float, generator: torch.Generator) -> Float[Tensor, "count h w"]:
    """Random clouds in [0, 1]: the corner of a plasma of the smallest power of two that covers the size."""
    size = 1 << (max(height, width) - 1).bit_length()
    return plasma(count, size, decay, generator)[:, :height, :width]


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
