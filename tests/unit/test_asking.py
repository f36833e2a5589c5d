"""Attacks by questions on a monitor: what they may see, what they cost, and that what they say they found is there."""

from dataclasses import replace

import pytest
import torch
from attacked import fitted
from toy_segmentation import scenes

from inlier.attacks import asking
from inlier.attacks.asking import QUERIES, ask_monitor
from inlier.attacks.queries import rays, square
from inlier.errors import NotFitted
from inlier.monitor import Monitor

EPS = 0.2


@pytest.fixture(scope="module")
def monitor():
    return fitted(detector="max_softmax")


@pytest.fixture(scope="module")
def images():
    return scenes(3, 2)


@pytest.mark.parametrize("how", QUERIES)
def test_what_is_reported_is_true_of_8_bit_images_in_the_ball(monitor, images, how):
    found = ask_monitor(monitor, images, EPS, how=how, queries=120, share=0.1, seed=1)
    assert torch.equal(found.images, (found.images * 255).round() / 255)
    assert found.norms["Linf"].max() <= EPS + 0.5 / 255 + 1e-6
    torch.testing.assert_close(found.after, monitor.score(found.images), check_dtype=False)
    changed = (monitor.backbone.predict(found.images) != monitor.backbone.predict(images)).float().mean((1, 2))
    torch.testing.assert_close(found.damage, changed)
    assert found.queries.max() <= 121
    assert torch.equal(found.detected, monitor(found.images).flagged)
    assert found.seed == 1
    assert found.config == {
        "attack": how, "queries": 120, "eps": EPS, "reveals": QUERIES[how].reveals, "share": 0.1, "seed": 1
    }  # fmt: skip


def test_questions_that_ran_out_are_a_reason_to_doubt(images):
    monitor = fitted(detector="mahalanobis")
    few, many = (ask_monitor(monitor, images, 0.12, queries=queries, share=0.1) for queries in (20, 1000))
    assert not few.evaded(0.1).any()
    assert few.raised(0.1) == ("questions ran out before some of the images evaded; more might do it",)
    assert many.evaded(0.1)[many.silent].all()
    assert many.raised(0.1) == ()


def test_questions_alone_get_past_a_weak_monitor_and_then_stop(monitor, images):
    found = ask_monitor(monitor, images, EPS, queries=400, share=0.1)
    assert found.evaded(0.1).any()
    assert found.queries[found.evaded(0.1)].max() < 400


def test_the_number_of_questions_is_what_the_system_was_asked(monitor, images, monkeypatch):
    asked = []
    plain = asking._answer
    monkeypatch.setattr(asking, "_answer", lambda *a, **k: asked.append(len(a[1])) or plain(*a, **k))
    found = ask_monitor(monitor, images[:1], 0.02, queries=30)
    assert sum(asked) == int(found.queries)


def test_with_the_flag_alone_scores_are_not_seen(monitor, images, monkeypatch):
    seen = []

    def spy(decision, *given, **more):
        return rays(lambda batch: seen.append(decision(batch)) or seen[-1], *given, **more)

    monkeypatch.setattr(asking, "rays", spy)
    ask_monitor(monitor, images[:1], EPS, how="rays", queries=20)
    assert seen
    assert all(answer.dtype == torch.bool for answer in seen)


def test_what_wins_only_beyond_eps_is_left_as_it_was(monitor, images):
    found = ask_monitor(monitor, images[:1], 1e-4, how="rays", queries=40)
    assert torch.equal(found.images, (images[:1] * 255).round() / 255)


def test_progress_counts_up_to_all_questions(monitor, images):
    told = []
    ask_monitor(monitor, images[:2], 0.02, how="spsa", queries=200, progress=lambda *step: told.append(step))
    assert [step[1] for step in told] == sorted(step[1] for step in told)
    assert {step[2] for step in told} == {400}
    assert told[-1][1] == 400


@pytest.mark.parametrize("how", QUERIES)
def test_a_start_that_evades_costs_the_questions_up_to_it(monitor, images, how):
    won = ask_monitor(monitor, images, EPS, queries=400, share=0.1)
    evaded = won.evaded(0.1)
    assert evaded.any()
    found = ask_monitor(monitor, images, EPS, how=how, queries=60, share=0.1, initial=[images, won.images])
    assert torch.equal(found.images[evaded], won.images[evaded])
    assert (found.queries[evaded] == 2).all()
    assert found.config["starts"] == 2


def test_who_sees_scores_goes_on_from_the_best_start_within_the_budget(images, monkeypatch):
    monitor = fitted(detector="mahalanobis")
    begun = []
    monkeypatch.setitem(QUERIES, "square", replace(QUERIES["square"], run=lambda *given, **more: (
        begun.append(more["initial"]) or square(*given, **more)
    )))  # fmt: skip
    before = ask_monitor(monitor, images, 0.12, queries=20, share=0.1)
    begun.clear()
    after = ask_monitor(monitor, images, 0.12, queries=20, share=0.1, initial=[images, before.images], seed=1)
    failed = ~after.evaded(0.1)
    assert failed.all()
    # What counts is the smaller of two; where the damage is what is missing, that is no less.
    assert [bool(torch.equal(each, was[None])) for each, was in zip(begun, before.images, strict=True)] == [True] * 3
    assert (after.queries <= 20).all()


def test_what_cannot_be_is_refused(images):
    with pytest.raises(ValueError, match="start from"):
        ask_monitor(fitted(), images, EPS, initial=[images[:1]])
    with pytest.raises(ValueError, match="leave nothing of 3 queries"):
        ask_monitor(fitted(), images, EPS, queries=3, initial=[images, images])
    with pytest.raises(LookupError, match="square"):
        ask_monitor(fitted(), images, EPS, how="circle")
    with pytest.raises(NotFitted):
        ask_monitor(Monitor(fitted().backbone, "mahalanobis").fit(scenes(20, 1)), images, EPS)
