"""DAAIN: a head over the latent vector of a flow over what a key samples."""

import functools
import math

import pytest
import torch
from torch import nn

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Segmentation
from inlier.detectors.daain import DAAIN, daain
from inlier.errors import Mismatch, NotFitted
from inlier.probe import Probe
from inlier.sampling import SamplingKey

HEADS = ("likelihood", "euclidean", "harmonic", "mahalanobis", "hbos")


def images(n, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, stride=2, padding=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return Backbone(network, Segmentation(("a", "b")))


@pytest.fixture(scope="module")
def anatomy(backbone):
    return Anatomy.of(backbone, (16, 16), keys=KeyRing(seed=0))


@pytest.fixture(scope="module")
def fitted(backbone, anatomy):
    """Fits a detector with a head, once for each: detector and probe."""

    @functools.cache
    def fit(head, seed=0):
        detector = daain(anatomy, distance=6, blocks=1, head=head)
        probe = Probe(backbone, detector.requires)
        return detector.fit(probe.read(images(40)), seed=seed), probe

    return fit


def test_the_key_spans_all_channels_at_the_images_size(anatomy):
    (reader,) = daain(anatomy, distance=6, blocks=1).requires
    assert anatomy.keys.key.volume == (6 + 6 + 2, 16, 16)  # outputs alone: each is the next one's input
    assert anatomy.keys.key.rule == "blue_noise(6)"
    assert reader.size == len(anatomy.keys.key)


def test_its_defaults_are_the_papers_best_row(backbone):
    key = SamplingKey(torch.tensor([[0, 0, 0], [1, 2, 3]]), (14, 16, 16), "blue_noise(64)")
    anatomy = Anatomy.of(backbone, (16, 16), keys=KeyRing(key))
    detector = daain(anatomy)
    assert len(detector.flow.blocks) == 16
    assert detector.flow.blocks[0].coupling.enter.out_features == 10
    assert detector.head.histogram.bins == 30


@pytest.mark.parametrize("head", HEADS)
def test_its_score_is_its_heads_score_of_the_flows_latent(fitted, head):
    detector, probe = fitted(head)
    fresh = probe(images(8, seed=1))
    values = fresh.readings["sampled"]
    with torch.no_grad():
        z, _ = detector.flow(values)
        expected = -detector.flow.log_prob(values) if head == "likelihood" else detector.head(z)
        torch.testing.assert_close(detector(fresh), expected, rtol=1e-4, atol=1e-3)


def test_the_head_learns_from_the_latents_of_the_clean_rows(fitted):
    detector, probe = fitted("mahalanobis")
    with torch.no_grad():
        z = detector.fitted_flow.latent(probe.read(images(40)).values["sampled"])
    torch.testing.assert_close(detector.head.gaussian.mean, z.mean(0), rtol=1e-4, atol=1e-5)


def test_likelihood_is_in_nats(fitted):
    detector, probe = fitted("likelihood")
    values = probe(images(1)).readings["sampled"]
    with torch.no_grad():
        z, log_det = detector.flow(values)
    by_hand = 0.5 * z.square().sum() + values.shape[1] / 2 * math.log(2 * math.pi) - log_det
    assert detector(probe(images(1))).item() == pytest.approx(by_hand.item(), rel=1e-4)


@pytest.mark.parametrize("head", [head for head in HEADS if head != "harmonic"])  # which is about chance
def test_images_unlike_the_clean_ones_score_higher(fitted, head):
    detector, probe = fitted(head)
    fresh = images(10, seed=1)
    assert detector(probe((fresh > 0.5).float())).mean() > detector(probe(fresh)).max()


def test_a_loaded_detector_is_fused_as_the_fitted_one_was(anatomy, fitted):
    detector, probe = fitted("hbos")
    loaded = daain(anatomy, distance=6, blocks=1)
    with pytest.raises(NotFitted, match="fit"):
        loaded(probe(images(1)))
    loaded.load_state_dict(detector.state_dict())
    fresh = probe(images(8, seed=1))
    assert torch.equal(loaded(fresh), detector(fresh))


def test_the_seed_fixes_the_fit(fitted):
    given = (("euclidean",), ("likelihood",), ("euclidean", 1))  # whatever the head, the flow is fitted alike
    first, again, other = (fitted(*each)[0].state_dict() for each in given)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_head_is_refused_with_the_known_ones(anatomy):
    (reader,) = daain(anatomy, distance=6, blocks=1).requires
    with pytest.raises(ValueError, match="likelihood, euclidean, harmonic, mahalanobis or hbos, not 'msp'"):
        DAAIN(reader, head="msp")


def test_a_monitor_has_one_key(anatomy):
    daain(anatomy, distance=6, blocks=1)
    with pytest.raises(Mismatch, match=r"is blue_noise\(6\).*asked for is blue_noise\(8\).*use one distance"):
        daain(anatomy, distance=8, blocks=1)


def test_images_of_another_size_are_refused(fitted):
    detector, probe = fitted("euclidean")
    with pytest.raises(Mismatch, match="drawn for images of 16 x 16"):
        detector(probe(torch.rand(1, 3, 24, 16, generator=torch.Generator().manual_seed(0))))
