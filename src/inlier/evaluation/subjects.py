"""The images that an attack is tried on: all of one size, in memory, with their names and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.datasets.labels import translation
from inlier.images import Batch, LabelledSource, evenly
from inlier.types import Images, LabelMaps

__all__ = ["Subjects"]


@dataclass(frozen=True, eq=False)
class Subjects:
    """Images that are to be attacked.

    Args:
        images: (n, c, h, w) in [0, 1], at the size at which they are attacked.
        names: one an image.
        labels: the truth, as indices of the network's classes, where it is known.
        wrong: images that were left out since a classifier has them wrong: an attack on them would prove nothing.
    """

    images: Images
    names: tuple[str, ...]
    labels: LabelMaps | None = None
    wrong: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(cls, source: LabelledSource, backbone: Backbone, count: int | None = None) -> Self:
        """From a data set, so many of its images, spread evenly; with its labels if it has any.

        Raises:
            ValueError: images of several sizes, or not one that a classifier has right.
        """
        batches = list(source.batches(1))
        batches = [batches[place] for place in evenly(len(batches), count)]
        sizes = {tuple(batch.images.shape[1:]) for batch in batches}
        if len(sizes) > 1:
            raise ValueError(f"The images are of several sizes, {sorted(sizes)[:3]}: give --resize HxW")
        found = cls(torch.cat([batch.images for batch in batches]), tuple(batch.names[0] for batch in batches))
        if not source.classes:
            return found
        translate = translation(source.classes, backbone.task.classes)
        labels = torch.cat([labels_of(batch) for batch in batches])
        return found.labelled(translate[labels], backbone)

    def labelled(self, labels: LabelMaps, backbone: Backbone) -> Self:
        """With labels; of a classifier only the images that it has right."""
        if backbone.task.is_dense:
            return type(self)(self.images, self.names, labels)
        with torch.no_grad():
            right = torch.cat([backbone.predict(part).cpu() for part in torch.split(self.images, 8)]) == labels
        if not right.any():
            raise ValueError(
                f"The network classifies none of the {len(labels)} images right: there is nothing to attack"
            )
        kept = right.nonzero()[:, 0].tolist()
        return type(self)(self.images[right], tuple(self.names[i] for i in kept), labels[right], int((~right).sum()))

    def valid(self, backbone: Backbone) -> Bool[Tensor, "n *hw"] | None:
        """Where the labels are not void; None without labels."""
        if self.labels is None:
            return None
        void = backbone.task.void
        return torch.ones_like(self.labels, dtype=torch.bool) if void is None else self.labels != void


def labels_of(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels
