"""Maximum logit (Hendrycks et al., ICML 2022, arXiv:1911.11132)."""

from __future__ import annotations

from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.output_scores import OutputScore
from inlier.types import Logits

__all__ = ["MaxLogit", "max_logit"]


class MaxLogit(OutputScore):
    """Minus the maximum logit, averaged over pixels."""

    name = "max_logit"

    def each(self, logits: Logits) -> Tensor:
        return -logits.amax(1)


def max_logit(anatomy: Anatomy) -> MaxLogit:
    """The detector for any backbone."""
    return MaxLogit()
