"""What gathering a key's points inside the hooks saves over building the up-sampled volume and indexing it.

ESPNet on images of CamVid's size, every leaf module's output, a blue-noise key of distance 64. Each way runs in a
process of its own, whose peak memory the system keeps (Linux).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet
from inlier.probe import Probe
from inlier.readers import FeatureMap, SampledActivations

__all__ = ["run"]

SIZE = (360, 480)
DISTANCE = 64
GATHERS, VOLUMES = 200, 2
REQUIRED, REQUIRED_MB = 1000, 5


def run() -> list[dict[str, Any]]:
    """One row: milliseconds, and the megabytes that each way needs beyond the forward pass alone."""
    bare, probe, volume = (_in_a_process(way) for way in ("bare", "probe", "volume"))
    return [
        {
            "name": "reading a key's points",
            "ours_ms": volume["gather_ms"],
            "theirs_ms": volume["volume_ms"],
            "ratio": volume["volume_ms"] / volume["gather_ms"],
            "required": REQUIRED,
            "ours_mb": probe["kept_mb"],
            "ours_peak_mb": round(probe["peak_mb"] - bare["peak_mb"], 2),
            "theirs_peak_mb": round(volume["peak_mb"] - bare["peak_mb"]),
            "required_mb": REQUIRED_MB,
            "threads": 1,
            "note": f"ESPNet 1x3x{SIZE[0]}x{SIZE[1]}, {volume['channels']} channels, {volume['points']} points: all "
            f"gathers (median of {GATHERS}) against up-sampling, stacking and indexing (median of {VOLUMES}), equal "
            "bit for bit; MB: readings and index, and peak resident memory beyond the forward pass",
        }
    ]


def _in_a_process(way: str) -> dict[str, float]:
    # Every larger tensor is given back to the system at once, else what fragments the heap hides what is compared.
    steady = {} if way == "volume" else {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, __file__, way], check=True, stdout=subprocess.PIPE, text=True, env=os.environ | steady
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


@torch.no_grad()
def _measure(way: str) -> dict[str, float]:
    torch.set_num_threads(1)
    backbone = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8, skip="maps+image"), Segmentation(CAMVID_CLASSES))
    images = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    anatomy = Anatomy.of(backbone, SIZE, keys=KeyRing(seed=0))
    shapes = anatomy.everywhere()
    volume = (sum(shape[0] for shape in shapes.values()), *SIZE)
    key = anatomy.keys.draw("blue_noise", shapes, SIZE, DISTANCE)
    reader = SampledActivations(key, shapes)
    measured: dict[str, float] = {"channels": volume[0], "points": len(key)}
    if way != "volume":
        probe = Probe(backbone, [reader] if way == "probe" else [])
        for _ in range(3):
            kept = probe.pass_through(images)[1]
        kept_bytes = sum(tensor.nbytes for tensor in (*kept.values(), *reader.buffers()))
        return {**measured, "kept_mb": kept_bytes / 1e6, "peak_mb": _peak_mb()}

    maps = [FeatureMap(tap, shape, f"map {i}") for i, (tap, shape) in enumerate(shapes.items())]
    recorded = dict(zip(shapes, Probe(backbone, maps).pass_through(images)[1].values(), strict=True))

    keepers = [(reader.keeper(position), recorded[tap]) for position, tap in enumerate(reader.taps)]

    def gather() -> Tensor:
        return reader.combine([keeper(activation) for keeper, activation in keepers])

    def stack() -> Tensor:
        stacked = torch.cat([F.interpolate(recorded[tap], size=SIZE, mode="nearest") for tap in shapes], dim=1)
        channel, y, x = key.points.unbind(1)
        return stacked[:, channel, y, x]

    measured["gather_ms"], gathered = _median_ms(gather, GATHERS)
    measured["volume_ms"], indexed = _median_ms(stack, VOLUMES)
    if not torch.equal(gathered, indexed):
        raise RuntimeError("Gathering and indexing the volume disagree")
    return {**measured, "peak_mb": _peak_mb()}


def _median_ms(call: Callable[[], Tensor], rounds: int) -> tuple[float, Tensor]:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        taken.append(1e3 * (time.perf_counter() - start))
    return median(taken), result


def _peak_mb() -> float:
    """The most memory this process has ever had resident; unlike getrusage's it does not start at the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_measure(sys.argv[1])))
    else:
        for row in run():
            print(row)
