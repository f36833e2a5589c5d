"""From what a file holds to what a backbone takes: upright, in [0, 1], three channels or one.

Grey, palette, CMYK, 16 bits, transparency, a camera held sideways: all come out alike. Transparent pixels are put on
black, since where nothing was recorded there was no light; of an animation the first frame is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

__all__ = ["MOST_PIXELS", "Picture", "decoded", "permitted", "reason", "resized", "resized_labels", "with_channels"]

MOST_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: 100 megapixels are 300 MB as bytes and 1.2 GB as floats."""

LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are: ITU-R BT.601, as in every JPEG."""


@dataclass(frozen=True)
class Picture:
    """An image as a backbone takes it.

    Attributes:
        pixels: (c, h, w) in [0, 1].
        before: (height, width) before it was resized.
        notes: what was left out.
    """

    pixels: Float[Tensor, "c h w"]
    before: tuple[int, int]
    notes: tuple[str, ...] = ()


def decoded(image: Image.Image, size: tuple[int, int] | None, channels: int) -> Picture:
    """The first frame of an opened image file.

    Args:
        image: as Pillow opens it, not decoded yet.
        size: (h, w) to resize to, bilinearly with antialiasing.
        channels: 3, or 1 for grey.

    Raises:
        ValueError: more than `MOST_PIXELS`, or pixels without a stated range.
    """
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS // 1_000_000} megapixels")
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("it has several frames; the first was taken")
    depth = 16 if image.mode.startswith("I;16") or (image.mode, image.format) in (("I", "PNG"), ("I", "PPM")) else 8
    if depth == 8 and image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no stated range; save 8 or 16 bits")
    if depth == 8 and has_deep_colour(image):
        notes.append("its 16 bits a channel were read as 8")
    ImageOps.exif_transpose(image, in_place=True)  # a copy less of what may be 300 MB
    upright, before = image, (image.height, image.width)
    if depth == 16:
        # As floats, which Pillow resizes in full precision.
        upright = Image.fromarray(np.asarray(upright).astype(np.float32) / 65535)
    elif upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        opaque = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", opaque.size, "black"), opaque).convert("RGB")
    elif upright.mode != "RGB":
        upright = upright.convert("RGB")
    if size is not None and before != size:
        upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    values = torch.from_numpy(np.array(upright))
    pixels = values.clamp_(0, 1)[None] if depth == 16 else values.permute(2, 0, 1).float().div_(255)
    return Picture(with_channels(pixels, channels), before, tuple(notes))


def has_deep_colour(image: Image.Image) -> bool:
    """Whether the file has colours of more than 8 bits a channel, of which Pillow keeps the upper 8."""
    for *_, arguments in getattr(image, "tile", ()):
        if ";16" in str(arguments):
            return True
        if image.format == "PPM" and isinstance(arguments, tuple) and isinstance(arguments[-1], int):
            return arguments[-1] > 255  # the largest value that a channel has
    return False


def with_channels(pixels: Float[Tensor, "c h w"], channels: int) -> Float[Tensor, "k h w"]:
    """One channel repeated, or three made grey; grey that has three equal channels keeps its values to the bit."""
    if len(pixels) == channels:
        return pixels
    if len(pixels) == 1:
        return pixels.expand(channels, -1, -1)
    if torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[1], pixels[2]):
        return pixels[:1]
    return torch.einsum("chw,c->hw", pixels, pixels.new_tensor(LUMA))[None].clamp_(0, 1)


def resized(pixels: Float[Tensor, "c h w"], size: tuple[int, int] | None) -> Float[Tensor, "c h2 w2"]:
    """Bilinearly with antialiasing, for pixels that are floats already."""
    if size is None or tuple(pixels.shape[1:]) == size:
        return pixels
    return torch.nn.functional.interpolate(
        pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0].clamp_(0, 1)


def resized_labels(labels: Int64[Tensor, "h w"], size: tuple[int, int] | None) -> Int64[Tensor, "h2 w2"]:
    """The label of the nearest pixel: classes have no average."""
    if size is None or tuple(labels.shape) == size:
        return labels
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp_(max=old - 1)
        for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[rows][:, columns]


@contextmanager
def permitted() -> Iterator[None]:
    """Let Pillow open what is below our own limit of pixels, and read past damaged tags, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def reason(error: Exception) -> str:
    """Why a file could not be read, without the path to it."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any format that Pillow reads"
    return str(error) or type(error).__name__
