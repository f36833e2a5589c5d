"""A package that somebody else wrote: installed, listed, fitted, saved, loaded and refused when it clashes.

The example package is installed by pip into a folder of the test's own, and inlier runs in processes of their own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from inlier.testing.specimens import scenes

EXAMPLE = Path(__file__).parents[2] / "examples" / "inlier-nearest-neighbour"


class Place:
    """A folder of installed packages, and commands that see it."""

    def __init__(self, folder):
        self.packages, self.folder = folder / "packages", folder
        self.packages.mkdir()
        self.environment = os.environ | {"PYTHONPATH": str(self.packages), "OMP_NUM_THREADS": "1"}

    def python(self, *arguments, code=0, **changes):
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=self.folder, env=self.environment | changes,
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran

    def inlier(self, *arguments, code=0, **changes):
        return self.python("-c", "from inlier.cli.main import run; run()", *arguments, code=code, **changes)

    def install(self, source):
        copy = self.folder / "copies" / source.name
        shutil.copytree(source, copy)  # pip builds where the sources are
        flags = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
        self.python("-m", "pip", "install", *flags, "--target", self.packages, copy)

    def claim(self, package, group, name, target):
        """What pip leaves of a package that offers one thing."""
        information = self.packages / f"{package}-3.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 3.0\n")
        (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    place = Place(folder)
    place.install(EXAMPLE)
    (folder / "images").mkdir()
    for number, image in enumerate(scenes(40, (48, 96), seed=4)):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "images" / f"scene_{number:03}.png")
    return place


def test_a_plugin_is_listed_with_its_provider_and_paper(place):
    lines = {line["name"]: line for line in json.loads(place.inlier("detectors", "--json").stdout)}
    assert lines["nearest_neighbour"] == {
        "name": "nearest_neighbour",
        "summary": "Distance of the last stage's mean features to the k-th nearest clean image",
        "provider": "inlier-nearest-neighbour 0.1.0",
        "paper": "Sun et al. 2022",
        "problem": "",
    }
    assert lines["mahalanobis"]["provider"] == "inlier"
    listed = place.inlier("perturbations").stdout.splitlines()
    assert any(row.startswith("low_light") and "inlier-nearest-neighbour 0.1.0" in row for row in listed)


@pytest.mark.slow
def test_a_monitor_with_a_plugin_is_fitted_saved_and_scores(place):
    network = ("--backbone", "street", "--images", "images")
    settings = ("--detector", "nearest_neighbour(k=3)", "--false-alarm-rate", "0.05", "--out", "m.inlier")
    place.inlier("fit", *network, *settings)
    scored = place.inlier("score", "m.inlier", *network).stdout
    assert scored.count("scene_") == 40
    without = place.inlier("score", "m.inlier", *network, code=2, INLIER_PLUGINS="0").stderr
    assert "a detector that this inlier does not make: No detector named 'nearest_neighbour'" in without
    place.inlier("perturb", "low_light", "--images", "images", "--out", "dark", "--severity", "3")
    assert len(list((place.folder / "dark").iterdir())) == 40


@pytest.mark.slow
def test_a_mistyped_plugin_or_setting_is_answered_with_the_nearest(place):
    fit = ("fit", "--backbone", "street", "--images", "images", "--detector")
    assert "Did you mean 'nearest_neighbour'?" in place.inlier(*fit, "nearest_neighbor", code=2).stderr
    assert (
        "has no setting 'banks'. Did you mean 'bank'?"
        in place.inlier(*fit, "nearest_neighbour(banks=2)", code=2).stderr
    )


@pytest.mark.slow
def test_the_example_passes_its_own_tests(place):
    tests = EXAMPLE / "tests"
    flags = ("-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", tests)
    assert "5 passed" in place.python("-m", "pytest", *flags, tests, PYTHONDONTWRITEBYTECODE="1").stdout


@pytest.mark.slow
def test_a_bad_plugin_spoils_its_own_name_and_no_other(tmp_path):
    place = Place(tmp_path)
    place.claim("greedy", "inlier.detectors", "mahalanobis", "greedy:make")
    place.claim("lame", "inlier.detectors", "lame", "no_such_module:make")
    lines = {(line["name"], line["provider"]): line for line in json.loads(place.inlier("detectors", "--json").stdout)}
    both = "claimed by inlier (inlier.detectors.mahalanobis:mahalanobis) and greedy 3.0 (greedy:make)"
    assert both in lines["mahalanobis", "inlier"]["problem"]
    assert both in lines["mahalanobis", "greedy 3.0"]["problem"]
    assert "No module named 'no_such_module'" in lines["lame", "lame 3.0"]["problem"]
    assert lines["entropy", "inlier"]["problem"] == ""
    assert "BROKEN: The detector 'lame' of lame 3.0" in place.inlier("detectors").stdout
    parse = "from inlier.detectors.spec import DetectorSpec; print(DetectorSpec.parse({!r}).name)"
    assert place.python("-c", parse.format("entropy")).stdout == "entropy\n"
    assert both in place.python("-c", parse.format("mahalanobis"), code=1).stderr
    assert place.python("-c", parse.format("mahalanobis"), INLIER_PLUGINS="0").stdout == "mahalanobis\n"


OFFERED = '''
from inlier.datasets.folder import ImageFolder
from inlier.testing.specimens import tiny_backbone


def tiny():
    """A network of two convolutions."""
    return tiny_backbone("segmentation")


def pair(path, *, labelled=True, **choice):
    """A folder of two images."""
    return ImageFolder(path, **choice)
'''


@pytest.mark.slow
def test_backbones_and_data_sets_come_the_same_way(tmp_path):
    place = Place(tmp_path)
    place.claim("tiny-backbone", "inlier.backbones", "tiny", "offered:tiny")
    place.claim("pair-of-images", "inlier.datasets", "pair", "offered:pair")
    (place.packages / "offered.py").write_text(OFFERED)
    for number, image in enumerate(scenes(2)):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    checks = "from inlier.testing import *; check_backbone('tiny', size=(16, 16)); check_dataset('pair:.')"
    place.python("-c", checks)
    lines = {line["name"]: line for line in json.loads(place.inlier("backbones", "--json").stdout)}
    assert lines["tiny"]["summary"] == "A network of two convolutions"
    assert lines["tiny"]["provider"] == "tiny-backbone 3.0"


def test_help_does_not_wait_for_plugins(tmp_path):
    place = Place(tmp_path)
    place.claim("slow", "inlier.detectors", "slow", "slow_things:make")
    (place.packages / "slow_things.py").write_text("raise SystemExit('imported')")
    seen = "import sys; from inlier.cli import main; print('slow_things' in sys.modules, 'torch' in sys.modules)"
    assert place.python("-c", seen).stdout == "False False\n"
    assert "slow_things" not in place.inlier("--help").stderr
