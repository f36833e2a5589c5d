"""What is kept of a set of images: what monitors read of them, and what became of the network's prediction.

Numbers of single images are gathered batch by batch; a set that was seen is a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inlier.backbones.base import Task
from inlier.errors import Mismatch
from inlier.evaluation.metrics import ConfusionMatrix, changed_iou, changed_share, overlaps
from inlier.files import PRIVATE, read_metadata, read_tensors, write_tensors
from inlier.images import Batch
from inlier.types import Images, LabelMaps

__all__ = ["Damage", "Gatherer", "SeenSet", "small"]


@dataclass(frozen=True, eq=False)
class SeenSet:
    """Values of the images of one set, in their order.

    Args:
        names, groups: of the images.
        values: (n, ...) by name: readings and measures by their shared names, and those of `Damage`.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner alone: who has readings and images can find out the key."""
        told = {"names": self.names, "groups": self.groups}
        write_tensors(path, self.values, {"seen": json.dumps(told)}, PRIVATE)

    @classmethod
    def load(cls, path: Path) -> SeenSet:
        """Read what `save` wrote."""
        values, metadata = read_tensors(path)
        told = json.loads(metadata["seen"])
        return cls(tuple(told["names"]), tuple(told["groups"]), values)

    @classmethod
    def holds(cls, path: Path, wanted: set[str]) -> bool:
        """Whether there is a file, whole, with all these values."""
        if not path.is_file():
            return False
        try:
            return "seen" in read_metadata(path) and wanted <= set(read_tensors(path)[0])
        except Mismatch:
            return False


class Gatherer:
    """Puts the values of batches together."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.groups: list[str] = []
        self.values: dict[str, list[Tensor]] = {}

    def add(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        """The values of a batch's images."""
        self.names += batch.names
        self.groups += batch.groups
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.detach().cpu())

    def seen(self, more: Mapping[str, Tensor] | None = None) -> SeenSet:
        """All of them; `more` are values that are no image's."""
        values = {name: torch.cat(parts) for name, parts in self.values.items()}
        return SeenSet(tuple(self.names), tuple(self.groups), {**values, **(more or {})})


class Damage:
    """What becomes of a network's prediction, image by image; labels where there are any.

    Args:
        task: of the network.
    """

    PREDICTED = "predicted"
    VALUES = ("light", "content")
    CHANGED = ("changed", "iou", "linf")
    CONFUSION = "confusion"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.matrix = ConfusionMatrix(len(task.classes), task.void)
        self.labelled = False

    def values(
        self,
        images: Images,
        predicted: LabelMaps,
        labels: LabelMaps | None,
        before: tuple[Images, LabelMaps] | None = None,
    ) -> dict[str, Tensor]:
        """Of a batch.

        Args:
            images: as they were shown.
            predicted: the classes.
            labels: in the network's classes, moved as the change moves pixels.
            before: the images as they were, and the prediction for them, moved likewise; None where nothing was
                changed.
        """
        classes = len(self.task.classes)
        said = predicted if labels is None else labels
        values = {
            "light": images.detach().cpu().double().flatten(1).mean(1),
            "content": torch.stack([(said == k).reshape(len(said), -1).double().mean(1) for k in range(classes)], 1),
        }
        if labels is not None:
            self.labelled = True
            self.matrix.update(predicted, labels)
            valid = torch.ones_like(labels, dtype=torch.bool) if self.task.void is None else labels != self.task.void
            values["wrong"] = changed_share(labels, predicted, valid)
            if self.task.is_dense:
                values["overlap"] = self.overlap(predicted, labels, valid)
        if before is not None:
            clean, was = before
            values["changed"] = changed_share(was, predicted)
            values["iou"] = 1 - changed_iou(was, predicted, classes)
            values["linf"] = (images.cpu() - clean.cpu()).detach().abs().flatten(1).amax(1).double()
        return values

    def overlap(
        self, predicted: LabelMaps, labels: LabelMaps, valid: Bool[Tensor, "n *hw"]
    ) -> Int[Tensor, "n 2 classes"]:
        """Pixels of intersection and union by class. Void has none, even where the network predicts it."""
        found = overlaps(labels, predicted, len(self.task.classes), valid)
        if self.task.void is not None and 0 <= self.task.void < len(self.task.classes):
            found[..., self.task.void] = 0
        return found

    def whole(self) -> dict[str, Tensor]:
        """What is no single image's: the confusion matrix, if there were labels."""
        return {self.CONFUSION: self.matrix.counts} if self.labelled else {}


def small(maps: Int[Tensor, "n *hw"], classes: int) -> Tensor:
    """Class indices in as few bytes as they need."""
    return maps.to(torch.uint8 if classes <= 256 else torch.int32)
