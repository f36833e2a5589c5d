"""Every registered detector keeps what detectors promise, on a classifier and on a segmentation network."""

import pytest

from inlier.detectors.table import DETECTORS
from inlier.testing.detectors import check_detector
from inlier.testing.specimens import tiny_backbone

SMALL = {"daain": "daain(distance=6, blocks=2)"}
"""Settings that suit tiny images, where the defaults do not."""


@pytest.mark.parametrize("kind", ["classifier", "segmentation"])
@pytest.mark.parametrize("name", list(DETECTORS))
def test_a_registered_detector_keeps_its_promises(name, kind):
    check_detector(SMALL.get(name, name), backbones=[tiny_backbone(kind)])
