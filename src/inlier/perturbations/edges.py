"""What lies beyond the edge of an image: its mirror image, about the outermost row or column.

Blurs need it for the pixels near the edge, and a camera that turns or shifts sees something there. A mirrored street
goes on; black corners would be an anomaly of their own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inlier.types import Images

__all__ = ["mirrored", "padded"]


def mirrored(positions: Int[Tensor, "*n"], size: int) -> Int[Tensor, "*n"]:
    """Indices in [0, size) of any whole positions: 0, 1, ..., size - 1, size - 2, ..., 1, 0, 1, ...

    Also far outside, where one reflection does not reach.
    """
    period = max(2 * (size - 1), 1)
    inside = positions % period
    return torch.minimum(inside, period - inside).clamp(max=size - 1)


def padded(images: Images, reach: int) -> Float[Tensor, "n c H W"]:
    """Images with `reach` mirrored rows and columns on every side."""
    for axis in (-2, -1):
        size = images.shape[axis]
        places = torch.arange(-reach, size + reach, device=images.device)
        images = images.index_select(axis, mirrored(places, size))
    return images
