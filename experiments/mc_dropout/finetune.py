"""Fine-tune the CamVid ESPNet with dropout before every weight layer, as the DAAIN paper does for its MC-dropout.

    python experiments/mc_dropout/finetune.py --data DATA --output espnet_dropout.safetensors

DATA holds camvid/ and weights/. After every epoch the weights are written to the output, for `espnet:FILE`, and beside
it a checkpoint; the same command goes on from there after it was stopped. What the weights were trained on is for
research only, so they belong in no repository.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.backbones.espnet import espnet
from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import label_map
from inlier.detectors.mc_dropout import Dropout
from inlier.errors import Mismatch
from inlier.evaluation.metrics import ConfusionMatrix
from inlier.files import read_tensors, write_tensors

WEIGHTS = Path("weights") / "espnet_decoder_camvid_p2_q8.safetensors"
VALIDATION_FRAMES = 25
"""Evenly spaced; they are looked at after every epoch, and nothing is chosen by them."""


def frames(data: Path, split: str, size: tuple[int, int], count: int | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 3, h, w) and labels (n, h, w), both uint8: all, or `count` evenly spaced ones."""
    folder = ImageFolder(data / "camvid" / split, size=size)
    images, labels = [], []
    for batch in folder.batches(16):
        images.append((batch.images * 255).round().byte())
        for name in batch.names:
            truth = label_map(data / "camvid" / f"{split}annot", name)[None, None].float()
            labels.append(F.interpolate(truth, size, mode="nearest")[:, 0].byte())
    every = torch.arange(len(labels))
    chosen = every if count is None else every[:: max(1, len(every) // count)][:count]
    return torch.cat(images)[chosen], torch.cat(labels)[chosen]


def class_weights(labels: Tensor, classes: int, void: int) -> Tensor:
    """1 / log(1.1 + share of the labelled pixels), as ESPNet was trained; 0 for void."""
    counts = torch.bincount(labels.flatten().int(), minlength=classes).double()
    counts[void] = 0
    weights = 1 / torch.log(1.1 + counts / counts.sum())
    weights[void] = 0
    return weights.float()


@torch.no_grad()
def mean_iou(backbone: Backbone, images: Tensor, labels: Tensor) -> float:
    """Of the whole network: what is monitored is predicted without dropout."""
    matrix = ConfusionMatrix(len(backbone.task.classes), backbone.task.void)
    for image, label in zip(images, labels, strict=True):
        matrix.update(backbone.predict(image[None].float() / 255), label[None].long())
    return matrix.mean_iou()


class Checkpoint:
    """Weights, Adam's moments and what was measured after an epoch, in a safetensors file.

    Args:
        path: of the file.
        config: of the run; a checkpoint of another one is refused.
    """

    def __init__(self, path: Path, config: dict[str, object]) -> None:
        self.path = path
        self.config = json.dumps(config)
        self.history: list[dict[str, float]] = []

    def restore(self, backbone: Backbone, optimiser: torch.optim.Adam) -> None:
        """Go on from the file, if there is one."""
        if not self.path.is_file():
            return
        tensors, metadata = read_tensors(self.path)
        if metadata.get("config") != self.config:
            raise Mismatch(
                f"'{self.path}' is of a run with {metadata.get('config')}, this one has {self.config}. "
                "Give the same settings, or another output."
            )
        backbone.network.load_state_dict({name[8:]: t for name, t in tensors.items() if name.startswith("network:")})
        for name, parameter in backbone.network.named_parameters():
            moments = {key: tensors[f"adam:{key}:{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = moments
        self.history = json.loads(metadata["history"])

    def save(self, backbone: Backbone, optimiser: torch.optim.Adam) -> None:
        """Replace the file."""
        tensors = {f"network:{name}": tensor for name, tensor in backbone.network.state_dict().items()}
        for name, parameter in backbone.network.named_parameters():
            tensors |= {f"adam:{key}:{name}": value for key, value in optimiser.state[parameter].items()}
        write_tensors(self.path, tensors, {"config": self.config, "history": json.dumps(self.history)})


def epoch(
    backbone: Backbone,
    optimiser: torch.optim.Adam,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    options: argparse.Namespace,
    done: int,
) -> float:
    """One pass over the images, half of them mirrored, a sub-network a step; the mean loss."""
    generator = torch.Generator().manual_seed(options.seed * 10_000 + done)  # an epoch begun anew is the same
    order = torch.randperm(len(images), generator=generator)
    look = Dropout(options.dropout)
    steps = -(-len(images) // options.batch)
    total, started, void = 0.0, time.perf_counter(), backbone.task.void
    for step in range(steps):
        chosen = order[step * options.batch : (step + 1) * options.batch]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        batch = torch.where(mirrored[:, None, None, None], images[chosen].flip(-1), images[chosen])
        truth = torch.where(mirrored[:, None, None], labels[chosen].flip(-1), labels[chosen])
        for group in optimiser.param_groups:  # down to nothing in a straight line
            group["lr"] = options.rate * (1 - (done * steps + step) / (options.epochs * steps))
        # A backbone is always in eval mode. Its batch norms stay that way: the prediction is made without dropout, and
        # statistics gathered under dropout, which has more variance, would not be those of that pass.
        with look.network(backbone, generator):
            logits = backbone(batch.float() / 255)
        loss = F.cross_entropy(logits, truth.long(), weights, ignore_index=-100 if void is None else void)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += loss.item()
        if (step + 1) % 10 == 0 or step + 1 == steps:
            seconds = time.perf_counter() - started
            print(
                f"epoch {done + 1}/{options.epochs}  step {step + 1}/{steps}  loss {total / (step + 1):.4f}  "
                f"{seconds:.0f} s",
                flush=True,
            )
    return float(total / steps)


def finetune(options: argparse.Namespace) -> list[dict[str, float]]:
    """Train, or go on training, and write the weights; what was measured after each epoch."""
    size = (options.size[0], options.size[1])
    images, labels = frames(options.data, "train", size, options.frames)
    held_out = frames(options.data, "val", size, VALIDATION_FRAMES if options.frames is None else options.frames)
    backbone = espnet(options.data / WEIGHTS)
    void = backbone.task.void
    assert void is not None
    weights = class_weights(labels, len(backbone.task.classes), void)
    backbone.network.requires_grad_()
    # What ESPNet was trained with (Mehta et al. 2018, section 4), but for the decay: there, halved every 100 epochs.
    optimiser = torch.optim.Adam(backbone.network.parameters(), options.rate, weight_decay=5e-4)
    names = ("epochs", "batch", "rate", "dropout", "size", "frames", "seed")
    config = {name: getattr(options, name) for name in names}
    checkpoint = Checkpoint(options.output.with_suffix(".checkpoint.safetensors"), config)
    checkpoint.restore(backbone, optimiser)
    if not checkpoint.history:
        print(
            f"{len(images)} frames; before: mIoU on validation frames {mean_iou(backbone, *held_out):.4f}", flush=True
        )
    for done in range(len(checkpoint.history), options.epochs):
        loss = epoch(backbone, optimiser, images, labels, weights, options, done)
        measured = {"loss": round(loss, 4), "mean_iou": round(mean_iou(backbone, *held_out), 4)}
        print(f"epoch {done + 1}/{options.epochs}  mIoU on validation frames {measured['mean_iou']:.4f}", flush=True)
        checkpoint.history.append(measured)
        history = json.dumps(checkpoint.history)
        state = backbone.network.state_dict()
        write_tensors(options.output, state, {"config": checkpoint.config, "history": history})
        checkpoint.save(backbone, optimiser)
    return checkpoint.history


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with camvid/ and weights/")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file for the weights")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of the first step")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, help="train on so many frames only, to try it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    finetune(options)


if __name__ == "__main__":
    main()
