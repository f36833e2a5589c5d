"""The detectors that come with inlier: one line each. A factory takes the backbone's anatomy and its own settings."""

from __future__ import annotations

from collections.abc import Callable

from inlier.detectors.base import Detector
from inlier.registry import Entry, Registry

__all__ = ["DETECTORS"]

DETECTORS: Registry[Callable[..., Detector]] = Registry(
    "detector",
    {
        "mahalanobis": Entry(
            "inlier.detectors.mahalanobis:mahalanobis",
            "distance of banded channel means at the stages' ends; the default",
            "Lee et al. 2018",
        ),
        "profile": Entry(
            "inlier.detectors.profile:profile",
            "distance of a few logarithms: loudness of stages, certainty, a second look",
        ),
        "daain": Entry(
            "inlier.detectors.daain:daain",
            "blue-noise samples of all activations, flow, HBOS",
            "von Baußnern et al. 2021",
        ),
        "max_softmax": Entry(
            "inlier.detectors.max_softmax:max_softmax", "1 - maximum softmax probability", "Hendrycks and Gimpel 2017"
        ),
        "max_logit": Entry("inlier.detectors.max_logit:max_logit", "minus the maximum logit", "Hendrycks et al. 2022"),
        "entropy": Entry("inlier.detectors.entropy:entropy", "entropy of the softmax distribution"),
        "mc_dropout": Entry(
            "inlier.detectors.mc_dropout:mc_dropout",
            "variance of the confidence over passes with dropout",
            "Gal and Ghahramani 2016",
        ),
        "disagreement": Entry(
            "inlier.detectors.disagreement:disagreement",
            "how far a second look at a changed copy moves the prediction",
            "Xu et al. 2018",
        ),
        "random_look": Entry(
            "inlier.detectors.random_look:random_look",
            "the same under a look that only a secret foresees: scaled, shifted, mirrored",
        ),
        "gradient_alignment": Entry(
            "inlier.detectors.gradient_alignment:gradient_alignment",
            "whether the image's fine pattern follows the loss's gradient",
        ),
        "energy": Entry("inlier.detectors.energy:energy", "free energy of the logits", "Liu et al. 2020"),
    },
)
