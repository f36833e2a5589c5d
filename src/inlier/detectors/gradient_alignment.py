"""Gradient alignment: whether what is fine in the image points the way an attack would have gone.

A sign step leaves its mark in the image: a fine pattern whose signs are those of the loss's gradient. The pattern is
what a blur takes away, the attacked prediction is still wrong, and the blurred one is right again or nearer to it; so
the gradient of the loss to the blurred prediction shows where the attack pushed. On a clean image the two have hardly
anything to do with each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.base import Detector
from inlier.looks import Blur, standing_in
from inlier.observation import Observation
from inlier.types import Images, Scores

__all__ = ["GradientAlignment", "gradient_alignment"]

ROUNDING = 1e-6
"""Image values this near to their blurred ones are taken for equal: the sign of a rounding error says nothing."""
SOFTNESS = 1 / 255
"""Differences to the blurred image over which the gradient that stands in for the sign's spreads."""
SMALL = 1e-12
"""Share of the largest gradient below which the root is a line, so that its own gradient stays finite."""


class GradientAlignment(Detector):
    """The cosine of sign(x - blur(x)) and sign(g) sqrt|g|, from -1 to 1.

    g is the gradient, with respect to the image, of the cross-entropy to the classes that the network predicts for the
    blurred image, averaged over pixels. The root keeps a few large values from deciding. A blurred image that is
    predicted as the image itself is no obstacle: an attack leaves off where the loss is still steep.

    A score costs two passes, one of which is the prediction's if gradients were asked for when it was made, and one
    backward pass: a diagnostic, or for images that are in doubt.

    An attacker can follow its gradient, for which another backward pass is needed (`create_graph`). It goes through g,
    through which the network's second derivatives come in, and through the sign, where r / (|r| + 1/255) stands in.
    The predicted classes count as given.

    Args:
        sigma: the standard deviation of the blur in pixels.

    Raises:
        ValueError: sigma is not more than 0.
    """

    name = "gradient_alignment"
    passes = 3
    learns = False

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.look = Blur(sigma)

    def forward(self, observation: Observation) -> Scores:
        images = observation.images
        blurred = observation.look(self.look)
        classes = blurred.output.detach().max(1).indices

        def loss(seen: Observation) -> Scores:
            return F.cross_entropy(seen.output, classes, reduction="none").reshape(len(classes), -1).mean(1)

        followed = torch.is_grad_enabled() and images.requires_grad
        gradient = observation.gradient(loss, create_graph=followed)
        return F.cosine_similarity(signs(images - blurred.images).flatten(1), rooted(gradient).flatten(1), dim=1)

    def extra_repr(self) -> str:
        return f"sigma={self.look.sigma}"


def signs(residual: Images) -> Images:
    """-1, 0 or 1, 0 also for what rounding may have made."""
    exact = residual.sign() * (residual.abs() > ROUNDING)
    return standing_in(residual / (residual.abs() + SOFTNESS), exact)


def rooted(gradient: Images) -> Float[Tensor, "n c h w"]:
    """sign(g) sqrt|g|, each image's divided by its largest value, which a cosine does not see."""
    peak = gradient.detach().abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny).view(-1, 1, 1, 1)
    relative = gradient / peak
    return relative * relative.abs().clamp_min(SMALL).rsqrt()


def gradient_alignment(anatomy: Anatomy, *, sigma: float = 1.0) -> GradientAlignment:
    """The detector for any backbone; `sigma` is the standard deviation of the blur in pixels."""
    return GradientAlignment(sigma)
