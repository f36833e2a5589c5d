"""Several monitors in one pass say what each says alone."""

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.evaluation.together import Part, Together
from inlier.monitor import Monitor

TEXTS = {
    "bands": ["mahalanobis"],
    "other bands": ["mahalanobis(grid=(1, 1))"],
    "fused": ["mahalanobis", "disagreement", "energy"],
    "look": ["disagreement"],
    "daain": ["daain(distance=8, blocks=1)"],
    "dropout": ["mc_dropout(passes=2)"],
    "alignment": ["gradient_alignment"],
}


@pytest.fixture(scope="module")
def backbone():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
                            nn.Conv2d(8, 3, 1))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(network, Segmentation(("a", "b", "c")))


@pytest.fixture(scope="module")
def images():
    return torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def fitted(backbone, images):
    monitors = {name: Monitor(backbone, texts, seed=0) for name, texts in TEXTS.items()}
    monitors["another key"] = Monitor(backbone, TEXTS["daain"], seed=1)
    for monitor in monitors.values():
        monitor.fit(images[:30]).calibrate(false_alarm_rate=0.2, folds=2)
    return monitors


def test_readings_made_together_give_each_monitor_its_own_scores(backbone, fitted, images):
    together = Together(backbone, fitted)
    values = together.values(together(images[30:]))
    for name, monitor in fitted.items():
        readings = together.readings(name, values, [str(i) for i in range(10)], ["a"] * 10)
        torch.testing.assert_close(
            monitor.score_of(readings), monitor.score(images[30:]).detach(), rtol=1e-4, atol=1e-5
        )


def test_a_monitor_fitted_to_readings_made_together_is_the_one_fitted_alone(backbone, fitted, images):
    together = Together(backbone, fitted)
    values = together.values(together(images[:30]))
    readings = together.readings("another key", values, [str(i) for i in range(30)], ["all"] * 30)
    monitor = Monitor(backbone, TEXTS["daain"], key=fitted["another key"].keys.key, seed=1).fit(readings)
    torch.testing.assert_close(
        monitor.score(images[30:]), fitted["another key"].score(images[30:]), rtol=1e-3, atol=1e-3
    )


def test_what_is_the_same_is_read_once_and_other_keys_are_not_the_same(backbone, fitted):
    together = Together(backbone, fitted)
    assert len(together.probe.readers) == 4  # bands, other bands, two keys
    assert together.names["bands"].keys() < together.names["fused"].keys()
    assert set(together.names["daain"].values()).isdisjoint(together.names["another key"].values())


def test_a_look_that_several_monitors_ask_for_is_taken_once(backbone, fitted, images):
    some = {name: fitted[name] for name in ("fused", "look", "bands", "daain")}
    observation = Together(backbone, some)(images[:2])
    for name, monitor in some.items():
        monitor.objective(Part(observation, Together(backbone, some).names[name]))
    assert observation.passes == 2


def test_a_gradient_goes_through_a_part(backbone, fitted, images):
    together = Together(backbone, {"bands": fitted["bands"]})
    observation = Part(together(images[:2]), together.names["bands"])
    expected = images[:2].clone().requires_grad_()
    (slope,) = torch.autograd.grad(fitted["bands"].score(expected).sum(), expected)
    torch.testing.assert_close(observation.gradient(fitted["bands"].objective), slope)
