"""What inlier promises of its detectors, perturbations, backbones and data sets, as checks that anybody can run.

Each `check_...` tries every claim that its kind makes, on small networks and images of its own, and raises one
`ClaimFailed` that tells which claims do not hold and by how much. It needs no test framework.
"""

from inlier.testing.backbones import check_backbone
from inlier.testing.claims import ClaimFailed
from inlier.testing.datasets import check_dataset
from inlier.testing.detectors import check_detector
from inlier.testing.perturbations import check_perturbation

__all__ = ["ClaimFailed", "check_backbone", "check_dataset", "check_detector", "check_perturbation"]
