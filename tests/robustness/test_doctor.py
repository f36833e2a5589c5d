"""`inlier doctor`: a line a check, an exit code, and a next command that runs as it stands."""

import json
import shlex
import shutil

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from inlier.cli.doctor import doctor
from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import WORLDS


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    app.command()(doctor)

    def run(*arguments):
        # Errors are the entry's to tell, as with every command; what a check-up is for is none.
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


def names(out):
    """Each finding's name and state."""
    return {line.split()[0]: line.split()[1] for line in out.split("\n\n")[0].splitlines()}


def test_lines_json_and_exit_code_say_the_same(run, scenes):
    told = run("--backbone", "street", "--images", scenes)
    data = json.loads(run("--backbone", "street", "--images", scenes, "--json").stdout)
    assert told.exit_code == 0
    assert names(told.stdout) == {finding["name"]: finding["state"] for finding in data["findings"]}
    assert data["problems"] == 0
    for finding in data["findings"]:
        (line,) = [line for line in told.stdout.splitlines() if line.split()[:1] == [finding["name"]]]
        assert line.endswith(finding["advice"])
        assert finding["name"] == "time" or finding["found"] in line
    assert told.stdout.splitlines()[-1] == f"next: {data['next']}"
    assert told.stdout.count("inlier fit") == 1
    assert "reading: 24 of 24" in told.stderr


def test_the_next_command_runs_as_it_stands(run, inlier, scenes, tmp_path, monkeypatch):
    images, small = tmp_path / "with a space", tmp_path / "small"
    shutil.copytree(scenes, images)
    small.mkdir()
    Image.new("RGB", (80, 40), (90, 120, 30)).save(small / "small_0.png")
    told = run("--backbone", "street", "--images", images, "--images", small, "--group-by", "^[a-z]+", "--json")
    words = shlex.split(json.loads(told.stdout)["next"])
    assert words[:2] == ["inlier", "fit"]
    assert words[words.index("--resize") + 1] == "48x96"
    assert words[words.index("--group-by") + 1] == "^[a-z]+"
    monkeypatch.chdir(tmp_path)
    ran = inlier(*words[1:], "--json")
    assert ran.code == 0, ran.err
    assert ran.json["clean_images"] == 24 + 1
    assert (tmp_path / "monitor.inlier").is_file()


def test_labels_make_it_tell_how_good_the_network_is(run, scenes, tmp_path):
    for path in scenes.iterdir():
        world, number = path.stem.split("_")
        labels = draw(WORLDS[world], int(number), (48, 96)).labels
        Image.fromarray(np.asarray(labels).astype(np.uint8)).save(tmp_path / path.name)
    data = json.loads(run("--backbone", "street", "--images", scenes, "--labels", tmp_path, "--json").stdout)
    (found,) = [finding for finding in data["findings"] if finding["name"] == "accuracy"]
    assert found["data"]["images"] == 24
    assert 0.3 < found["data"]["miou"] < found["data"]["accuracy"] < 1
    assert found["data"]["accuracy"] > found["data"]["commonest_class"]


def test_problems_exit_with_1_and_send_back_to_the_doctor(run, scenes, tmp_path):
    shutil.copy(scenes / "summer_000.png", tmp_path)
    (tmp_path / "broken.png").write_text("no image")
    told = run("--backbone", "street", "--images", tmp_path, "--labels", tmp_path)
    assert told.exit_code == 1
    states = names(told.stdout)
    assert states["amount"] == "problem"
    assert states["files"] == "note"
    assert "accuracy" in states
    last = told.stdout.splitlines()[-1]
    assert last.startswith("next, when that is done: inlier doctor --backbone street --images ")
    assert "--labels" in last


def test_a_folder_of_broken_files_alone_is_diagnosed_too(run, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    told = run("--backbone", "street", "--images", tmp_path)
    assert told.exit_code == 1
    assert names(told.stdout) == {"versions": "ok", "device": "ok", "mode": "ok", "files": "problem"}


def test_other_preprocessing_is_told_of_and_handed_on(run, scenes):
    told = run("--backbone", "street", "--mean", "120,120,120", "--std", "60,60,60", "--bgr", "--images", scenes)
    assert names(told.stdout)["prepared"] == "note"
    assert "divide them by 255" in told.stdout
    assert "--mean 120,120,120 --std 60,60,60 --bgr" in told.stdout.splitlines()[-1]


def test_a_network_of_the_users_own_that_fails_is_diagnosed(run, scenes, tmp_path, monkeypatch):
    (tmp_path / "sickly.py").write_text(
        "import torch\n"
        "from inlier.backbones.base import Backbone, Segmentation\n"
        "class Sickly(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images * torch.nan\n"
        "def make():\n"
        "    return Backbone(Sickly(), Segmentation(('a', 'b', 'c')))\n"
    )
    monkeypatch.chdir(tmp_path)
    told = run("--backbone", "sickly:make", "--images", scenes)
    assert told.exit_code == 1
    assert names(told.stdout)["output"] == "problem"
    assert names(told.stdout)["groups"] == "ok"
