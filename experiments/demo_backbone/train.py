"""Train the network of the demo: an ESPNet on drawn street scenes of the training worlds.

    python experiments/demo_backbone/train.py

writes the weights into the package and what was measured to results.json beside this file. Training, validation and
everything else that draws scenes use seeds of their own ranges, so that no scene is ever seen twice.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inlier.backbones.espnet import ESPNet
from inlier.datasets.scenes.classes import CLASSES
from inlier.datasets.scenes.scene import draw
from inlier.datasets.scenes.worlds import TRAINING_WORLDS, UNSEEN_WORLDS, WORLDS
from inlier.files import replacing, write_tensors

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[1] / "src" / "inlier" / "backbones" / "weights" / "street_espnet.safetensors"
TRAIN_SEED = 10_000_000  # scenes from here on are the network's own; the demo and the tests draw below
HELD_OUT_SEED = 20_000_000


def scenes(worlds: tuple[str, ...], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, h, w) and labels (n, h, w), both uint8: `count` scenes of each world."""
    drawn = [draw(WORLDS[world], seed + index) for world in worlds for index in range(count)]
    images = torch.from_numpy(np.stack([scene.image for scene in drawn]))
    return images.permute(0, 3, 1, 2), torch.from_numpy(np.stack([scene.labels for scene in drawn]))


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, in units of [0, 1]."""
    sample = images[::8].float() / 255
    return sample.mean((0, 2, 3)), sample.std((0, 2, 3))


def class_weights(labels: Tensor) -> Tensor:
    """1 / log(1.4 + share of the pixels): between 3.0 for a class that hardly occurs and 1.1 for all there is."""
    share = torch.bincount(labels.flatten().int(), minlength=len(CLASSES)) / labels.numel()
    return 1 / torch.log(1.4 + share)


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of indices, each epoch in a new order."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def augmented(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of them mirrored, each a little brighter or darker; images in [0, 1]."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    labels = torch.where(mirrored[:, None, None], labels.flip(-1), labels)
    gain = 0.85 + 0.3 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images.float() / 255 * gain).clamp(0, 1), labels.long()


@torch.no_grad()
def intersection_over_union(network: nn.Module, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """IoU of each class, its pixels pooled over all images."""
    network.eval()
    confusion = torch.zeros(len(CLASSES) ** 2, dtype=torch.long)
    for image, label in zip(images, labels, strict=True):
        predicted = network((image[None].float() / 255 - mean) / std).argmax(1)
        pairs = label.long() * len(CLASSES) + predicted[0]
        confusion += torch.bincount(pairs.flatten(), minlength=len(CLASSES) ** 2)
    network.train()
    table = confusion.view(len(CLASSES), len(CLASSES))
    return table.diagonal() / (table.sum(0) + table.sum(1) - table.diagonal())


def halved(network: nn.Module) -> dict[str, Tensor]:
    """Its weights in half precision, as they are packaged."""
    return {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}


def train(images: Tensor, labels: Tensor, mean: Tensor, std: Tensor, options: argparse.Namespace) -> ESPNet:
    """Adam under one cycle of the learning rate; the network's initial weights come from `options.seed` too."""
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng():  # torch draws initial weights from its global state only
        torch.manual_seed(options.seed)
        network = ESPNet(len(CLASSES), p=2, q=3)
    network.train()
    # Several times faster than the default on a CPU; the stubs of Module.to leave the argument out.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss_of = nn.CrossEntropyLoss(class_weights(labels))
    optimiser = torch.optim.Adam(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.steps, pct_start=0.15)
    started, running = time.perf_counter(), 0.0
    for step, index in enumerate(batches(len(images), options.batch, options.steps, generator), start=1):
        batch, truth = augmented(images[index], labels[index], generator)
        batch = ((batch - mean) / std).contiguous(memory_format=torch.channels_last)
        loss = loss_of(network(batch), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        running += (loss.item() - running) * max(0.02, 1 / step)
        if step % 50 == 0 or step == options.steps:
            seconds = time.perf_counter() - started
            print(f"step {step:5d}/{options.steps}  loss {running:.4f}  {seconds:6.0f} s", flush=True)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=600, help="training scenes of each world")
    parser.add_argument("--held-out", type=int, default=40, help="held-out scenes of each world")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the maps are small, and threads that wait for each other cost more than they bring

    started = time.perf_counter()
    images, labels = scenes(TRAINING_WORLDS, options.scenes, TRAIN_SEED + options.seed)
    mean, std = (values.view(-1, 1, 1) for values in statistics(images))
    print(f"{len(images)} scenes drawn in {time.perf_counter() - started:.0f} s", flush=True)
    network = train(images, labels, mean, std, options)
    seconds = time.perf_counter() - started

    half = halved(network)
    packaged = copy.deepcopy(network)
    packaged.load_state_dict(half)
    ious, full = {}, {}
    for world in (*TRAINING_WORLDS, *UNSEEN_WORLDS):
        held_out = scenes((world,), options.held_out, HELD_OUT_SEED)
        ious[world] = intersection_over_union(packaged, *held_out, mean, std)
        full[world] = intersection_over_union(network, *held_out, mean, std).nanmean().item()
        print(f"{world:8s} mIoU {ious[world].nanmean():.3f} (float32 {full[world]:.3f})", flush=True)

    mean_iou = float(np.mean([ious[world].nanmean().item() for world in TRAINING_WORLDS]))
    print(f"training worlds, held-out scenes: mIoU {mean_iou:.3f}")
    config = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    write_tensors(
        options.weights,
        {**half, "mean": mean.flatten(), "std": std.flatten()},
        {
            "command": "python experiments/demo_backbone/train.py",
            "config": json.dumps(config),
            "mean_iou": f"{mean_iou:.4f}",
        },
    )
    report = {
        "config": config,
        "network": "ESPNet(p=2, q=3)",
        "seconds": round(seconds),
        "mean_iou_training_worlds": round(mean_iou, 4),
        "mean_iou": {world: round(values.nanmean().item(), 4) for world, values in ious.items()},
        "mean_iou_float32": {world: round(value, 4) for world, value in full.items()},
        "iou": {
            world: {name: round(value, 4) for name, value in zip(CLASSES, values.tolist(), strict=True)}
            for world, values in ious.items()
        },
        "bytes": options.weights.stat().st_size,
    }
    with replacing(options.results) as path:
        path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
