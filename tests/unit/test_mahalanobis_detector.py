"""The Mahalanobis detector: the distance of its density over the reader's numbers, divided by how many there are."""

import pytest
import torch
from torch import nn

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone, Classification
from inlier.densities.gaussian import Gaussian
from inlier.detectors.mahalanobis import CONSTANT, Mahalanobis, mahalanobis
from inlier.errors import Mismatch, NotFitted
from inlier.observation import Recorded
from inlier.probe import Probe


def images(n, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone():
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 2),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return Backbone(network, Classification(("a", "b")))


@pytest.fixture(scope="module")
def anatomy(backbone):
    return Anatomy.of(backbone, (16, 16))


def test_it_reads_band_means_at_the_stages_ends(anatomy):
    (reader,) = mahalanobis(anatomy).requires
    assert [str(tap) for tap in reader.taps] == ["1", "4", "6"]  # the last of the widest at 16, 8 and 1 pixels
    assert reader.size == (5 + 7) * 4 + 7  # a vector has no bands


def test_its_score_is_the_densitys_distance_over_the_dimension(backbone, anatomy):
    detector = mahalanobis(anatomy, grid=(2, 2), statistics=("mean", "std"), normalise="rms")
    probe = Probe(backbone, detector.requires)
    readings = probe.read(images(40))
    detector.fit(readings)
    fresh = probe(images(6, seed=1))
    values = fresh.readings[detector.reading]
    assert values.shape[1] == (5 + 7) * 8 + 7 * 2
    density = Gaussian(values.shape[1], constant=CONSTANT).fit(readings.values[detector.reading])
    expected = density.mahalanobis(values) / values.shape[1]
    assert torch.equal(detector(fresh), expected)


def test_clean_readings_score_one_on_average(anatomy):
    detector = mahalanobis(anatomy, grid=(1, 1))
    size = detector.requires[0].size
    rows = torch.randn(5000, size, generator=torch.Generator().manual_seed(0))
    detector.density.fit(rows)
    fresh = torch.randn(2000, size, generator=torch.Generator().manual_seed(1))
    assert detector(Recorded({detector.reading: fresh})).mean().item() == pytest.approx(1, abs=0.05)


def test_bands_see_a_vertical_flip_and_statistics_of_the_whole_image_do_not():
    # Without borders, channel means are those of the flipped image to the last bit but rounding.
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 256, 2))
    backbone = Backbone(network, Classification(("a", "b")))
    brighter_above = torch.linspace(1, 0.3, 16)[:, None]
    clean, fresh = images(60) * brighter_above, images(20, seed=1) * brighter_above
    separated = {}
    for rows in (1, 4):
        # The linear layer's outputs look at places, so it is left out: what is asked is what the bands see.
        detector = mahalanobis(Anatomy((16, 16), 3, dict(list(Anatomy.of(backbone, (16, 16)).shapes.items())[:4])),
                               grid=(rows, 1))  # fmt: skip
        probe = Probe(backbone, detector.requires)
        detector.fit(probe.read(clean))
        flipped, upright = detector(probe(fresh.flip(-2))), detector(probe(fresh))
        separated[rows] = (flipped > 1.001 * upright.max()).double().mean().item()
        if rows == 1:
            torch.testing.assert_close(flipped, upright, rtol=1e-3, atol=1e-4)
    assert separated == {1: 0.0, 4: 1.0}


def test_detectors_that_read_the_same_share_a_reader(anatomy):
    one, same, other = (mahalanobis(anatomy, grid=grid).requires[0] for grid in ((4, 1), (4, 1), (1, 1)))
    assert one is same
    assert one.name != other.name


def test_use_before_fit_says_so(backbone, anatomy):
    detector = mahalanobis(anatomy)
    with pytest.raises(NotFitted, match="fit"):
        detector(Probe(backbone, detector.requires)(images(1)))


def test_a_network_without_wide_modules_is_told_to_name_its_taps():
    narrow = Backbone(
        nn.Sequential(nn.Conv2d(3, 2, 1)), Classification(("a", "b"), select=lambda raw: raw.mean((2, 3)))
    )
    with pytest.raises(Mismatch, match="name the taps"):
        mahalanobis(Anatomy.of(narrow, (8, 8)))


def test_any_reader_of_vectors_will_do(backbone, anatomy):
    (reader,) = mahalanobis(anatomy, grid=(1, 1)).requires
    detector = Mahalanobis(reader)
    probe = Probe(backbone, detector.requires)
    detector.fit(probe.read(images(20)))
    assert detector(probe(images(3, seed=1))).shape == (3,)
