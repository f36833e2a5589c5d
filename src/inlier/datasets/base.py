"""Images kept in files and read one by one on the way, with names, groups and labels; broken ones are skipped.

A folder, an archive of arrays and a sheet of tiles differ in where the pixels of the i-th image are; all else is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Int64
from torch import Tensor

from inlier.datasets.groups import grouped
from inlier.datasets.names import NameIndex, listed
from inlier.datasets.pixels import MOST_PIXELS, Picture, permitted, reason, resized_labels
from inlier.images import Batch

__all__ = ["Choice", "Dataset", "Note", "Skipped"]


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Note:
    """What was left out of a file that could be read."""

    name: str
    text: str


class Choice(TypedDict, total=False):
    """What every data set can be asked for; see `Dataset`."""

    group_by: str | None
    groups: str | Path | None
    split: str | Path | None
    size: tuple[int, int] | None
    channels: int


class Dataset(ABC):
    """Images kept in files: a labelled source that also says what it could not read.

    A new one says where the pixels and the label of the i-th image are (`picture`, `label`), or is made of an existing
    one by a function, as `camvid` is.

    Args:
        names: of all images, in order; paths with forward slashes, no two equal.
        where: what they are in, for messages.
        group_by: a regular expression searched in each name; its first group, or else the whole match, names the
            image's group.
        groups: a CSV file with the columns `image` and `group`, instead of `group_by`.
        grouping: the group of a name where neither is given.
        split: a text file that lists the images to take, one a line; the order stays that of `names`.
        size: (h, w) to resize to, bilinearly with antialiasing (labels: nearest). Without it, consecutive images of one
            size share a batch.
        channels: 3, or 1 for grey images.
        classes: names of the labels' classes, by label; empty where there are no labels.

    Attributes:
        names: of the images taken.
        places: of these images in the names as given.
        group_names: of these images.
        classes: as given.
        skipped: images that the last iteration could not read, or whose labels it could not.
        notes: what the last iteration left out of images it did read.

    Raises:
        FileNotFoundError: a list or table is not there.
        ValueError: it does not fit the names, or a bad size or number of channels.
    """

    def __init__(
        self,
        names: Sequence[str],
        where: str,
        *,
        grouping: Callable[[str], str],
        group_by: str | None = None,
        groups: str | Path | None = None,
        split: str | Path | None = None,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        classes: Sequence[str] = (),
    ) -> None:
        if size is not None and min(size) < 1:
            raise ValueError(f"size is (height, width) of 1 pixel or more, not {size}")
        if channels not in (1, 3):
            raise ValueError(f"Images have 3 channels, or 1 for grey, not {channels}")
        self.where = where
        self.size = size
        self.channels = channels
        self.classes = tuple(classes)
        index = NameIndex(names, where)
        self.places = tuple(range(len(index.names))) if split is None else listed(split, index)
        self.names = tuple(index.names[place] for place in self.places)
        self.group_names = grouped(index, self.places, group_by=group_by, groups=groups, otherwise=grouping)
        self.skipped: list[Skipped] = []
        self.notes: list[Note] = []

    def __len__(self) -> int:
        return len(self.names)

    @property
    def groups(self) -> dict[str, int]:
        """How many images each group has, unreadable ones included, in the order of the images."""
        return dict(Counter(self.group_names))

    @abstractmethod
    def picture(self, place: int) -> Picture:
        """The image at a place in the names as they were given; whatever it raises is why the image is skipped."""

    @abstractmethod
    def label(self, place: int) -> Int64[Tensor, "*hw"]:
        """Its label, or its label map at the image's own size; asked for only where there are classes."""

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` images, all of one height and width, and of at most 100 megapixels or one image.

        Raises:
            ValueError: `size` is below 1, or not one image can be read.
        """
        if size < 1:
            raise ValueError(f"A batch holds at least 1 image, not {size}")
        self.skipped, self.notes = [], []
        waiting: list[tuple[Tensor, str, str, Tensor | None]] = []
        for place, name, group in zip(self.places, self.names, self.group_names, strict=True):
            read = self._read(place, name)
            if read is None:
                continue
            pixels, label = read
            if waiting:
                same = waiting[0][0].shape == pixels.shape
                fits = (len(waiting) + 1) * pixels.shape[1] * pixels.shape[2] <= MOST_PIXELS
                if len(waiting) == size or not same or not fits:
                    yield together(waiting)
                    waiting = []
            waiting.append((pixels, name, group, label))
            del pixels, label, read  # else a large image stays while the next is read
        if not waiting:
            first = self.skipped[0]
            raise ValueError(
                f"None of the {len(self)} images in '{self.where}' can be read; {first.name}: {first.reason}"
            )
        yield together(waiting)

    def _read(self, place: int, name: str) -> tuple[Tensor, Tensor | None] | None:
        try:
            with permitted():
                picture = self.picture(place)
            label = self._fitting_label(place, picture.before) if self.classes else None
        except Exception as error:  # broken bytes raise anything: OSError, SyntaxError, struct.error, ...
            self.skipped.append(Skipped(name, reason(error)))
            return None
        self.notes.extend(Note(name, text) for text in picture.notes)
        return picture.pixels, label

    def _fitting_label(self, place: int, shape: tuple[int, int]) -> Tensor:
        label = self.label(place)
        if label.ndim == 0:
            return label
        if tuple(label.shape) != shape:
            came = " x ".join(str(length) for length in label.shape)
            raise ValueError(f"its labels are {came} pixels, and the image is {shape[0]} x {shape[1]}")
        return resized_labels(label, self.size)


def together(images: list[tuple[Tensor, str, str, Tensor | None]]) -> Batch:
    pixels, names, groups, labels = zip(*images, strict=True)
    return Batch(stacked(pixels), names, groups, None if labels[0] is None else stacked(labels))


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """As `torch.stack`, but one tensor is not copied: it may be a large one."""
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]
