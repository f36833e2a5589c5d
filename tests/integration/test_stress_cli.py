"""`inlier stress` and `inlier attack` on a monitor as a user runs them: tables, files, exit codes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import inlier
from PIL import Image

from inlier.attacks.universal import UniversalDelta
from inlier.backbones.street import street_espnet
from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import WORLDS


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stress")
    (folder / "images").mkdir()
    for number in range(24):
        Image.fromarray(draw(WORLDS["summer"], number, (48, 96)).image).save(folder / "images" / f"a_{number:03}.png")
    ran = inlier("fit", "--backbone", "street", "--images", folder / "images", "--detector", "mahalanobis",
                 "--false-alarm-rate", 0.1, "--out", folder / "m.inlier")  # fmt: skip
    assert ran.code == 0, ran.err
    return folder


@pytest.mark.slow
def test_a_stress_test_prints_its_table_writes_its_files_and_goes_on(places):
    line = [
        "--threads", 1, "stress", places / "m.inlier", "--backbone", "street", "--images", places / "images",
        "--count", 3, "--eps", "8/255,16/255", "--budget", "smoke", "--out", places / "out", "--keep-images",
    ]  # fmt: skip
    ran = inlier(*line)
    results = json.loads((places / "out" / "results.json").read_text())
    failed = [gate["name"] for gate in results["gates"] if gate["verdict"] == "FAIL"]
    assert ran.code == (3 if failed else 0)
    assert ran.out.rstrip().endswith(results["verdict"])
    assert "finite differences agree with the gradient" not in failed
    assert [row["eps"] for row in results["rows"]] == pytest.approx([8 / 255] * 2 + [16 / 255] * 2, rel=1e-5)
    assert results["command"].startswith("inlier --threads 1 stress m.inlier --backbone street --images images")
    page = (places / "out" / "report.html").read_text()
    assert results["gates"][0]["name"] in page
    rendered = inlier("report", places / "out")
    assert rendered.code == 0, rendered.err
    assert (places / "out" / "report.html").read_text() == page
    pictures = sorted((places / "out" / "images").rglob("*.png"))
    assert len(pictures) == 4 * 3
    with Image.open(pictures[0]) as picture:
        assert picture.size == (96, 48)
    again = inlier(*line, "--json")
    assert again.code == ran.code
    told = json.loads(again.out)
    assert told["rows"] == results["rows"]
    refused = inlier(*line, "--seed", 1)
    assert refused.code == 2
    assert "seed" in refused.err


def test_a_surrogate_that_is_the_monitor_is_refused(places, tmp_path):
    ran = inlier("stress", places / "m.inlier", "--backbone", "street", "--images", places / "images", "--count", 1,
                 "--surrogate", places / "m.inlier", "--out", tmp_path / "out")  # fmt: skip
    assert ran.code == 2
    assert "is the monitor itself" in ran.err
    assert "inlier rekey" in ran.err


def test_images_of_several_sizes_are_told_to_be_resized(places, tmp_path):
    for number, size in enumerate([(96, 48), (90, 48)]):
        Image.new("RGB", size).save(tmp_path / f"a_{number}.png")
    ran = inlier("stress", places / "m.inlier", "--backbone", "street", "--images", tmp_path, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "--resize" in ran.err


@pytest.mark.slow
def test_an_attack_on_a_monitor_writes_images_a_table_and_a_report_and_goes_on(places):
    out = places / "attacked"
    line = [
        "--threads", 1, "attack", places / "m.inlier", "--backbone", "street", "--images", places / "images",
        "--count", 2, "--recipe", "pgd", "--recipe", "square", "--way", "dual", "--steps", 6,
        "--eps", "8/255,16/255", "--out", out,
    ]  # fmt: skip
    ran = inlier(*line)
    assert ran.code == 0, ran.err
    results = json.loads((out / "results.json").read_text())
    for name in ("pgd_linf", "square", "dual"):
        assert f"{name} " in ran.out
        for eps in (8, 16):
            names = [path.name for path in sorted((out / "images" / f"{name}_{eps}").glob("*.png"))]
            assert names == ["a_000.png", "a_012.png"]
    with (out / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        attacked = out / "images" / f"{row['attack']}_{255 * float(row['eps']):g}" / row["name"]
        with Image.open(attacked) as picture, Image.open(places / "images" / row["name"]) as clean:
            change = np.abs(np.asarray(picture).astype(int) - np.asarray(clean))
        assert float(row["Linf"]) == pytest.approx(change.max() / 255, abs=1e-6)
    page = (out / "report.html").read_text()
    assert page.count("<img ") == 5 * 2 * 6
    assert inlier("report", out).code == 0
    assert (out / "report.html").read_text() == page
    again = inlier(*line, "--json")
    assert json.loads(again.out)["rows"] == results["rows"]
    assert inlier(*line, "--seed", 3).code == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("M --recipe pdg", "Did you mean 'pgd'"),
        ("M --recipe gd_uap", "`inlier uap` writes it to a file"),
        ("M", "a recipe, such as pgd"),
        ("M --recipe dag", "--target"),
        ("M --recipe fgsm_targeted --target raod", "Did you mean 'road'"),
        ("M --recipe pgd_l2", "give --eps"),
        ("M --way dual --eps 2", "--eps has numbers"),
        ("M --recipe dag --target stripe", "Did you mean 'stripes'"),
        ("M --way dual --patch 8x8 --low-resolution 8x8", "not both"),
        ("M --way dual --patch 8x8+1", "64x64+100+200"),
        ("M --way dual --patch 8x8+1+90", "is not within an image of 48 x 96"),
        ("M --way dual --low-resolution 96x96", "at most the images' 48x96"),
        ("M --recipe square --patch 8x8", "'square' only asks"),
        ("fgsm --patch 8", "--patch is height x width"),
        ("fgsm --patch 80x8", "is larger than the image, which is 48 x 96"),
        ("fgsm --steps 3", "has no steps"),
        ("fgsm --way dual", "--way is for attacks on a monitor"),
        ("fgsm --queries 100", "--queries is for attacks on a monitor"),
        ("M --way weighted --weight 0.1,heavy", "--weight is a number or several"),
        ("M --way dual --weight 1", "for the way 'weighted'"),
        ("fgsm --weight 1", "--weight is for attacks on a monitor"),
        ("M --recipe rays --queries 20", "'rays' needs at least 23 questions"),
        ("fgsm --eps 0", "--eps has numbers"),
        ("fgsm --taps conv", "--taps is for collision, not for 'fgsm'"),
        ("M --recipe collision", "A collision is of a network alone"),
        ("collision --towards I", "A collision needs --towards"),
        ("collision --towards I --taps nowhere", "nowhere"),
        ("collision --towards I --taps encoder.b3.act --target road", "it has no --target"),
        ("collision --towards I --taps encoder.b3.act --norm l1", "--norm is linf or l2"),
        ("collision --towards I --taps encoder.b3.act --norm l2", "eps in L2"),
        ("collison --eps 1/255", "Did you mean 'collision'?"),
    ],
)
def test_attacks_that_cannot_be_are_refused(places, tmp_path, line, told):
    known = {"M": str(places / "m.inlier"), "I": str(places / "images")}
    words = [known.get(word, word) for word in line.split()]
    ran = inlier("attack", *words, "--backbone", "street", "--images", places / "images", "--out", tmp_path / "out")
    assert ran.code == 2
    assert told in ran.err
    assert not (tmp_path / "out").exists()


def pixels(folder):
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))])


def test_a_patch_and_a_small_copy_are_all_that_changes(places, tmp_path):
    common = ("--backbone", "street", "--images", places / "images", "--out", tmp_path)
    ran = inlier("attack", places / "m.inlier", "--way", "dual", "--patch", "10x20+8+70", "--steps", 4, "--count", 2,
                 *common[:-1], tmp_path / "patch", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "rows 8 to 17, columns 70 to 89" in ran.json["settings"]["surface"]
    assert ran.json["settings"]["epsilons"] == [1.0]
    clean = pixels(places / "images")[[0, 12]]
    change = np.abs(pixels(tmp_path / "patch" / "images" / "dual_255") - clean).max(-1)
    assert change[:, 8:18, 70:90].max() > 16
    change[:, 8:18, 70:90] = 0
    assert change.max() == 0
    ran = inlier("attack", "pgd_linf", "--eps", "16/255", "--low-resolution", "6x12", "--target", "other_scene",
                 "--steps", 2, *common[:-1], tmp_path / "small", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    change = pixels(tmp_path / "small") - pixels(places / "images")
    assert 1 < np.abs(change).max() <= 16
    bends = np.abs(np.diff(change.astype(float), 2, axis=2))
    assert np.median(bends) <= 1 < np.median(np.abs(change))  # linear between the small pixels, to rounding


def test_a_perturbation_for_all_images_is_an_attacker_of_a_monitor_at_its_own_eps(places, tmp_path):
    delta, out = tmp_path / "delta.safetensors", tmp_path / "out"
    made = inlier(
        "uap", "--backbone", "street", "--image-size", "48x96", "--out", delta, "--iterations", 2, "--eps", 0.05
    )
    assert made.code == 0, made.err
    line = ["attack", places / "m.inlier", "--backbone", "street", "--images", places / "images", "--count", 2,
            "--recipe", delta, "--out", out]  # fmt: skip
    ran = inlier(*line, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.json["rows"]
    assert (row["attack"], row["tier"], row["eps"]) == ("delta", "T0", pytest.approx(0.05))
    assert "GD-UAP" in ran.json["papers"]["delta"]
    change = pixels(out / "images" / "delta_12.75") - pixels(places / "images")[[0, 12]]
    expected = pixels(places / "images")[[0, 12]] / 255 + UniversalDelta.load(delta).delta.permute(0, 2, 3, 1).numpy()
    assert np.abs(change + pixels(places / "images")[[0, 12]] - 255 * expected.clip(0, 1)).max() <= 0.51
    refused = inlier(*line[:-1], tmp_path / "other", "--eps", "1/255")
    assert refused.code == 2
    assert "made for eps 12.75/255" in refused.err
    assert not (tmp_path / "other").exists()


def test_a_network_alone_is_attacked_at_several_eps(places, tmp_path):
    attack = ["attack", "fgsm", "--eps", "4/255,1/255", "--backbone", "street", "--images", places / "images",
              "--out", tmp_path / "out"]  # fmt: skip
    said = inlier(*attack).err.splitlines()
    assert [line.split()[-1] for line in said if " written to " in line] == [
        str(tmp_path / "out" / name) for name in ("fgsm_1", "fgsm_4")
    ]
    ran = inlier(*attack, "--json")
    assert ran.code == 0, ran.err
    assert [row["images"] for row in ran.json["rows"]] == [24, 24]
    assert ran.json["rows"][0]["damage"] < ran.json["rows"][1]["damage"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "fgsm_1", "fgsm_4", "images.csv", "report.html", "results.json", "tables", "work"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines()))
    assert len(rows) == 48
    for row in rows:
        folder, name = f"fgsm_{255 * float(row['eps']):g}", Path(row["name"]).with_suffix(".png").name
        places_of = (places / "images" / name, tmp_path / "out" / folder / name)
        was, now = (np.asarray(Image.open(file)).astype(int) for file in places_of)
        assert np.abs(now - was).max() / 255 == pytest.approx(float(row["Linf"]), abs=1e-6)


def test_an_attack_on_a_network_goes_on_after_a_kill(places, tmp_path):
    out = tmp_path / "out"
    attack = ["attack", "houdini_targeted", "--eps", "4/255", "--steps", 2, "--target", "other_scene", "--backbone",
              "street", "--images", places / "images", "--batch-size", 10, "--out", out]  # fmt: skip
    assert inlier(*attack).code == 0
    whole = {path: path.read_bytes() for path in out.glob("*.png")}
    assert len(whole) == 24
    told = without_seconds(out)
    last, lost = out / "work" / "eps_0.0156863_batch_1.safetensors", next(iter(whole))
    last.unlink()
    lost.unlink()
    made = list((out / "work").glob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in made]
    ran = inlier(*attack)
    assert ran.code == 0, ran.err
    assert [path.stat().st_mtime_ns for path in made] == times
    assert {path: path.read_bytes() for path in out.glob("*.png")} == whole
    assert without_seconds(out) == told
    refused = inlier(*attack, "--seed", 1)
    assert refused.code == 2
    assert "seed" in refused.err
    again = inlier("report", out)
    assert again.code == 0, again.err
    other = tmp_path / "images"
    other.mkdir()
    for path in (places / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(other / path.name)
    attack[attack.index(places / "images")] = other
    assert "other images" in inlier(*attack).err


def test_a_collision_takes_the_features_of_other_images(places, tmp_path):
    starts = tmp_path / "starts"
    starts.mkdir()
    for number in range(3):
        Image.fromarray(draw(WORLDS["winter"], number, (48, 96)).image).save(starts / f"b_{number}.png")
    attack = ["attack", "collision", "--backbone", "street", "--images", starts, "--towards", places / "images",
              "--taps", "encoder.b3.act", "--steps", 40, "--batch-size", 2]  # fmt: skip
    ran = inlier(*attack, "--eps", "4/255,32/255", "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    near, nearer = (row["beside"] for row in ran.json["rows"])
    assert nearer["mape"] < near["mape"] < near["mape_before"] == nearer["mape_before"]
    assert nearer["same"] > nearer["same_before"]
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines()))
    network = street_espnet()
    for row, number in zip(rows[3:], range(3), strict=True):
        goal, there = (tensor_of(file) for file in (places / "images" / f"a_{number:03}.png",
                                                    tmp_path / "out" / "collision_32" / f"b_{number}.png"))  # fmt: skip
        agree = (network.predict(there) == network.predict(goal)).float().mean().item()
        assert float(row["same"]) == pytest.approx(agree)
        assert float(row["Linf"]) <= 32 / 255 + 1e-6
    page = (tmp_path / "out" / "report.html").read_text()
    assert "MAPE before" in page
    assert "the features of other images" in page
    assert f"to {nearer['mape']:.4f} at eps 32/255" in page
    ran = inlier(*attack, "--norm", "l2", "--eps", "1", "--out", tmp_path / "ball")
    assert ran.code == 0, ran.err
    assert "features         MAPE" in ran.err
    assert (tmp_path / "ball" / "b_0.png").is_file()
    (tmp_path / "small_goals").mkdir()
    Image.new("RGB", (40, 24)).save(tmp_path / "small_goals" / "c.png")
    small = [tmp_path / "small_goals" if word == places / "images" else word for word in attack]
    refused = inlier(*small, "--out", tmp_path / "none")
    assert refused.code == 2
    assert "these have 24x40, 48x96: give --resize HxW" in refused.err
    assert not (tmp_path / "none").exists()
    attack[attack.index("--images") + 1 : attack.index("--images") + 2] = [starts, "--resize", "40x80"]
    resized = inlier(*attack, "--out", tmp_path / "small")  # both alike
    assert resized.code == 0, resized.err


def tensor_of(file):
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None].float() / 255


def without_seconds(out):
    results = json.loads((out / "results.json").read_text())
    results.pop("seconds")
    return results


def test_folders_of_l2_attacks_tell_eps_in_l2(places, tmp_path):
    attack = ["attack", "pgd_l2", "--steps", 1, "--eps", "0.5,1", "--backbone", "street", "--images", places / "images"]
    ran = inlier(*attack, "--out", tmp_path / "network")
    assert ran.code == 0, ran.err
    on_monitor = ["attack", places / "m.inlier", "--recipe", "pgd_l2", *attack[2:]]
    ran = inlier(*on_monitor, "--count", 1, "--out", tmp_path / "monitor")
    assert ran.code == 0, ran.err
    for folder in (tmp_path / "network", tmp_path / "monitor" / "images"):
        assert [path.name for path in sorted(folder.glob("pgd*"))] == ["pgd_l2_0.5", "pgd_l2_1"]


def test_a_network_alone_is_attacked_by_an_alias(places, tmp_path):
    ran = inlier("attack", "pgd", "--steps", 1, "--eps", "1/255", "--backbone", "street", "--images",
                 places / "images", "--out", tmp_path, "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["settings"]["attack"] == "pgd_linf"
