"""Constraints say where an attacker may be; parametrisations say what he moves to get there.

A constraint is a ball around the clean image, and [0, 1] always. A parametrisation maps what is optimised to images:
the pixels themselves, one delta for all images, the pixels under a patch, or a smaller image that is up-sampled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from inlier.types import Images, Scores

__all__ = [
    "Constraint",
    "L2Ball",
    "LinfBall",
    "LowResolution",
    "MaskedPatch",
    "Parametrisation",
    "Pixels",
    "SharedDelta",
    "Unbounded",
]

_Small: TypeAlias = Float[Tensor, "n c small_h small_w"]


class Constraint(ABC):
    """A set around clean images, always within [0, 1]."""

    @abstractmethod
    def ball(self, point: Tensor, centre: Tensor) -> Tensor:
        """The nearest point of the ball around `centre`; [0, 1] is not looked at, so that deltas can be kept in it."""

    @abstractmethod
    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the ball around `centre`; [0, 1] is not looked at."""

    def scaled(self, factor: float) -> Constraint:
        """The ball with so many times the radius; for attacks that start in a larger one."""
        return self

    def project(self, images: Images, clean: Images) -> Images:
        """Into the ball, then into [0, 1].

        The result is in both: no pixel of a clean image is outside [0, 1], so clamping never takes one further away.
        """
        return self.ball(images, clean).clamp(0, 1)

    def draw(self, clean: Images, generator: torch.Generator) -> Images:
        """Random images of the ball, clamped to [0, 1]."""
        return self.sample(clean, generator).clamp(0, 1)


@dataclass(frozen=True)
class LinfBall(Constraint):
    """No value changes by more than `eps`, in units of [0, 1]."""

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def scaled(self, factor: float) -> LinfBall:
        return LinfBall(self.eps * factor)

    def ball(self, point: Tensor, centre: Tensor) -> Tensor:
        return point.clamp(centre - self.eps, centre + self.eps)

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        return self.ball(centre + self.eps * (2 * _uniform(centre, generator) - 1), centre)


@dataclass(frozen=True)
class L2Ball(Constraint):
    """The norm over all of an image's changes is at most `eps`, to the rounding of its pixels; units of [0, 1]."""

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def scaled(self, factor: float) -> L2Ball:
        return L2Ball(self.eps * factor)

    def ball(self, point: Tensor, centre: Tensor) -> Tensor:
        delta = point - centre
        norm = _norms(delta)
        return point.where(norm <= self.eps, centre + delta * (self.eps / norm))

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in the ball: a uniform direction and a radius whose d-th power is uniform."""
        direction = torch.randn(centre.shape, generator=generator).to(centre)
        radius = torch.rand((len(centre), 1, 1, 1), generator=generator).pow(1 / centre[0].numel()).to(centre)
        return self.ball(centre + direction * (self.eps * radius / _norms(direction)), centre)


@dataclass(frozen=True)
class Unbounded(Constraint):
    """Anywhere in [0, 1]."""

    def ball(self, point: Tensor, centre: Tensor) -> Tensor:
        return point

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in [0, 1], wherever the centre is."""
        return _uniform(centre, generator)


def _check_eps(eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be positive and finite, in units of [0, 1], not {eps}; no limit is Unbounded()")


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator).to(like)


def _norms(delta: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
    return norms


class Parametrisation(ABC):
    """What is optimised. Its first axis is over images, or has length 1 where all images share it."""

    @abstractmethod
    def start(self, clean: Images) -> Tensor:
        """The parameters of the clean images."""

    @abstractmethod
    def images(self, parameters: Tensor, clean: Images) -> Images:
        """The attacked images, in [0, 1]; differentiable."""

    @abstractmethod
    def project(self, parameters: Tensor, clean: Images, constraint: Constraint) -> Tensor:
        """The parameters brought back to where the attacker may be."""

    @abstractmethod
    def draw(self, clean: Images, constraint: Constraint, generator: torch.Generator) -> Tensor:
        """Random parameters, where the attacker may be."""

    def pool(self, values: Scores) -> Scores:
        """The values by which iterates are compared, image by image; their mean where all images share parameters."""
        return values


@dataclass(frozen=True)
class Pixels(Parametrisation):
    """The images' own pixels, as absolute values: one step from x is x + step, with no rounding of a difference."""

    def start(self, clean: Images) -> Images:
        return clean

    def images(self, parameters: Images, clean: Images) -> Images:
        return parameters

    def project(self, parameters: Images, clean: Images, constraint: Constraint) -> Images:
        return constraint.project(parameters, clean)

    def draw(self, clean: Images, constraint: Constraint, generator: torch.Generator) -> Images:
        return constraint.draw(clean, generator)


@dataclass(frozen=True)
class SharedDelta(Parametrisation):
    """One perturbation (1, c, h, w) for all images: a universal attack, such as GD-UAP (arXiv:1801.08092)."""

    def start(self, clean: Images) -> Tensor:
        return torch.zeros_like(clean[:1])

    def images(self, parameters: Tensor, clean: Images) -> Images:
        return (clean + parameters).clamp(0, 1)

    def project(self, parameters: Tensor, clean: Images, constraint: Constraint) -> Tensor:
        return constraint.ball(parameters, self.start(clean))

    def draw(self, clean: Images, constraint: Constraint, generator: torch.Generator) -> Tensor:
        return constraint.sample(self.start(clean), generator)

    def pool(self, values: Scores) -> Scores:
        return values.mean().expand_as(values)


@dataclass(frozen=True, eq=False)
class MaskedPatch(Parametrisation):
    """The pixels where `mask` (h, w) is true; the others stay as they are."""

    mask: Bool[Tensor, "h w"]

    @classmethod
    def rectangle(
        cls, size: tuple[int, int], image_size: tuple[int, int], at: tuple[int, int] | None = None
    ) -> MaskedPatch:
        """A patch of (h, w) pixels in an image of another (h, w).

        Args:
            at: row and column of its first pixel; by default it is in the middle.

        Raises:
            ValueError: it is larger than the image, or not within it.

        >>> MaskedPatch.rectangle((1, 2), (3, 4)).mask.long().tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        """
        if size[0] > image_size[0] or size[1] > image_size[1]:
            raise ValueError(
                f"A patch of {size[0]} x {size[1]} pixels is larger than the image, which is {image_size[0]} x "
                f"{image_size[1]}: give a smaller one"
            )
        top, left = at or tuple((whole - part) // 2 for part, whole in zip(size, image_size, strict=True))
        bottom, right = top + size[0], left + size[1]
        if min(size) < 1 or min(top, left) < 0 or bottom > image_size[0] or right > image_size[1]:
            raise ValueError(
                f"A patch of {size[0]} x {size[1]} pixels at row {top}, column {left} is not within an image of "
                f"{image_size[0]} x {image_size[1]}"
            )
        mask = torch.zeros(image_size, dtype=torch.bool)
        mask[top:bottom, left:right] = True
        return cls(mask)

    def start(self, clean: Images) -> Images:
        if self.mask.dtype != torch.bool or self.mask.shape != clean.shape[-2:]:
            raise ValueError(
                f"The mask must be bool and of the images' size {tuple(clean.shape[-2:])}, "
                f"not {self.mask.dtype} and {tuple(self.mask.shape)}"
            )
        return clean

    def images(self, parameters: Images, clean: Images) -> Images:
        return parameters.where(self.mask.to(clean.device), clean)

    def project(self, parameters: Images, clean: Images, constraint: Constraint) -> Images:
        return constraint.project(self.images(parameters, clean), clean)

    def draw(self, clean: Images, constraint: Constraint, generator: torch.Generator) -> Images:
        return self.images(constraint.draw(clean, generator), clean)


@dataclass(frozen=True)
class LowResolution(Parametrisation):
    """A smaller image; what is done to it is up-sampled and added to the image that is attacked.

    An image that was up-sampled from a native one is attacked as the native one: what is seen is the attacked small
    image, up-sampled. A detector may break on the up-sampled tensor and hold on the native image (Fort, near-OOD
    paper), so results say which was optimised. Of any other image the detail stays, and the change is smooth or in
    blocks.

    The ball and [0, 1] hold for the *small* image's values. An Linf ball then holds for what is seen as well, since an
    up-sampled value is a mean of small ones; the L2 norm of what is seen is larger than the small one's, by about the
    root of the number of pixels that each small one becomes, and a ball on it could not be projected back to. What is
    seen is cut to [0, 1] too. The small images are the result's `parameters`.

    Args:
        size: (h, w) of the small image, at most that of the images.
        mode: of the up-sampling; corners are not aligned.

    >>> import torch
    >>> native = torch.rand(1, 3, 4, 4)
    >>> seen = torch.nn.functional.interpolate(native, (9, 9), mode="bilinear")
    >>> bool((LowResolution((4, 4)).start(seen) - native).abs().max() < 1e-5)
    True
    """

    size: tuple[int, int]
    mode: Literal["bilinear", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.mode not in ("bilinear", "nearest"):
            raise ValueError(
                "size is (height, width) of at least 1 pixel and mode 'bilinear' or 'nearest', "
                f"not {self.size} and {self.mode!r}"
            )

    def start(self, clean: Images) -> _Small:
        """The small images that come nearest to the clean ones when they are up-sampled, cut to [0, 1].

        Nearest in the mean square. Of images that were up-sampled from [0, 1] this way it is these, to rounding.
        """
        height, width = clean.shape[-2:]
        if self.size[0] > height or self.size[1] > width:
            raise ValueError(f"A low resolution is at most that of the images, {height} x {width}, not {self.size}")
        rows, columns = (
            _shrinking(small, large, self.mode).to(clean)
            for small, large in zip(self.size, (height, width), strict=True)
        )
        return (rows @ clean @ columns.T).clamp(0, 1)

    def images(self, parameters: _Small, clean: Images) -> Images:
        change = parameters - self.start(clean)
        aligned = {"align_corners": False} if self.mode == "bilinear" else {}
        return (clean + F.interpolate(change, size=clean.shape[-2:], mode=self.mode, **aligned)).clamp(0, 1)

    def project(self, parameters: _Small, clean: Images, constraint: Constraint) -> _Small:
        return constraint.project(parameters, self.start(clean))

    def draw(self, clean: Images, constraint: Constraint, generator: torch.Generator) -> _Small:
        return constraint.draw(self.start(clean), generator)


@lru_cache(maxsize=16)
def _shrinking(small: int, large: int, mode: str) -> Float[Tensor, "small large"]:
    """Along one axis, what undoes up-sampling: the pseudo-inverse of its matrix."""
    basis = torch.eye(small, dtype=torch.float64)[None]
    if mode == "bilinear":
        growing = F.interpolate(basis, size=large, mode="linear", align_corners=False)[0].T
    else:
        growing = F.interpolate(basis, size=large, mode="nearest")[0].T
    inverse: Tensor = torch.linalg.pinv(growing)
    return inverse
