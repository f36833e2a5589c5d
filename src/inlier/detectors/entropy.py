"""Entropy of the softmax distribution."""

from __future__ import annotations

from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.output_scores import OutputScore
from inlier.types import Logits

__all__ = ["Entropy", "entropy"]


class Entropy(OutputScore):
    """Shannon entropy of the softmax distribution in nats, averaged over pixels."""

    name = "entropy"

    def each(self, logits: Logits) -> Tensor:
        log_p = logits.log_softmax(1)
        return -(log_p.exp() * log_p).sum(1)


def entropy(anatomy: Anatomy) -> Entropy:
    """The detector for any backbone."""
    return Entropy()
