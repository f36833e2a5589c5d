"""What the output scores share: a score for each prediction from the logits, averaged over the pixels of an image."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from inlier.detectors.base import Detector
from inlier.observation import Observation
from inlier.types import Logits, Maps, Scores

__all__ = ["OutputScore"]


class OutputScore(Detector):
    """Learns nothing; scores the logits."""

    learns = False

    @abstractmethod
    def each(self, logits: Logits) -> Tensor:
        """A score for each prediction: (n,) for a classifier, (n, h, w) for a segmentation network."""

    def forward(self, observation: Observation) -> Scores:
        each = self.each(observation.output)
        return each.reshape(len(each), -1).mean(1)

    def maps(self, observation: Observation) -> Maps | None:
        each = self.each(observation.output)
        return each if each.ndim == 3 else None
