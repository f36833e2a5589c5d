"""The command line in this process, and a small world to run it in."""

import shutil
from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
from command_line import Ran
from PIL import Image

from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, WORLDS

SIZE = (48, 96)
PER_WORLD = 6


@pytest.fixture(scope="session")
def inlier() -> Callable[..., Ran]:
    """Run a command in this process."""
    return command_line.inlier


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small street scenes, named as frames of recordings."""
    folder = tmp_path_factory.mktemp("scenes")
    for world in TRAINING_WORLDS:
        for number in range(PER_WORLD):
            Image.fromarray(draw(WORLDS[world], number, SIZE).image).save(folder / f"{world}_{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def fitted(inlier: Callable[..., Ran], scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a monitor that samples (`daain.inlier`) and one that does not (`bands.inlier`)."""
    folder = tmp_path_factory.mktemp("fitted")
    for name, detector in (("daain", "daain(distance=32, blocks=1)"), ("bands", "mahalanobis")):
        ran = inlier("fit", "--backbone", "street", "--images", scenes, "--out", folder / f"{name}.inlier",
                     "--detector", detector, "--false-alarm-rate", 0.1, "--folds", 2,
                     "--blocks", 1, "--seed", 0)  # fmt: skip
        assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def monitors(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the fitted monitors to spoil."""
    shutil.copytree(fitted, tmp_path / "monitors")
    return tmp_path / "monitors"
