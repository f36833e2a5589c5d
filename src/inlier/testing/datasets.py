"""What every source of images promises: `check_dataset` tries it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from inlier.datasets.load import open_images
from inlier.images import Batch, ImageSource
from inlier.testing.claims import ClaimFailed, hold, leaving_randomness_alone, require, require_equal

__all__ = ["check_dataset"]

SIZES = (1, 3)
"""Of the batches tried."""


def check_dataset(images: str | ImageSource) -> None:
    """Try what every source of images promises; it is read from end to end some times, so give one of a few images.

    Args:
        images: what `inlier fit --images` takes, such as `camvid:CamVid/test`, or a source.

    Raises:
        ClaimFailed: tells which claims do not hold and with which values.
        LookupError, OSError, ValueError: there is no such layout, or no such images.

    Example:
        >>> import torch
        >>> from inlier.images import TensorImages
        >>> check_dataset(TensorImages(torch.rand(4, 3, 8, 8)))
    """
    source = open_images(images) if isinstance(images, str) else images
    hold(f"Data set {type(source).__name__}", CLAIMS, Case(source))


class Case:
    """A source, and what one pass through it gave."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.batches = list(source.batches(SIZES[1]))

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch.names]


def one_by_one(batches: list[Batch]) -> Iterator[tuple[str, str, Tensor]]:
    for batch in batches:
        yield from zip(batch.names, batch.groups, batch.images, strict=True)


def it_has_images_and_no_more_than_it_says(case: Case) -> None:
    found, said = len(case.names), len(case.source)
    require(0 < found <= said, f"{found} images came, and its length is {said}")


def a_batch_has_a_name_and_a_group_for_every_image(case: Case) -> None:
    for batch in case.batches:
        counts = (len(batch.images), len(batch.names), len(batch.groups))
        require(len(set(counts)) == 1, "a batch has {} images, {} names and {} groups".format(*counts))
        require(0 < counts[0] <= SIZES[1], f"a batch of at most {SIZES[1]} images has {counts[0]}")
        texts = (*batch.names, *batch.groups)
        require(all(isinstance(text, str) and text for text in texts), f"names or groups are no texts: {texts}")


def names_are_unique(case: Case) -> None:
    twice = sorted({name for name in case.names if case.names.count(name) > 1})
    require(not twice, f"several images are called {twice[:5]}")


def images_are_rgb_or_grey_in_0_to_1(case: Case) -> None:
    for batch in case.batches:
        told = f"'{batch.names[0]}' and those beside it are {batch.images.dtype} of shape {tuple(batch.images.shape)}"
        require(batch.images.is_floating_point() and batch.images.ndim == 4, told)
        require(batch.images.shape[1] in (1, 3), f"{told}: {batch.images.shape[1]} channels are neither RGB nor grey")
        low, high = batch.images.aminmax()
        require(bool(low >= 0 and high <= 1), f"{told}, in [{low:g}, {high:g}]")  # nan is in no range


def another_pass_gives_the_same_whatever_the_batch_size(case: Case) -> None:
    for size in SIZES:
        again = list(one_by_one(list(case.source.batches(size))))
        require(
            len(again) == len(case.names), f"{len(again)} images came in batches of {size}, {len(case.names)} before"
        )
        for (name, group, image), (name_before, group_before, before) in zip(
            again, one_by_one(case.batches), strict=True
        ):
            told = f"'{name}' of '{group}' came in batches of {size} where '{name_before}' of '{group_before}' was"
            require((name, group) == (name_before, group_before), told)
            require_equal(image, before, f"'{name}' in batches of {size}, and before")


def two_passes_at_once_do_not_disturb_each_other(case: Case) -> None:
    for one, other in zip(case.source.batches(1), case.source.batches(1), strict=True):
        require(one.names == other.names, f"{one.names} came beside {other.names}")


def labels_are_class_indices_of_the_images(case: Case) -> None:
    for batch in case.batches:
        labels = batch.labels
        if labels is None:
            continue
        classes = getattr(case.source, "classes", ())
        require(bool(classes), "there are labels, and no attribute `classes` that names them")
        shapes = ((len(batch.images),), (len(batch.images), *batch.images.shape[-2:]))
        told = f"labels of images {tuple(batch.images.shape)} are {labels.dtype} of shape {tuple(labels.shape)}"
        require(not labels.is_floating_point() and tuple(labels.shape) in shapes, told)
        low, high = int(labels.min()), int(labels.max())
        require(
            low >= 0 and high < len(classes), f"labels from {low} to {high} are no indices of {len(classes)} classes"
        )


def a_batch_of_none_is_refused(case: Case) -> None:
    try:
        next(iter(case.source.batches(0)), None)
    except ValueError:
        return
    raise ClaimFailed("batches(0) is taken; raise ValueError")


def the_global_random_generators_are_left_alone(case: Case) -> None:
    with leaving_randomness_alone("reading images"):
        for _ in case.source.batches(SIZES[1]):
            pass


CLAIMS: tuple[Callable[[Case], None], ...] = (
    it_has_images_and_no_more_than_it_says,
    a_batch_has_a_name_and_a_group_for_every_image,
    names_are_unique,
    images_are_rgb_or_grey_in_0_to_1,
    another_pass_gives_the_same_whatever_the_batch_size,
    two_passes_at_once_do_not_disturb_each_other,
    labels_are_class_indices_of_the_images,
    a_batch_of_none_is_refused,
    the_global_random_generators_are_left_alone,
)
