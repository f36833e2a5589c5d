"""Gates say of attackers whether their failure means anything: each fails where it should."""

import pytest
import torch
from attacked import fitted, subjects

from inlier.evaluation.gates import (
    Gate,
    black_box_gate,
    control_gate,
    dead_gate,
    iterated_gate,
    knowledge_gate,
    least_decided,
    monitor_gates,
    never_falls,
    rising_gate,
    rounding_gate,
    slope_gate,
    steps_gate,
    surrogates_gate,
)

NOBODY = torch.zeros(2).bool()


def test_a_verdict_is_a_word_and_goes_into_the_results():
    assert [Gate("", "", "", passed).verdict for passed in (True, False, None)] == ["PASS", "FAIL", "not run"]
    assert Gate("a", "b", "c", True).told() == {"name": "a", "wanted": "b", "observed": "c", "verdict": "PASS"}


def test_one_image_less_is_no_fall_and_two_are():
    assert never_falls([0.5, 0.375, 0.375], 8)
    assert not never_falls([0.5, 0.25], 8)
    assert never_falls([], 0)


def test_the_least_decided_eps_is_the_one_nearest_to_a_half_and_of_several_the_smallest():
    assert least_decided({2.0: 0.4, 1.0: 0.0, 4.0: 1.0}) == 2.0
    assert least_decided({4.0: 1.0, 2.0: 1.0, 1.0: 1.0}) == 1.0


@pytest.mark.parametrize(
    ("gate", "verdict", "observed"),
    [
        (rising_gate([0.0, 0.5, 0.375], 8), "PASS", "0.000, 0.500, 0.375"),
        (rising_gate([0.5, 0.0], 8), "FAIL", "0.500, 0.000"),
        (rising_gate([0.5], 8), "not run", "0.500 at one eps alone"),
        (knowledge_gate({"noise": 0.0, "T0": 0.25, "T3": 1.0}, 8), "PASS", "1.000, 0.250, 0.000"),
        (knowledge_gate({"noise": 0.0, "T0": 0.75, "T3": 0.5}, 8), "FAIL", "0.500, 0.750, 0.000"),
        (knowledge_gate({"T3": 0.5}, 8), "not run", "there is nobody to compare"),
        (black_box_gate(torch.ones(8).bool(), torch.tensor([True, False])), "PASS", "2 and 1 of 2 images"),
        (black_box_gate(torch.zeros(8).bool(), torch.tensor([True, False])), "FAIL", "0 and 1 of 2 images"),
        (black_box_gate(None, torch.tensor([True])), "not run", "nobody saw everything"),
        (black_box_gate(torch.ones(8).bool(), None), "not run", "no questions were asked"),
        (black_box_gate(torch.ones(8).bool(), NOBODY, torch.ones(8).bool()), "FAIL", "2, 0 and 2 of 2 images"),
        (black_box_gate(torch.ones(8).bool(), ~NOBODY, torch.ones(8).bool()), "PASS", "2, 2 and 2 of 2 images"),
        (steps_gate(NOBODY, NOBODY, "there"), "PASS", "+0.000 [-0.658, +0.658], 0 of 2 there"),
        (steps_gate(torch.ones(40).bool(), torch.arange(40) < 20, ""), "FAIL", "-0.500 [-0.648, -0.328], 40 of 40 "),
        (steps_gate(NOBODY[:0], NOBODY[:0], "there"), "not run", "no image was silent"),
        (control_gate(0.5), "PASS", "0.500"),
        (control_gate(0.4, "there"), "FAIL", "0.400"),
        (control_gate(None), "not run", "no control was given"),
        (iterated_gate([(0.5, 0.505), (0.9, 0.1)]), "PASS", "0.500 against 0.505, 0.900 against 0.100"),
        (iterated_gate([(0.9, 0.1), (0.5, 0.6)]), "FAIL", "0.900 against 0.100, 0.500 against 0.600"),
        (iterated_gate([], "none"), "not run", "none"),
        (rounding_gate(0.05), "PASS", "0.050"),
        (rounding_gate(0.06), "FAIL", "0.060"),
        (dead_gate([0.0, 0.01], "whom"), "PASS", "1.00%"),
        (dead_gate([0.0, 0.02], "whom"), "FAIL", "2.00%"),
        (dead_gate([], "whom"), "not run", "not counted"),
    ],
)
def test_each_gate_passes_fails_and_says_when_it_was_not_run(gate, verdict, observed):
    assert (gate.verdict, gate.observed) == (verdict, observed)


class Watching:
    """A monitor with a score of its own."""

    def __init__(self, score):
        self.score, self.probe, self.backbone = score, fitted().probe, fitted().backbone


def test_a_slope_is_checked_against_the_gradient():
    images = subjects().images
    honest, masked = (
        Watching(lambda x: x.square().flatten(1).mean(1)),
        Watching(lambda x: x.detach().square().flatten(1).mean(1) + 1e-6 * x.flatten(1).mean(1)),
    )
    assert slope_gate(honest, images).verdict == "PASS"
    assert slope_gate(masked, images).verdict == "FAIL"
    assert slope_gate(Watching(lambda x: 0 * x.flatten(1).mean(1)), images).verdict == "FAIL"
    stairs = slope_gate(Watching(lambda x: (x > 0.5).flatten(1).float().mean(1)), images)
    assert (stairs.verdict, stairs.observed) == ("FAIL", "the score has no gradient")


def test_a_monitor_answers_the_same_every_time_and_changes_no_prediction():
    images = subjects().images
    assert [gate.verdict for gate in monitor_gates(fitted(), images)] == ["PASS", "PASS"]
    noise = torch.Generator().manual_seed(0)
    assert monitor_gates(Watching(lambda x: torch.rand(len(x), generator=noise)), images)[0].verdict == "FAIL"
    meddling = Watching(lambda x: torch.ones(len(x)))
    meddling.backbone = lambda x: fitted().backbone(x).flip(1)
    assert monitor_gates(meddling, images)[1].verdict == "FAIL"


def test_an_attackers_own_monitor_that_alarms_at_everything_is_told_of():
    images, own = subjects(4).images, fitted()
    stripes = torch.zeros_like(images)
    stripes[..., ::2] = 1
    found = surrogates_gate([own], images, 3)
    passed = int((~own(images).flagged).sum())
    assert passed >= 2
    assert (found.verdict, found.observed) == ("PASS", f"{passed} of 4")
    found = surrogates_gate([own, own], torch.cat([images[:1], stripes]), 3)
    assert found.verdict == "FAIL"
    assert found.observed in ("0 of 5", "1 of 5")
