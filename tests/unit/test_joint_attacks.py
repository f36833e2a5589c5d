"""Attacks on a monitor: what success means, that it can be had, and that every way is what it says."""

import math
from dataclasses import replace

import pytest
import torch
from toy_segmentation import scenes, segmenter

from inlier.attacks.joint import WAYS, attack_monitor, limit_of
from inlier.attacks.objectives import cross_entropy
from inlier.errors import NotFitted
from inlier.monitor import Monitor

EPS = 0.12


@pytest.fixture(scope="module")
def monitor():
    return Monitor(segmenter(), "mahalanobis", seed=0).fit(scenes(60, 1)).calibrate(false_alarm_rate=0.05)


@pytest.fixture(scope="module")
def images():
    return scenes(10, 2)


@pytest.fixture(scope="module")
def by_way(monitor, images):
    return {way: attack_monitor(monitor, images, EPS, way=way, steps=40, weight=0.05) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_reported_is_true_of_the_rounded_images(monitor, images, by_way, way):
    found = by_way[way]
    assert torch.equal(found.images, (found.images * 255).round() / 255)
    assert (found.images - images).abs().max() <= EPS + 0.5 / 255 + 1e-6
    with torch.no_grad():
        torch.testing.assert_close(found.after, monitor.score(found.images))
        torch.testing.assert_close(found.before, monitor.score(images))
        changed = (monitor.backbone.predict(found.images) != monitor.backbone.predict(images)).float().mean((1, 2))
    torch.testing.assert_close(found.damage, changed)
    assert torch.equal(found.detected, monitor(found.images).flagged)
    silent = found.before <= limit_of(monitor)
    assert torch.equal(found.evaded(0.3), (changed >= 0.3) & ~found.detected & silent)
    assert found.success(0.3) == pytest.approx(found.evaded(0.3).sum().item() / silent.sum().item())


def test_who_knows_the_monitor_gets_past_it_and_who_does_not_is_caught(by_way):
    assert by_way["oblivious"].damage.mean() > 0.3
    assert by_way["oblivious"].success() < 0.3
    assert by_way["dual"].success() > 0.6
    for way in ("selective", "orthogonal", "dual", "n_plus_one"):
        assert by_way[way].success() > by_way["oblivious"].success(), way


def test_some_weight_gets_past_it_too(monitor, images):
    swept = [
        attack_monitor(monitor, images, EPS, way="weighted", steps=40, weight=weight).success()
        for weight in (0.01, 0.1, 0.3)
    ]
    assert swept[0] < max(swept)  # too small a weight is flagged
    assert max(swept) > 0.6


def test_the_score_alone_goes_down_and_up(by_way):
    assert (by_way["hide"].after < by_way["hide"].before).all()
    assert (by_way["false_alarm"].after > by_way["false_alarm"].before).all()
    assert by_way["false_alarm"].detected.all()


def test_equal_seeds_are_equal_attacks_and_restarts_do_not_harm(monitor, images):
    once, again = (attack_monitor(monitor, images[:3], 0.04, steps=10, restarts=2, seed=7) for _ in range(2))
    assert torch.equal(once.images, again.images)
    more = attack_monitor(monitor, images[:3], 0.04, steps=10, restarts=4, seed=7)
    better = {"damage": more.result.damage, "was": once.result.damage}
    assert better["damage"].sum() >= better["was"].sum() - 0.05


def test_an_attack_in_l2_stays_in_its_ball(monitor, images):
    found = attack_monitor(monitor, images, 1.5, norm="l2", steps=20)
    assert found.result.norms["L2"].max() <= 1.5 + 1e-4
    assert found.damage.mean() > 0.1


def test_success_counts_those_alone_that_were_silent_before(by_way):
    found = by_way["dual"]
    noisy = replace(found, before=torch.full_like(found.before, torch.inf))
    assert not noisy.evaded().any()
    assert math.isnan(noisy.success())
    half = found.before.clone()
    half[::2] = torch.inf
    fewer = replace(found, before=half)
    assert fewer.success() == pytest.approx(found.evaded()[1::2].float().mean().item())


def test_another_rate_is_another_limit_and_its_attack_keeps_to_it(monitor, images):
    strict = attack_monitor(monitor, images[:4], EPS, steps=30, rate=0.2)
    assert strict.limit == limit_of(monitor, 0.2) < limit_of(monitor)
    assert (strict.after[strict.evaded()] <= strict.limit).all()


def test_another_loss_may_stand_for_the_networks_errors(monitor, images):
    found = attack_monitor(monitor, images[:4], EPS, way="oblivious", loss=cross_entropy, steps=10)
    assert found.result.config["objectives"] == ["cross_entropy"]


def test_what_cannot_be_attacked_is_refused(monitor, images):
    with pytest.raises(LookupError, match="dual"):
        attack_monitor(monitor, images, EPS, way="duel")
    with pytest.raises(ValueError, match="l1"):
        attack_monitor(monitor, images, EPS, norm="l1")
    with pytest.raises(NotFitted, match="calibrat"):
        attack_monitor(Monitor(segmenter(), "mahalanobis").fit(scenes(20, 1)), images, EPS)


def test_the_norms_are_those_of_the_rounded_images(images, by_way):
    for found in by_way.values():
        delta = found.images - images
        torch.testing.assert_close(found.norms["Linf"], delta.abs().amax((1, 2, 3)))
        torch.testing.assert_close(found.norms["L2"], delta.square().sum((1, 2, 3)).sqrt())
        torch.testing.assert_close(found.norms["L0"], (delta != 0).sum((1, 2, 3)).float())


def test_what_is_lost_in_rounding_and_dead_gradients_are_raised(by_way):
    found = by_way["dual"]
    assert found.raised() == ()
    barely = replace(found, after=torch.full_like(found.after, math.inf))
    assert torch.equal(barely.lost(), found.evaded())
    assert f"{int(found.evaded().sum())} of 10 images" in barely.raised()[0]
    dead = replace(found, result=replace(found.result, dead_gradients=0.5))
    assert "50%" in dead.raised()[0]
