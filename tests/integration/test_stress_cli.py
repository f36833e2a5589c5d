"""`inlier stress` as a user runs it: a table, files, and an exit code that says whether a gate failed."""

import json

import pytest
from command_line import inlier
from PIL import Image

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
    assert [row["eps"] for row in results["rows"]] == [8 / 255] * 2 + [16 / 255] * 2
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


def test_images_of_several_sizes_are_told_to_be_resized(places, tmp_path):
    for number, size in enumerate([(96, 48), (90, 48)]):
        Image.new("RGB", size).save(tmp_path / f"a_{number}.png")
    ran = inlier("stress", places / "m.inlier", "--backbone", "street", "--images", tmp_path, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "--resize" in ran.err
