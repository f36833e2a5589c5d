"""Colour: brightness of a pixel, and hue, saturation and value. A grey image has a brightness and no colour."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.types import Images

__all__ = ["from_hsv", "has_colour", "luma", "to_hsv"]


def has_colour(images: Images) -> bool:
    """Whether images are RGB (3 channels) and not grey (1).

    Raises:
        ValueError: they are neither.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"Expected RGB or grey images, with 3 channels or 1, not {channels}.")
    return channels == 3


def luma(images: Images) -> Float[Tensor, "n 1 h w"]:
    """Brightness as the eye weighs it: .299 red + .587 green + .114 blue (ITU-R BT.601)."""
    if not has_colour(images):
        return images
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def to_hsv(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Hue in turns (red 0, green 1/3, blue 2/3), saturation and value, of RGB; all in [0, 1].

    Hexcone model (Smith, Color gamut transform pairs, SIGGRAPH 1978). What has no hue (grey) or no saturation (black)
    gets 0.
    """
    red, green, blue = images.unbind(1)
    value, brightest = images.max(1)
    chroma = value - images.amin(1)
    step = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        brightest == 0,
        (green - blue) / step,
        torch.where(brightest == 1, 2 + (blue - red) / step, 4 + (red - green) / step),
    )
    return torch.stack([(sixths / 6) % 1, chroma / torch.where(value > 0, value, 1), value], dim=1)


def from_hsv(colours: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """RGB of hue (any number of turns), saturation and value: the inverse of `to_hsv`."""
    hue, saturation, value = colours.unbind(1)
    offsets = colours.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    place = (offsets + 6 * hue[:, None]) % 6
    return (value - value * saturation)[:, None] + (value * saturation)[:, None] * (
        1 - torch.minimum(place, 4 - place).clamp(0, 1)
    )
