"""What a monitor adds to its backbone's forward pass, and what fitting adds to reading the images.

ESPNet at 360 x 480. Bare and monitored passes run in turn in the same process, and medians of processor time are
compared; weights and images are random, since the time does not depend on their values. The time of a fit does: flows
train until they no longer get better. So it is measured on CamVid where that is found (`INLIER_DATA`, or
`../shared/data`), else on random images, and the row says on which.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet
from inlier.backbones.load import load_backbone
from inlier.datasets.folder import ImageFolder
from inlier.monitor import DEFAULT, Monitor
from inlier.readers import Reader

__all__ = ["run"]

SIZE = (360, 480)
OVERHEAD = {1: 0.05, 8: 0.03}
"""By batch size: the largest share of the forward pass that monitoring may add."""
ROUNDS = {1: 150, 8: 12}
TRAIN_IMAGES = 268
FIT_TIMES, FIT_SECONDS = 1.5, 60.0


def run() -> list[dict[str, Any]]:
    """Overhead by detector and batch size, then fitting and calibrating on as many images as CamVid's train split."""
    torch.manual_seed(0)
    backbone = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8, skip="maps+image"), Segmentation(CAMVID_CLASSES))
    images = torch.rand(12, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    rows = []
    watched = {"daain": "daain", "mahalanobis": "mahalanobis", "the default's first look": DEFAULT[:2]}
    for name, detectors in watched.items():
        monitor = Monitor(backbone, detectors, seed=0).fit(images).calibrate(false_alarm_rate=0.3, folds=2)
        rows += [_overhead(name, monitor, backbone, images[:batch]) for batch in OVERHEAD]
    return [*rows, *_fitting(backbone)]


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
    dimensions = sum(reader.size for reader in monitor.probe.readers.values() if isinstance(reader, Reader))
    return {
        "name": f"monitored forward, {name}, batch {batch}",
        "ours_ms": ours,
        "theirs_ms": theirs,
        "ratio": ours / theirs,
        "required": 1 + OVERHEAD[batch],
        "threads": torch.get_num_threads(),
        "note": f"ESPNet {SIZE[0]}x{SIZE[1]}, {dimensions} numbers read; processor time, {ROUNDS[batch]} rounds",
    }


def _fitting(backbone: Backbone) -> list[dict[str, Any]]:
    data = Path(os.environ.get("INLIER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if (data / "camvid" / "train").is_dir():
        backbone = load_backbone(f"espnet:{data / 'weights' / 'espnet_decoder_camvid_p2_q8.safetensors'}")
        images = torch.cat([batch.images for batch in ImageFolder(data / "camvid" / "train").batches(8)])
        what = "CamVid train"
    else:
        images = torch.rand(TRAIN_IMAGES, 3, *SIZE, generator=torch.Generator().manual_seed(1))
        what = "random images"
    start = time.perf_counter()
    with torch.no_grad():
        for part in torch.split(images, 8):
            backbone(part)
    bare = time.perf_counter() - start
    rows = []
    for name, detectors in {"daain": "daain", "mahalanobis": "mahalanobis", "the default": None}.items():
        start = time.perf_counter()
        Monitor(backbone, detectors, seed=0).fit(images).calibrate(false_alarm_rate=0.05)
        ours = time.perf_counter() - start
        rows.append(
            {
                "name": f"fit and calibrate, {name}, {len(images)} images",
                "ours_ms": 1000 * ours,
                "theirs_ms": 1000 * bare,
                "ratio": ours / bare,
                "required": FIT_TIMES + FIT_SECONDS / bare,
                "threads": torch.get_num_threads(),
                "note": f"{what}; against bare forward passes; allowed: {FIT_TIMES} times these and a minute. "
                "Cross-fitting included",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
