"""What inlier promises of its own detectors and perturbations, this package promises too."""

import pytest
import torch

from inlier.testing import check_detector, check_perturbation


@pytest.mark.parametrize("detector", ["nearest_neighbour", "nearest_neighbour(k=1)", "nearest_neighbour(bank=20)"])
def test_the_detector_keeps_its_promises(detector):
    check_detector(detector)


def test_the_perturbation_keeps_its_promises():
    check_perturbation("low_light")


def test_low_light_has_the_variance_of_photons():
    from inlier_nearest_neighbour.perturbation import PHOTONS, LowLight

    grey = torch.full((1, 1, 400, 400), 0.4)
    for severity, photons in PHOTONS.items():
        counted = LowLight(severity).perturb(grey, torch.Generator().manual_seed(0))
        assert counted.mean().item() == pytest.approx(0.4, rel=0.01)
        assert counted.var().item() == pytest.approx(0.4 / photons, rel=0.03)
