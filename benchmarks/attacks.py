"""An attack's step against one forward and one backward pass, the least that a step can cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inlier.attacks.recipes import ifgsm
from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet
from inlier.probe import Probe

__all__ = ["run"]

STEPS = 10
ROUNDS = 7


def run() -> list[dict[str, Any]]:
    """Processor milliseconds a step of iterated FGSM on ESPNet, untargeted and targeted, in turns with bare passes.

    The attack's last evaluation is a forward pass without a step, so it stands against as many passes as it makes:
    `STEPS` times forward and backward, and one forward.
    """
    backbone = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8), Segmentation(CAMVID_CLASSES))
    probe = Probe(backbone)
    images = torch.rand(1, 3, 360, 480, generator=torch.Generator().manual_seed(0))
    labels = backbone.predict(images)
    attack = ifgsm(eps=0.01, step_size=0.002, steps=STEPS)
    contenders: dict[str, Callable[[], object]] = {
        "passes": lambda: _passes(backbone, images, labels),
        "ifgsm step": lambda: attack(probe, images),
        "ifgsm step, targeted": lambda: attack(probe, images, target=3),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, contender in contenders.items():
            began = time.process_time()
            contender()
            if turn > 0:  # the first turn warms up
                times[name].append(1000 * (time.process_time() - began) / STEPS)
    theirs = median(times.pop("passes"))
    return [
        {
            "name": name,
            "ours_ms": round(median(ours), 2),
            "theirs_ms": round(theirs, 2),
            "ratio": round(median(ours) / theirs, 3),
            "required": 1.1,
            "threads": torch.get_num_threads(),
            "note": f"ESPNet 1x3x360x480, {STEPS} steps against {STEPS} forward and backward passes and one forward; "
            f"processor time, median of {ROUNDS}",
        }
        for name, ours in times.items()
    ]


def _passes(backbone: Backbone, images: Tensor, labels: Tensor) -> None:
    for _ in range(STEPS):
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(backbone(leaf), labels), leaf)
    with torch.no_grad():
        backbone(images)


if __name__ == "__main__":
    for row in run():
        print(row)
