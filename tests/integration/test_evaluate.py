"""An evaluation of small pictures says what its parts say, goes on where it was ended, and refuses what is not its."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from inlier.attacks.joint import attack_monitor
from inlier.backbones.base import Backbone, Segmentation
from inlier.cli.main import app
from inlier.config import from_keywords
from inlier.datasets.load import open_images
from inlier.errors import Mismatch
from inlier.evaluation.changes import seed_of
from inlier.evaluation.evaluate import evaluate
from inlier.evaluation.metrics import auroc
from inlier.evaluation.record import Record
from inlier.evaluation.run import Evaluation, one_of_each_part
from inlier.evaluation.study import Study
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.perturbations.noise import GaussianNoise
from inlier.perturbations.photometric import Gamma
from inlier.perturbations.tolerance import Tolerating
from inlier.report.folder import write_report

SIZE = (24, 32)
CLASSES = ("road", "sky", "car", "void")
DAAIN = "daain(distance=12, blocks=1)"


def make_backbone():
    """What a user's factory makes; the text `MODULE:make_backbone` finds it."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1),
                            nn.ReLU(), nn.Conv2d(8, 4, 1))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(network, Segmentation(CLASSES))


def make_pointwise():
    """A network that looks at each pixel by itself, so that it sees an image upside down as it is."""
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Backbone(network, Segmentation(CLASSES))


def write_pictures(folder, drives, seed):
    """Noisy stripes of a colour of the drive's, and label maps."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for drive, count in drives.items():
        for number in range(count):
            base = rng.uniform(60, 160, (1, 1, 3)) + 30 * np.sin(np.arange(SIZE[0]) / 3)[:, None, None]
            pixels = (base + rng.uniform(0, 40, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
            labels = rng.integers(0, 4, SIZE).astype(np.uint8)
            for kind, values in (("images", pixels), ("labels", labels)):
                Image.fromarray(values).save(folder / kind / f"{drive}_{number:03d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "fit", {"north": 16, "south": 14}, 0)
    write_pictures(folder / "more", {"north": 6}, 1)
    write_pictures(folder / "test", {"north": 4, "west": 5}, 2)
    write_pictures(folder / "other", {"far": 3}, 3)
    return folder


def settings(**changed):
    return {
        "backbone": f"{__name__}:make_backbone",
        "fit": ["{data}/fit/images", "{data}/more/images"],
        "clean": "{data}/test/images",
        "labels": "{data}/test/labels",
        "seeds": [0, 1],
        "rates": [0.1, 0.2],
        "folds": 2,
        "batch_size": 4,
        "monitors": [
            {"name": "bands", "detectors": "mahalanobis", "nested": True},
            {"name": "daain", "detectors": DAAIN},
            {"name": "look", "detectors": "disagreement", "on": ["paper", "control"]},
            {"name": "both", "detectors": ["mahalanobis", "energy"], "rule": "robust"},
            {"name": "bare", "detectors": "energy", "threshold": False, "on": "attack"},
            {"name": "defect", "detectors": "mahalanobis", "defects": ["batch_norm"], "on": "paper"},
        ],
        "changes": [
            {"perturbation": "gaussian_noise", "severities": [1, 4], "paper": 1},
            {"perturbation": "sign_noise", "control": True},
            {"attack": "ifgsm_targeted", "name": "to_road", "target": "road", "steps": 2, "paper": True},
            {"universal": "gd_uap", "iterations": 2, "validate_every": 1},
            {"images": "{data}/other/images", "name": "other"},
        ],
        "curves": ["bands"],
        "likelihood": "daain",
        "coactivation": True,
        "targets": [
            {"text": "noise is seen", "monitor": "bands", "metric": "auroc", "over": "paper", "at_least": 2.0},
            {"text": "all", "monitor": "bands", "metric": "flagged", "over": "control", "rate": 0.1, "at_most": 1.0},
        ],
    } | changed  # fmt: skip


def study(**changed):
    return from_keywords(Study, settings(**changed), "the study")


def small(**changed):
    """A study of a second."""
    return study(**{
        "monitors": settings()["monitors"][:1],
        "changes": settings()["changes"][:2],
        "coactivation": False, "curves": [], "likelihood": None, "targets": [], "seeds": [0],
    } | changed)  # fmt: skip


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    """(folder, results, record) of the study."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    results = evaluate(study(), out, data=data, command="inlier evaluate it.toml")
    return out, results, Record.load(out / "scores.safetensors")


def images_of(folder, count=99):
    batch = next(iter(open_images(folder, labelled=False).batches(count)))
    return batch.images, batch.names


def images_of_the_fit(data):
    """The north of both folders, by frame, then the south."""
    images = torch.cat([images_of(data / part / "images")[0] for part in ("fit", "more")])
    north = sorted([*range(16), *range(30, 36)], key=lambda i: (i % 30 if i >= 30 else i, i >= 30))
    return images[[*north, *range(16, 30)]]


def alike(one, other):
    """Whether two records hold the same numbers, but for times."""

    def plain(entry):
        return replace(entry, cost=None, thresholds={})

    assert one.sets == other.sets
    assert [plain(m) for m in one.monitors] == [plain(m) for m in other.monitors]
    for ours, theirs in zip(one.monitors, other.monitors, strict=True):
        for seed, rates in ours.thresholds.items():
            assert rates == pytest.approx(theirs.thresholds[seed], rel=1e-4)
    for part in ("scores", "calibration", "changed", "iou", "wrong", "confusion", "content", "light", "linf", "nested"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6, msg=f"{part} {key}")
    return True


@pytest.mark.parametrize(("name", "detectors", "seed"), [("bands", "mahalanobis", 0), ("daain", DAAIN, 1)])
def test_an_evaluation_says_what_the_monitor_itself_says_of_8_bit_images(data, ran, name, detectors, seed):
    monitor = Monitor(make_backbone(), detectors, seed=seed).fit(images_of_the_fit(data))
    clean, names = images_of(data / "test" / "images")
    noisy = [
        GaussianNoise(4)(clean[i : i + 1], torch.Generator().manual_seed(seed_of(0, "gaussian_noise-4", names[i])))
        for i in range(len(clean))
    ]
    record = ran[2]
    with torch.no_grad():
        expected = monitor.score(to_8_bit(torch.cat(noisy))).double()
        torch.testing.assert_close(record.scores[name, seed, "gaussian_noise-4"], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            record.scores[name, seed, "clean"], monitor.score(clean).double(), rtol=1e-3, atol=1e-4
        )


def test_a_key_is_drawn_for_every_seed_and_nothing_else_is_fitted_twice(ran):
    seeds = {monitor.name: monitor.seeds for monitor in ran[2].monitors}
    assert seeds == {"bands": (0,), "daain": (0, 1), "look": (0,), "both": (0,), "bare": (0,), "defect": (0,)}
    scores = ran[2].scores
    assert not torch.equal(scores["daain", 0, "clean"], scores["daain", 1, "clean"])


def test_monitors_are_shown_what_they_are_to_be_shown(ran):
    shown = {name: {of for monitor, _, of in ran[2].scores if monitor == name} for name in ("bands", "look", "bare")}
    everything = {entry.name for entry in ran[2].sets}
    assert shown["bands"] == everything
    assert shown["look"] == {"clean", "gaussian_noise-1", "sign_noise", "to_road"}
    assert shown["bare"] == {"clean", "to_road"}


def test_results_are_those_of_the_record(ran):
    _, results, record = ran
    rows = {(row["monitor"], row["seed"], row["set"]): row for row in results["rows"]}
    assert rows.keys() == record.scores.keys()
    row, entry = rows["daain", 1, "to_road"], record.monitor("daain")
    clean, scores = (record.scores["daain", 1, name] for name in ("clean", "to_road"))
    assert row["auroc"] == pytest.approx(auroc(clean, scores), abs=1e-6)
    low, high = row["auroc_interval"]
    assert low <= row["auroc"] <= high
    assert row["flagged"]["0.1"]["hits"] == int((scores > entry.thresholds[1][0.1]).sum())
    assert sum(row["by_group"][drive]["0.1"]["hits"] for drive in ("north", "west")) == row["flagged"]["0.1"]["hits"]
    assert "flagged" not in rows["bare", 0, "to_road"]


def test_the_share_of_changed_pixels_is_against_the_prediction_for_the_clean_image(data, ran):
    clean, _ = images_of(data / "test" / "images")
    backbone, record = make_backbone(), ran[2]
    assert (record.linf["to_road"] <= 0.01 + 0.5 / 255 + 1e-6).all()
    assert (record.linf["to_road"] > 0).all()
    assert set(record.changed) == {"gaussian_noise-1", "gaussian_noise-4", "sign_noise", "to_road", "gd_uap"}
    entry = next(entry for entry in ran[1]["sets"] if entry["name"] == "to_road")
    assert entry["changed"] == record.changed["to_road"].mean().item()
    wrong = record.wrong["clean"]
    predicted = backbone.predict(clean)
    labels = torch.stack([
        torch.from_numpy(np.array(Image.open(data / "test" / "labels" / name))).long() for name in record.clean.names
    ])  # fmt: skip
    valid = labels != 3
    expected = ((predicted != labels) & valid).flatten(1).sum(1) / valid.flatten(1).sum(1)
    torch.testing.assert_close(wrong, expected.double())
    for name in ("clean", "to_road"):
        hits, union = record.overlap[name].sum(0)
        counts = record.confusion[name]
        assert torch.equal(hits, counts.diagonal())
        assert torch.equal(union[:3], (counts.sum(0) + counts.sum(1) - hits)[:3])
        assert int(union[3:].sum()) == 0  # void


def test_nested_false_alarms_are_of_a_monitor_that_never_saw_the_group(data, ran):
    first, second = (images_of(data / part / "images") for part in ("fit", "more"))
    everything = dict(zip(first[1], first[0], strict=True))
    without = torch.stack([everything[name] for name in first[1] if name.startswith("south")])
    monitor = Monitor(make_backbone(), "mahalanobis", seed=0).fit(without)
    monitor.calibrate(false_alarm_rate=0.2, folds=2)
    held = torch.cat([first[0][:16], second[0]])
    flagged = monitor.calibration.flagged(monitor.score(held), 0.2)
    line = next(line for line in ran[1]["held_out"] if line["group"] == "north")
    assert line["images"] == 22
    assert line["flagged"]["0.2"]["hits"] == int(flagged.sum())


def test_results_are_strict_json_and_the_folder_has_all_of_it(ran):
    out, results, _ = ran

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    told = json.loads((out / "results.json").read_text(), parse_constant=refuse)
    assert told == json.loads(json.dumps(results))
    assert {target["met"] for target in told["targets"]} == {False, True}
    assert set(told["pictures"]) == {"gaussian_noise-1", "to_road"}
    assert all(value.startswith("data:image/webp") for value in told["pictures"]["to_road"].values() if ":" in value)
    assert set(told["figures"]["coactivation"]) == {"gaussian_noise-1", "to_road"}
    assert sum(told["figures"]["likelihood"]["counts"]["clean"]) == 9
    assert str(out.parent) not in (out / "results.json").read_text()
    assert not math.isnan(told["network"]["milliseconds"])


def test_the_worst_misses_were_not_flagged_and_changed_most(ran):
    _, results, record = ran
    limit = record.monitor("bands").thresholds[0][0.1]
    shares = [miss["changed"] for miss in results["worst"]]
    assert shares == sorted(shares, reverse=True)
    for miss in results["worst"]:
        place = record.set(miss["set"]).names.index(miss["image"])
        assert record.scores["bands", 0, miss["set"]][place] <= limit


def test_upside_down_nothing_changes_for_a_network_that_looks_at_single_pixels(data, tmp_path):
    wanted = small(
        backbone=f"{__name__}:make_pointwise",
        monitors=[{"name": "energy", "detectors": "energy", "threshold": False}],
        changes=[{"perturbation": "vertical_flip"}],
    )
    evaluate(wanted, tmp_path / "out", data=data)
    record = Record.load(tmp_path / "out" / "scores.safetensors")
    assert record.changed["vertical_flip"].tolist() == [0.0] * 9
    torch.testing.assert_close(record.wrong["vertical_flip"], record.wrong["clean"])


def test_a_set_depends_neither_on_the_batch_nor_on_the_other_sets(data, tmp_path):
    noise, sign = settings()["changes"][:2]
    pgd = {"attack": "pgd_linf", "steps": 2, "low_resolution": [5, 5]}
    stripes = {"attack": "pgd_linf", "name": "stripes", "steps": 2, "target": "stripes", "patch": [4, 3, 2, 1]}
    evaluate(small(changes=[noise, sign, pgd, stripes]), tmp_path / "a", data=data)
    evaluate(small(changes=[stripes, pgd, sign, noise], batch_size=1), tmp_path / "b", data=data)
    one, other = (Record.load(tmp_path / name / "scores.safetensors") for name in "ab")
    assert alike(replace(one, sets=()), replace(other, sets=()))


@pytest.mark.slow
def test_what_was_ended_goes_on_and_ends_with_the_same_record(data, tmp_path, ran):
    class Ended(Exception):
        pass

    def end_at(wanted):
        def progress(phase, done, total):
            if phase.startswith(wanted):
                raise Ended

        return progress

    kept = {}
    for wanted in ("set sign_noise", "set other", "daain: ", "pictures"):
        with pytest.raises(Ended):
            evaluate(study(), tmp_path / "out", data=data, progress=end_at(wanted))
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "work").glob("*/*.safetensors")}
        assert kept.items() <= files.items()
        kept = files
    evaluate(study(), tmp_path / "out", data=data)
    assert alike(Record.load(tmp_path / "out" / "scores.safetensors"), ran[2])


def test_another_study_in_the_folder_is_refused_by_the_setting_that_differs(data, tmp_path):
    evaluate(small(changes=[]), tmp_path, data=data)
    with pytest.raises(Mismatch, match=r"rates = \[0.1, 0.2\].*\[0.2\]"):
        evaluate(small(changes=[], rates=[0.2]), tmp_path, data=data)


def test_a_folder_with_other_things_in_it_is_refused(data, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(Mismatch, match="not empty"):
        evaluate(small(), tmp_path, data=data)


def test_only_what_is_named_is_tried(data, tmp_path):
    results = evaluate(study(), tmp_path, data=data, only=["bands", "sign_noise"])
    assert [monitor["name"] for monitor in results["monitors"]] == ["bands"]
    assert [entry["name"] for entry in results["sets"]] == ["clean", "sign_noise"]
    with pytest.raises(LookupError, match="fogg"):
        evaluate(study(), tmp_path, data=data, only=["fogg"])


def test_a_monitor_whose_network_is_not_there_is_left_out_and_told_of(data, tmp_path):
    absent = {"name": "tuned", "detectors": "energy", "backbone": "espnet:{data}/none.safetensors"}
    results = evaluate(small(monitors=[*settings()["monitors"][:1], absent]), tmp_path, data=data)
    assert [monitor["name"] for monitor in results["monitors"]] == ["bands"]
    assert any("tuned" in note and "none.safetensors" in note for note in results["notes"])


def test_a_rate_that_too_few_images_can_keep_has_no_threshold_and_a_note(data, tmp_path):
    results = evaluate(small(rates=[0.2, 0.01], changes=[]), tmp_path, data=data)
    assert list(results["monitors"][0]["thresholds"]["0"]) == ["0.2"]
    assert any("0.01" in note and "at least 99" in note for note in results["notes"])


def test_fewer_images_are_spread_over_all(data, tmp_path):
    evaluation = Evaluation(small(images=3), tmp_path, data=data)
    names = [name for batch in evaluation.clean.batches(2) for name in batch.names]
    assert names == ["north_000.png", "north_003.png", "west_002.png"]


def test_a_monitor_of_few_images_learns_others_under_every_seed(data, tmp_path):
    few = {"name": "few", "detectors": "mahalanobis", "fit_images": 12}
    plan = small(monitors=[few, {**few, "name": "once", "seeds": [1]}], changes=[], seeds=[0, 1])
    evaluate(plan, tmp_path, data=data)
    record = Record.load(tmp_path / "scores.safetensors")
    images, (clean, _) = images_of_the_fit(data), images_of(data / "test" / "images")
    for seed in (0, 1):
        drawn = one_of_each_part(36, 12, seed)
        assert [place // 3 for place in drawn] == list(range(12))
        monitor = Monitor(make_backbone(), "mahalanobis", seed=seed).fit(images[drawn])
        with torch.no_grad():
            expected = monitor.score(clean).double()
        torch.testing.assert_close(record.scores["few", seed, "clean"], expected, rtol=1e-3, atol=1e-4)
    assert one_of_each_part(36, 12, 0) != one_of_each_part(36, 12, 1)
    assert [monitor.seeds for monitor in record.monitors] == [(0, 1), (1,)]
    assert torch.equal(record.scores["once", 1, "clean"], record.scores["few", 1, "clean"])


def test_a_monitor_that_tolerates_learns_from_changed_copies_too(data, tmp_path):
    strict = {"name": "strict", "detectors": "mahalanobis"}
    tolerant = {**strict, "name": "tolerant", "tolerate": ["gamma(severity=2)"], "nested": True}
    results = evaluate(small(monitors=[strict, tolerant], changes=[]), tmp_path, data=data)
    record = Record.load(tmp_path / "scores.safetensors")
    shown = Tolerating(images_of_the_fit(data), [Gamma(2)])
    clean, _ = images_of(data / "test" / "images")
    monitor = Monitor(make_backbone(), "mahalanobis", seed=0).fit(shown)
    with torch.no_grad():
        expected = monitor.score(clean).double()
    torch.testing.assert_close(record.scores["tolerant", 0, "clean"], expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(record.scores["strict", 0, "clean"], expected, rtol=0.05)
    counts = [len(record.calibration[name, 0]) for name in ("strict", "tolerant")]
    assert counts == [36, 72]
    assert len(record.calibration_names) == results["fitted_to"]["images"] == 36
    assert sum(row["images"] for row in results["held_out"] if row["monitor"] == "tolerant") == 72


@pytest.mark.parametrize(
    ("plan", "error", "says"),
    [
        ({"tolerate": "gama"}, LookupError, "gamma"),
        ({"tolerate": ["gamma(severity=9)"]}, ValueError, "Severity of Gamma"),
        ({"tolerate": "gamma", "fit_images": 12}, ValueError, "leave one out"),
    ],
)
def test_tolerance_that_cannot_be_is_refused(plan, error, says):
    with pytest.raises(error, match=says):
        small(monitors=[{"name": "tolerant", "detectors": "mahalanobis", **plan}])


def test_the_cost_of_a_monitor_that_doubts_is_the_mean_over_clean_images(data, tmp_path):
    doubting = {"name": "doubting", "detectors": ["mahalanobis", "disagreement"], "escalate": 0.5}
    results = evaluate(small(monitors=[doubting, {**doubting, "name": "sure", "escalate": None}], changes=[]),
                       tmp_path, data=data)  # fmt: skip
    passes = [monitor["cost"]["passes"] for monitor in results["monitors"]]
    monitor = Monitor(make_backbone(), doubting["detectors"], escalate=0.5).fit(images_of_the_fit(data))
    assert 1 < passes[0] < 2 == passes[1]
    assert passes[0] == pytest.approx(monitor.calibrate(false_alarm_rate=0.2, folds=2).passes, abs=0.1)


def test_readings_are_for_their_owner_alone(ran):
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in (ran[0] / "work" / "sets").iterdir()} == {0o600}


def test_the_command_prints_tables_and_writes_the_report(data, tmp_path, monkeypatch):
    monkeypatch.setenv("INLIER_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    Path("it.toml").write_text(
        f'backbone = "{__name__}:make_backbone"\n'
        'fit = "{data}/fit/images"\nclean = "{data}/test/images"\n'
        'folds = 2\nrates = [0.2]\n[[monitors]]\nname = "bands"\ndetectors = "mahalanobis"\n'
        '[[changes]]\nperturbation = "gaussian_noise"\npaper = 1\n'
    )
    told = CliRunner().invoke(app, ["evaluate", "it.toml", "--out", "out"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "gaussian noise" in told.stdout
    assert "clean, west" in told.stdout
    assert {"results.json", "scores.safetensors", "report.html", "work"} <= {
        path.name for path in Path("out").iterdir()
    }
    again = CliRunner().invoke(app, ["evaluate", "it.toml", "--out", "out", "--json"], catch_exceptions=False)
    assert json.loads(again.stdout) == json.loads(Path("out/results.json").read_text())


def test_data_that_nobody_named_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("INLIER_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="--data"):
        evaluate(small(), tmp_path / "out")


def test_a_joint_attack_is_made_against_the_monitor_that_is_judged(data, tmp_path):
    wanted = small(
        monitors=[{"name": "bands", "detectors": "mahalanobis"}, {"name": "daain", "detectors": DAAIN}],
        changes=[
            {"joint": "dual", "monitor": "bands", "eps": 0.1, "steps": 6},
            {"joint": "false_alarm", "monitor": "bands", "eps": 0.1, "steps": 6, "name": "alarm"},
        ],
    )  # fmt: skip
    results = evaluate(wanted, tmp_path / "out", data=data)
    record = Record.load(tmp_path / "out" / "scores.safetensors")
    work = Evaluation(wanted, tmp_path / "out", data=data)
    monitor = work.attackable("bands")
    assert monitor.calibration.threshold(0.1) == pytest.approx(record.monitor("bands").thresholds[0][0.1], rel=1e-4)
    clean, _ = images_of(data / "test" / "images")
    attacked = torch.cat([attack_monitor(monitor, clean[i : i + 4], 0.1, steps=6).images for i in (0, 4, 8)])
    with torch.no_grad():
        torch.testing.assert_close(
            record.scores["bands", 0, "dual"], monitor.score(attacked).double(), rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(  # the key is the same too
            record.scores["daain", 0, "clean"], work.attackable("daain").score(clean).double(), rtol=1e-3, atol=1e-3
        )
    assert [entry["kind"] for entry in results["sets"]] == ["clean", "joint", "joint"]
    assert results["sets"][1]["settings"]["monitor"] == "bands"
    rows = {row["set"]: row["flagged"]["0.1"]["hits"] for row in results["rows"] if row["monitor"] == "bands"}
    assert rows["dual"] < rows["alarm"]
    gates = {gate["name"]: gate["verdict"] for gate in results["gates"]}
    assert gates["finite differences agree with the gradient"] == gates["five passes agree"] == "PASS"
    assert gates["the monitor leaves predictions alone"] == "PASS"
    write_report(tmp_path, results)
    page = (tmp_path / "report.html").read_text()
    assert "Were the attackers strong enough" in page
    assert 'id="table-gates"' in page
    assert 'id="table-joint"' in page
    assert "did not know of the monitor" not in page


def test_who_may_only_ask_asks_the_monitor_that_is_judged(data, tmp_path):
    wanted = small(changes=[{"asked": "square", "monitor": "bands", "eps": 0.1, "queries": 10}])
    results = evaluate(wanted, tmp_path / "out", data=data)
    _, asked = results["sets"]
    assert (asked["kind"], asked["settings"]["asked"], asked["settings"]["queries"]) == ("joint", "square", 10)
    assert asked["settings"]["monitor"] == "bands"


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"asked": "squares", "monitor": "bands", "eps": 0.1}, LookupError, "Did you mean 'square'"),
        ({"asked": "square", "eps": 0.1}, ValueError, "needs monitor"),
        ({"asked": "rays", "monitor": "bands", "eps": 0.1, "queries": 5}, ValueError, "at least"),
        ({"asked": "square", "monitor": "bands", "eps": 0.1, "steps": 5}, ValueError, "no setting 'steps'"),
        ({"joint": "duel", "monitor": "bands", "eps": 0.1}, LookupError, "Did you mean 'dual'"),
        ({"joint": "dual", "eps": 0.1}, ValueError, "needs monitor"),
        ({"joint": "dual", "monitor": "bands"}, ValueError, "and eps"),
        ({"joint": "dual", "monitor": "bands", "eps": 0.1, "stepps": 2}, ValueError, "Did you mean 'steps'"),
        ({"joint": "dual", "monitor": "bandz", "eps": 0.1}, LookupError, "Did you mean 'bands'"),
    ],
)
def test_joint_attacks_that_cannot_be_are_refused(data, tmp_path, change, error, told):
    with pytest.raises(error, match=told):
        evaluate(small(changes=[change]), tmp_path / "out", data=data)
