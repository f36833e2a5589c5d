"""Label maps that an attacker of segmentation may want: nothing that the scene suggests, so that success is no luck.

Sources: the cartoon shapes and plain maps of Houdini (arXiv:1707.05373), the other scenes' maps and geometric shapes of
DAG (arXiv:1703.08603), and maps by remapped classes, which keep every outline.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image, ImageDraw
from torch import Tensor

from inlier.backbones.base import Task
from inlier.registry import nearest
from inlier.types import LabelMaps

__all__ = ["TargetKind", "target_maps", "target_named"]

TargetKind: TypeAlias = Literal["one_class", "stripes", "shape", "text", "other_scene", "remapped"]
WORD = "NO ROAD"


def target_named(name: str, task: Task) -> int | TargetKind:
    """The number of a class, or a kind of target map.

    Raises:
        LookupError: neither.
        ValueError: a kind of map, of a network that has no maps.
    """
    if name in task.classes:
        return task.classes.index(name)
    if name not in get_args(TargetKind):
        raise LookupError(f"No class and no kind of target named '{name}'. "
                          f"{nearest(name, [*task.classes, *get_args(TargetKind)])}")  # fmt: skip
    if not task.is_dense:
        raise ValueError(f"'{name}' is a kind of label map; the target of a classifier is a class")
    return name  # type: ignore[return-value]


def target_maps(kind: TargetKind, prediction: LabelMaps, task: Task, *, seed: int = 0) -> LabelMaps:
    """A target for each image, of the prediction's shape; drawn at random where there is a choice.

    Args:
        kind: `one_class` everywhere; vertical `stripes` of two classes; a cartoon `shape` of one class on another;
            `text` likewise; the prediction of the batch's next image, `other_scene`; each class as another, `remapped`.
        prediction: on the images, (n, h, w).
        task: whose void class is never wanted.
        seed: of the choice.

    Raises:
        ValueError: no such kind, a prediction that is no map, or `other_scene` of a single image.
    """
    if kind not in get_args(TargetKind):
        raise ValueError(f"There is no kind of target {kind!r}: expected one of {', '.join(get_args(TargetKind))}")
    if prediction.ndim != 3:
        raise ValueError(f"Target maps are for predictions (n, h, w), not {tuple(prediction.shape)}")
    classes = [k for k in range(len(task.classes)) if k != task.void]
    count, height, width = prediction.shape
    dice = np.random.default_rng(seed)
    if kind == "other_scene":
        if count < 2:
            raise ValueError("Another scene's map needs two images or more in the batch")
        return prediction.roll(1, 0)
    if kind == "remapped":
        order = dice.permutation(classes)
        table = torch.arange(len(task.classes))
        table[torch.from_numpy(order)] = torch.from_numpy(np.roll(order, 1))  # one cycle: no class stays as it is
        return table.to(prediction.device)[prediction]
    figures = {"one_class": plain, "stripes": stripes, "shape": shape, "text": text}
    chosen = [dice.choice(classes, 2, replace=False) for _ in range(count)]
    figure = figures[kind](height, width)
    maps = [torch.where(figure, int(front), int(back)) for front, back in chosen]
    return torch.stack(maps).to(prediction)


def plain(height: int, width: int) -> Bool[Tensor, "h w"]:
    return torch.ones(height, width, dtype=torch.bool)


def stripes(height: int, width: int) -> Bool[Tensor, "h w"]:
    return (torch.arange(width) * 8 // width % 2 == 0).expand(height, width)


def shape(height: int, width: int) -> Bool[Tensor, "h w"]:
    """A face: a disc with two eyes and a mouth."""
    canvas = Image.new("1", (width, height))
    pen, side = ImageDraw.Draw(canvas), 0.8 * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2

    def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return left + x * side, top + y * side, left + (x + w) * side, top + (y + h) * side

    pen.ellipse(box(0, 0, 1, 1), fill=1)
    for x in (0.25, 0.6):
        pen.ellipse(box(x, 0.25, 0.15, 0.2), fill=0)
    pen.pieslice(box(0.2, 0.35, 0.6, 0.5), 20, 160, fill=0)
    return torch.from_numpy(np.array(canvas))


def text(height: int, width: int) -> Bool[Tensor, "h w"]:
    """A word as wide as the image, in a font that is part of Pillow, enlarged."""
    pen = ImageDraw.Draw(Image.new("1", (1, 1)))
    left, top, right, bottom = (round(edge) for edge in pen.textbbox((0, 0), WORD))
    small = Image.new("1", (right, bottom))
    ImageDraw.Draw(small).text((0, 0), WORD, fill=1)
    cut = small.crop((left, top, right, bottom)).resize((width, max(1, height // 3)), Image.Resampling.NEAREST)
    canvas = Image.new("1", (width, height))
    canvas.paste(cut, (0, height // 3))
    return torch.from_numpy(np.array(canvas))
