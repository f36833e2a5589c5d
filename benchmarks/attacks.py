"""What an attack costs: a step against the passes it cannot do without, other libraries' attacks, and a plain loop.

A step needs one forward and one backward pass, and a result one forward pass more. Contenders run in turn in one
process, and medians of processor time are compared. Weights and images are random where the real ones are not found:
the time does not depend on their values.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import foolbox
import torch
import torch.nn.functional as F
from foolbox.attacks import LinfFastGradientAttack, LinfProjectedGradientDescentAttack
from torch import Tensor

from inlier.attacks.constraints import LinfBall
from inlier.attacks.engine import Attack
from inlier.attacks.objectives import Dual, cross_entropy, evasion
from inlier.attacks.recipes import fgsm, ifgsm, pgd
from inlier.attacks.steppers import MomentumSign
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet
from inlier.backbones.load import load_backbone
from inlier.backbones.resnet_cifar import CIFAR10_CLASSES, ResNetCIFAR
from inlier.monitor import Monitor
from inlier.probe import Probe

__all__ = ["run"]

STEPS = 10
ROUNDS = 9
EPS = 8 / 255
STEP_COST, PEER, SHARED = 1.1, 1.0, 1.5
"""Required: a step's time over that of its passes at most, foolbox's over ours and the plain loop's at least."""


def run() -> list[dict[str, Any]]:
    """Steps against bare passes, FGSM and PGD against foolbox, and the joint attack against two passes a step."""
    rows = []
    for name, backbone, images in ((CIFAR, *_cifar()), (STREET, *_street())):
        rows += [*_steps(name, backbone, images), *_against_foolbox(name, backbone, images)]
    return [*rows, _joint(*_street())]


CIFAR, STREET = "ResNet-20, 64 images of 32x32", "ESPNet, an image of 360x480"


def _cifar() -> tuple[Backbone, Tensor]:
    weights = _data() / "weights" / "cifar10_resnet20.safetensors"
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if weights.is_file():
        return load_backbone(f"resnet_cifar:{weights}"), images
    torch.manual_seed(0)
    return Backbone(ResNetCIFAR(20), Classification(CIFAR10_CLASSES)), images


def _street() -> tuple[Backbone, Tensor]:
    torch.manual_seed(0)
    backbone = Backbone(ESPNet(len(CAMVID_CLASSES), p=2, q=8), Segmentation(CAMVID_CLASSES))
    return backbone, torch.rand(1, 3, 360, 480, generator=torch.Generator().manual_seed(0))


def _data() -> Path:
    return Path(os.environ.get("INLIER_DATA", Path(__file__).parents[2] / "shared" / "data"))


# --- a step ----------------------------------------------------------------------------------------------------------


def _steps(name: str, backbone: Backbone, images: Tensor) -> list[dict[str, Any]]:
    """Iterated FGSM against as many passes as it makes: `STEPS` times forward and backward, and one forward."""
    probe, labels = Probe(backbone), backbone.predict(images)
    attack = ifgsm(eps=0.01, step_size=0.002, steps=STEPS)
    times = _in_turn(
        {
            "passes": lambda: _passes(backbone, images, labels),
            "ifgsm step": lambda: attack(probe, images),
            "ifgsm step, targeted": lambda: attack(probe, images, target=3),
        }
    )
    theirs = times.pop("passes")
    note = f"{STEPS} steps against {STEPS} forward and backward passes and one forward"
    return [_row(f"{what}, {name}", ours, theirs, ours / theirs, STEP_COST, note) for what, ours in times.items()]


def _passes(backbone: Backbone, images: Tensor, labels: Tensor) -> None:
    for _ in range(STEPS):
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(backbone(leaf), labels), leaf)
    with torch.no_grad():
        backbone(images)


# --- foolbox ---------------------------------------------------------------------------------------------------------


def _against_foolbox(name: str, backbone: Backbone, images: Tensor) -> list[dict[str, Any]]:
    """FGSM, and PGD from a random start: what was predicted, the attacked images, and what is predicted of them.

    foolbox takes no gradient of label maps, so for these it gets a loss. It leaves the weights' gradients on, which we
    switch off, and keeping them off for it too is a row of its own.
    """
    probe = Probe(backbone)
    ours = {"FGSM": fgsm(EPS), "PGD": replace(pgd(EPS, steps=STEPS), keep="last")}
    peers = {"FGSM": LinfFastGradientAttack, "PGD": LinfProjectedGradientDescentAttack}
    settings: Mapping[str, Any] = {"FGSM": {}, "PGD": {"steps": STEPS, "rel_stepsize": 0.25}}
    rows = []
    for what, attack in ours.items():
        peer = type("Dense", (_Dense, peers[what]), {})(**settings[what])

        def theirs(frozen: bool, peer: Any = peer) -> object:
            backbone.network.requires_grad_(not frozen)
            model = foolbox.PyTorchModel(backbone, bounds=(0, 1), device="cpu")
            with torch.no_grad():
                labels = backbone.predict(images)
            found = peer.run(model, images, foolbox.criteria.Misclassification(labels), epsilon=EPS)
            with torch.no_grad():
                success = backbone.predict(found) != labels
            backbone.network.requires_grad_(False).zero_grad()
            return success

        times = _in_turn(
            {
                "ours": partial(attack, probe, images),
                "theirs": partial(theirs, False),
                "theirs without weights' gradients": partial(theirs, True),
            },
            1 if what == "FGSM" else STEPS,
        )
        mine = times.pop("ours")
        note = f"foolbox {foolbox.__version__}, a step; predictions before and after included"
        rows += [
            _row(f"{what} against foolbox{whose.removeprefix('theirs')}, {name}", mine, time, time / mine, PEER, note)
            | {"sense": "at least"}
            for whose, time in times.items()
        ]
    return rows


class _Dense:
    """The loss of foolbox's gradient descent, for classes and for label maps."""

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        def loss(inputs: Any) -> Any:
            logits = model(inputs)
            return type(logits)(F.cross_entropy(logits.raw, labels.raw, reduction="sum"))

        return loss


# --- the joint attack ------------------------------------------------------------------------------------------------


def _joint(backbone: Backbone, images: Tensor) -> dict[str, Any]:
    """Network and monitor attacked at once, against a loop that asks first the one and then the other."""
    scenes = torch.rand(12, *images.shape[1:], generator=torch.Generator().manual_seed(1))
    monitor = Monitor(backbone, "mahalanobis", seed=0).fit(scenes).calibrate(false_alarm_rate=0.3, folds=2)
    limit, labels = monitor.calibration.threshold(0.3), backbone.predict(images)
    attack = Attack(LinfBall(EPS), MomentumSign(EPS / 4), STEPS, rule=Dual(limit))
    objectives = (cross_entropy, evasion(monitor.objective))
    times = _in_turn(
        {
            "ours": lambda: attack(monitor.probe, images, objectives, labels=labels),
            "theirs": lambda: _two_passes(monitor, images, labels, limit),
        }
    )
    note = f"ESPNet, monitor mahalanobis, {STEPS} steps of momentum with a weight that adapts"
    row = _row(
        "joint attack against two passes a step", times["ours"], times["theirs"], times["theirs"] / times["ours"],
        SHARED, note,
    )  # fmt: skip
    return row | {"sense": "at least"}


def _two_passes(monitor: Monitor, clean: Tensor, labels: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """The same attack as one writes it with two functions at hand, the network's and the monitor's."""
    at, momentum, weight = clean, torch.zeros_like(clean), torch.full((len(clean),), 0.1)
    for _ in range(STEPS):
        leaf = at.detach().requires_grad_()
        (wrong,) = torch.autograd.grad(F.cross_entropy(monitor.backbone(leaf), labels), leaf)
        leaf = at.detach().requires_grad_()
        score = monitor.score(leaf)
        (seen,) = torch.autograd.grad(score.sum(), leaf)
        weight = weight * torch.where(score.detach() > limit, 1.5, 0.8)
        gradient = wrong - weight.view(-1, 1, 1, 1) * seen
        momentum = momentum + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        at = (at + EPS / 4 * momentum.sign()).clamp(clean - EPS, clean + EPS).clamp(0, 1)
    with torch.no_grad():
        return monitor.backbone.predict(at), monitor.score(at)


# --- measuring -------------------------------------------------------------------------------------------------------


def _in_turn(contenders: Mapping[str, Callable[[], object]], steps: int = STEPS) -> dict[str, float]:
    """Median processor milliseconds a step of each; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, contender in contenders.items():
            began = time.process_time()
            contender()
            if turn > 0:
                times[name].append(1000 * (time.process_time() - began) / steps)
    return {name: median(taken) for name, taken in times.items()}


def _row(name: str, ours: float, theirs: float, ratio: float, required: float, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours_ms": round(ours, 2),
        "theirs_ms": round(theirs, 2),
        "ratio": round(ratio, 3),
        "required": required,
        "threads": torch.get_num_threads(),
        "note": f"{note}; processor time, median of {ROUNDS}",
    }


if __name__ == "__main__":
    for row in run():
        print(row)
