"""A sweep works out every cell once, whatever ends it, and says the same in the end."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inlier.backbones.base import Backbone, Classification
from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.metrics import aupr, auroc, fpr_at_tpr, rate_interval
from inlier.evaluation.sweep import Sweep, run_sweep, table
from inlier.images import TensorImages
from inlier.monitor import Monitor
from inlier.observation import Readings

DAAIN = "daain(distance=8, blocks=1)"


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    return (0.25 + 0.5 * colour + 0.2 * torch.rand(n, 3, 16, 16, generator=generator)).clamp(0, 1)


def make_backbone():
    """What a user's factory makes; `backbone = "test_sweep:make_backbone"` finds it."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
                            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(network, Classification(("a", "b", "c")))


SETS = {"clean": images(60), "held": images(40, 1), "noise": images(30, 2).round(), "dark": images(20, 3) * 0.3}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with readings for two keys, as the current one."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        monitor = Monitor(make_backbone(), ["mahalanobis", DAAIN, "entropy"], seed=seed)
        for name, values in SETS.items():
            monitor.read(TensorImages(values, groups=["ab"[i % 2] for i in range(len(values))])).save(
                f"{name}.{seed}.readings"
            )
    return tmp_path


def made(**changed):
    settings = {
        "fit": "clean.{seed}.readings",
        "anomalous": {"noise": "noise.{seed}.readings", "dark": "dark.{seed}.readings"},
        "detectors": ["mahalanobis", {"name": "daain", "distance": 8, "blocks": 1}, ["mahalanobis", "entropy"]],
        "seeds": [0, 1],
        "rules": ["order_statistic", "robust"],
        "false_alarm_rate": 0.1,
        "folds": 2,
    }
    return from_keywords(Sweep, settings | changed, "the sweep")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_sweep_has_a_row_for_each_cell_in_the_order_of_its_settings(here):
    rows = run_sweep(made(), "out")
    cells = [(row["detector"], row["seed"], row["rule"], row["anomalous"]) for row in rows]
    assert cells == [
        (detector, seed, rule, name)
        for detector in ("mahalanobis", "daain(blocks=1, distance=8)", "mahalanobis + entropy")
        for seed in (0, 1)
        for rule in ("order_statistic", "robust")
        for name in ("noise", "dark")
    ]
    assert [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()] == rows
    assert len(list(Path("out/cells").iterdir())) == len(rows) == 24


@pytest.mark.parametrize("held_out", [False, True])
def test_a_row_is_what_a_monitor_by_hand_says(here, held_out):
    more = {"clean": "held.{seed}.readings"} if held_out else {}
    rows = run_sweep(made(detectors=["mahalanobis"], seeds=[1], **more), "out")
    monitor = Monitor(make_backbone(), "mahalanobis").fit(Readings.load("clean.1.readings"))
    for row in rows:
        monitor.calibrate(false_alarm_rate=0.1, rule=row["rule"], folds=2)
        anomalous = monitor.score_of(Readings.load(f"{row['anomalous']}.1.readings"))
        clean = monitor.score_of(Readings.load("held.1.readings")) if held_out else monitor.calibration_scores
        assert row["auroc"] == auroc(clean, anomalous)
        assert row["aupr"] == aupr(clean, anomalous)
        assert row["fpr95"] == fpr_at_tpr(clean, anomalous)
        flagged = int(monitor.calibration.flagged(anomalous, 0.1).sum())
        assert (row["flagged"], row["images"]) == (flagged, len(anomalous))
        assert row["flagged_interval"] == list(rate_interval(flagged, len(anomalous)))
        assert (row["clean_images"], row["held_out"]) == (len(clean), held_out)
        assert row["threshold"] == monitor.calibration.threshold(0.1)
        (settings,) = row["detectors"]
        assert settings["name"] == "mahalanobis"
        assert settings["normalise"] == "none"  # a default that nobody wrote


def test_the_table_has_a_line_for_each_cell(here):
    rows = run_sweep(made(detectors=["mahalanobis"], seeds=[0], rules=["robust"]), "out")
    header, *lines = table(rows).splitlines()
    assert header.split()[:5] == ["detector", "seed", "rule", "anomalous", "AUROC"]
    for line, row in zip(lines, rows, strict=True):
        assert line.split()[:4] == ["mahalanobis", "0", "robust", row["anomalous"]]
        assert line.split()[4] == f"{row['auroc']:.3f}"
        assert f"{100 * row['flagged'] / row['images']:.1f} [" in line


def test_a_finished_sweep_is_not_worked_out_again(here, monkeypatch):
    rows = run_sweep(made(), "out")
    before = files_of("out")
    monkeypatch.setattr(Monitor, "fit", None)
    assert run_sweep(made(), "out") == rows
    assert files_of("out") == before


def test_only_what_is_missing_is_worked_out(here, monkeypatch):
    run_sweep(made(), "out")
    before = files_of("out")
    cells = sorted(Path("out/cells").iterdir())
    for cell in (cells[3], cells[17]):
        cell.unlink()
    fits = []
    fit = Monitor.fit
    monkeypatch.setattr(Monitor, "fit", lambda self, *a, **k: fits.append(1) or fit(self, *a, **k))
    run_sweep(made(), "out")
    assert files_of("out") == before
    assert 1 <= len(fits) <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0]}, r"seeds = \[0, 1\], and this one has \[0\]"),
        ({"false_alarm_rate": 0.2}, r"false_alarm_rate = 0.1, and this one has 0.2"),
        ({"detectors": ["mahalanobis"]}, "detectors = "),
        ({"anomalous": {"noise": "noise.{seed}.readings"}}, "anomalous = "),
    ],
)
def test_a_folder_of_another_sweep_is_refused(here, change, message):
    run_sweep(made(), "out")
    before = files_of("out")
    with pytest.raises(Mismatch, match=f"'out' holds a sweep with {message}"):
        run_sweep(made(**change), "out")
    assert files_of("out") == before


def test_readings_that_changed_under_the_same_name_are_noticed(here):
    run_sweep(made(), "out")
    Readings.load("noise.0.readings").subset(torch.arange(20)).save("noise.0.readings")
    with pytest.raises(Mismatch, match=r"inputs = .*noise\.0\.readings"):
        run_sweep(made(), "out")


def test_the_same_settings_written_otherwise_are_the_same_sweep(here):
    rows = run_sweep(made(), "out")
    same = made(detectors=["mahalanobis(grid=(4, 1))", "daain(blocks=1, distance=8, bins=30)",
                           [{"name": "mahalanobis"}, "entropy"]])  # fmt: skip
    assert run_sweep(same, "out") == rows


def test_a_folder_with_other_things_in_it_is_left_alone(here):
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("all of it")
    with pytest.raises(Mismatch, match="'out' is not empty and no sweep was begun in it"):
        run_sweep(made(), "out")
    assert list(files_of("out")) == [Path("thesis.txt")]


def test_impossible_sweeps_are_refused(here):
    with pytest.raises(ValueError, match=r"the sweep has no setting 'detector'\. Did you mean 'detectors'"):
        made(detector="mahalanobis")
    with pytest.raises(ValueError, match=r"A sweep needs anomalous images by name: a table \[anomalous\]"):
        made(anomalous={})
    with pytest.raises(ValueError, match="seeds of a sweep is a list with something in it, not 3"):
        made(seeds=3)
    with pytest.raises(ValueError, match="detectors of a sweep is a list with something in it, not 'mahalanobis'"):
        made(detectors="mahalanobis")
    with pytest.raises(ValueError, match=r"detector 'daain' has no setting 'block'\. Did you mean 'blocks'"):
        run_sweep(made(detectors=[{"name": "daain", "block": 2}]), "out")
    with pytest.raises(LookupError, match="Did you mean 'mahalanobis'"):
        run_sweep(made(detectors=["mahalonobis"]), "out")
    with pytest.raises(ValueError, match="images to look at and no network"):
        run_sweep(made(fit="images"), "out")
    with pytest.raises(Mismatch, match="another sampling key"):
        run_sweep(made(fit="clean.0.readings", seeds=[1], detectors=[DAAIN]), "out")


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The same sets as 8-bit files in folders, in the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for name, values in SETS.items():
        (tmp_path / name).mkdir()
        for number, image in enumerate(values):
            pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy().astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{'ab'[number % 2]}_{number:03d}.png")
    return tmp_path


@pytest.mark.slow
def test_images_are_read_once_and_their_readings_kept(folders, monkeypatch):
    detectors = ["mahalanobis", DAAIN, "daain(distance=6, blocks=1)"]
    sweep = made(fit="clean", clean="held", anomalous={"noise": "noise", "dark": {"text": "dark"}},
                 backbone="test_sweep:make_backbone", detectors=detectors)  # fmt: skip
    rows = run_sweep(sweep, "out")
    assert len(rows) == 24
    # Two groups, since one monitor has one key, of which both have one; two seeds; four sets.
    assert len(list(Path("out/readings").glob("*.readings"))) == 2 * 2 * 4
    for cell in Path("out/cells").iterdir():
        cell.unlink()
    monkeypatch.setattr(Monitor, "read", None)
    assert run_sweep(sweep, "out") == rows


def test_detectors_without_a_key_are_read_for_once_for_all_seeds(folders):
    sweep = made(fit="clean", anomalous={"noise": "noise"}, backbone="test_sweep:make_backbone",
                 detectors=["mahalanobis", "entropy", ["energy", "max_logit"]])  # fmt: skip
    rows = run_sweep(sweep, "out")
    assert len(list(Path("out/readings").glob("*.readings"))) == 2
    by_seed = [[row["auroc"] for row in rows if row["seed"] == seed] for seed in (0, 1)]
    assert by_seed[0] == by_seed[1]


def test_a_row_of_images_is_what_a_monitor_by_hand_says(folders):
    from inlier.datasets.load import open_images

    sweep = made(fit="clean", anomalous={"noise": "noise"}, backbone="test_sweep:make_backbone", seeds=[3],
                 detectors=[DAAIN], rules=["order_statistic"])  # fmt: skip
    (row,) = run_sweep(sweep, "out")
    monitor = Monitor(make_backbone(), DAAIN, seed=3).fit(open_images("clean"))
    monitor.calibrate(false_alarm_rate=0.1, folds=2)
    assert row["threshold"] == monitor.calibration.threshold(0.1)
    scores = monitor.score_of(monitor.read(open_images("noise")))
    assert row["auroc"] == auroc(monitor.calibration_scores, scores)


def test_another_network_in_the_same_folder_is_refused(folders, monkeypatch):
    sweep = made(fit="clean", anomalous={"noise": "noise"}, backbone="test_sweep:make_backbone",
                 detectors=["entropy"], seeds=[0])  # fmt: skip
    run_sweep(sweep, "out")
    import test_sweep

    def other():
        backbone = make_backbone()
        backbone.network[0].weight.data += 1
        return backbone

    monkeypatch.setattr(test_sweep, "make_backbone", other)
    with pytest.raises(Mismatch, match="'out' holds a sweep with network = "):
        run_sweep(sweep, "out")


# --- a kill ----------------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_sweep as here
from inlier.evaluation import sweep
write = sweep.write_bytes
def slowly(path, content):
    time.sleep(0.05)
    write(path, content)
sweep.write_bytes = slowly
sweep.run_sweep(here.made(), "killed")
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_says_what_an_unbroken_one_says(here):
    expected = run_sweep(made(), "unbroken")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(Path(__file__).parent)], cwd=here, env=os.environ)
    cells = here / "killed" / "cells"
    deadline = time.monotonic() + 60
    while (len(list(cells.glob("*.json"))) if cells.is_dir() else 0) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(cells.glob("*.json")))
    assert 3 <= there < len(expected)
    assert not (here / "killed" / "results.jsonl").exists()
    assert run_sweep(made(), "killed") == expected
    unbroken, killed = files_of("unbroken"), files_of("killed")
    hidden = {path for path in killed if path.name.startswith(".")}
    assert {path: content for path, content in killed.items() if path not in hidden} == unbroken


def test_no_number_in_a_row_is_nan(here):
    rows = run_sweep(made(detectors=["mahalanobis"]), "out")
    numbers = re.findall(r"NaN|Infinity", Path("out/results.jsonl").read_text())
    assert numbers == []
    assert all(math.isfinite(row["threshold"]) for row in rows)
