"""Images of an evaluation, from what its settings say: several folders as one set, or some images of many.

In texts of a configuration `{data}` stands for a folder that differs from machine to machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from inlier.config import from_keywords
from inlier.datasets.load import open_images
from inlier.images import Batch, ImageSource, evenly

__all__ = ["DATA", "Gathered", "Source", "gather_images", "placed"]

DATA = "{data}"

Source: TypeAlias = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
"""What `open_images` takes, a table of its keyword arguments, or several of these."""


class Gathered:
    """Several sources one after the other, or some of their images.

    Args:
        sources: of images of one size; `classes` are those of the first, if all have the same.
        most: how many images to take at most, spread evenly over all; None for all of them.
    """

    def __init__(self, sources: Sequence[ImageSource], most: int | None = None) -> None:
        self.sources = tuple(sources)
        found = {tuple(getattr(source, "classes", ())) for source in self.sources}
        self.classes: tuple[str, ...] = found.pop() if len(found) == 1 else ()
        count = sum(len(source) for source in self.sources)
        self.places = evenly(count, most)

    def __len__(self) -> int:
        return len(self.places)

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` images of one size; their labels are left out unless all sources have the same."""
        if len(self.sources) == 1 and len(self.places) == len(self.sources[0]):
            yield from self.sources[0].batches(size)
            return
        wanted, number = set(self.places), -1
        waiting: list[Batch] = []
        for source in self.sources:
            for batch in source.batches(1):
                number += 1
                if number not in wanted:
                    continue
                if waiting and (len(waiting) == size or waiting[0].images.shape != batch.images.shape):
                    yield joined(waiting)
                    waiting = []
                waiting.append(batch if self.classes else replace(batch, labels=None))
        if waiting:
            yield joined(waiting)


def joined(batches: Sequence[Batch]) -> Batch:
    """Single images as one batch."""
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(
        torch.cat([batch.images for batch in batches]),
        tuple(name for batch in batches for name in batch.names),
        tuple(group for batch in batches for group in batch.groups),
        torch.cat(labels) if len(labels) == len(batches) else None,
    )


def gather_images(source: Source, data: Path | None, *, most: int | None = None, **choice: Any) -> Gathered:
    """The images that a configuration names; `choice` is for `open_images`, where the configuration does not say.

    Raises:
        FileNotFoundError: `{data}` stands in a text and there is no such folder.
        LookupError, ValueError: as `open_images`.
    """
    single = isinstance(source, str | Mapping)
    tables = [source] if single else list(source)
    opened = []
    for one in tables:
        table = dict(one) if isinstance(one, Mapping) else {"text": one}
        told = {name: placed(value, data) if isinstance(value, str) else value for name, value in table.items()}
        opened.append(from_keywords(open_images, {**choice, **told}, "a set of images"))
    return Gathered(opened, most)


def placed(text: str, data: Path | None) -> str:
    """A text with the data's folder in place of `{data}`.

    Raises:
        FileNotFoundError: it is wanted and not known.
    """
    if DATA not in text:
        return text
    if data is None:
        raise FileNotFoundError(
            f"'{text}' is in the folder of data, and that is not known: give --data FOLDER, or set INLIER_DATA to it"
        )
    return text.replace(DATA, str(data))
