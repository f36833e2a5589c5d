"""Differences of two monitors are those of the metrics, and intervals use that both saw the same images."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from inlier.errors import Mismatch
from inlier.evaluation.compare import compare, mean_ious, p_value_of
from inlier.evaluation.intervals import Interval, paired_rate_interval
from inlier.evaluation.metrics import ConfusionMatrix, auroc
from inlier.evaluation.slices import OWN, Judged, Side, side_of_scores

N = 60
NAMES = tuple(f"{n:03}.png" for n in range(N))
GROUPS = ("a",) * 30 + ("b",) * 30
KINDS = {"fog": "perturbation", "rain": "perturbation", "pgd": "attack", "jpeg": "control"}


def normals(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def monitor(label="m", shifts=None, seed=0, keys=1, common=0.0, threshold=1.6, groups=GROUPS, **more):
    """A monitor whose scores of changed images are so much higher; `common` is what it shares with others."""
    shifts = {"fog": 1.0, "rain": 2.0, "pgd": 0.5, "jpeg": 0.0} if shifts is None else shifts
    shared = normals(N, 1, seed=99)
    sets = {}
    for number, (name, shift) in enumerate({"clean": 0.0, **shifts}.items()):
        own = normals(N, keys, seed=1000 * seed + number)
        scores = common**0.5 * shared + (1 - common) ** 0.5 * own + shift
        kind = "clean" if name == "clean" else KINDS[name]
        sets[name] = Judged(name, kind, NAMES, groups, scores, {"0.05": scores > threshold}, name, **more)
    return Side(label, sets, "clean", tuple(shifts))


def rows(comparison):
    return {row.name: row for row in comparison.rows}


def columns_mean(function, *sides):
    return sum(function(*each) for each in zip(*(side.unbind(1) for side in sides), strict=True)) / sides[0].shape[1]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [1, 3])
def test_areas_and_their_difference_are_those_of_the_metric_averaged_over_keys(keys):
    a, b = monitor(seed=1), monitor(seed=2, keys=keys)
    found = rows(compare(a, b, resamples=50))
    for name in ("fog", "rain", "pgd", "jpeg"):
        one, other = (columns_mean(auroc, side.sets["clean"].scores, side.sets[name].scores) for side in (a, b))
        difference = found[name].differences["auroc"]
        assert (difference.a, difference.b) == pytest.approx((one, other))
        assert difference.difference == pytest.approx(other - one)


def test_changes_taken_together_have_the_area_and_the_rate_of_all_their_images():
    a, b = monitor(seed=1), monitor(seed=2)
    found = rows(compare(a, b, resamples=50))["all changes"].differences
    together = [torch.cat([side.sets[name].scores[:, 0] for name in ("fog", "rain", "pgd")]) for side in (a, b)]
    areas = [auroc(side.sets["clean"].scores[:, 0], scores) for side, scores in zip((a, b), together, strict=True)]
    assert (found["auroc"].a, found["auroc"].b) == pytest.approx(areas)
    assert found["flagged@0.05"].b == pytest.approx((together[1] > 1.6).double().mean().item())


def test_rows_taken_together_are_there_once_each_and_only_of_several_sets():
    assert [name for name in rows(compare(monitor(), monitor(seed=1), resamples=20)) if name.startswith("all")] == [
        "all changes", "all natural changes",
    ]  # fmt: skip
    natural = {"fog": 1.0, "rain": 1.0}
    only = compare(monitor(shifts=natural), monitor(shifts=natural, seed=1), resamples=20)
    assert [name for name in rows(only) if name.startswith("all")] == ["all changes"]
    single = compare(monitor(shifts={"fog": 1.0}), monitor(shifts={"fog": 1.0}, seed=1), resamples=20)
    assert list(rows(single)) == ["clean", "fog"]


def test_a_monitor_is_no_better_than_itself():
    comparison = compare(monitor(keys=2), monitor(keys=2), resamples=100)
    found = [difference for row in comparison.rows for difference in row.differences.values()]
    assert found
    assert {each.difference for each in found} == {0.0}
    assert all(each.low <= 0 <= each.high and each.p_value == 1 for each in found)
    assert {each.better for each in found} == {each.seems for each in found} == {None}


def test_who_catches_more_of_the_changes_is_better_and_who_flags_more_clean_images_is_worse():
    good = monitor(shifts={"fog": 3.0, "jpeg": 0.0}, seed=1)
    bad = monitor(shifts={"fog": 0.5, "jpeg": 0.0}, seed=2, threshold=0.0)
    found = rows(compare(good, bad))
    assert found["fog"].differences["auroc"].better == "a"
    assert found["clean"].differences["flagged@0.05"].better == "a"
    assert found["jpeg"].differences["flagged@0.05"].better == "a"
    assert found["jpeg"].differences["auroc"].better is None  # no more and no less is the better one
    assert found["jpeg"].differences["auroc"].seems is None


def test_a_and_b_swapped_turn_every_difference_and_interval_round():
    a, b = monitor(seed=1), monitor(seed=2, shifts={"fog": 3.0, "rain": 0.2, "pgd": 0.5, "jpeg": 0.0})
    one, other = compare(a, b, resamples=200), compare(b, a, resamples=200)
    for row, turned in zip(one.rows, other.rows, strict=True):
        for metric, found in row.differences.items():
            back = turned.differences[metric]
            assert (found.difference, found.low, found.high) == pytest.approx((-back.difference, -back.high, -back.low))
            assert {found.better, back.better} in ({None}, {"a", "b"})


# --- intervals -------------------------------------------------------------------------------------------------------


def test_what_both_monitors_find_hard_does_not_widen_the_interval_of_their_difference():
    alike = rows(compare(monitor(seed=1, common=0.9), monitor(seed=2, common=0.9)))["fog"].differences["auroc"]
    apart = rows(compare(monitor(seed=1), monitor(seed=2)))["fog"].differences["auroc"]
    assert alike.high - alike.low < 0.6 * (apart.high - apart.low)


def test_the_interval_of_one_threshold_is_never_narrower_than_newcombes():
    a, b = monitor(seed=1), monitor(seed=2)
    found = rows(compare(a, b))["fog"].differences["flagged@0.05"]
    one, other = (side.sets["fog"].flagged["0.05"][:, 0] for side in (a, b))
    counts = [int(part.sum()) for part in (one & other, ~one & other, one & ~other, ~one & ~other)]
    value, low, high = paired_rate_interval(*counts)
    assert found.difference == pytest.approx(value)
    assert found.low <= low < high <= found.high


def test_differences_at_the_ends_have_intervals_with_a_width():
    perfect = {"fog": 100.0, "rain": 100.0}
    found = rows(compare(monitor(shifts=perfect, seed=1), monitor(shifts=perfect, seed=2), resamples=50))
    for name in ("all changes", "fog"):
        for difference in found[name].differences.values():
            assert (difference.a, difference.b) == (1, 1)
            assert difference.low < -0.01
            assert difference.high > 0.01


def test_an_area_of_1_beside_a_lower_one_has_its_own_doubt_added():
    one, other = monitor(shifts={"fog": 100.0}, seed=1), monitor(shifts={"fog": 2.0}, seed=2)
    found = rows(compare(one, other))["fog"].differences["auroc"]
    assert found.low < found.b - 1 < found.high
    assert found.better == "a"


def test_equal_monitors_are_told_apart_about_as_seldom_as_the_intervals_say():
    apart = {"auroc": 0, "flagged@0.05": 0}
    for seed in range(80):
        a, b = (monitor(shifts={"fog": 1.0}, seed=2 * seed + 1 + side, common=0.5) for side in (0, 1))
        found = rows(compare(a, b, resamples=200, block_length=1))["fog"].differences
        for metric in apart:
            apart[metric] += found[metric].seems is not None
    assert apart["auroc"] / 80 <= 0.12
    assert apart["flagged@0.05"] / 80 <= 0.12


def test_frames_that_are_alike_make_blocks_and_wider_intervals():
    def slow(side, seed):
        sets = {}
        for number, (name, judged) in enumerate(side.sets.items()):
            scores = judged.scores[:1] * 0 + normals(6, 1, seed=seed + number).repeat_interleave(10, 0)
            sets[name] = replace(judged, scores=scores, flagged={"0.05": scores > 1})
        return replace(side, sets=sets)

    a, b = slow(monitor(), 3), slow(monitor(), 40)
    by_itself, by_frame = compare(a, b), compare(a, b, block_length=1)
    assert by_itself.block_length >= 6
    wide, narrow = (rows(each)["fog"].differences["auroc"] for each in (by_itself, by_frame))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert any("independent runs" in note for note in by_itself.notes)


def test_images_are_drawn_within_their_drives():
    def blind_in_one_drive(groups):
        sides = [monitor(seed=seed, shifts={"fog": 4.0}, groups=groups) for seed in (1, 2)]
        sides[0].sets["fog"].scores[:30] -= 8
        return rows(compare(*sides, block_length=1))["fog"].differences["auroc"]

    drives, one = blind_in_one_drive(GROUPS), blind_in_one_drive(("a",) * N)
    assert drives.difference == one.difference
    assert drives.high - drives.low < 0.5 * (one.high - one.low)


def test_groups_of_few_images_are_drawn_together():
    lonely, one = ([monitor(seed=seed, groups=groups) for seed in (1, 2)] for groups in (NAMES, ("a",) * N))
    assert compare(*lonely, block_length=1).rows == compare(*one, block_length=1).rows


@given(value=st.floats(-1, 1), down=st.floats(0.01, 1), up=st.floats(0.01, 1), level=st.sampled_from([0.8, 0.95]))
def test_the_p_value_is_below_the_level_just_where_the_interval_leaves_0_out(value, down, up, level):
    interval = Interval(value, value - down, value + up)
    assume(min(abs(interval.low), abs(interval.high)) > 1e-6)
    assert (p_value_of(interval, level) < 1 - level) == (interval.low > 0 or interval.high < 0)


def test_many_differences_are_allowed_for():
    comparison = compare(monitor(seed=1), monitor(seed=2, shifts={"fog": 1.3, "rain": 2.0, "pgd": 0.9, "jpeg": 0.0}))
    found = [each for row in comparison.rows for each in row.differences.values()]
    assert comparison.comparisons == len(found) == 6 + 1 + 6  # flagged of 7 rows, auroc of all but the clean one
    assert [each for each in found if each.seems and not each.better]  # chance, or too little to tell
    assert all(each.adjusted <= 0.05 for each in found if each.better)
    smallest = min(found, key=lambda each: each.p_value)
    assert smallest.adjusted == pytest.approx(min(1, len(found) * smallest.p_value))
    assert all(each.adjusted >= each.p_value for each in found)


# --- which images ----------------------------------------------------------------------------------------------------


def only(side, places):
    def picked(judged):
        return replace(
            judged,
            names=tuple(judged.names[place] for place in places),
            groups=tuple(judged.groups[place] for place in places),
            scores=judged.scores[places],
            flagged={rate: flags[places] for rate, flags in judged.flagged.items()},
        )

    return replace(side, sets={name: picked(judged) for name, judged in side.sets.items()})


def test_images_are_matched_by_name_whatever_their_order_and_others_are_left_out():
    a, b = monitor(seed=1), monitor(seed=2)
    kept = list(range(40))
    shuffled = only(b, [59, 58, *reversed(kept)])
    matched = compare(only(a, [*kept, 45]), shuffled, resamples=100)
    assert matched.rows == compare(only(a, kept), only(b, kept), resamples=100).rows
    assert "Of set 'fog', 2 images were not seen by both: left out." in matched.notes


def test_images_that_cannot_be_matched_are_refused():
    a, b = monitor(seed=1), monitor(seed=2)
    with pytest.raises(Mismatch, match="not unique"):
        compare(a, only(b, [0, 0, 1, 2]))
    with pytest.raises(Mismatch, match="only 1 of its images"):
        compare(only(a, [0, 1]), only(b, [1, 2]))
    with pytest.raises(Mismatch, match="no set of images in common"):
        compare(a, replace(b, sets={"elsewhere": b.sets["fog"]}))


def test_scores_that_are_nan_are_refused():
    a, b = monitor(seed=1), monitor(seed=2)
    b.sets["fog"].scores[3] = torch.nan
    with pytest.raises(ValueError, match="'fog', 1 scores are nan"):
        compare(a, b)


def test_rates_that_not_both_have_are_refused_and_by_default_left_out():
    a, b = monitor(seed=1), monitor(seed=2)
    without = replace(b, sets={name: replace(judged, flagged={}) for name, judged in b.sets.items()})
    with pytest.raises(LookupError, match=r"rate of 0\.05; there are none"):
        compare(a, without, rates=["0.05"])
    comparison = compare(a, without, resamples=20)
    assert comparison.rates == ()
    assert {metric for row in comparison.rows for metric in row.differences} == {"auroc"}
    assert any("No rates of alarm" in note for note in comparison.notes)


def test_sets_of_other_images_are_compared_but_too_few_of_them_make_nobody_better():
    def with_foreign(side, count, shift):
        scores = normals(count, 1, seed=7) + shift
        judged = Judged("x-rays", "ood", NAMES[:count], ("x",) * count, scores, {"0.05": scores > 1.6})
        return replace(side, sets={**side.sets, "x-rays": judged})

    for count, better in ((9, None), (40, "a")):
        a, b = (with_foreign(monitor(seed=seed), count, shift) for seed, shift in ((1, 9.0), (2, 0.0)))
        comparison = compare(a, b, resamples=200)
        row = rows(comparison)["x-rays"]
        assert row.images == count
        assert row.too_few == (better is None)
        assert {each.better for each in row.differences.values()} == {better}
        assert comparison.comparisons == sum(len(row.differences) for row in comparison.rows if not row.too_few)


def test_sets_made_with_other_settings_are_told_of():
    a, b = monitor(seed=1), monitor(seed=2)
    b.sets["pgd"] = replace(b.sets["pgd"], settings={"eps": 0.02})
    assert any("'pgd' was made with other settings" in note and "eps=0.02" in note for note in compare(a, b).notes)


def test_a_monitor_that_flags_more_of_everything_is_told_of():
    notes = compare(monitor(seed=1, threshold=0.0), monitor(seed=2)).notes
    assert any(note.startswith("A flags more of the clean images too than B") for note in notes)


# --- networks --------------------------------------------------------------------------------------------------------


def test_mean_iou_of_a_resample_is_that_of_the_confusion_matrix_of_its_pixels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (10, 6, 6), generator=generator)
    predicted = [torch.where(torch.rand(labels.shape, generator=generator) < keep, labels, 0) for keep in (0.5, 0.9)]
    overlap = torch.stack([counts(labels, maps) for maps in predicted], 2)
    drawn = torch.tensor([0, 0, 3, 5, 9])
    for chosen in (torch.arange(10), drawn):
        expected = []
        for maps in predicted:
            matrix = ConfusionMatrix(4)
            matrix.update(maps[chosen], labels[chosen])
            expected.append(matrix.mean_iou())
        found = mean_ious(overlap[chosen][None])[0].tolist()
        assert found == pytest.approx([*expected, expected[1] - expected[0]])


def counts(labels, predicted):
    """(n, 2, k): pixels of intersection and union."""
    one, other = (torch.nn.functional.one_hot(maps, 4).flatten(1, 2) for maps in (labels, predicted))
    both = (one * other).sum(1)
    return torch.stack([both, one.sum(1) + other.sum(1) - both], 1)


def test_of_two_networks_the_one_with_fewer_wrong_pixels_is_better():
    errors = 0.3 + 0.05 * normals(N).abs()
    a, b = monitor(seed=1, wrong=errors), monitor(seed=2, wrong=errors - 0.1 + 0.001 * normals(N, seed=5))
    found = rows(compare(a, b, resamples=100))
    difference = found["clean"].differences["wrong"]
    assert (difference.a, difference.b) == pytest.approx((errors.mean().item(), b.sets["clean"].wrong.mean().item()))
    assert difference.better == "b"
    assert "wrong" in found["fog"].differences
    assert "miou" not in found["fog"].differences


def test_images_without_labels_do_not_count_for_networks():
    errors = torch.full((N,), 0.3, dtype=torch.float64)
    errors[:20] = torch.nan
    a, b = monitor(seed=1, wrong=errors), monitor(seed=2, wrong=errors + 0.1 * normals(N).abs())
    difference = rows(compare(a, b, resamples=50))["clean"].differences["wrong"]
    assert difference.a == pytest.approx(0.3)
    assert difference.better == "a"


def test_monitors_of_one_network_are_not_compared_by_what_it_predicts():
    errors = normals(N).abs()
    found = rows(compare(monitor(seed=1, wrong=errors), monitor(seed=2, wrong=errors.clone()), resamples=20))
    assert all("wrong" not in row.differences for row in found.values())


def test_mean_iou_is_compared_where_it_is_known_by_image():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (N, 6, 6), generator=generator)
    sides = []
    for seed, keep in ((1, 0.5), (2, 0.9)):
        predicted = torch.where(torch.rand(labels.shape, generator=generator) < keep, labels, 0)
        wrong = (predicted != labels).double().flatten(1).mean(1)
        sides.append(monitor(seed=seed, wrong=wrong, overlap=counts(labels, predicted)))
    difference = rows(compare(*sides, resamples=100))["clean"].differences["miou"]
    assert difference.low < difference.difference < difference.high
    assert difference.better == "b"


# --- files -----------------------------------------------------------------------------------------------------------


def written(path, judged):
    lines = [
        json.dumps({"image": name, "group": group, "score": score, "p_value": 0.5, "flagged": flag})
        for name, group, score, flag in zip(
            judged.names,
            judged.groups,
            judged.scores[:, 0].tolist(),
            judged.flagged["0.05"][:, 0].tolist(),
            strict=True,
        )
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_files_of_scores_tell_what_the_evaluation_tells(tmp_path):
    a, b = monitor(seed=1, shifts={"fog": 1.0}), monitor(seed=2, shifts={"fog": 2.0})
    sides = [
        side_of_scores(*(written(tmp_path / f"{label}-{name}.jsonl", side.sets[name]) for name in ("fog", "clean")))
        for label, side in (("a", a), ("b", b))
    ]
    found, expected = rows(compare(*sides)), rows(compare(a, b))
    assert found["changed"].differences["auroc"] == expected["fog"].differences["auroc"]
    assert found["clean"].differences["flagged"] == expected["clean"].differences["flagged@0.05"]


def test_without_clean_images_nobody_is_better(tmp_path):
    a, b = (
        side_of_scores(written(tmp_path / f"{label}.jsonl", monitor(seed=seed, shifts={"fog": shift}).sets["fog"]))
        for label, seed, shift in (("a", 1, 0.0), ("b", 2, 3.0))
    )
    comparison = compare(a, b)
    (row,) = comparison.rows
    assert comparison.rates == (OWN,)
    assert tuple(row.differences) == ("flagged",)
    assert row.differences["flagged"].p_value < 1e-6
    assert row.differences["flagged"].better is None


def test_plain_values_and_rows_for_csv_hold_every_difference():
    comparison = compare(monitor(seed=1), monitor(seed=2), resamples=20)
    told = json.loads(json.dumps(comparison.as_json(), allow_nan=False))
    assert told["comparisons"] == comparison.comparisons == len(list(comparison.flat()))
    assert told["rows"][0]["differences"]["auroc"]["low"] == comparison.rows[0].differences["auroc"].low
    assert {tuple(line) for line in comparison.flat()} == {tuple(next(comparison.flat()))}
