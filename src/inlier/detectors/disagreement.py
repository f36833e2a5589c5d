"""Disagreement: how far the prediction moves when the network looks again at a slightly changed copy of the image.

What carries an adversarial change is fine and fragile, so that compression or smoothing undoes it, and the prediction
with it; a natural image keeps its prediction, but for the borders of things (Xu et al., *Feature squeezing*, NDSS 2018,
arXiv:1704.01155, section 5, which compares the same way). There are more borders, and less certainty, in some scenes
than in others: what these let expect is taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.base import Detector
from inlier.errors import NotFitted
from inlier.looks import Copy, CopyKind, copy_look, standing_in
from inlier.observation import Observation, Readings
from inlier.types import Logits, Maps, Progress, Scores

__all__ = ["Disagreement", "disagreement", "edge_share", "precise"]

LEAST = 1e-2
"""Added before the logarithm: a network's rounding moves its probabilities by a few 1e-7, and where two predictions are
hardly apart the logarithm would tell of little else. What is far less than this is no change of a prediction."""
LEAST_SPREAD = 1e-4
"""Of the logarithms about what was expected: less is rounding, of a network whose predictions never move."""
MINIMUM_IMAGES = 4
"""Three coefficients leave no residual of fewer."""


class Disagreement(Detector):
    """How much more the prediction moves under a second look than expected, in standard deviations of clean images.

    The disagreement of an image is the mean over its pixels of sum_c |p_c - p'_c|, p and p' being the softmax
    probabilities on the image and on its copy, from 0 to 2. Its logarithm is expected to be linear in two numbers of
    the image's own prediction: the mean entropy (nats), and the share of neighbouring pixels with another predicted
    class, 0 for a classifier. `fit` finds the coefficients by least squares on clean images; the score is the residual
    over its standard deviation. The logarithm is taken of the disagreement plus 0.01.

    Differs from feature squeezing: a mean over pixels, and the largest of several looks is not taken; for that, give a
    monitor several of these.

    A score costs two passes, one of which is the prediction's. Passes its gradient through both; that of the share of
    edges, which is a count, is replaced by that of its expectation if classes were drawn from the probabilities.

    Args:
        look: what is shown the second time.

    Raises:
        NotFitted: scores are asked for before `fit`.
    """

    name = "disagreement"
    passes = 2

    count: Tensor
    centre: Tensor
    coefficients: Tensor
    typical: Tensor
    spread: Tensor

    def __init__(self, look: Copy) -> None:
        super().__init__()
        self.look = look
        self.reading = f"disagreement, {look!r}"
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("coefficients", torch.zeros(2))
        self.register_buffer("typical", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    @property
    def measures(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        return {self.reading: self.measure}

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        """Find what disagreement is expected of clean images.

        Raises:
            Mismatch: the images were read without this detector's measures.
            ValueError: there are fewer than 4.
        """
        if len(readings) < MINIMUM_IMAGES:
            raise ValueError(f"Disagreement is fitted to at least {MINIMUM_IMAGES} clean images, not {len(readings)}")
        rows = readings.measured(self.reading).double().cpu()
        logarithm, own = rows[:, 0], rows[:, 1:]
        centre, typical = own.mean(0), logarithm.mean()
        size = (own - centre).square().mean(0).sqrt()
        size = torch.where(size > 1e-9, size, torch.inf)  # what is the same of all images explains nothing
        solution = torch.linalg.lstsq((own - centre) / size, (logarithm - typical)[:, None], driver="gelsd")
        coefficients = solution.solution[:, 0] / size
        residual = logarithm - typical - (own - centre) @ coefficients
        freedom = max(1, len(rows) - 1 - int(solution.rank))
        self.centre.copy_(centre)
        self.coefficients.copy_(coefficients)
        self.typical.copy_(typical)
        self.spread.copy_((residual.square().sum() / freedom).sqrt().clamp_min(LEAST_SPREAD))
        self.count.fill_(len(rows))
        return self

    def forward(self, observation: Observation) -> Scores:
        if self.count == 0:
            raise NotFitted("Disagreement is not fitted: call fit(readings of clean images) first")
        measured = observation.measured(self.reading, self.measure)
        expected = self.typical + (measured[:, 1:] - self.centre) @ self.coefficients
        return (measured[:, 0] - expected) / self.spread

    def measure(self, observation: Observation) -> Float[Tensor, "n 3"]:
        """The logarithm of the disagreement, the mean entropy in nats, and the share of edges."""
        logits = precise(observation.output)
        logarithms = logits.log_softmax(1)
        p = logarithms.exp()
        entropy = -(p * logarithms).sum(1).reshape(len(p), -1).mean(1)
        disagreement = self.apart(p, observation).reshape(len(p), -1).mean(1)
        measured = torch.stack([(disagreement + LEAST).log(), entropy, edge_share(logits, p)], dim=1)
        return measured.to(observation.output.dtype)

    def apart(self, p: Tensor, observation: Observation) -> Float[Tensor, "n *hw"]:
        """sum_c |p_c - p'_c| of each prediction."""
        again = precise(self.look.back(observation.look(self.look).output)).softmax(1)
        return (p - again).abs().sum(1)

    def maps(self, observation: Observation) -> Maps | None:
        """(n, h, w) disagreement of every pixel, from 0 to 2; what was expected is not taken off."""
        output = observation.output
        return self.apart(output.softmax(1), observation) if output.ndim == 4 else None

    def extra_repr(self) -> str:
        return f"look={self.look!r}"


def precise(logits: Logits) -> Logits:
    """In double precision for a classifier, where it costs nothing and no mean over pixels evens the rounding out."""
    return logits.double() if logits.ndim == 2 else logits


def edge_share(logits: Logits, p: Float[Tensor, "n classes *hw"]) -> Float[Tensor, " n"]:
    """The share of vertical and horizontal neighbours with different predicted classes; 0 for a classifier.

    Its gradient is that of the probability that classes drawn from p differ.
    """
    if logits.ndim == 2:
        return logits.new_zeros(len(logits))
    height, width = logits.shape[-2:]
    pairs = max(1, (height - 1) * width + height * (width - 1))
    classes = logits.detach().max(1).indices  # as argmax, and on maps several times as fast
    differ = (classes[:, 1:] != classes[:, :-1]).flatten(1).sum(1)
    differ = differ + (classes[..., 1:] != classes[..., :-1]).flatten(1).sum(1)
    share = differ.to(p.dtype) / pairs
    if not p.requires_grad:
        return share
    alike = (p[:, :, 1:] * p[:, :, :-1]).flatten(1).sum(1) + (p[..., 1:] * p[..., :-1]).flatten(1).sum(1)
    return standing_in(1 - alike / pairs, share)


def disagreement(anatomy: Anatomy, *, look: CopyKind = "jpeg", strength: float | None = None) -> Disagreement:
    """The detector for any backbone.

    `look` is the second look: `jpeg` (`strength` is its quality, 75 by default), `rescale` (factor, 0.75), `blur`
    (standard deviation in pixels, 1), `median` (side in pixels, 3) or `flip`.
    """
    return Disagreement(copy_look(look, strength))
