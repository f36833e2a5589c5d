"""The perturbations that come with inlier: one line each. A factory takes a severity from 0 to 5."""

from __future__ import annotations

from collections.abc import Callable

from inlier.perturbations.base import Perturbation
from inlier.registry import Entry, Registry

__all__ = ["PERTURBATIONS"]

PERTURBATIONS: Registry[Callable[..., Perturbation]] = Registry(
    "perturbation",
    {
        "fog": Entry("inlier.perturbations.weather:Fog", "fog from a plasma fractal", "Hendrycks and Dietterich 2019"),
        "vertical_flip": Entry("inlier.perturbations.geometric:VerticalFlip", "the image upside down"),
        "gaussian_noise": Entry(
            "inlier.perturbations.noise:GaussianNoise", "Gaussian noise", "Hendrycks and Dietterich 2019"
        ),
        "sign_noise": Entry(
            "inlier.perturbations.noise:SignNoise", "every pixel up or down by .01: a harmless control"
        ),
    },
)
