"""Fixtures that many tests share."""

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import jaxtyping
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import_module("typecheck").install()  # before anything of inlier is imported
torch.set_num_threads(1)  # sums are the same to the last bit only in the same order


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images and weights, or a skip that says how to have it."""
    folder = Path(os.environ.get("INLIER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "camvid").is_dir():
        pytest.skip("real data not found: set INLIER_DATA to a folder with camvid/ and weights/")
    return folder


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """For tests of what the library itself says of tensors of wrong shape or type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
