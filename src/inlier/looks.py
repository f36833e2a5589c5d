"""Looks at changed images: compressed, shrunk, smoothed or mirrored copies, of which a sound prediction is the same.

Each shows as many images as came, of the same size, and moves the predictions back to where they belong. Nothing is
random, and everything has a gradient, or names what stands in for it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from inlier.observation import Look
from inlier.registry import nearest
from inlier.types import Images, Logits

__all__ = [
    "Blur",
    "Copy",
    "CopyKind",
    "HorizontalFlip",
    "Jpeg",
    "Median",
    "Rescale",
    "copy_look",
    "standing_in",
]


def standing_in(smooth: Tensor, exact: Tensor) -> Tensor:
    """`exact` to the bit, with the gradient of `smooth`: the straight-through estimate.

    Source: Bengio et al. 2013 (arXiv:1308.3432); as an attacker uses it, Athalye et al. 2018 (arXiv:1802.00420).
    """
    return exact.detach() + (smooth - smooth.detach()) if smooth.requires_grad else exact


class Copy(Look):
    """A look at one changed copy of each image, of the same size."""

    @abstractmethod
    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        """The copies, in [0, 1]; they do not depend on the generator."""

    def back(self, output: Logits) -> Logits:
        """The copies' logits, each moved to where its pixel is in the image that was copied."""
        return output


@dataclass(frozen=True)
class Jpeg(Copy):
    """The image after JPEG compression: baseline, 4:2:0, with the usual tables, as libjpeg writes and reads it.

    Compression works on 8-bit values, so images are rounded to these first, and so is what comes out. Images of one
    channel are compressed as grey ones. Differs from libjpeg: coefficients are worked out in floating point, and one
    half way between two steps goes to the even one, so that some values come out a little different.

    Rounding has no gradient. That of the identity stands in for it wherever JPEG rounds; all else (the averaging of
    chroma, clipping) has its own.

    Source: ITU-T T.81, Annex A and Tables K.1 and K.2; colours by JFIF 1.02; the scale of the tables by quality, the
    triangle filter that spreads chroma and the direction of its rounding are those of libjpeg.

    Args:
        quality: 1 to 100.

    Raises:
        ValueError: another quality; images of neither 1 nor 3 channels.
    """

    quality: int = 75

    def __post_init__(self) -> None:
        if self.quality != int(self.quality) or not 1 <= self.quality <= 100:
            raise ValueError(f"JPEG's quality is a whole number from 1 to 100, not {self.quality!r}")

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        channels, height, width = images.shape[1:]
        if channels not in (1, 3):
            raise ValueError(f"JPEG compresses grey and RGB images, of 1 or 3 channels, and {channels} came")
        pixels = rounded(images * 255)
        luma, chroma = (table(kind, self.quality) for kind in ("luma", "chroma"))
        if channels == 1:
            return (coded(pixels - 128, luma) + 128) / 255
        planes = rounded(mixed(TO_YCC, pixels))
        grey = coded(planes[:, :1] - 128, luma)
        # Chroma is kept for every second pixel: its last row or column may be that of one pixel alone.
        rows, columns = -(-height // 2), -(-width // 2)
        differences = coded(halved(planes[:, 1:]), chroma)[..., :rows, :columns]
        colours = rounded(mixed(TO_RGB, doubled(differences)[..., :height, :width]))
        return (grey + colours + 128).clamp(0, 255) / 255


TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""Rows: luma and both chroma differences, as weights of red, green and blue (JFIF 1.02)."""
TO_RGB = ((0.0, 1.402), (-0.344136286, -0.714136286), (1.772, 0.0))
"""Rows: what both chroma differences add to luma in red, green and blue (JFIF 1.02)."""

QUANTISATION: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "luma": (
            (16, 11, 10, 16, 24, 40, 51, 61),
            (12, 12, 14, 19, 26, 58, 60, 55),
            (14, 13, 16, 24, 40, 57, 69, 56),
            (14, 17, 22, 29, 51, 87, 80, 62),
            (18, 22, 37, 56, 68, 109, 103, 77),
            (24, 35, 55, 64, 81, 104, 113, 92),
            (49, 64, 78, 87, 103, 121, 120, 101),
            (72, 92, 95, 98, 112, 100, 103, 99),
        ),
        "chroma": (
            (17, 18, 24, 47, 99, 99, 99, 99),
            (18, 21, 26, 66, 99, 99, 99, 99),
            (24, 26, 56, 99, 99, 99, 99, 99),
            (47, 66, 99, 99, 99, 99, 99, 99),
            *((99,) * 8,) * 4,
        ),
    }
)
"""Steps of the 8 x 8 coefficients at quality 50 (ITU-T T.81, Tables K.1 and K.2)."""


def table(kind: str, quality: int) -> Float[Tensor, "8 8"]:
    """The steps at a quality, as libjpeg scales them; whole numbers from 1 to 255."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return torch.tensor(QUANTISATION[kind]).mul(scale).add(50).floor_divide(100).clamp(1, 255).float()


TOGETHER = 32
"""Values across that one product transforms, four blocks: a few times as fast as one block at a time."""


@cache
def cosines() -> tuple[Float[Tensor, "8 8"], Float[Tensor, "32 32"]]:
    """The orthonormal discrete cosine transform of 8 values (ITU-T T.81, A.3.3), and of four times 8 side by side.

    Rows are frequencies.
    """
    frequency, place = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    waves = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    waves[0] /= math.sqrt(2)
    return waves, torch.kron(torch.eye(TOGETHER // 8, dtype=torch.float64), waves)


def rounded(x: Tensor) -> Tensor:
    return standing_in(x, x.round())


def floored(x: Tensor) -> Tensor:
    return standing_in(x, x.floor())


def mixed(weights: tuple[tuple[float, ...], ...], planes: Float[Tensor, "n a h w"]) -> Float[Tensor, "n b h w"]:
    """Weighted sums of the planes, a row of weights each."""
    matrix = torch.tensor(weights, device=planes.device, dtype=planes.dtype)
    return (matrix @ planes.flatten(2)).reshape(len(planes), len(weights), *planes.shape[2:])


def coded(planes: Float[Tensor, "n c h w"], steps: Float[Tensor, "8 8"]) -> Float[Tensor, "n c h w"]:
    """Planes around 0 after their coefficients were rounded to multiples of the steps, block by block of 8 x 8."""
    height, width = planes.shape[-2:]
    down, across = -height % 8, -width % TOGETHER
    if down or across:
        planes = F.pad(planes, (0, across, 0, down), mode="replicate")
    waves, together = (part.to(planes) for part in cosines())
    steps = steps.to(planes).repeat(1, planes.shape[-1] // 8)
    # Rows of blocks (.., 8, w) are transformed down, then pieces of rows across: nothing is moved about in memory.
    blocks = (*planes.shape[:2], planes.shape[2] // 8, 8, planes.shape[3])
    pieces = (*blocks[:4], blocks[4] // TOGETHER, TOGETHER)
    coefficients = ((waves @ planes.reshape(blocks)).reshape(pieces) @ together.T).reshape(blocks)
    coefficients = rounded(coefficients / steps) * steps
    values = ((waves.T @ coefficients).reshape(pieces) @ together).reshape(planes.shape)
    return rounded(values[..., :height, :width]).clamp(-128, 127)


def halved(planes: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c rows columns"]:
    """Means of 2 x 2 values; half a value goes down in even columns and up in odd ones, so that neither wins."""
    height, width = planes.shape[-2:]
    columns = -(-width // 2)
    # libjpeg repeats the image's last column to fill a block, and the means' last row: so the two differ.
    across = 2 * (columns + -columns % 8) - width
    if across or height % 2:
        planes = F.pad(planes, (0, across, 0, height % 2), mode="replicate")
    rows = planes[..., ::2, :] + planes[..., 1::2, :]
    sums = rows[..., ::2] + rows[..., 1::2]
    bias = torch.tensor([1.0, 2.0], device=planes.device, dtype=planes.dtype).repeat(sums.shape[-1] // 2)
    return floored((sums + bias) / 4)


def doubled(planes: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c rows columns"]:
    """Twice the size: every value is made of its four nearest, with weights 9, 3, 3 and 1 of 16."""
    spread = F.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)
    bias = torch.tensor([8.0, 7.0], device=planes.device, dtype=planes.dtype).div(16).repeat(planes.shape[-1])
    return floored(spread + bias)


@dataclass(frozen=True)
class Rescale(Copy):
    """The image made smaller, antialiased, and as large as before again, bilinearly: what is fine in it is gone.

    The copy has the size of the image, so that it suits networks of one size and readers with a key.

    Args:
        factor: of both sides, more than 0 and less than 1.

    Raises:
        ValueError: another factor.
    """

    factor: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"Rescale makes images smaller, by a factor between 0 and 1, not {self.factor!r}")

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        size = images.shape[-2:]
        smaller = [max(1, round(side * self.factor)) for side in size]
        images = F.interpolate(images, size=smaller, mode="bilinear", align_corners=False, antialias=True)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False).clamp(0, 1)


@dataclass(frozen=True)
class Blur(Copy):
    """The image smoothed by a Gaussian, which is cut off at 4 standard deviations; edges are repeated outwards.

    Args:
        sigma: the standard deviation in pixels, more than 0.

    Raises:
        ValueError: another sigma.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"Blur needs a standard deviation in pixels of more than 0, not {self.sigma!r}")

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        reach = max(1, round(4 * self.sigma))
        places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        weights = torch.softmax(-0.5 * (places / self.sigma).square(), dim=0)
        planes = F.pad(images, (reach,) * 4, mode="replicate").flatten(0, 1)[:, None]
        planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
        return planes.view_as(images).clamp(0, 1)


@dataclass(frozen=True)
class Median(Copy):
    """Every value replaced by the median of the square around it; edges are repeated outwards.

    Its gradient goes to the value that is the median.

    Args:
        size: of the square's sides in pixels, an odd number from 3. 3 is many times faster than others.

    Raises:
        ValueError: another size.
    """

    size: int = 3

    def __post_init__(self) -> None:
        if self.size != int(self.size) or self.size < 3 or self.size % 2 == 0:
            raise ValueError(f"Median needs a square of odd sides from 3 pixels, not {self.size!r}")

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        height, width = images.shape[-2:]
        padded = F.pad(images, (self.size // 2,) * 4, mode="replicate")
        if self.size > 3:
            return padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(-2).median(-1).values
        low, middle, high = ordered(*(padded[..., row : row + height, :] for row in range(3)))
        lows, middles, highs = (
            [part[..., column : column + width] for column in range(3)] for part in (low, middle, high)
        )
        # The median of nine is that of: the largest low, the median middle and the smallest high of three columns.
        least = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
        most = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
        return ordered(most, ordered(*middles)[1], least)[1]


def ordered(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The smallest, the median and the largest of three values."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


@dataclass(frozen=True)
class HorizontalFlip(Copy):
    """The image seen in a mirror; predictions of pixels are mirrored back."""

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        return images.flip(-1)

    def back(self, output: Logits) -> Logits:
        return output.flip(-1) if output.ndim == 4 else output


CopyKind: TypeAlias = Literal["jpeg", "rescale", "blur", "median", "flip"]

COPIES: Mapping[CopyKind, Callable[..., Copy]] = MappingProxyType(
    {"jpeg": Jpeg, "rescale": Rescale, "blur": Blur, "median": Median, "flip": HorizontalFlip}
)
"""By the name that a setting has for it."""


def copy_look(kind: CopyKind, strength: float | None = None) -> Copy:
    """The look of a name, and of a strength: quality, factor, sigma or size; by default that of its class.

    Raises:
        ValueError: no such look, a strength that it cannot have, or one for a flip, which has none.
    """
    if kind not in COPIES:
        raise ValueError(f"There is no look {kind!r}. {nearest(str(kind), list(COPIES))}")
    if strength is None:
        return COPIES[kind]()
    if kind == "flip":
        raise ValueError(f"A flip has no strength: leave out strength={strength!r}")
    whole = kind in ("jpeg", "median") and strength == int(strength)
    return COPIES[kind](int(strength) if whole else strength)
