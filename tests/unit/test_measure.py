"""Results of a record: every number against its definition."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from inlier.errors import Mismatch
from inlier.evaluation.measure import (
    BINS,
    LOST,
    curves_of,
    histograms,
    measured,
    targets_of,
    without_nan,
    worst_misses,
)
from inlier.evaluation.metrics import auroc, rate_interval
from inlier.evaluation.record import MonitorEntry, Record, SetEntry
from inlier.evaluation.study import Goal
from inlier.files import write_tensors

NAMES = tuple(f"{i}.png" for i in range(6))
GROUPS = ("a", "a", "a", "b", "b", "b")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def pixels(*hits):
    """Of six images, of two classes with 4 pixels in their union each; the second class is hit by 2, a third absent."""
    first = torch.tensor(hits)
    return torch.stack([torch.stack([first, first * 0 + 2, first * 0], 1), torch.tensor([[4, 4, 0]] * len(hits))], 1)


@pytest.fixture
def record():
    monitor = MonitorEntry("m", "M", "ours", ("energy",), "max", (0, 1), "order_statistic", (0.05, 0.2),
                           {0: {0.05: 4.5, 0.2: 3.5}, 1: {0.2: 30.5}}, "cross-fitted")  # fmt: skip

    def made(name, kind, paper=False):
        return SetEntry(name, name, kind, name, paper=paper, of="clean", names=NAMES, groups=GROUPS)

    clean = SetEntry("clean", "clean", "clean", names=NAMES, groups=GROUPS)
    other = SetEntry("other", "other", "ood", "ood", names=("x",), groups=("far",))
    base = doubles(0, 1, 2, 3, 4, 5)
    scores = {"clean": base, "fog": base + 2, "noise": base, "attack": doubles(9, 9, 9, 0, 0, 9), "other": doubles(7)}
    changed = {
        "fog": doubles(0.0, 0.01, 0.05, 0.1, 0.99, 1.0),
        "noise": base * 0,
        "attack": doubles(0.4, 0.5, 0.6, 0.7, 0.2, 1),
    }
    return Record(
        monitors=(monitor,),
        sets=(clean, made("fog", "perturbation", True), made("noise", "control"), made("attack", "attack", True),
              other),
        scores={("m", seed, name): value * (1 + 9 * seed) for seed in (0, 1) for name, value in scores.items()},
        calibration={("m", 0): base, ("m", 1): base * 10},
        calibration_names=NAMES,
        calibration_groups=GROUPS,
        changed=changed,
        iou={name: 1 - value for name, value in changed.items()},
        overlap={"clean": pixels(4, 4, 4, 4, 4, 4), "attack": pixels(1, 2, 3, 4, 4, 0)},
        confusion={"clean": torch.tensor([[8, 2, 0], [2, 8, 0], [0, 0, 0]])},
        nested={("m", 0, "a", 0.2): torch.tensor([1, 0, 0])},
    )  # fmt: skip


def test_a_record_read_back_is_the_record(record, tmp_path):
    record.save(tmp_path / "r.safetensors")
    again = Record.load(tmp_path / "r.safetensors")
    assert again.monitors == record.monitors
    assert again.sets == record.sets
    assert again.calibration_groups == GROUPS
    for part in ("scores", "calibration", "changed", "iou", "confusion", "nested"):
        ours, theirs = getattr(record, part), getattr(again, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_file_that_is_no_record_is_refused(record, tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(Mismatch, match="no record"):
        Record.load(tmp_path / "x.safetensors")
    write_tensors(tmp_path / "y.safetensors", {"x": torch.zeros(1)}, {"record": json.dumps({"format": 99})})
    with pytest.raises(Mismatch, match="format 99"):
        Record.load(tmp_path / "y.safetensors")


def test_what_is_not_in_a_record_is_told_with_what_is(record):
    with pytest.raises(LookupError, match="fog, noise"):
        record.set("fogg")
    assert record.monitor("m").label == "M"
    assert record.clean.name == "clean"


def row_of(results, name, seed=0):
    return next(row for row in results["rows"] if row["set"] == name and row["seed"] == seed)


def test_rows_count_flags_above_the_threshold_with_clopper_pearson_intervals(record):
    results = measured(record)
    row = row_of(results, "fog")
    assert row["flagged"]["0.05"] == {"hits": 3, "images": 6, "interval": list(rate_interval(3, 6))}
    assert row["by_group"]["a"]["0.2"] == {"hits": 1, "images": 3, "interval": list(rate_interval(1, 3))}
    assert row["auroc"] == auroc(record.scores["m", 0, "clean"], record.scores["m", 0, "fog"])
    assert row_of(results, "clean")["by_group"]["b"]["0.05"]["hits"] == 1
    assert "auroc" not in row_of(results, "clean")


def test_flags_over_images_that_changed_leave_out_those_below_a_tenth(record):
    row = row_of(measured(record), "fog")
    assert row["flagged_changed"]["0.05"]["images"] == 3
    assert row["flagged_changed"]["0.05"]["hits"] == 3
    assert row_of(measured(record), "noise")["flagged_changed"]["0.05"] == {
        "hits": 0,
        "images": 0,
        "interval": [0.0, 1.0],
    }


def test_a_rate_without_a_threshold_under_some_seed_is_in_no_summary(record):
    summary = next(line for line in measured(record)["summary"] if line["set"] == "fog")
    assert summary["seeds"] == 2
    assert set(summary["tpr"]) == {"0.2"}
    assert summary["auroc"]["std"] == 0


def test_intervals_of_auroc_have_a_width_even_at_one(record):
    scores = dict(record.scores) | {("m", 0, "attack"): doubles(9, 9, 9, 9, 9, 9)}
    row = row_of(measured(replace(record, scores=scores)), "attack")
    assert row["auroc"] == 1
    low, high = row["auroc_interval"]
    assert low < 1 <= high


def test_pooled_is_one_threshold_over_all_of_the_papers_sets(record):
    pooled = measured(record)["pooled"][0]
    both = torch.cat([record.scores["m", 0, name] for name in ("fog", "attack")])
    assert pooled["auroc"] == auroc(record.scores["m", 0, "clean"], both)
    assert (pooled["images"], pooled["sets"]) == (12, 2)


def test_sets_say_aacc_aiou_and_miou(record):
    sets = {entry["name"]: entry for entry in measured(record, void=2)["sets"]}
    assert sets["attack"]["aacc"] == pytest.approx(3.4 / 6)
    assert sets["attack"]["aiou"] == pytest.approx(3.4 / 6)
    assert sets["fog"]["changed_images"] == 3
    assert sets["clean"]["miou"] == pytest.approx(8 / 12)
    assert sets["other"]["changed"] is None


def test_bins_of_damage_hold_every_changed_image_once_and_no_control(record):
    line = measured(record)["against_damage"][0]
    assert [(each["from"], each["to"]) for each in line["bins"]] == list(pairwise(BINS))
    assert [each["images"] for each in line["bins"]] == [1, 1, 1, 1, 1, 1, 6]
    assert [each["flagged"] for each in line["bins"]] == [0, 0, 0, 1, 0, 1, 5]


def test_bins_of_loss_are_of_what_each_image_lost_in_mean_iou(record):
    assert [line["monitor"] for line in measured(record)["against_loss"]] == ["m"] * 3
    line = measured(record)["against_loss"][0]
    # the attack's images lose (4 - hits) / 8: .375, .25, .125, 0, 0, .5; it flags numbers 0, 1, 2 and 5
    assert [(each["from"], each["to"]) for each in line["bins"]] == list(pairwise(LOST))
    assert [each["images"] for each in line["bins"]] == [2, 0, 0, 1, 1, 2]
    assert [each["flagged"] for each in line["bins"]] == [0, 0, 0, 1, 1, 2]


def test_without_labels_nothing_is_said_of_loss(record):
    assert measured(replace(record, overlap={}))["against_loss"] == []


def test_held_out_counts_the_flags_of_nested_monitors(record):
    assert measured(record)["held_out"] == [
        {"monitor": "m", "seed": 0, "group": "a", "images": 3,
         "flagged": {"0.2": {"hits": 1, "images": 3, "interval": list(rate_interval(1, 3))}}}
    ]  # fmt: skip


def test_the_worst_misses_are_the_most_changed_unflagged_one_an_image(record):
    misses = worst_misses(record, "m", 12)
    assert [(miss["image"], miss["set"], miss["changed"]) for miss in misses] == [
        ("3.png", "attack", 0.7), ("4.png", "attack", 0.2), ("2.png", "fog", 0.05), ("1.png", "fog", 0.01)
    ]  # fmt: skip
    assert misses[0]["p_value"] == 1.0
    assert misses[2]["p_value"] == pytest.approx(3 / 7)
    assert len(worst_misses(record, "m", 1)) == 1


def test_curves_are_of_the_papers_sets_and_end_at_one(record):
    curves = curves_of(record, ["m", "absent"])
    assert [line["set"] for line in curves["roc"]] == ["fog", "attack"]
    assert all(line["tpr"][-1] == line["fpr"][-1] == 1 for line in curves["roc"])
    assert all(len(line["recall"]) == len(line["precision"]) for line in curves["pr"])


def test_a_histogram_counts_every_image_of_a_set(record):
    figure = histograms(record, "m", bins=4)
    assert {name: sum(counts) for name, counts in figure["counts"].items()} == {"clean": 6, "fog": 6, "attack": 6}
    assert len(figure["edges"]) == 5


@pytest.mark.parametrize(
    ("wanted", "value", "met"),
    [
        ({"metric": "auroc", "over": "paper", "at_least": 0.6}, 25 / 36, True),
        ({"metric": "auroc", "over": "attack", "at_least": 0.7}, 25 / 36, False),
        ({"metric": "flagged", "over": "control", "rate": 0.2, "at_most": 0.4}, 1 / 3, True),
        ({"metric": "auroc", "over": "paper", "pooled": True, "at_least": 0.7}, None, True),
        ({"metric": "auroc", "over": "snow", "at_least": 0.0}, None, False),
    ],
)
def test_a_target_takes_the_worst_of_what_it_is_about(record, wanted, value, met):
    (told,) = targets_of([Goal("it", "m", **wanted)], measured(record))
    if value is not None:
        assert told["value"] == pytest.approx(value)
    assert told["met"] is met


def test_numbers_that_are_none_become_null():
    assert without_nan({"a": [float("nan"), 1.0, (float("inf"), "x")]}) == {"a": [None, 1.0, [None, "x"]]}
