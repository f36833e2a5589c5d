"""Pictures of an evaluation, as small WebP images inside text: what went in, what changed, what came out."""

from __future__ import annotations

import base64
import colorsys
import io

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

__all__ = ["changed_mask", "class_picture", "difference_picture", "enlarged", "palette", "photograph"]

GOLDEN = 0.618034
LIGHTNESS = (0.42, 0.6, 0.75)
QUALITY = 75
PURE_VOID = (0, 0, 0)


def photograph(image: Float[Tensor, "c h w"], width: int) -> str:
    """An image in [0, 1], made smaller to `width` pixels if it is wider."""
    height = max(1, round(image.shape[1] * width / image.shape[2]))
    if image.shape[2] > width:
        image = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]
    return data_url(pixels_of(image), QUALITY)


def difference_picture(before: Float[Tensor, "c h w"], after: Float[Tensor, "c h w"], width: int) -> str:
    """after - before, grey where nothing changed, upscaled so that the largest change is black or white."""
    delta = after - before
    return photograph(0.5 + 0.5 * delta / delta.abs().max().clamp_min(1e-6), width)


def enlarged(image: Float[Tensor, "c h w"], width: int) -> Float[Tensor, "c H W"]:
    """So many whole times as large that it is at least `width` pixels wide, each pixel a square."""
    return F.interpolate(image[None], scale_factor=max(1, -(-width // image.shape[2])), mode="nearest")[0]


def class_picture(classes: Int[Tensor, "h w"], colours: UInt8[np.ndarray, "k 3"], width: int) -> str:
    """A colour for each class."""
    return data_url(colours[nearest(classes, width).numpy()])


def changed_mask(before: Int[Tensor, "h w"], after: Int[Tensor, "h w"], width: int) -> str:
    """White where the predicted class changed."""
    mask = nearest((before != after).long(), width).numpy().astype(np.uint8) * 255
    return data_url(np.repeat(mask[..., None], 3, -1))


def palette(classes: int, void: int | None = None) -> UInt8[np.ndarray, "k 3"]:
    """Colours that are far apart; void is black."""
    colours = [
        tuple(round(255 * part) for part in colorsys.hls_to_rgb(number * GOLDEN % 1, LIGHTNESS[number % 3], 0.6))
        for number in range(classes)
    ]
    if void is not None:
        colours[void] = PURE_VOID
    return np.array(colours, np.uint8)


def nearest(maps: Int[Tensor, "h w"], width: int) -> Int[Tensor, "h w"]:
    if maps.shape[1] <= width:
        return maps
    rows = (torch.arange(round(maps.shape[0] * width / maps.shape[1])) * maps.shape[1] / width).long()
    columns = (torch.arange(width) * maps.shape[1] / width).long()
    return maps[rows.clamp(max=maps.shape[0] - 1)][:, columns]


def pixels_of(image: Float[Tensor, "c h w"]) -> UInt8[np.ndarray, "h w 3"]:
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    return np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels


def data_url(pixels: UInt8[np.ndarray, "h w c"], quality: int | None = None) -> str:
    """WebP, lossless without a quality."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=quality is None, quality=quality or 80, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
