"""A monitor that escalates: one pass for every image, a second look at the doubtful ones, one calibration for both."""

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import Mismatch
from inlier.images import TensorImages
from inlier.monitor import Monitor
from inlier.testing.specimens import noise, scenes

DETECTORS = ("mahalanobis(grid=(2, 1))", "profile", "profile(look='jpeg')")
CLEAN = 60


class Counting(nn.Sequential):
    """Notes how many images each pass has."""

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


def backbone() -> Backbone:
    network = Counting(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    network.seen = []
    return Backbone(network, Segmentation(("a", "b", "c")))


def clean(seed: int = 0) -> TensorImages:
    return TensorImages(scenes(CLEAN, (24, 24), seed=seed), groups=[f"drive {i // 20}" for i in range(CLEAN)])


def fitted(escalate: float | None, detectors=DETECTORS) -> Monitor:
    return Monitor(backbone(), list(detectors), escalate=escalate, seed=0).fit(clean()).calibrate(false_alarm_rate=0.1)


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return fitted(0.4)


def test_only_doubtful_images_are_looked_at_again_and_all_of_these_at_once(monitor):
    fresh = torch.cat([scenes(6, (24, 24), seed=1), noise(3, (24, 24))])
    first = torch.stack(
        [monitor.calibrations[name].surprisal(monitor.scores(fresh)[name]) for name in ("mahalanobis", "profile")]
    ).amax(0)
    doubtful = int((first >= monitor.doubt).sum())
    assert 0 < doubtful < len(fresh)
    monitor.backbone.network.seen.clear()
    with torch.no_grad():
        monitor.score(fresh)
    assert monitor.backbone.network.seen == [len(fresh), doubtful]


def test_the_score_is_the_largest_surprisal_of_the_detectors_that_were_asked(monitor):
    fresh = torch.cat([scenes(8, (24, 24), seed=1), noise(4, (24, 24))])
    surprisals = {n: monitor.calibrations[n].surprisal(score) for n, score in monitor.scores(fresh).items()}
    first = torch.maximum(surprisals["mahalanobis"], surprisals["profile"])
    expected = torch.where(first >= monitor.doubt, torch.maximum(first, surprisals["profile-2"]), first)
    torch.testing.assert_close(monitor.score(fresh), expected, rtol=1e-3, atol=1e-3)


def test_the_share_of_clean_images_looked_at_again_is_about_what_was_asked_for():
    for share in (0.1, 0.5):
        assert fitted(share).passes == pytest.approx(1 + share, abs=0.12)


def test_different_looks_are_passes_of_their_own_and_equal_ones_are_shared():
    looking = ("profile(look='jpeg')", "disagreement(look='jpeg')", "disagreement(look='rescale')")
    monitor = fitted(None, ("profile", *looking))
    monitor.backbone.network.seen.clear()
    with torch.no_grad():
        monitor.score(scenes(5, (24, 24), seed=1))
    assert monitor.backbone.network.seen == [5, 5, 5]
    assert monitor.passes == 3


def test_at_0_no_image_is_looked_at_again_and_at_1_every_one():
    never, always, plain = fitted(0.0), fitted(1.0), fitted(None)
    fresh = scenes(5, (24, 24), seed=1)
    assert (never.passes, plain.passes) == (1, 2)
    assert always.passes == pytest.approx(2, abs=0.1)  # each fold's clean images by the others' least doubtful one
    monitor = fitted(None, DETECTORS[:2])
    torch.testing.assert_close(never.score(fresh), monitor.score(fresh), rtol=1e-4, atol=1e-4)
    looked_at = always.objective(always.probe(noise(5, (24, 24))))
    torch.testing.assert_close(looked_at, plain.score(noise(5, (24, 24))), rtol=1e-3, atol=1e-3)


def test_the_false_alarm_rate_is_that_of_both_looks_together(monitor):
    scores = monitor.calibration_scores
    assert (monitor.calibration.flagged(scores, 0.1).double().mean() <= 0.1).item()
    fresh = torch.cat([monitor.score(batch.images) for batch in clean(seed=5).batches(20)])
    assert monitor.calibration.flagged(fresh.detach(), 0.1).double().mean().item() < 0.35


def test_images_and_their_readings_score_the_same(monitor):
    fresh = torch.cat([scenes(8, (24, 24), seed=1), noise(4, (24, 24))])
    read = monitor.read(fresh)
    with torch.no_grad():
        torch.testing.assert_close(monitor.score_of(read), monitor.score(fresh), rtol=1e-3, atol=1e-3)


def test_a_saved_monitor_escalates_as_before(monitor, tmp_path):
    monitor.save(tmp_path / "m.inlier")
    loaded = Monitor.load(tmp_path / "m.inlier", monitor.backbone)
    fresh = torch.cat([scenes(8, (24, 24), seed=1), noise(4, (24, 24))])
    assert loaded.escalate == 0.4
    assert torch.equal(loaded.doubt, monitor.doubt)
    with torch.no_grad():
        assert torch.equal(loaded.score(fresh), monitor.score(fresh))


def test_a_gradient_reaches_images_that_were_looked_at_and_those_that_were_not(monitor):
    fresh = torch.cat([scenes(6, (24, 24), seed=1), noise(3, (24, 24))]).requires_grad_()
    (gradient,) = torch.autograd.grad(monitor.score(fresh).sum(), fresh)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_detectors_that_carry_over_are_calibrated_on_groups_they_were_not_fitted_to(monitor):
    assert "whole groups" in monitor.clean.made
    alone = Monitor(backbone(), "mahalanobis", seed=0).fit(clean()).calibrate(false_alarm_rate=0.1)
    assert "blocks" in alone.clean.made


@pytest.mark.parametrize("detectors", ["profile", "profile(look='jpeg')", ["profile", "mahalanobis"]])
def test_escalation_without_a_detector_of_each_kind_is_refused(detectors):
    with pytest.raises(Mismatch, match="one pass and of some that need more"):
        Monitor(backbone(), detectors, escalate=0.5).build((24, 24))


@pytest.mark.parametrize(("escalate", "fusion"), [(1.5, "max"), (-0.1, "max"), (0.5, "sum")])
def test_a_share_that_is_none_or_another_fusion_is_refused(escalate, fusion):
    with pytest.raises(ValueError, match="share of clean images from 0 to 1"):
        Monitor(backbone(), list(DETECTORS), escalate=escalate, fusion=fusion)
