"""Energy score (Liu et al., NeurIPS 2020, arXiv:2010.03759)."""

from __future__ import annotations

from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.output_scores import OutputScore
from inlier.types import Logits

__all__ = ["Energy", "energy"]


class Energy(OutputScore):
    """Free energy -T log sum exp(f / T) at T = 1 (equation 4), averaged over pixels."""

    name = "energy"

    def each(self, logits: Logits) -> Tensor:
        return -logits.logsumexp(1)


def energy(anatomy: Anatomy) -> Energy:
    """The detector for any backbone."""
    return Energy()
