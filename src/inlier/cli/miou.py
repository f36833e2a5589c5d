"""`inlier miou`: how good a segmentation network is on labelled images."""

from __future__ import annotations

import json as json_
import math
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options

__all__ = ["miou"]


def miou(
    backbone: options.BackboneOption,
    images: options.ImagesOption,
    labels: Annotated[Path, typer.Option(help="Folder of one-channel PNG label maps with the images' names.")],
    batch_size: options.BatchSizeOption = 8,
    json: options.JsonOption = False,
) -> None:
    """Mean intersection over union and pixel accuracy on labelled images; the void class is left out."""
    import torch

    from inlier.backbones.load import load_backbone
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped
    from inlier.datasets.folder import ImageFolder, label_map
    from inlier.evaluation.metrics import ConfusionMatrix

    network = load_backbone(backbone)
    folder = ImageFolder(images)
    matrix = ConfusionMatrix(len(network.task.classes), network.task.void)
    done = 0
    with progress_bars() as progress:
        for batch in folder.batches(batch_size):
            truth = torch.stack([label_map(labels, name) for name in batch.names])
            with torch.no_grad():
                matrix.update(network.predict(batch.images), truth)
            done += len(batch.names)
            progress("miou", done, len(folder))
    say_skipped(folder)
    by_class = {
        name: None if math.isnan(value) else value
        for name, value in zip(network.task.classes, matrix.iou().tolist(), strict=True)
    }
    if json:
        told = {"images": done, "miou": matrix.mean_iou(), "pixel_accuracy": matrix.pixel_accuracy(), "iou": by_class}
        print(json_.dumps(told))
        return
    for name, value in by_class.items():
        print(f"{name:16} {'-' if value is None else f'{100 * value:5.1f} %'}")
    print(f"{'mean':16} {100 * matrix.mean_iou():5.1f} %")
    print(f"{'pixel accuracy':16} {100 * matrix.pixel_accuracy():5.1f} %   ({done} images)")
