"""Backbones from a text: a name, `name:weights.safetensors`, `package.module:factory`, or a folder of transformers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from inlier.backbones.adopt import adopt
from inlier.backbones.base import Backbone, Task
from inlier.backbones.factories import made_by
from inlier.backbones.weights import load_weights, refuse_pickles
from inlier.registry import Entry, Registry

__all__ = ["BACKBONES", "load_backbone"]

BACKBONES: Registry[Callable[..., Backbone]] = Registry(
    "backbone",
    {
        "espnet": Entry(
            "inlier.backbones.espnet:espnet", "ESPNet or ESPNet-C from a safetensors file", "Mehta et al. 2018"
        ),
        "espnetv2": Entry(
            "inlier.backbones.espnetv2:espnetv2", "ESPNetv2 for segmentation, of any width", "Mehta et al. 2019"
        ),
        "resnet_cifar": Entry(
            "inlier.backbones.resnet_cifar:resnet_cifar",
            "ResNet-20, 32, 44, 56, ... for 32x32 images, with option-A shortcuts",
            "He et al. 2016",
        ),
        "street": Entry("inlier.backbones.street:street_espnet", "ESPNet for the drawn street scenes, in the package"),
        "street_hardened": Entry("inlier.backbones.street:street_hardened", "the same, fine-tuned against an attacker"),
        "twinlitenet": Entry(
            "inlier.backbones.twinlitenet:twinlitenet",
            "TwinLiteNet: drivable area and lane markings, together or one of them",
            "Che et al. 2023",
        ),
    },
)


def load_backbone(
    text: str,
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    bgr: bool | None = None,
    classes: Sequence[str] | None = None,
    output: str | None = None,
) -> Backbone:
    """The backbone that a text stands for. A registered name wins over a folder, and a folder over a module.

    Args:
        text: a registered name, `name:weights.safetensors`, `package.module:factory` (imported with the current
            directory on the path and called without arguments; it returns a `Backbone` or any `torch.nn.Module`), or
            a folder that transformers saved.
        weights: a safetensors file, loaded strictly; in a folder of transformers it stands in for the one there.
        mean, std: of each channel as the network sees it, for pixels in [0, 1]. A plain module without them gets
            pixels in [0, 1] as they are; anything else has its own, which these replace.
        size: (h, w) that images are resized to before they reach the network.
        bgr: whether the network wants blue-green-red.
        classes: names of the outputs; one named `void` is left out of every metric.
        output: which part of what the network returns is the logits: a dict's key, an attribute, an index.

    Raises:
        LookupError: no such name, module, factory or output; the message names the nearest.
        ValueError, TypeError: weights are needed and not given or the other way round, a factory that cannot be
            called, an output that cannot be understood, or statistics that cannot be.
        FileNotFoundError, Mismatch: the weights are not there, are pickled, or are not this network's.
        Unavailable: something that the network needs is not installed.
    """
    name, _, rest = text.partition(":")
    if name in BACKBONES:
        if rest and weights is not None:
            raise ValueError(f"Backbone '{name}' has weights twice: '{rest}' after the colon, and '{weights}'")
        made: nn.Module = _registered(name, rest or weights, {"classes": classes, "output": output})
        weights = output = None
    elif text and Path(text).is_dir():
        from inlier.backbones.huggingface import from_folder

        made = from_folder(text, weights=weights, mean=mean, std=std, size=size)
        weights = None
    else:
        made = _made(text)
    if not isinstance(made, Backbone):
        return adopt(
            made, weights=weights, mean=mean, std=std, size=size, bgr=bool(bgr), classes=classes, output=output
        )
    if output is not None:
        raise ValueError(f"Backbone '{text}' knows its own output; '{output}' cannot be picked from it")
    if weights is not None:
        load_weights(made.network, weights)
    task = None if classes is None else _renamed(made.task, classes)
    return made.adapted(task=task, mean=mean, std=std, size=size, bgr=bgr)


def _registered(name: str, weights: str | Path | None, options: Mapping[str, Any]) -> Backbone:
    """Made with its weights and with whatever of `options` is given and its factory takes."""
    factory = BACKBONES[name]
    takes = inspect.signature(factory).parameters
    if options["output"] is not None and "output" not in takes:
        raise ValueError(f"Backbone '{name}' has one output; there is no '{options['output']}' to pick from it")
    settings = {option: value for option, value in options.items() if value is not None and option in takes}
    if "weights" not in takes:
        if weights:
            raise ValueError(f"Backbone '{name}' has its weights in the package and takes no '{weights}'")
        return factory(**settings)
    if weights:
        refuse_pickles(weights)
        return factory(weights, **settings)
    if takes["weights"].default is inspect.Parameter.empty:
        raise ValueError(f"Backbone '{name}' needs weights: write {name}:FILE.safetensors")
    return factory(**settings)


def _made(text: str) -> nn.Module:
    name, colon, _ = text.partition(":")
    refuse_pickles(text)
    if text.endswith(".safetensors") and not colon:
        raise ValueError(f"'{text}' holds weights, not a network: write NAME:{text}, or MODULE:FACTORY with --weights")
    unknown = ""
    try:
        BACKBONES.entry(name)
    except LookupError as error:
        unknown = str(error.args[0])
    if not colon:
        raise LookupError(f"{unknown} Nor is '{text}' a folder, or a factory as in package.module:factory.")
    try:
        return made_by(text)
    except LookupError as error:
        if "." in name or not str(error).startswith("No module"):
            raise
        raise LookupError(f"{unknown} {error}") from None


def _renamed(task: Task, classes: Sequence[str]) -> Task:
    if len(classes) != len(task.classes):
        raise ValueError(f"The backbone has {len(task.classes)} outputs, and there are {len(classes)} names: {classes}")
    other = copy.copy(task)
    other.classes = tuple(classes)
    other.void = other.classes.index("void") if "void" in other.classes else None
    return other
