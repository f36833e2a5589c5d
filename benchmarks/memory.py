"""What the command line gains by keeping freed memory: ESPNet on a batch of CamVid's size, a process each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet
from inlier.cli.memory import CHOSEN, keep_memory

__all__ = ["run"]

BATCHES = (1, 8)
WARM, ROUNDS = 5, 20


def run() -> list[dict[str, Any]]:
    """A row a batch size: milliseconds of a forward pass with and without."""
    ours, theirs = (_in_a_process(way) for way in ("kept", "given back"))
    return [
        {
            "name": f"forward with memory kept, batch {batch}",
            "ours_ms": kept,
            "theirs_ms": given_back,
            "ratio": given_back / kept,
            "required": 1,
            "threads": 1,
            "note": f"ESPNet {batch}x3x360x480, median of {ROUNDS} after {WARM}; theirs: glibc as it is",
        }
        for batch, kept, given_back in zip(BATCHES, ours, theirs, strict=True)
    ]


def _in_a_process(way: str) -> list[float]:
    plain = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run([sys.executable, __file__, way], check=True, stdout=subprocess.PIPE, text=True, env=plain)
    return [float(word) for word in done.stdout.split()]


@torch.no_grad()
def _measure(batch: int) -> float:
    backbone = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8, skip="maps+image"), Segmentation(CAMVID_CLASSES))
    images = torch.rand(batch, 3, 360, 480, generator=torch.Generator().manual_seed(0))
    taken = []
    for _ in range(WARM + ROUNDS):
        start = time.perf_counter()
        backbone(images)
        taken.append(1e3 * (time.perf_counter() - start))
    return median(taken[WARM:])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if sys.argv[1] == "kept" and not keep_memory():
            raise SystemExit("Memory is kept with glibc only")
        torch.set_num_threads(1)
        print(*(_measure(batch) for batch in BATCHES))
    else:
        for row in run():
            print(row)
