"""What every registered detector promises, for a classifier and for a segmentation network."""

import copy

import pytest
import torch
from torch import nn

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.detectors.spec import DetectorSpec
from inlier.detectors.table import DETECTORS
from inlier.errors import NotFitted
from inlier.probe import Probe

SMALL = {"daain": "daain(distance=6, blocks=2)"}
"""Settings that suit tiny images, where the defaults do not."""


def images(n, seed):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def backbone_of(kind):
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(8, 3, 1)] if kind == "dense" else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    network = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return Backbone(network, (Segmentation if kind == "dense" else Classification)(("a", "b", "c")))


class Case:
    """A detector fitted to clean images, with the probe that it looks through."""

    def __init__(self, name, kind):
        backbone = backbone_of(kind)
        self.anatomy = Anatomy.of(backbone, (16, 16), keys=KeyRing(seed=0))
        self.spec = DetectorSpec.parse(SMALL.get(name, name))
        self.detector = self.unfitted()
        self.probe = Probe(backbone, self.detector.requires)
        self.readings = self.probe.read(images(40, seed=0))
        self.fresh = images(7, seed=1)
        self.result = self.detector.fit(self.readings, seed=5)

    def unfitted(self):
        return self.spec.build(self.anatomy)

    def scores(self, detector, images=None):
        with torch.no_grad():
            return detector(self.probe(self.fresh if images is None else images))


@pytest.fixture(scope="module", params=[(name, kind) for name in DETECTORS for kind in ("classifier", "dense")],
                ids=lambda given: "-".join(given))  # fmt: skip
def case(request):
    return Case(*request.param)


def test_fit_returns_the_detector(case):
    assert case.result is case.detector


def test_it_bears_the_name_it_is_registered_under(case):
    assert case.detector.name == case.spec.name


def test_scores_are_one_finite_number_an_image(case):
    scores = case.scores(case.detector)
    assert scores.shape == (7,)
    assert scores.isfinite().all()
    assert len(set(scores.tolist())) == 7


def test_score_of_a_batch_is_the_scores_one_by_one(case):
    one_by_one = torch.cat([case.scores(case.detector, image[None]) for image in case.fresh])
    torch.testing.assert_close(case.scores(case.detector), one_by_one, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_what_was_scored_before(case):
    first = case.scores(case.detector)
    case.scores(case.detector, images(3, seed=9))
    assert torch.equal(case.scores(case.detector), first)


def test_a_gradient_reaches_every_image(case):
    fresh = case.fresh.clone().requires_grad_()
    case.detector(case.probe(fresh)).sum().backward()
    assert fresh.grad.isfinite().all()
    assert (fresh.grad != 0).flatten(1).any(1).all()


def test_scoring_changes_nothing_of_the_detector(case):
    before = copy.deepcopy(case.detector.state_dict())
    case.scores(case.detector)
    assert all(torch.equal(value, before[name]) for name, value in case.detector.state_dict().items())


def test_a_copy_scores_the_same_and_is_fitted_apart(case):
    twin = copy.deepcopy(case.detector)
    expected = case.scores(case.detector)
    assert torch.equal(case.scores(twin), expected)
    twin.fit(case.probe.read(images(30, seed=3)), seed=5)
    assert torch.equal(case.scores(case.detector), expected)
    assert torch.equal(case.scores(twin), expected) == (not case.detector.learns)


def test_a_fit_is_fixed_by_its_seed_and_starts_anew(case):
    expected = case.scores(case.detector)
    state = torch.get_rng_state()
    other = case.unfitted().fit(case.probe.read(images(30, seed=3)), seed=2)
    assert torch.equal(case.scores(other.fit(case.readings, seed=5)), expected)
    assert torch.equal(torch.get_rng_state(), state)  # the global one is left alone


def test_progress_is_told_in_growing_steps(case):
    told = []
    case.unfitted().fit(case.readings, seed=5, progress=lambda *step: told.append(step))
    assert all(0 < done <= total for _, done, total in told)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_an_unfitted_detector_says_so(case):
    if case.detector.learns:
        with pytest.raises(NotFitted, match=r"[Ff]it|fit\("):
            case.scores(case.unfitted())
    else:
        assert torch.equal(case.scores(case.unfitted()), case.scores(case.detector))


def test_its_state_holds_all_it_learnt(case):
    loaded = case.unfitted()
    loaded.load_state_dict(case.detector.state_dict())
    assert torch.equal(case.scores(loaded), case.scores(case.detector))


def test_maps_are_one_value_a_pixel_where_there_are_any(case):
    maps = case.detector.maps(case.probe(case.fresh))
    assert maps is None or maps.shape == (7, 16, 16)
