"""Maximum softmax probability, the baseline every detector must beat (Hendrycks and Gimpel, ICLR 2017)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.output_scores import OutputScore
from inlier.observation import Observation
from inlier.types import Logits, Scores

__all__ = ["MaxSoftmax", "max_softmax"]


class MaxSoftmax(OutputScore):
    """1 - maximum softmax probability.

    Args:
        reduce: over the pixels of a segmentation: `mean`, or `max`, one minus the largest confidence anywhere, which is
            the variant of the DAAIN paper (section 4.1; its sign is not turned there, so its Frost row reads 0.000).
    """

    name = "max_softmax"

    def __init__(self, reduce: Literal["mean", "max"] = "mean") -> None:
        super().__init__()
        if reduce not in ("mean", "max"):
            raise ValueError(f"reduce must be 'mean' or 'max', not {reduce!r}")
        self.reduce = reduce

    def each(self, logits: Logits) -> Tensor:
        return 1 - logits.softmax(1).amax(1)

    def forward(self, observation: Observation) -> Scores:
        if self.reduce == "mean":
            return super().forward(observation)
        each = self.each(observation.output)
        return each.reshape(len(each), -1).amin(1)


def max_softmax(anatomy: Anatomy, *, reduce: Literal["mean", "max"] = "mean") -> MaxSoftmax:
    """The detector for any backbone."""
    return MaxSoftmax(reduce)
