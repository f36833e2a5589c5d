"""`inlier miou`: how good a segmentation network is on labelled images."""

from __future__ import annotations

import json as json_
import math
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

__all__ = ["miou"]


@unpacked
def miou(
    backbone: BackboneArguments,
    images: ImageArguments,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of one-channel PNG label maps with the images' names; by default the layout's."),
    ] = None,
    batch_size: options.BatchSizeOption = 8,
    json: options.JsonOption = False,
) -> None:
    """Mean intersection over union and pixel accuracy on labelled images; the void class is left out."""
    import torch

    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped
    from inlier.datasets.labels import LabelFolder, translation
    from inlier.evaluation.metrics import ConfusionMatrix

    network = backbone.load()
    if not network.task.is_dense:
        raise ValueError("This network classifies whole images; `inlier doctor --labels` tells its accuracy")
    classes = network.task.classes
    maps = None if labels is None else LabelFolder(labels, classes)
    folder = images.open(labels=maps, labelled=True)
    if not folder.classes:
        raise ValueError("These images have no labels: give --labels, or a layout that has them (`inlier datasets`)")
    translate = translation(folder.classes, classes)
    matrix = ConfusionMatrix(len(classes), network.task.void)
    done = 0
    with progress_bars() as progress:
        for batch in folder.batches(batch_size):
            assert batch.labels is not None
            with torch.no_grad():
                matrix.update(network.predict(batch.images), translate[batch.labels])
            done += len(batch.names)
            progress("miou", done, len(folder))
    say_skipped(folder)
    by_class = {
        name: None if math.isnan(value) else value for name, value in zip(classes, matrix.iou().tolist(), strict=True)
    }
    if json:
        told = {"images": done, "miou": matrix.mean_iou(), "pixel_accuracy": matrix.pixel_accuracy(), "iou": by_class}
        print(json_.dumps(told))
        return
    for name, value in by_class.items():
        print(f"{name:16} {'-' if value is None else f'{100 * value:5.1f} %'}")
    print(f"{'mean':16} {100 * matrix.mean_iou():5.1f} %")
    print(f"{'pixel accuracy':16} {100 * matrix.pixel_accuracy():5.1f} %   ({done} images)")
