"""Blurs of the lens and of motion: every pixel becomes a weighted mean of others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from inlier.perturbations.base import Perturbation
from inlier.perturbations.edges import padded
from inlier.types import Images

__all__ = ["DefocusBlur", "MotionBlur", "ZoomBlur", "convolved", "disc", "fading", "trail", "zoomed"]


@dataclass(frozen=True)
class DefocusBlur(Perturbation):
    """The image out of focus: every point becomes a disc with a softened rim.

    Radii and softening of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261): pixels of images of
    224 x 224, and the same pixels here whatever the size.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        return convolved(images, disc(*DISCS[self.severity]).to(images))


DISCS = {1: (3, 0.1), 2: (4, 0.5), 3: (6, 0.5), 4: (8, 0.5), 5: (10, 0.5)}  # severity: radius, softening


@dataclass(frozen=True)
class MotionBlur(Perturbation):
    """The camera moves while the shutter is open, along a line within 45 degrees of the horizontal, drawn by image.

    Trails of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261), in pixels whatever the size. Differs
    from it in where the trail lies: here about the pixel and not ahead of it, so that the image stays above its labels.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source = self.randomness(generator)
        angles = math.pi / 4 * (2 * torch.rand(len(images), generator=source, device=source.device) - 1)
        return convolved(images, trail(fading(*TRAILS[self.severity]), angles).to(images))


TRAILS = {1: (10, 3.0), 2: (15, 5.0), 3: (15, 8.0), 4: (15, 12.0), 5: (20, 15.0)}  # severity: radius, deviation


@dataclass(frozen=True)
class ZoomBlur(Perturbation):
    """The camera rushes forward while the shutter is open: the mean of copies magnified about the middle.

    The largest factors are those of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261). Differs from it
    in the copies: there 11 to 16 whatever the size, which show as ghosts in an image larger than 224 x 224; here as
    many as keep neighbours within two pixels of each other, in equal ratios from 1 to the largest factor.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        largest = FACTORS[self.severity]
        way = (largest - 1) * max(images.shape[-2:]) / 2  # of a pixel at the rim
        doublings = max(1, math.ceil(math.log2(max(way / 2, 1))))
        ratio = largest ** (1 / (2**doublings - 1))
        for doubling in range(doublings):  # from the mean of k copies to that of 2 k
            images = (images + zoomed(images, ratio ** (2**doubling))) / 2
        return images


FACTORS = {1: 1.11, 2: 1.15, 3: 1.2, 4: 1.24, 5: 1.3}


def disc(radius: int, softening: float) -> Float[Tensor, "1 k k"]:
    """A kernel: a disc of a radius in pixels, smoothed by a Gaussian of deviation `softening`, of sum 1."""
    reach = max(8, radius)
    places = torch.arange(-reach, reach + 1.0)
    inside = (places[:, None] ** 2 + places**2 <= radius**2).float()[None, None]
    taps = torch.arange(-1, 2.0) if radius <= 8 else torch.arange(-2, 3.0)
    weights = (-(taps**2) / (2 * softening**2)).exp()
    soft = F.conv2d(
        inside / inside.sum(), (weights[:, None] * weights / weights.sum() ** 2)[None, None], padding="same"
    )
    return soft[0] / soft.sum()


def fading(radius: int, deviation: float) -> Float[Tensor, " taps"]:
    """Weights of a trail that fades like half a Gaussian, over twice the radius, of sum 1."""
    weights = (-(torch.arange(2 * radius + 1.0) ** 2) / (2 * deviation**2)).exp()
    return weights / weights.sum()


def trail(weights: Float[Tensor, " taps"], angles: Float[Tensor, " n"]) -> Float[Tensor, "n k k"]:
    """Kernels: a line of weights a pixel apart, at angles in radians from the horizontal, about its centre of mass.

    Between pixels a weight is shared among the four around it.
    """
    taps = (
        torch.arange(len(weights), dtype=weights.dtype) - (torch.arange(len(weights)) * weights).sum() / weights.sum()
    )
    reach = math.ceil(taps.abs().max().item()) + 1
    size = 2 * reach + 1
    weights, taps = weights.to(angles), taps.to(angles)
    x, y = reach + taps * angles.cos()[:, None], reach + taps * angles.sin()[:, None]
    left, top = x.floor(), y.floor()
    kernels = torch.zeros(len(angles), size * size, device=angles.device)
    for across in (0, 1):
        for down in (0, 1):
            share = (1 - (x - left - across).abs()) * (1 - (y - top - down).abs())
            kernels.scatter_add_(1, ((top + down) * size + left + across).long(), weights * share)
    return kernels.view(-1, size, size)


def convolved(images: Images, kernels: Float[Tensor, "m k k"]) -> Images:
    """Images filtered by a kernel each, or all by one; `k` is odd. Beyond the edge lies the mirror image.

    True convolution: the kernel is what a single bright pixel becomes. By FFT, because kernels are large.
    """
    size = kernels.shape[-1]
    height, width = images.shape[-2:]
    exact = torch.promote_types(images.dtype, torch.float32)  # there is no FFT of half precision
    around = padded(images.to(exact), size // 2)
    shape = around.shape[-2], around.shape[-1]
    spectrum = torch.fft.rfft2(around) * torch.fft.rfft2(kernels.to(exact), s=shape)[:, None]
    # What wraps around spoils the first k - 1 rows and columns, all of them outside the image.
    whole = torch.fft.irfft2(spectrum, s=shape)
    inside: Tensor = whole[..., size - 1 : size - 1 + height, size - 1 : size - 1 + width]
    return inside.to(images)


def zoomed(images: Images, factor: float) -> Images:
    """The middle of images, magnified by a factor of 1 or more to the size of the whole. Bilinear."""
    scale = torch.diag(images.new_tensor([1 / factor, 1 / factor, 1]))[:2].expand(len(images), 2, 3)
    places = F.affine_grid(scale, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)
