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
    with pytest.raises(ValueError, match="mahalanobis, hbos, hbos_clipped or logistic, not 'msp'"):
        DAAIN(reader, head="msp")


def test_a_key_of_too_few_points_is_refused_with_what_to_do(backbone):
    with pytest.raises(ValueError, match="needs 2 activations or more, and 1 is read here: choose a smaller distance"):
        daain(Anatomy.of(backbone, (16, 16), keys=KeyRing(seed=0)), distance=40)


def test_a_monitor_has_one_key(anatomy):
    daain(anatomy, distance=6, blocks=1)
    with pytest.raises(Mismatch, match=r"is blue_noise\(6\).*asked for is blue_noise\(8\).*use one kind, one distance"):
        daain(anatomy, distance=8, blocks=1)


def test_images_of_another_size_are_refused(fitted):
    detector, probe = fitted("euclidean")
    with pytest.raises(Mismatch, match="drawn for images of 16 x 16"):
        detector(probe(torch.rand(1, 3, 24, 16, generator=torch.Generator().manual_seed(0))))


# --- the flow's other forms ------------------------------------------------------------------------------------------
FORMS = [{"coupling": "gin"}, {"mixing": "lu"}, {"mixing": "householder", "reflections": 3}, {"mixing": "conv1x1"}]


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_every_form_of_flow_is_fitted_scored_and_loaded(backbone, anatomy, settings):
    detector = daain(anatomy, distance=6, blocks=2, head="euclidean", **settings)
    probe = Probe(backbone, detector.requires)
    detector.fit(probe.read(images(40)))
    fresh = images(10, seed=1)
    assert detector(probe((fresh > 0.5).float())).mean() > detector(probe(fresh)).max()
    loaded = daain(anatomy, distance=6, blocks=2, head="euclidean", **settings)
    loaded.load_state_dict(detector.state_dict())
    assert torch.equal(loaded(probe(fresh)), detector(probe(fresh)))


def test_convolutions_are_256_wide_over_the_keys_own_lattice(anatomy):
    detector = daain(anatomy, distance=6, blocks=1, mixing="conv1x1")
    (on_lattice,) = detector.flow.blocks
    assert on_lattice.blocks[0].coupling.enter.out_features == 256
    assert on_lattice.cells.index.shape == (len(anatomy.keys.key),)


def test_the_state_of_a_flow_on_a_lattice_does_not_tell_the_key(anatomy):
    state = daain(anatomy, distance=6, blocks=1, mixing="conv1x1").state_dict()
    whole = {name for name, value in state.items() if not value.is_floating_point()}
    assert whole == {"flow.count", "flow.blocks.0.blocks.0.permutation.index", "head.histogram.count"} | {
        "flow.blocks.0.blocks.0.permutation.inverse_index"
    }  # the permutations are drawn from the seed, whatever the key


def test_convolutions_without_a_key_are_refused(anatomy):
    (reader,) = daain(anatomy, distance=6, blocks=1).requires
    with pytest.raises(ValueError, match="needs the key whose points are read"):
        DAAIN(reader, mixing="conv1x1")


# --- labelled anomalies ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def labelled(backbone, anatomy):
    """A detector with the logistic head, fitted to clean images and to darkened ones; with its probe."""
    detector = daain(anatomy, distance=6, blocks=1, head="logistic")
    probe = Probe(backbone, detector.requires)
    return detector.fit(probe.read(images(40)), anomalies=probe.read(images(12, seed=2) * 0.3)), probe


def test_a_logistic_head_learns_which_anomalies_matter(labelled):
    detector, probe = labelled
    clean, dark = (detector(probe(fresh)) for fresh in (images(10, seed=3), images(10, seed=4) * 0.3))
    assert dark.min() > clean.max()
    assert detector.head.count == 12


def test_the_flow_learns_from_clean_images_alone_whatever_was_labelled(labelled, fitted):
    detector, _ = labelled
    other, _ = fitted("hbos")
    assert all(torch.equal(value, other.flow.state_dict()[name]) for name, value in detector.flow.state_dict().items())


def test_a_loaded_logistic_head_scores_as_it_did(labelled, anatomy):
    detector, probe = labelled
    loaded = daain(anatomy, distance=6, blocks=1, head="logistic")
    loaded.load_state_dict(detector.state_dict())
    fresh = probe(images(8, seed=1))
    assert torch.equal(loaded(fresh), detector(fresh))


def test_only_the_logistic_head_learns_from_anomalies(backbone, anatomy):
    plain = daain(anatomy, distance=6, blocks=1)
    logistic = daain(anatomy, distance=6, blocks=1, head="logistic")
    assert (plain.learns_from_anomalies, logistic.learns_from_anomalies) == (False, True)
    readings = Probe(backbone, plain.requires).read(images(10))
    with pytest.raises(ValueError, match=r"none came.*fit\(clean, anomalies=\.\.\.\).*head='hbos'"):
        logistic.fit(readings)
    with pytest.raises(ValueError, match="10 anomalies came, and this head learns from clean images alone"):
        plain.fit(readings, anomalies=readings)
