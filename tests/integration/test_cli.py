"""The command line as a user meets it: commands in turn on a folder of small scenes, through the script's own entry."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import inlier
from PIL import Image

from inlier.backbones.street import street_espnet
from inlier.datasets.folder import ImageFolder
from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, WORLDS
from inlier.monitor import Monitor

SIZE = (48, 96)
PER_WORLD = 10
DAAIN = "daain(distance=32, blocks=1)"


def done(*arguments):
    """Run a command that must succeed."""
    ran = inlier(*arguments)
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.err
    return ran


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images and label maps of four worlds, named as frames of recordings."""
    folder = tmp_path_factory.mktemp("scenes")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for world in TRAINING_WORLDS:
        for number in range(PER_WORLD):
            scene = draw(WORLDS[world], number, SIZE)
            Image.fromarray(scene.image).save(folder / "images" / f"{world}_{number:03}.png")
            Image.fromarray(np.asarray(scene.labels).astype(np.uint8)).save(
                folder / "labels" / f"{world}_{number:03}.png"
            )
    return folder


@pytest.fixture(scope="module")
def fitted(folder):
    """A monitor file that tests copy before they change it."""
    out = folder / "fitted" / "m.inlier"
    done("fit", "--backbone", "street", "--images", folder / "images", "--out", out, "--detector", "mahalanobis",
         "--detector", DAAIN, "--false-alarm-rate", 0.1, "--folds", 2, "--blocks", 1, "--seed", 0)  # fmt: skip
    return out


@pytest.fixture
def monitor(fitted, tmp_path):
    shutil.copytree(fitted.parent, tmp_path / "monitor")
    return tmp_path / "monitor" / fitted.name


def pixels(folder, name):
    with Image.open(folder / name) as image:
        return np.asarray(image).astype(int)


def test_a_users_journey(folder, tmp_path):
    images, monitor = folder / "images", tmp_path / "m.inlier"
    network = ("--backbone", "street")
    scored = (monitor, *network, "--images")
    cross_fit = ("--blocks", 1, "--folds", 2)

    fitted = done("fit", *network, "--images", images, "--out", monitor, "--detector", DAAIN,
                  "--detector", "mahalanobis", "--false-alarm-rate", 0.1, *cross_fit, "--json")  # fmt: skip
    assert fitted.json["detectors"] == ["daain(blocks=1, distance=32)", "mahalanobis"]
    assert fitted.json["clean_images"] == 4 * PER_WORLD
    assert [row["group"] for row in fitted.json["clean_alarms"]] == [*sorted(TRAINING_WORLDS), "all"]
    (key,) = tmp_path.glob("m.inlier.*.key")
    assert key.stat().st_mode & 0o777 == 0o600

    calibrated = done("calibrate", *scored[:3], "--false-alarm-rate", 0.2, "--json").json
    assert calibrated["false_alarm_rate"] == 0.2
    assert calibrated["threshold"] < fitted.json["threshold"]
    assert calibrated["clean_scores"] == fitted.json["clean_scores"]

    clean = done("score", *scored, images)
    assert len(clean.rows) == 4 * PER_WORLD
    assert "flagged at a false-alarm rate of 0.2" in clean.err

    flipped = tmp_path / "flipped"
    assert done("perturb", "vertical_flip", "--images", images, "--out", flipped).out == ""
    assert np.array_equal(pixels(flipped, "summer_003.png"), pixels(images, "summer_003.png")[::-1])
    upside_down = done("score", *scored, flipped).rows
    assert sum(row["flagged"] for row in upside_down) > 0.9 * len(upside_down)

    few, attacked = tmp_path / "few", tmp_path / "attacked"
    few.mkdir()
    for number in range(4):
        shutil.copy(images / f"winter_{number:03}.png", few)
    attack = done("attack", "ifgsm", *network, "--images", few, "--out", attacked, "--eps", 0.02, "--json").json
    (attack,) = attack["rows"]
    assert attack["images"] == 4
    assert attack["damage"] > 0.2
    assert {path.name for path in attacked.glob("*.png")} == {path.name for path in few.iterdir()}
    change = max(np.abs(pixels(attacked, path.name) - pixels(few, path.name)).max() for path in few.iterdir())
    assert attack["largest"] == pytest.approx(change / 255, abs=1e-6)
    assert 1 <= change <= 0.02 * 255 + 0.5
    assert len(done("score", *scored, attacked).rows) == 4

    again = done("rekey", *scored, images, *cross_fit, "--json").json
    (new_key,) = tmp_path.glob("m.inlier.*.key")
    assert new_key != key
    assert (again["false_alarm_rate"], again["rule"]) == (0.2, "order_statistic")
    assert again["detectors"] == fitted.json["detectors"]
    assert len(done("score", *scored, images).rows) == 4 * PER_WORLD

    quality = done("miou", *network, "--images", images, "--labels", folder / "labels", "--json").json
    assert quality["images"] == 4 * PER_WORLD
    assert 0.3 < quality["miou"] < quality["pixel_accuracy"] < 1
    assert set(quality["iou"]) == set(street_espnet().task.classes)


def test_rows_say_what_the_monitor_says_in_python(folder, monitor):
    rows = done("score", monitor, "--backbone", "street", "--images", folder / "images").rows
    loaded = Monitor.load(monitor, street_espnet())
    expected = []
    for batch in ImageFolder(folder / "images").batches(8):
        told = loaded(batch.images, batch.names).rows()
        expected += [row | {"group": group} for row, group in zip(told, batch.groups, strict=True)]
    assert rows == expected
    assert list(rows[0]) == ["image", "group", "score", "p_value", "flagged"]
    assert rows[0]["group"] == "autumn"


def test_folders_given_one_by_one_are_those_images_in_turn(folder, monitor, tmp_path):
    apart = tmp_path / "winter"
    apart.mkdir()
    for path in (folder / "images").glob("winter_*.png"):
        shutil.copy(path, apart)
    shutil.copytree(folder / "images", tmp_path / "rest", ignore=shutil.ignore_patterns("winter_*"))
    scored = ("score", monitor, "--backbone", "street")
    rows = done(*scored, "--images", apart, "--images", tmp_path / "rest").rows
    whole = done(*scored, "--images", folder / "images").rows
    assert [row["image"] for row in rows[:PER_WORLD]] == sorted(path.name for path in apart.iterdir())
    assert sorted(rows, key=lambda row: row["image"]) == whole


def test_csv_has_the_same_rows_and_a_file_takes_them(folder, monitor, tmp_path):
    score = ("score", monitor, "--backbone", "street", "--images", folder / "images")
    rows = done(*score).rows
    table = list(csv.DictReader(io.StringIO(done(*score, "--format", "csv").out)))
    assert [row["image"] for row in table] == [row["image"] for row in rows]
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    assert [row["flagged"] for row in table] == [str(row["flagged"]) for row in rows]
    written = done(*score, "--out", tmp_path / "rows" / "rows.jsonl")
    assert written.out == ""
    assert [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()] == rows


def test_why_and_overlay_are_there_when_asked_for(folder, monitor, tmp_path):
    score = ("score", monitor, "--backbone", "street", "--images", folder / "images")
    rows = done(*score, "--why", "--overlay", tmp_path / "drawn").rows
    for row in rows:
        assert row["nearest"]["image"] == row["image"]
        assert sum(tap["share"] for tap in row["taps"]) <= 1 + 1e-5
        assert pixels(tmp_path / "drawn", row["image"]).shape == (*SIZE, 3)
    corner = {row["flagged"]: pixels(tmp_path / "drawn", row["image"])[0, 0].tolist() for row in rows}
    if True in corner:
        assert corner[True][0] > corner[True][1]  # red
    assert corner[False][1] > corner[False][0]  # green
    assert "taps" not in done(*score, "--overlay", tmp_path / "drawn").out
    refused = inlier(*score, "--why", "--format", "csv")
    assert (refused.code, refused.out) == (2, "")


def test_a_flagged_image_fails_the_gate_with_3(folder, monitor, tmp_path):
    black = tmp_path / "black"
    black.mkdir()
    Image.new("RGB", SIZE[::-1]).save(black / "black.png")
    score = ("score", monitor, "--backbone", "street", "--images")
    gate = inlier(*score, black, "--fail-on-flag")
    assert gate.code == 3
    assert gate.rows[0]["flagged"] is True
    assert inlier(*score, black).code == 0


def test_a_broken_image_is_reported_counted_and_skipped(folder, monitor, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(folder / "images", images)
    (images / "summer_0005.png").write_bytes(b"no image")
    (images / "winter_0005.jpg").write_bytes((images / "winter_003.png").read_bytes()[:200])
    network = ("--backbone", "street", "--images", images)
    commands = [
        ("score", monitor, *network),
        ("perturb", "sign_noise", "--images", images, "--out", tmp_path / "noise"),
        ("fit", *network, "--out", tmp_path / "m.inlier", "--false-alarm-rate", 0.1),
        ("rekey", monitor, *network, "--blocks", 1, "--folds", 2, "--out", tmp_path / "k" / "m.inlier"),
    ]
    for command in commands:
        ran = done(*command)
        assert "skipped summer_0005.png: not an image" in ran.err
        assert "skipped winter_0005.jpg: " in ran.err
        assert f"2 of {4 * PER_WORLD + 2} images skipped" in ran.err
        assert "skipped" not in ran.out
    assert len(list((tmp_path / "noise").iterdir())) == 4 * PER_WORLD


def test_a_broken_image_is_told_of_where_the_others_are_too_few(tmp_path):
    for number in range(2):
        Image.fromarray(draw(WORLDS["summer"], number, (48, 96)).image).save(tmp_path / f"a_{number}.png")
    (tmp_path / "b.png").write_text("no image")
    ran = inlier("fit", "--backbone", "street", "--images", tmp_path, "--detector", "profile",
                 "--false-alarm-rate", 0.25, "--out", tmp_path / "m.inlier")  # fmt: skip
    assert ran.code == 2
    assert "at least 3 rows" in ran.err
    assert "skipped b.png: not an image" in ran.err
    assert "1 of 3 images skipped" in ran.err


def test_a_new_key_that_fails_for_want_of_images_tells_of_those_skipped(folder, tmp_path):
    keyed = tmp_path / "m.inlier"
    made = inlier("fit", "--backbone", "street", "--images", folder / "images", "--detector", "random_look",
                  "--false-alarm-rate", "0.2", "--out", keyed)  # fmt: skip
    assert made.code == 0, made.err
    (tmp_path / "few").mkdir()
    Image.fromarray(draw(WORLDS["summer"], 0, (48, 96)).image).save(tmp_path / "few" / "a.png")
    (tmp_path / "few" / "b.png").write_text("no image")
    before = keyed.read_bytes()
    ran = inlier("rekey", keyed, "--backbone", "street", "--images", tmp_path / "few")
    assert ran.code == 2
    assert "skipped b.png: not an image" in ran.err
    assert "at least 4 clean images" in ran.err
    assert keyed.read_bytes() == before


def test_stdout_has_results_only(folder, monitor, tmp_path):
    network = ("--backbone", "street", "--images", folder / "images")
    silent = [
        ("fit", *network, "--out", tmp_path / "m.inlier", "--false-alarm-rate", 0.1),
        ("calibrate", monitor, "--backbone", "street", "--false-alarm-rate", 0.2),
        ("perturb", "fog", "--images", folder / "images", "--out", tmp_path / "fog", "--severity", 2),
    ]
    for command in silent:
        ran = done(*command)
        assert ran.out == ""
        assert ran.err != ""
    assert all(row["image"] for row in done("score", monitor, *network).rows)
    table = done("miou", *network, "--labels", folder / "labels").out.splitlines()
    assert len(table) == 9 + 2
    assert table[-1].endswith(f"({4 * PER_WORLD} images)")


def test_a_refused_calibration_leaves_the_file_as_it_was(folder, monitor):
    before = monitor.read_bytes()
    refused = inlier("calibrate", monitor, "--backbone", "street", "--false-alarm-rate", 0.001)
    assert refused.code == 2
    assert f"has {4 * PER_WORLD} images; a false-alarm rate of 0.001 needs at least 999" in refused.err
    assert monitor.read_bytes() == before


def test_held_out_images_of_one_group_are_warned_of_in_a_line(folder, monitor, tmp_path):
    out = tmp_path / "held" / "m.inlier"
    held_out = ("--images", folder / "images", "--group-by", "png", "--blocks", 2, "--folds", 2)
    ran = done(
        "calibrate", monitor, "--backbone", "street", *held_out, "--false-alarm-rate", 0.1, "--out", out, "--json"
    )
    assert "inlier: warning: All 40 held-out images are of one group (png)" in ran.err
    assert ran.json["clean_scores"].startswith("held out, fused over")
    assert len(list(out.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("fit --backbone streat --images IMAGES", "No backbone named 'streat'. Did you mean 'street'?"),
        ("fit --backbone street --images IMAGES --detector mahalonobis", "Did you mean 'mahalanobis'?"),
        ("fit --backbone street --images IMAGES --detector daain(block=2)", "Did you mean 'blocks'?"),
        ("fit --backbone street --images IMAGES --detector daain(", "written as name or name(setting=value)"),
        ("fit --backbone street --images IMAGES --fusion mean", "fusion 'max' or 'sum'"),
        (
            "fit --backbone street --images IMAGES --detector entropy --rule median",
            "No calibration rule named 'median'",
        ),
        (
            "fit --backbone street --images IMAGES --detector entropy --blocks many",
            "--blocks is auto, group or a number",
        ),
        ("fit --backbone street --images IMAGES --group-by (", "is no regular expression"),
        ("fit --backbone street --images IMAGEZ", "No folder"),
        ("fit --backbone espnet --images IMAGES", "write espnet:FILE.safetensors"),
        ("fit --backbone espnet:none.safetensors --images IMAGES", "No file 'none.safetensors'"),
        ("score MONITOR --backbone espnet:MONITOR --images IMAGES", "holds no ESPNet"),
        (
            "score none.inlier --backbone street --images IMAGES",
            "No file 'none.inlier'. Expected a monitor, which `inlier fit` writes",
        ),
        ("score MONITOR --backbone street --images IMAGES --format xml", "--format is jsonl or csv, not 'xml'"),
        ("perturb fogg --images IMAGES --out OUT", "No perturbation named 'fogg'. Did you mean 'fog'?"),
        ("attack ifgms --backbone street --images IMAGES --out OUT", "No recipe named 'ifgms'. Did you mean 'ifgsm'?"),
        ("attack fgsm --steps 3 --backbone street --images IMAGES --out OUT", "Recipe 'fgsm' has no steps"),
        ("attack fgsm_targeted --backbone street --images IMAGES --out OUT", "needs --target, one of sky, building"),
        ("attack fgsm --target raod --backbone street --images IMAGES --out OUT", "Did you mean 'road'?"),
        ("miou --backbone street --images IMAGES --labels OUT", "No folder"),
    ],
)
def test_wrong_use_exits_with_2_and_the_message_alone(folder, monitor, tmp_path, arguments, told):
    places = {"IMAGES": str(folder / "images"), "MONITOR": str(monitor), "OUT": str(tmp_path / "out")}
    words = arguments.split()
    for name, place in places.items():
        words = [word.replace(name, place) if not word.endswith("Z") else word for word in words]
    ran = inlier(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert told in ran.err
    lines = [line for line in ran.err.splitlines() if line.startswith("inlier: ")]
    assert len(lines) == 1
    assert "Traceback" not in ran.err
    assert "Traceback" in inlier("--debug", *words).err


@pytest.mark.parametrize(
    "words", [["fitt"], ["fit"], ["perturb", "fog", "--images", ".", "--out", ".", "--severity", 6]]
)
def test_what_the_parser_refuses_exits_with_2_too(words):
    ran = inlier(*words)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err


def test_a_missing_key_says_what_to_do(folder, monitor):
    next(monitor.parent.glob("*.key")).unlink()
    ran = inlier("score", monitor, "--backbone", "street", "--images", folder / "images")
    assert ran.code == 2
    assert "is not beside" in ran.err


@pytest.mark.parametrize(("raised", "code"), [(ZeroDivisionError("oh"), 1), (KeyboardInterrupt(), 130)])
def test_our_own_errors_exit_with_1_and_an_interruption_with_130(folder, monkeypatch, raised, code):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("inlier.backbones.load.load_backbone", fail)
    ran = inlier("fit", "--backbone", "street", "--images", folder / "images")
    assert ran.code == code
    assert ran.out == ""
    assert "Traceback" not in ran.err
    if code == 1:
        assert "inlier: ZeroDivisionError: oh (inlier --debug ... shows where)" in ran.err


@pytest.mark.parametrize("kind", ["detectors", "backbones", "perturbations", "recipes"])
def test_listings_name_everything(kind):
    from inlier.attacks.recipes import RECIPES
    from inlier.backbones.load import BACKBONES
    from inlier.detectors.table import DETECTORS
    from inlier.perturbations.table import PERTURBATIONS

    table = {"detectors": DETECTORS, "backbones": BACKBONES, "perturbations": PERTURBATIONS, "recipes": RECIPES}[kind]
    assert [line.split()[0] for line in done(kind).out.splitlines()] == list(table)


def test_a_recipe_is_listed_with_its_other_name():
    rows = {row["name"]: row["summary"] for row in done("recipes", "--json").json}
    assert (rows["pgd_linf"], rows["fgsm"]) == ("or pgd", "")


def test_help_waits_for_no_heavy_import():
    code = (
        "import sys, inlier.cli.main\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'pydantic', 'pandas', 'jaxtyping', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_installed_script_is_this_command_line():
    script = Path(sys.executable).with_name("inlier")
    if not script.exists():
        pytest.skip("inlier's script is not beside this Python: install the package")
    ran = subprocess.run([script, "fitt"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "fitt" in ran.stderr
    assert ran.stdout == ""


def test_taps_are_listed_with_their_shares_and_those_that_cannot_be_with_the_reason():
    rows = json.loads(inlier("taps", "--backbone", "street", "--image-size", "160x320", "--json").out)
    shares = [row["share"] for row in rows if row["share"] is not None]
    assert len(shares) > 50
    assert sum(shares) == pytest.approx(1)
    table = inlier("taps", "--backbone", "street", "--image-size", "160x320", "--select", "conv").out
    assert "Volume:" in table
    assert "Conv2d" in table
    assert "BatchNorm2d" not in table
    assert inlier("taps", "--backbone", "street", "--image-size", "160").code == 2
