"""What is read off an attack's path: interpolated scores, the smallest norm that suffices, areas and their bands."""

import pytest
import torch

from inlier.evaluation.metrics import auroc
from inlier.evaluation.walks import Walk, along, area, bands, loss, passed, smallest_norm

NORMS = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]).double()
DOWN = torch.tensor([[6.0, 5.0], [4.0, 5.0], [0.0, 3.0]]).double()


def test_scores_between_steps_lie_on_straight_lines_image_by_image():
    assert along(NORMS, DOWN, [0.0, 0.5, 1.5, 2.0]).tolist() == [[6, 5], [5, 5], [2, 5], [0, 5]]
    assert along(NORMS, DOWN, [3.0])[0].tolist() == [0, 4]  # the first image stays where its path ended


def test_a_step_back_is_passed_over():
    norms = torch.tensor([[0.0], [2.0], [1.0], [3.0]]).double()
    scores = torch.tensor([[9.0], [5.0], [100.0], [3.0]]).double()
    assert along(norms, scores, [1.0, 2.5]).flatten().tolist() == [7, 4]


def test_the_smallest_norm_is_where_the_score_crosses_the_limit():
    assert smallest_norm(NORMS, DOWN, 3.0, "hide").tolist() == [1.25, 4.0]
    assert smallest_norm(NORMS, DOWN, 2.0, "hide").tolist() == [1.5, torch.inf]
    assert smallest_norm(NORMS, DOWN, 7.0, "hide").tolist() == [0, 0]
    assert smallest_norm(NORMS, -DOWN, -3.0, "false_alarm").tolist() == [1.25, torch.inf]  # -3 itself is not flagged


def test_whoever_got_through_needs_no_more_than_the_norm_it_took():
    generator = torch.Generator().manual_seed(0)
    norms = torch.rand(9, 30, generator=generator).double().cumsum(0)
    scores = 5 - torch.rand(9, 30, generator=generator).double().cumsum(0)
    least = smallest_norm(norms, scores, 3.0, "hide")
    for size in (0.5, 1.5, 3.0):
        there = along(norms, scores, [size])[0]
        reached = norms[-1] >= size  # beyond its end a path stays, and the smallest norm is infinite or below
        assert torch.equal((least <= size)[reached], passed(there, 3.0, "hide")[reached])


@pytest.mark.parametrize("way", ["hide", "false_alarm"])
def test_areas_and_bands_are_those_of_anomalies_against_clean_images(way):
    generator = torch.Generator().manual_seed(1)
    attacked, others = torch.randn(3, 40, generator=generator).double(), torch.randn(50, generator=generator).double()
    expected = [auroc(others, row) if way == "hide" else auroc(row, others) for row in attacked]
    assert [area(row, others, way) for row in attacked] == expected
    band = bands(attacked, others, way, 0)
    torch.testing.assert_close(band.value, torch.tensor(expected).double())
    assert (band.low <= band.value).all()
    assert (band.value <= band.high).all()
    assert ((band.high - band.low) > 0.05).all()


def test_a_band_has_a_width_where_nothing_overlaps():
    band = bands(torch.full((1, 20), 9.0).double(), torch.zeros(20).double(), "hide", 0)
    assert band.value.item() == 1
    assert band.low.item() < 0.95


def test_the_loss_is_of_the_same_images():
    before, others = torch.arange(20).double(), torch.arange(10).double()
    value, low, high = loss(before, before - 4, others, "hide", 0)
    assert value == pytest.approx(area(before - 4, others, "hide") - area(before, others, "hide"))
    assert low <= value <= high < 0
    assert loss(before, before, others, "hide", 0) == (0, 0, 0)


def test_who_has_a_way_to_go_is_who_is_not_there_yet():
    walk = Walk("hide", DOWN, {"L2": NORMS}, DOWN[0], 0.0)
    assert walk.begun(5.0).tolist() == [True, False]
    assert Walk("false_alarm", DOWN, {"L2": NORMS}, DOWN[0], 0.0).begun(5.0).tolist() == [False, True]
    assert walk.at("L2", [0.5]).tolist() == [[5, 5]]
    assert walk.smallest("L2", 3.0).tolist() == [1.25, 4.0]
