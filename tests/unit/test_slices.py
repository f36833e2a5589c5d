"""Rates by slice count what they say, and their intervals and tests know that neighbours are alike."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from inlier.errors import Mismatch
from inlier.evaluation.metrics import rate_interval
from inlier.evaluation.record import MonitorEntry, Record, SetEntry
from inlier.evaluation.slices import (
    OWN,
    Slice,
    by_content,
    by_group,
    by_light,
    clustered_rate_interval,
    holm,
    judged_length,
    nearest_rate,
    side_of,
    side_of_scores,
    slice_table,
    slices_of,
)


def flags(*rates, n=100, seed=0):
    """A column for each rate: so many of n images flagged, by chance."""
    draws = torch.rand(n, len(rates), generator=torch.Generator().manual_seed(seed))
    return draws < torch.tensor(rates)


def runs(n, length, rate, seed):
    """Flags that are the same over runs of so many images."""
    starts = torch.rand(n // length, generator=torch.Generator().manual_seed(seed)) < rate
    return starts.repeat_interleave(length)[:, None]


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "count"), [(0, 55), (1, 7), (20, 40), (62, 62)])
def test_the_interval_of_single_trials_is_that_of_clopper_and_pearson(hits, count):
    found = clustered_rate_interval(np.arange(count) < hits, np.ones(count))
    assert found[1:] == pytest.approx(rate_interval(hits, count))


def test_ten_copies_of_an_image_that_agree_say_no_more_than_one():
    hits = (np.arange(40) < 12).astype(float)
    one, ten = clustered_rate_interval(hits, np.ones(40)), clustered_rate_interval(10 * hits, np.full(40, 10.0))
    assert ten.low <= one.low
    assert one.high <= ten.high
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.05)


@pytest.mark.parametrize("all_hit", [False, True])
def test_copies_that_are_all_alike_say_as_much_as_their_images(all_hit):
    found = clustered_rate_interval(np.full(6, 8.0 * all_hit), np.full(6, 8.0))
    assert found[1:] == pytest.approx(rate_interval(6 * all_hit, 6))


def test_ten_copies_of_an_image_that_have_nothing_in_common_say_as_much_as_ten():
    draws = np.random.default_rng(0).random((200, 10)) < 0.3
    found = clustered_rate_interval(draws.sum(1), np.full(200, 10.0))
    low, high = rate_interval(int(draws.sum()), 2000)
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)


def test_the_interval_holds_the_rate_of_clusters_as_often_as_it_says():
    random, holds = np.random.default_rng(1), 0
    for _ in range(400):
        rates = random.beta(0.5, 2.0, size=25)  # 0.2 on average, and very different
        low, high = clustered_rate_interval(random.binomial(8, rates), np.full(25, 8.0))[1:]
        holds += low <= 0.2 <= high
    assert holds / 400 > 0.93


@pytest.mark.parametrize(
    ("hits", "counts", "confidence"), [([], [], 0.95), ([2.0], [1.0], 0.95), ([0.0], [0.0], 0.95), ([1.0], [1.0], 1.0)]
)
def test_what_is_no_rate_is_refused(hits, counts, confidence):
    with pytest.raises(ValueError, match=r"Expected clusters|confidence must lie"):
        clustered_rate_interval(np.array(hits), np.array(counts), confidence)


# --- tests -----------------------------------------------------------------------------------------------------------


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_fewer_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("inside", "hits_inside", "hits"), [(20, 8, 12), (30, 2, 15), (25, 5, 15)])
def test_without_blocks_the_test_is_the_exact_one_of_a_table_of_four(inside, hits_inside, hits):
    n = 60
    mask = torch.arange(n) < inside
    flagged = torch.zeros(n, 1, dtype=torch.bool)
    flagged[:hits_inside] = True
    flagged[inside : inside + hits - hits_inside] = True
    (row,) = slice_table([Slice("of", "it", mask)], {"all": flagged}, permutations=20_000).rows
    possible = np.arange(n + 1)
    far = np.abs(possible - inside * hits / n) >= abs(hits_inside - inside * hits / n) - 1e-9
    exact = hypergeom.pmf(possible, n, hits, inside)[far].sum()
    assert row.rates["all"].p_value == pytest.approx(exact, abs=0.012)


def test_runs_of_frames_are_no_difference_between_drives_but_would_be_one_if_frames_were_counted():
    groups = ["a"] * 60 + ["b"] * 60
    found = dict.fromkeys((1, 10), 0)
    for seed in range(80):
        flagged = {"all": runs(120, 10, 0.4, seed)}
        for length in found:
            table = slice_table(by_group(groups), flagged, groups=groups, block_length=length, permutations=199)
            found[length] += table.rows[0].rates["all"].p_value <= 0.05
    assert found[10] / 80 <= 0.1
    assert found[1] / 80 > 0.3


def test_a_slice_that_differs_is_marked_with_its_direction_and_others_are_not():
    groups = ["night"] * 50 + ["day"] * 50 + ["noon"] * 50
    flagged = torch.cat([flags(0.7, n=50), flags(0.1, n=100)])
    table = slice_table(by_group(groups), {"false alarms": flagged, "fog": flags(0.5, n=150)}, groups=groups)
    told = {(row.label, column): rate.differs for row in table.rows for column, rate in row.rates.items()}
    assert told.pop(("night", "false alarms")) == "higher"
    assert told.pop(("day", "false alarms")) == "lower"
    assert told.pop(("noon", "false alarms")) == "lower"
    assert set(told.values()) == {None}
    assert table.tested == 6


def test_a_slice_and_what_it_leaves_over_are_one_difference():
    light = torch.linspace(0, 1, 60, dtype=torch.float64)
    bright = [Slice("light", "bright", light > 0.5), Slice("light", "dark", light <= 0.5)]
    table = slice_table(bright, {"all": flags(0.3, n=60)})
    first, second = (row.rates["all"] for row in table.rows)
    assert table.tested == 1
    assert first.p_value == second.p_value == first.adjusted


def test_slices_of_few_images_are_marked_and_not_tested():
    few = Slice("content", "with train", torch.arange(100) < 9)
    (row,) = slice_table([few], {"all": flags(0.3)}).rows
    assert row.too_few
    assert row.rates["all"].p_value is None
    nearly_all = Slice("content", "with road", torch.arange(100) < 91)
    (row,) = slice_table([nearly_all], {"all": flags(0.3)}).rows
    assert not row.too_few
    assert row.rates["all"].p_value is None


def test_groups_that_are_interleaved_are_the_same_groups():
    groups, flagged = ["a", "b"] * 40, runs(80, 4, 0.4, 3)
    order = [*range(0, 80, 2), *range(1, 80, 2)]
    one = slice_table(by_group(groups), {"all": flagged}, groups=groups, block_length=4, permutations=500)
    sorted_groups = [groups[place] for place in order]
    other = slice_table(
        by_group(sorted_groups), {"all": flagged[order]}, groups=sorted_groups, block_length=4, permutations=500
    )
    assert one == other


def test_equal_seeds_make_equal_tables():
    groups = ["a"] * 50 + ["b"] * 50
    first, again = (slice_table(by_group(groups), {"all": flags(0.3)}, groups=groups, seed=5) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    "wrong", [{"block_length": 0}, {"permutations": 0}, {"confidence": 1.0}, {"groups": ["a"] * 99}]
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Expected block_length|the same images"):
        slice_table(by_group(["a"] * 50 + ["b"] * 50), {"all": flags(0.3)}, **wrong)


# --- which slices there are ------------------------------------------------------------------------------------------


def test_thirds_by_light_hold_every_image_once_and_tell_their_bounds():
    light = torch.rand(90, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slices = by_light(light)
    assert torch.stack([each.inside for each in slices]).sum(0).tolist() == [1] * 90
    assert all(28 <= int(each.inside.sum()) <= 32 for each in slices)
    bound = float(slices[0].label.split()[-1])
    assert light[slices[0].inside].max() <= bound < light[~slices[0].inside].min()


def test_an_image_as_bright_as_a_bound_is_in_one_slice():
    light = torch.tensor([0.1] * 10 + [0.2] * 40 + [0.3] * 40, dtype=torch.float64)
    assert [int(each.inside.sum()) for each in by_light(light)] == [50, 40]


def test_images_of_one_brightness_and_one_drive_have_no_slices():
    assert by_light(torch.full((20,), 0.5, dtype=torch.float64)) == []
    assert by_group(["drive"] * 20) == []


def test_classes_that_all_or_no_images_have_make_no_slices():
    content = torch.tensor([[0.5, 0.004, 0.0], [0.5, 0.005, 0.0], [0.5, 0.2, 0.0]], dtype=torch.float64)
    slices = by_content(content, ("road", "person", "train"))
    assert [(each.label, each.inside.tolist()) for each in slices] == [
        ("with person (0.5% or more)", [False, True, True]),
        ("without person", [True, False, False]),
    ]


def test_classes_need_a_name_each():
    with pytest.raises(ValueError, match="2 names were given for 3 classes"):
        by_content(torch.rand(4, 3, dtype=torch.float64), ("road", "person"))


# --- of an evaluation ------------------------------------------------------------------------------------------------

N = 30


def record(thresholds=True):
    """Two drives, of which the second has a person in every image; fog, an attack and foreign images."""
    names = tuple(f"{n:03}.png" for n in range(N))
    groups = ("0001TP",) * 15 + ("Seq05VD",) * 15
    kept = {"names": names, "groups": groups, "of": "clean"}
    generator = torch.Generator().manual_seed(0)
    scores = {
        "clean": torch.rand(N, generator=generator, dtype=torch.float64),
        "fog-1": torch.rand(N, generator=generator, dtype=torch.float64) + 0.5,
        "fog-3": torch.rand(N, generator=generator, dtype=torch.float64) + 0.7,
        "pgd": torch.rand(N, generator=generator, dtype=torch.float64) + 0.2,
        "other": torch.rand(4, generator=generator, dtype=torch.float64),
    }
    content = torch.zeros(N, 2, dtype=torch.float64)
    content[:, 0], content[15:, 1] = 0.5, 0.1
    limits = {seed: {0.05: 0.95, 0.1: 0.9} for seed in (0, 1)} if thresholds else {}
    return Record(
        monitors=(
            MonitorEntry("ours", "Ours", "ours", ("energy",), "max", (0, 1), "robust", (0.05, 0.1), limits, "made up"),
        ),
        sets=(
            SetEntry("clean", "clean", "clean", names=names, groups=groups),
            SetEntry("fog-1", "fog 1", "perturbation", "fog", 1, **kept),
            SetEntry("fog-3", "fog 3", "perturbation", "fog", 3, **kept),
            SetEntry("pgd", "PGD", "attack", "pgd", **kept),
            SetEntry("other", "elsewhere", "ood", names=tuple("abcd"), groups=("x",) * 4),
            SetEntry("unseen", "not shown", "ood", names=("e",), groups=("x",)),
        ),
        scores={("ours", seed, name): values + 0.01 * seed for name, values in scores.items() for seed in (0, 1)},
        changed={"fog-1": torch.full((N,), 0.005), "fog-3": torch.full((N,), 0.2), "pgd": torch.full((N,), 1.0)},
        wrong={"clean": torch.linspace(0, 1, N, dtype=torch.float64)},
        content={"clean": content},
        light={"clean": torch.linspace(0.2, 0.8, N, dtype=torch.float64)},
    )  # fmt: skip


def test_a_side_has_the_sets_that_its_monitor_was_shown_and_a_column_for_each_seed():
    side = side_of(record(), "ours")
    assert tuple(side.sets) == ("clean", "fog-1", "fog-3", "pgd", "other")
    assert side.copies == ("fog-1", "fog-3", "pgd")
    assert side.sets["fog-1"].scores.shape == (N, 2)
    assert torch.equal(side.sets["fog-1"].flagged["0.05"], side.sets["fog-1"].scores > 0.95)


@pytest.mark.parametrize(("monitor", "seeds"), [("theirs", None), ("ours", (7,)), ("ours", ())])
def test_monitors_and_seeds_that_are_not_there_are_refused(monitor, seeds):
    with pytest.raises(LookupError, match=r"No monitor named|has the seeds"):
        side_of(record(), monitor, seeds)


def test_rates_of_slices_are_those_counted_by_hand():
    made = record()
    table = slices_of(side_of(made, "ours"), rate="0.1", classes=("road", "person"), permutations=99)
    rows = {row.label: row for row in table.rows}
    second = rows["Seq05VD"]
    fog = sum(int((made.scores["ours", 0, name][15:] > 0.9).sum()) for name in ("fog-1", "fog-3"))
    assert (second.rates["natural changes"].hits, second.rates["natural changes"].count) == (fog, 30)
    assert second.rates["attacks"].hits == int((made.scores["ours", 0, "pgd"][15:] > 0.9).sum())
    assert second.rates["false alarms"].hits == int((made.scores["ours", 0, "clean"][15:] > 0.9).sum())
    assert second.wrong == pytest.approx(made.wrong["clean"][15:].mean().item())
    assert rows["with person (0.5% or more)"].rates == second.rates
    assert {row.by for row in table.rows} == {"group", "light", "content", "damage"}


def test_changed_copies_are_told_of_by_kind_by_change_or_by_set():
    side = side_of(record(), "ours")
    rows = {per: slices_of(side, per=per, permutations=9).rows[0].rates for per in ("kind", "change", "set")}
    assert tuple(rows["kind"]) == ("false alarms", "natural changes", "attacks")
    assert tuple(rows["change"]) == ("false alarms", "fog", "pgd")
    assert tuple(rows["set"]) == ("false alarms", "fog 1", "fog 3", "PGD")


def test_damage_tells_copies_apart_by_the_pixels_that_changed():
    rows = [row for row in slices_of(side_of(record(), "ours"), rate="0.1", permutations=9).rows if row.by == "damage"]
    made = record()
    assert [row.label.partition(" of")[0] for row in rows] == ["0% to 1%", "10% to 30%", "30% to 100%"]
    assert [tuple(row.rates) for row in rows] == [("natural changes",), ("natural changes",), ("attacks",)]
    for row, name in zip(rows, ("fog-1", "fog-3", "pgd"), strict=True):
        (rate,) = row.rates.values()
        assert (rate.hits, rate.count) == (int((made.scores["ours", 0, name] > 0.9).sum()), N)


def test_slices_need_a_threshold_and_clean_images():
    with pytest.raises(LookupError, match="no threshold"):
        slices_of(side_of(record(thresholds=False), "ours"))
    with pytest.raises(LookupError, match=r"0\.2\. There are 0\.05, 0\.1"):
        slices_of(side_of(record(), "ours"), rate="0.2")


def test_the_rate_nearest_to_five_percent_is_meant():
    assert nearest_rate(("0.01", "0.1", "0.04")) == "0.04"
    assert nearest_rate((OWN,)) == OWN


def test_a_slow_drift_of_the_scores_makes_blocks_and_the_scale_of_scores_does_not():
    steps = torch.linspace(0, 12, 80, dtype=torch.float64).sin()
    slow = SimpleNamespace(scores=steps[:, None], groups=("a",) * 80)
    noisy = SimpleNamespace(
        scores=torch.rand(80, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), groups=("a",) * 80
    )
    assert judged_length(slow) > 5
    assert judged_length(noisy) <= 2
    assert judged_length(SimpleNamespace(scores=(5 * steps[:, None]).exp(), groups=("a",) * 80)) == judged_length(slow)


# --- of files --------------------------------------------------------------------------------------------------------

ROWS = [{"image": f"{n}.png", "group": "a", "score": n / 4, "p_value": 0.5, "flagged": n > 2} for n in range(5)]


def test_json_lines_and_csv_tell_the_same(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    lines = [",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    one, other = (side_of_scores(tmp_path / name, label="a").sets["images"] for name in ("a.jsonl", "a.csv"))
    assert one.names == other.names == tuple(row["image"] for row in ROWS)
    assert torch.equal(one.scores, other.scores)
    assert one.flagged[OWN].tolist() == other.flagged[OWN].tolist() == [[row["flagged"]] for row in ROWS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json\n", "not what `inlier score` writes"),
        ('{"image": "a.png", "score": 1}\n', "not what `inlier score` writes"),
        (json.dumps(ROWS[0] | {"flagged": "perhaps"}) + "\n", "not what `inlier score` writes"),
        ("[1, 2]\n", "not what `inlier score` writes"),
        ("", "tells of no image"),
        (2 * (json.dumps(ROWS[0]) + "\n"), "more than once"),
    ],
)
def test_a_file_that_is_not_of_inlier_score_is_refused(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(Mismatch, match=message):
        side_of_scores(tmp_path / "a.jsonl")
