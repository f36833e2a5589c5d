"""What a monitor adds to its backbone's forward pass, and what fitting adds to reading the images.

ESPNet at 360 x 480 with random weights and images: time does not depend on their values. Bare and monitored passes run
in turn in the same process, and medians of processor time are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet
from inlier.monitor import Monitor

__all__ = ["run"]

SIZE = (360, 480)
OVERHEAD = {1: 0.05, 8: 0.03}
"""By batch size: the largest share of the forward pass that monitoring may add."""
ROUNDS = {1: 60, 8: 12}
TRAIN_IMAGES = 268
FIT_TIMES, FIT_SECONDS = 1.5, 60.0


def run() -> list[dict[str, Any]]:
    """Overhead by detector and batch size, then fitting and calibrating on as many images as CamVid's train split."""
    torch.manual_seed(0)
    backbone = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8, skip="maps+image"), Segmentation(CAMVID_CLASSES))
    images = torch.rand(12, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    rows = []
    for name in ("daain", "mahalanobis"):
        monitor = Monitor(backbone, name, seed=0).fit(images)
        rows += [_overhead(name, monitor, backbone, images[:batch]) for batch in OVERHEAD]
    return [*rows, *(_fitting(name, backbone) for name in ("daain", "mahalanobis"))]


@torch.no_grad()
def _overhead(name: str, monitor: Monitor, backbone: Backbone, images: torch.Tensor) -> dict[str, Any]:
    batch = len(images)
    times: tuple[list[float], list[float]] = ([], [])
    calls: tuple[Callable[[], object], ...] = (lambda: monitor.score(images), lambda: backbone(images))
    for turn in range(ROUNDS[batch] + 2):
        for taken, call in zip(times, calls, strict=True):
            start = time.process_time()
            call()
            if turn > 1:  # the first turns warm up
                taken.append(1000 * (time.process_time() - start))
    ours, theirs = map(median, times)
    dimensions = sum(reader.size for reader in monitor.probe.readers.values())
    return {
        "name": f"monitored forward, {name}, batch {batch}",
        "ours_ms": ours,
        "theirs_ms": theirs,
        "ratio": ours / theirs,
        "required": 1 + OVERHEAD[batch],
        "threads": torch.get_num_threads(),
        "note": f"ESPNet {SIZE[0]}x{SIZE[1]}, {dimensions} numbers read; processor time, {ROUNDS[batch]} rounds",
    }


def _fitting(name: str, backbone: Backbone) -> dict[str, Any]:
    images = torch.rand(TRAIN_IMAGES, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    with torch.no_grad():
        for part in images.split(8):
            backbone(part)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    Monitor(backbone, name, seed=0).fit(images).calibrate(false_alarm_rate=0.05)
    ours = time.perf_counter() - start
    allowed = FIT_TIMES + FIT_SECONDS / bare
    return {
        "name": f"fit and calibrate, {name}, {TRAIN_IMAGES} images",
        "ours_ms": 1000 * ours,
        "theirs_ms": 1000 * bare,
        "ratio": ours / bare,
        "required": allowed,
        "threads": torch.get_num_threads(),
        "note": f"against bare forward passes; allowed: {FIT_TIMES} times these and a minute. Cross-fitting included",
    }


if __name__ == "__main__":
    for row in run():
        print(row)
