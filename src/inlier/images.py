"""Images on their way in: a source yields them in batches, with names and groups, and every batch is checked.

Images come in *groups* (drive, site, patient): images of one group are not exchangeable with those of another, and
their order within a group means something. A source may know *labels*: one class an image, or one a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inlier.types import Images, LabelMaps

__all__ = ["Batch", "ImageSource", "LabelledSource", "TensorImages", "as_source", "check_channels", "check_images",
           "evenly"]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Images of one size, with a name and a group each.

    Attributes:
        labels: the class of each image (n,), or of each of its pixels (n, h, w), where the source knows them.
    """

    images: Images
    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: LabelMaps | None = None


@runtime_checkable
class ImageSource(Protocol):
    """Anything that yields batches in a fixed order, as often as asked."""

    def __len__(self) -> int:
        """How many images there are at most; unreadable ones are skipped on the way."""

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` images."""


@runtime_checkable
class LabelledSource(ImageSource, Protocol):
    """A source that can say what its labels mean; its batches carry labels if `classes` is not empty."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label; one called `void` is no class. Empty where there are no labels."""


class TensorImages:
    """A source over images in memory.

    Args:
        images: (n, c, h, w) in [0, 1].
        names: one an image; by default their numbers.
        groups: one an image; by default all are of one group.
        labels: (n,) or (n, h, w) indices into `classes`.
        classes: names of the classes, by label.

    Raises:
        TypeError, ValueError: see `check_images`; other numbers of names, groups or labels than of images; labels
            without classes, classes without labels, or a label that is no index into them.
    """

    def __init__(
        self,
        images: Images,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        labels: LabelMaps | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        check_images(images)
        self.images = images
        self.names = tuple(names) if names is not None else tuple(str(i) for i in range(len(images)))
        self.groups = tuple(groups) if groups is not None else ("all",) * len(images)
        if not len(self.names) == len(self.groups) == len(images):
            raise ValueError(f"{len(images)} images came with {len(self.names)} names and {len(self.groups)} groups")
        self.labels = labels
        self.classes = tuple(classes)
        if labels is not None:
            check_labels(labels, images, len(self.classes))
        elif self.classes:
            raise ValueError(f"{len(self.classes)} classes came without labels")

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` images.

        Raises:
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"A batch holds at least 1 image, not {size}")
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            yield Batch(self.images[part], self.names[part], self.groups[part], labels)


def as_source(images: Images | ImageSource) -> ImageSource:
    """A source; a tensor becomes one group of images."""
    return TensorImages(images) if isinstance(images, Tensor) else images


def check_images(images: Tensor, channels: int | None = None) -> None:
    """Refuse what no camera delivers.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: not (n, c, h, w), empty, of another channel count, with NaN or infinite pixels, or outside [0, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"Images must be a floating point tensor in [0, 1], not {came}; divide 8-bit pixels by 255")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"Images must be (n, c, h, w) with none of them 0, not {tuple(images.shape)}")
    if channels is not None:
        check_channels(images, channels)
    low, high = torch.aminmax(images.detach())
    if not (low >= 0 and high <= 1):
        if images.isfinite().all():
            raise ValueError(
                f"Images must be in [0, 1], and these are in [{low:g}, {high:g}]; 8-bit pixels go over 255"
            )
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise ValueError(f"{bad} of {len(images)} images have NaN or infinite pixels")


def check_labels(labels: Tensor, images: Tensor, classes: int) -> None:
    if labels.shape not in (images.shape[:1], (len(images), *images.shape[-2:])):
        raise ValueError(
            f"Labels must be (n,) or (n, h, w) as the images are: {tuple(labels.shape)} came for {tuple(images.shape)}"
        )
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= classes:
        raise ValueError(f"Labels are {low} to {high}, and there are {classes} classes: expected 0 to {classes - 1}")


def check_channels(images: Tensor, channels: int) -> None:
    """Refuse images of another channel count; their pixels are not looked at.

    Raises:
        ValueError: it is another.
    """
    if images.shape[1] != channels:  # one channel would be spread over the three of a mean
        raise ValueError(f"The backbone expects images of {channels} channels, and {images.shape[1]} came")


def evenly(count: int, most: int | None) -> list[int]:
    """At most so many places out of `count`, spread evenly; None for all of them.

    >>> evenly(10, 4)
    [0, 2, 5, 7]
    """
    return list(range(count)) if most is None or most >= count else [i * count // most for i in range(most)]
