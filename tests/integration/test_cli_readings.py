"""`inlier read` writes readings that `inlier sweep` works on without the network."""

import json
import stat

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from inlier.backbones.street import street_espnet
from inlier.cli.fit import fit
from inlier.cli.read import read
from inlier.cli.score import score
from inlier.cli.sweep import sweep
from inlier.errors import Mismatch
from inlier.evaluation.metrics import auroc
from inlier.monitor import Monitor
from inlier.observation import Readings
from inlier.sampling import SamplingKey

DAAIN = "daain(distance=16, blocks=1)"

app = typer.Typer()
for command in (read, sweep, fit, score):
    app.command()(command)


def inlier(*arguments):
    """What a command printed on stdout, and on stderr; what it raises is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, count, seed in (("train", 40, 0), ("noise", 20, 1)):
        (folder / name).mkdir()
        generator = torch.Generator().manual_seed(seed)
        for number in range(count):
            image = torch.rand(3, 1, 1, generator=generator).expand(3, 24, 32)
            image = image + 0.2 * torch.randn(3, 24, 32, generator=generator) * (1 + 3 * seed)
            pixels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"drive{number % 2}_{number:03d}.png")
    return folder


@pytest.fixture
def here(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(folders)
    return tmp_path


def reading(name, *more):
    return inlier("read", "--backbone", "street", "--images", f"images/{name}", "--out", f"{name}.readings",
                  "--detector", DAAIN, "--detector", "energy", *more)  # fmt: skip


def test_what_read_writes_is_what_monitors_are_fitted_to(here):
    told, _ = reading("train", "--seed", "0", "--json")
    told = json.loads(told)
    readings = Readings.load("train.readings")
    assert told["images"] == len(readings) == 40
    assert told["numbers_an_image"] == {name: value[:1].numel() for name, value in readings.values.items()}
    assert set(readings.values) == {"sampled", "score:energy"}
    assert readings.names[0] == "drive0_000.png"
    assert set(readings.groups) == {"drive0", "drive1"}
    assert not (here / "train.readings.key").exists()  # the seed tells it
    monitor = Monitor(street_espnet(), [DAAIN, "energy"], seed=0).fit(readings)
    assert len(monitor.scores_of(readings)["energy"]) == 40


def test_logits_are_kept_when_asked_for(here):
    reading("noise", "--seed", "0", "--logits")
    readings = Readings.load("noise.readings")
    assert readings.values["logits"].shape == (20, 9, 24, 32)
    with_logits = Monitor(street_espnet(), "entropy").fit(readings)
    assert with_logits.scores_of(readings)["entropy"].shape == (20,)


def test_a_drawn_key_is_written_apart_and_serves_further_images(here):
    _, said = reading("train")
    assert "can find out the sampling key" in said
    key = here / "train.readings.key"
    assert stat.S_IMODE(key.stat().st_mode) == stat.S_IMODE((here / "train.readings").stat().st_mode) == 0o600
    reading("noise", "--key", key)
    assert not (here / "noise.readings.key").exists()
    monitor = Monitor(street_espnet(), [DAAIN, "energy"], key=SamplingKey.load(key))
    assert len(monitor.fit(Readings.load("train.readings")).scores_of(Readings.load("noise.readings"))) == 2
    digest = Readings.load("train.readings").digest
    reading("train")  # again, with the key that is there
    assert Readings.load("train.readings").digest == digest


def test_a_sweep_over_readings_prints_its_table_and_needs_no_network(here, monkeypatch):
    reading("train", "--seed", "0")
    reading("noise", "--seed", "0")
    (here / "x.toml").write_text(
        'fit = "train.readings"\nfalse_alarm_rate = 0.1\nfolds = 2\n'
        'detectors = ["energy", {name = "daain", distance = 16, blocks = 1, head = "euclidean"}]\n'
        '[anomalous]\nnoise = "noise.readings"\n'
    )
    monkeypatch.setattr("inlier.backbones.load.load_backbone", None)
    printed, _ = inlier("sweep", "x.toml", "--out", "out")
    header, energy, daain = printed.splitlines()
    assert header.startswith("detector")
    assert energy.startswith("energy ")
    name = "daain(blocks=1, distance=16, head='euclidean')"
    assert daain.removeprefix(name).split()[:3] == ["0", "order_statistic", "noise"]
    told, said = inlier("sweep", "x.toml", "--out", "out", "--json")
    assert [row["detector"] for row in json.loads(told)] == ["energy", name]
    assert said.splitlines()[-1] == "2 cells in out/results.jsonl"


def test_wrong_use_is_told(here):
    with pytest.raises(ValueError, match=r"--out is a name that ends in \.readings, not 'train\.npz'"):
        inlier("read", "--backbone", "street", "--images", "images/train", "--out", "train.npz")
    with pytest.raises(FileNotFoundError, match=r"No file 'none\.key'"):
        reading("train", "--key", "none.key")
    with pytest.raises(FileNotFoundError, match=r"No file 'none\.toml'. Expected a TOML file"):
        inlier("sweep", "none.toml", "--out", "out")
    (here / "x.toml").write_text('fit = "train.readings"\nrates = 0.1\n[anomalous]\nx = "noise.readings"\n')
    with pytest.raises(ValueError, match=r"'x\.toml' has no setting 'rates'\. Did you mean 'rules'"):
        inlier("sweep", "x.toml", "--out", "out")
    (here / "x.toml").write_text('fit = "train.readings"\n')
    with pytest.raises(ValueError, match=r"'x\.toml' needs the setting 'anomalous'"):
        inlier("sweep", "x.toml", "--out", "out")
    reading("train", "--seed", "0")
    reading("noise", "--seed", "1")
    (here / "x.toml").write_text(
        f'fit = "train.readings"\ndetectors = ["{DAAIN}"]\nfalse_alarm_rate = 0.1\nfolds = 2\n'
        '[anomalous]\nx = "noise.readings"\n'
    )
    with pytest.raises(Mismatch, match="another sampling key"):
        inlier("sweep", "x.toml", "--out", "out")


FIT = ("--detector", DAAIN, "--false-alarm-rate", "0.1", "--folds", "2", "--seed", "0")


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_monitor_is_fitted_and_scores_from_readings_without_the_network_as_from_images(here):
    reading("train", "--seed", "0")
    reading("noise", "--seed", "0")
    key = Monitor(street_espnet(), DAAIN, seed=0).build((24, 32)).keys.key
    key.save(here / "train.readings.key")
    inlier("fit", "--images", "train.readings", *FIT, "--out", "from_readings.inlier")
    inlier("fit", "--backbone", "street", "--images", "images/train", *FIT, "--out", "from_images.inlier")
    seen, _ = inlier("score", "from_images.inlier", "--backbone", "street", "--images", "images/noise")
    for monitor in ("from_readings.inlier", "from_images.inlier"):
        read_, _ = inlier("score", monitor, "--images", "noise.readings")
        assert rows(read_) == rows(seen)


def test_what_readings_cannot_do_is_told(here):
    reading("train", "--seed", "0")
    with pytest.raises(ValueError, match=r"only readings .* do without the network"):
        inlier("fit", "--images", "images/train")
    with pytest.raises(ValueError, match="--resize, --split, --group-by and --groups are for images"):
        inlier("fit", "--images", "train.readings", "--resize", "8x8")
    for images in ("train.readings", "images/train"):
        with pytest.raises(ValueError, match="Readings go alone"):
            inlier("fit", "--images", images, "--images", "train.readings")
    inlier("fit", "--backbone", "street", "--images", "images/train", *FIT, "--out", "m.inlier")
    with pytest.raises(ValueError, match="look at the images again"):
        inlier("score", "m.inlier", "--images", "train.readings", "--why")


@pytest.mark.slow
def test_labelled_anomalies_reach_the_detector_that_learns_from_them(here):
    logistic = ("--detector", "daain(distance=6, blocks=1, head='logistic')", *FIT[2:])
    inlier("fit", "--backbone", "street", "--images", "images/train", "--anomalies", "images/noise", *logistic,
           "--out", "taught.inlier")  # fmt: skip
    scores = {}
    for name in ("train", "noise"):
        printed, _ = inlier("score", "taught.inlier", "--backbone", "street", "--images", f"images/{name}")
        scores[name] = [row["score"] for row in rows(printed)]
    assert auroc(scores["train"], scores["noise"]) > 0.95
    with pytest.raises(Mismatch, match="learn"):
        inlier("fit", "--backbone", "street", "--images", "images/train", "--anomalies", "images/noise", *FIT)
