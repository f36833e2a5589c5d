"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images and weights, or a skip that says how to have it."""
    folder = Path(os.environ.get("INLIER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "camvid").is_dir():
        pytest.skip("real data not found: set INLIER_DATA to a folder with camvid/ and weights/")
    return folder


@pytest.fixture(autouse=True)
def _deterministic_and_single_threaded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
