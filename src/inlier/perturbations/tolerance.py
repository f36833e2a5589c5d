"""Tolerance: changes that shall count as clean, shown to a monitor among the clean images.

A monitor that never saw evening light calls it an anomaly. Whoever does not want to hear of it shows changed copies of
the clean images beside these; what the monitor then takes for normal is wider, and it sees less of what is like it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from inlier.config import from_table, read_call
from inlier.images import Batch, ImageSource, as_source
from inlier.perturbations.base import Perturbation, to_8_bit
from inlier.perturbations.table import PERTURBATIONS
from inlier.types import Images

__all__ = ["Tolerating", "tolerated"]


class Tolerating:
    """Clean images, each followed by its changed copies, which are clean images too.

    The copies are of their image's group and stand beside it, so that in cross-fitting they are in its fold. They are
    rounded to 8 bit, and fixed by the seed and the image's place, whatever the batches. Labels are left out.

    Args:
        images: clean ones.
        changes: what shall count as clean.
        seed: of changes that draw.

    Raises:
        ValueError: there are no changes.

    Example:
        >>> from inlier.perturbations.photometric import WhiteBalance
        >>> source = Tolerating(torch.full((2, 3, 4, 4), 0.5), [WhiteBalance(1)])
        >>> [batch.names for batch in source.batches(2)]
        [('0', '0, WhiteBalance'), ('1', '1, WhiteBalance')]
    """

    def __init__(self, images: Images | ImageSource, changes: Sequence[Perturbation], *, seed: int = 0) -> None:
        if not changes:
            raise ValueError("There is nothing to tolerate: give at least one perturbation, or the images alone")
        self.source = as_source(images)
        self.changes = tuple(changes)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source) * (1 + len(self.changes))

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of whole images with their copies: at most `size` images, or as many as belong together."""
        each = 1 + len(self.changes)
        place = 0
        for batch in self.source.batches(max(1, size // each)):
            copies = [[image, *self._copies(image, place + i)] for i, image in enumerate(torch.split(batch.images, 1))]
            place += len(batch.names)
            names = [
                name if change is None else f"{name}, {type(change).__name__}"
                for name in batch.names
                for change in (None, *self.changes)
            ]
            groups = [group for group in batch.groups for _ in range(each)]
            yield Batch(torch.cat([one for them in copies for one in them]), tuple(names), tuple(groups))

    def _copies(self, image: Images, place: int) -> list[Images]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        return [to_8_bit(change(image, generator)) for change in self.changes]


def tolerated(texts: Sequence[str]) -> list[Perturbation]:
    """The changes that texts such as `gamma` or `white_balance(severity=2)` name.

    Raises:
        LookupError: there is no such perturbation.
        ValueError: a text is no call, or a setting is not one that the perturbation has.
    """
    calls = [read_call(text, "A perturbation") for text in texts]
    return [from_table(PERTURBATIONS, {**settings, "name": name}) for name, settings in calls]
