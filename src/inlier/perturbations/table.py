"""The perturbations that come with inlier: one line each. A factory takes a severity from 0 to 5."""

from __future__ import annotations

from collections.abc import Callable

from inlier.perturbations.base import Perturbation
from inlier.registry import Entry, Registry

__all__ = ["PERTURBATIONS"]

IMAGENET_C = "Hendrycks and Dietterich 2019"
DAAIN = "von Baußnern et al. 2021"

PERTURBATIONS: Registry[Callable[..., Perturbation]] = Registry(
    "perturbation",
    {
        "color_jitter": Entry(
            "inlier.perturbations.photometric:ColorJitter", "brightness, contrast, saturation and hue at random", DAAIN
        ),
        "fog": Entry("inlier.perturbations.weather:Fog", "fog from a plasma fractal", IMAGENET_C),
        "frost": Entry("inlier.perturbations.weather:Frost", "ice ferns on the windscreen, drawn", IMAGENET_C),
        "vertical_flip": Entry("inlier.perturbations.geometric:VerticalFlip", "the image upside down", DAAIN),
        "snow": Entry("inlier.perturbations.weather:Snow", "falling snow and a whiter scene", IMAGENET_C),
        "rain": Entry("inlier.perturbations.weather:Rain", "streaks of rain, a darker and hazier scene"),
        "gaussian_noise": Entry("inlier.perturbations.noise:GaussianNoise", "Gaussian noise", IMAGENET_C),
        "shot_noise": Entry("inlier.perturbations.noise:ShotNoise", "Poisson noise of few photons", IMAGENET_C),
        "impulse_noise": Entry("inlier.perturbations.noise:ImpulseNoise", "salt and pepper", IMAGENET_C),
        "defocus_blur": Entry("inlier.perturbations.blur:DefocusBlur", "out of focus", IMAGENET_C),
        "motion_blur": Entry(
            "inlier.perturbations.blur:MotionBlur", "the camera moves sideways during the exposure", IMAGENET_C
        ),
        "zoom_blur": Entry(
            "inlier.perturbations.blur:ZoomBlur", "the camera moves forward during the exposure", IMAGENET_C
        ),
        "brightness": Entry(
            "inlier.perturbations.photometric:Brightness", "lighter, or darker with direction='down'", IMAGENET_C
        ),
        "contrast": Entry("inlier.perturbations.photometric:Contrast", "less contrast", IMAGENET_C),
        "saturation": Entry(
            "inlier.perturbations.photometric:Saturation",
            "paler colours at severity 1 and 2, gaudier at 3 to 5",
            IMAGENET_C,
        ),
        "gamma": Entry("inlier.perturbations.photometric:Gamma", "darker mid-tones, or lighter with direction='up'"),
        "white_balance": Entry(
            "inlier.perturbations.photometric:WhiteBalance", "warmer light, or colder with direction='cold'"
        ),
        "jpeg": Entry(
            "inlier.perturbations.digital:Jpeg", "JPEG compression; with quality=90 a harmless control", IMAGENET_C
        ),
        "pixelate": Entry("inlier.perturbations.digital:Pixelate", "blocks of pixels", IMAGENET_C),
        "lens_drops": Entry("inlier.perturbations.lens:LensDrops", "drops of water on the lens"),
        "occlusion": Entry("inlier.perturbations.lens:Occlusion", "dirt that hides a part of the image"),
        "dead_rows": Entry("inlier.perturbations.sensor:DeadRows", "rows of the sensor that read black"),
        "roll": Entry("inlier.perturbations.geometric:Roll", "the camera turned about its line of sight"),
        "shift": Entry("inlier.perturbations.geometric:Shift", "the camera aimed elsewhere"),
        "sign_noise": Entry(
            "inlier.perturbations.noise:SignNoise", "every pixel up or down by .01: a harmless control"
        ),
        "grey_level": Entry(
            "inlier.perturbations.photometric:GreyLevel", "every value up by 1/255: a harmless control"
        ),
    },
)
