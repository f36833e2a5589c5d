"""Changes of light and of how the camera renders it. Every pixel changes by itself; nothing moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.perturbations.base import Perturbation
from inlier.perturbations.colour import from_hsv, has_colour, luma, to_hsv
from inlier.types import Images

__all__ = ["Brightness", "ColorJitter", "Contrast", "Gamma", "GreyLevel", "Saturation", "WhiteBalance"]


@dataclass(frozen=True)
class ColorJitter(Perturbation):
    """Brightness, contrast, saturation and hue changed at random and in random order, image by image.

    At severity 1 the three factors are uniform in [.6, 1.4] and the hue turns by a uniform [-.1, .1] of the circle; at
    2 to 5 both intervals are wider (`JITTERS`). A factor f takes the image to f x + (1 - f) y, where y is black for
    brightness, the mean brightness of the image for contrast, and the pixel's own brightness for saturation. Every
    step is clipped to [0, 1]. A grey image has neither saturation nor hue to change.

    The perturbation is DAAIN's (arXiv:2105.14638), which prints no numbers; those of severity 1 are ours.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        source, n = self.randomness(generator), len(images)
        spread, turn = JITTERS[self.severity]
        reach = torch.tensor([spread, spread, spread, turn], device=source.device)
        drawn = (2 * torch.rand(n, 4, generator=source, device=source.device) - 1) * reach
        order = torch.rand(n, 4, generator=source, device=source.device).argsort(1).to(images.device)
        amounts = drawn.to(images)[..., None, None, None]
        for turn_of in order.unbind(1):
            changed = torch.empty_like(images)
            for step, change in enumerate((brightened, contrasted, saturated, hue_turned)):
                those = turn_of == step
                changed[those] = change(images[those], amounts[those, step])
            images = changed
        return images


JITTERS = {1: (0.4, 0.1), 2: (0.5, 0.2), 3: (0.6, 0.3), 4: (0.7, 0.4), 5: (0.8, 0.5)}  # spread of factors, turn of hue

Amount = Float[Tensor, "n 1 1 1"]


def brightened(images: Images, amount: Amount) -> Images:
    return (images * (1 + amount)).clamp(0, 1)


def contrasted(images: Images, amount: Amount) -> Images:
    return torch.lerp(luma(images).mean((1, 2, 3), keepdim=True), images, 1 + amount).clamp(0, 1)


def saturated(images: Images, amount: Amount) -> Images:
    return torch.lerp(luma(images), images, 1 + amount).clamp(0, 1)


def hue_turned(images: Images, amount: Amount) -> Images:
    if not has_colour(images):
        return images
    hue, saturation, value = to_hsv(images).unbind(1)
    return from_hsv(torch.stack([hue + amount[:, 0], saturation, value], dim=1)).clamp(0, 1)


@dataclass(frozen=True)
class Brightness(Perturbation):
    """Every pixel lighter by as much, its hue and saturation kept: the value of HSV plus an amount.

    Amounts of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261).

    Args:
        direction: "up", or "down" for darker by the same amount.

    Raises:
        ValueError: also if the direction is neither.
    """

    direction: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self, self.direction, ("up", "down"))

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        amount = LIGHTS[self.severity] if self.direction == "up" else -LIGHTS[self.severity]
        value = images.amax(1, keepdim=True)
        after = (value + amount).clamp(0, 1)
        return torch.where(value > 0, images * (after / torch.where(value > 0, value, 1)), after)


LIGHTS = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}


@dataclass(frozen=True)
class Contrast(Perturbation):
    """Every channel drawn towards its mean over the image.

    Factors of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261).
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        return torch.lerp(images.mean((2, 3), keepdim=True), images, CONTRASTS[self.severity])


CONTRASTS = {1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1, 5: 0.05}


@dataclass(frozen=True)
class Saturation(Perturbation):
    """The saturation of HSV multiplied: paler at severity 1 and 2, gaudier at 3 to 5. A grey image stays as it is.

    Factors of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261). Differs from it at 4 and 5, where it
    also adds to the saturation and so turns grey pixels red, which no camera does.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        if not has_colour(images):
            return images
        value = images.amax(1, keepdim=True)
        saturation = (value - images.amin(1, keepdim=True)) / torch.where(value > 0, value, 1)
        factor = SATURATIONS[self.severity]
        # min(1, factor * s) / s, which is the factor where s is 0.
        return torch.lerp(value, images, torch.where(saturation * factor > 1, 1 / saturation, factor))


SATURATIONS = {1: 0.3, 2: 0.1, 3: 2.0, 4: 5.0, 5: 20.0}


@dataclass(frozen=True)
class Gamma(Perturbation):
    """Mid-tones darker or lighter, black and white kept: every value to a power.

    Args:
        direction: "down" (darker) raises to the severity's exponent, "up" (lighter) to one over it.

    Raises:
        ValueError: also if the direction is neither.
    """

    direction: Literal["down", "up"] = "down"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self, self.direction, ("down", "up"))

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        exponent = EXPONENTS[self.severity]
        return images ** (exponent if self.direction == "down" else 1 / exponent)


EXPONENTS = {1: 1.2, 2: 1.5, 3: 2.0, 4: 2.5, 5: 3.0}


@dataclass(frozen=True)
class WhiteBalance(Perturbation):
    """The light taken for bluer than it is: red up and blue down by the same share. A grey image stays as it is.

    Args:
        direction: "warm", or "cold" for red down and blue up.

    Raises:
        ValueError: also if the direction is neither.
    """

    direction: Literal["warm", "cold"] = "warm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self, self.direction, ("warm", "cold"))

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        if not has_colour(images):
            return images
        share = CASTS[self.severity] if self.direction == "warm" else -CASTS[self.severity]
        return images * images.new_tensor([1 + share, 1, 1 - share]).view(3, 1, 1)


CASTS = {1: 0.05, 2: 0.1, 3: 0.15, 4: 0.2, 5: 0.3}


@dataclass(frozen=True)
class GreyLevel(Perturbation):
    """Every value up by one grey level of an 8-bit file, 1/255, at every severity from 1.

    A harmless control, too little to see: a monitor that flags it alarms at nothing.
    """

    def perturb(self, images: Images, generator: torch.Generator | None) -> Images:
        return images + 1 / 255


def check_direction(perturbation: Perturbation, direction: str, known: tuple[str, str]) -> None:
    if direction not in known:
        told = " or ".join(f"'{name}'" for name in known)
        raise ValueError(f"direction of {type(perturbation).__name__} is {told}, not {direction!r}.")
