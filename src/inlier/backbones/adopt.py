"""A user's own PyTorch module as a backbone.

One pass over a grey image shows what the network returns: logits of rank 2 make it a classifier, of rank 4 a
segmentation network, and among several outputs the logits are found or asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inlier.backbones.base import Backbone, Classification, Segmentation, Task
from inlier.backbones.outputs import Output, find_output
from inlier.backbones.weights import load_weights

__all__ = ["adopt", "task_of"]

SIZES = ((224, 224), (32, 32), (28, 28), (256, 512))
"""(h, w) that are tried in turn where no size is given."""

CHANNELS = (3, 1)

SMALLEST = 32
"""An image of this side and more that gets a 1 x 1 map was classified, not segmented."""


def adopt(
    network: nn.Module,
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    bgr: bool = False,
    classes: Sequence[str] | None = None,
    output: str | None = None,
) -> Backbone:
    """A plain module as a backbone; it is neither copied nor changed, but for eval mode and `requires_grad`.

    Args:
        network: takes (n, c, h, w), returns logits or something that holds them.
        weights: a safetensors file, loaded strictly.
        mean, std: of each channel as the network sees it, for pixels in [0, 1]. Without them pixels go in as they
            are, in [0, 1].
        size: (h, w) images are resized to; by default they are not.
        bgr: whether the network wants blue-green-red.
        classes: names of the outputs, in order; by default "0", "1" and so on.
        output: which part of a dict, tuple or object is the logits: key, index or attribute.

    Raises:
        Mismatch: the weights are not this network's.
        LookupError, TypeError: the logits cannot be told from the rest of the output.
        ValueError: the network fails on a grey image, or its logits have no shape that inlier knows.

    In every case of failure the network's modes are given back as they were.
    """
    if weights is not None:
        load_weights(network, weights)
    if mean is not None and std is None:
        std = (1.0,) * len(mean)
    if std is not None and mean is None:
        mean = (0.0,) * len(std)
    backbone = Backbone(network, Task(()), mean=mean or (0.0,), std=std or (1.0,), size=size, bgr=bgr)
    try:
        raw, seen = _trial(backbone)
        backbone.task = task_of(raw, seen, classes=classes, output=output)
    except BaseException:
        backbone.release()
        raise
    return backbone


def task_of(
    raw: Any, size: tuple[int, int], *, classes: Sequence[str] | None = None, output: str | None = None
) -> Task:
    """The task of a network that returned `raw` for one image that came to it in `size` (h, w).

    Raises:
        LookupError, TypeError: the logits cannot be told from the rest of `raw`.
        ValueError: they are neither (1, classes) nor (1, classes, h, w), or `classes` has another number of names.
    """
    select = find_output(raw) if output is None else Output(output)
    logits: Tensor = raw if select is None else select(raw)
    where = "" if select is None else f" in '{select.name}'"
    if logits.ndim not in (2, 4) or len(logits) != 1:
        raise ValueError(
            f"For one image the network returns {tuple(logits.shape)}{where}; logits are (1, classes) of a classifier "
            "or (1, classes, h, w) of a segmentation network. If they are another part, name it: --output NAME."
        )
    if logits.ndim == 4 and tuple(logits.shape[-2:]) == (1, 1) and min(size) >= SMALLEST:
        raise ValueError(
            f"For an image of {size[0]} x {size[1]} the network returns {tuple(logits.shape)}{where}: one map of one "
            "pixel. If it classifies, let it end in flatten(1)."
        )
    count = logits.shape[1]
    if classes is not None and len(classes) != count:
        raise ValueError(f"The network has {count} outputs{where}, and there are {len(classes)} class names: {classes}")
    names = tuple(str(index) for index in range(count)) if classes is None else tuple(classes)
    return (Classification if logits.ndim == 2 else Segmentation)(names, select=select)


def _trial(backbone: Backbone) -> tuple[Any, tuple[int, int]]:
    """What the network returns for one grey image, and the image's size as it came to the network."""
    channels = CHANNELS if len(backbone.mean) == 1 else (len(backbone.mean),)
    sizes = SIZES if backbone.size is None else (backbone.size,)
    first: Exception | None = None
    for shape in ((1, count, *size) for count in channels for size in sizes if isinstance(size, tuple)):
        prepared = backbone.prepare(torch.full(shape, 0.5, device=backbone.mean.device))
        try:
            with torch.no_grad():
                return backbone.core(prepared), (shape[-2], shape[-1])
        except Exception as error:  # whatever the user's module raises
            first = first or error
    tried = ", ".join(f"{height}x{width}" for height, width in (size for size in sizes if isinstance(size, tuple)))
    raise ValueError(
        f"The network fails on a grey image of {' or '.join(map(str, channels))} channels and {tried} pixels: "
        f"{type(first).__name__}: {first}. Give the size it takes (--size HxW), and a mean and std for each channel."
    ) from first
