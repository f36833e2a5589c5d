"""Cityscapes: street scenes of 50 cities; label ids in the files become the 19 train ids and void.

`leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png`, and the same under `gtFine` with the ending
`_gtFine_labelIds.png`. Source: Cordts et al. 2016.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Unpack

from inlier.backbones.espnet import CITYSCAPES_CLASSES
from inlier.datasets.base import Choice
from inlier.datasets.folder import ImageFolder
from inlier.datasets.groups import recording
from inlier.datasets.labels import LabelFolder
from inlier.datasets.paths import as_written, existing_folder

__all__ = ["LABEL_IDS", "city", "cityscapes"]

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label ids of train ids 0 to 18."""

LABEL_IDS = dict.fromkeys(range(34), CITYSCAPES_CLASSES.index("void")) | {
    label_id: train_id for train_id, label_id in enumerate(EVALUATED)
}
"""From label ids 0 to 33 to the classes of `CITYSCAPES_CLASSES`."""

FRAME = re.compile(r"([^/]+)_\d{6}_\d{6}_leftImg8bit\.\w+$")
IMAGES, LABELS = "leftImg8bit", "gtFine"


def cityscapes(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> ImageFolder:
    """The files `*_leftImg8bit.*` in a folder and below; group = city.

    A city is one drive, or a few on neighbouring days, and most of its sequences are a single labelled frame some
    seconds after the last: sequences are no groups that could stand for independent recordings. To have them all the
    same, give `group_by="[^/]+?_[0-9]{6}(?=_)"`.

    Labels lie under `gtFine` where the path goes through `leftImg8bit`, and else beside the images.

    Args:
        path: the root, `leftImg8bit`, a split, a city, or any folder of files so named.
        labelled: whether batches carry labels, where there are any.
        choice: see `Dataset`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: see `ImageFolder`.
    """
    folder = as_written(existing_folder(path))
    if (folder / IMAGES).is_dir():
        folder = folder / IMAGES
    twin = gt_fine(folder)
    labels = LabelFolder(twin, CITYSCAPES_CLASSES, rename=label_file, ids=LABEL_IDS) if twin and labelled else None
    return ImageFolder(folder, labels=labels, pattern=f"*_{IMAGES}.*", grouping=city, **choice)


def city(name: str) -> str:
    """The city of a file.

    >>> city("leftImg8bit/val/frankfurt/frankfurt_000001_007973_leftImg8bit.png")
    'frankfurt'
    """
    match = FRAME.search(name)
    return match.group(1) if match else recording(name)


def gt_fine(folder: Path) -> Path | None:
    """Where the labels of the images in `folder` are, if there are any."""
    if IMAGES in folder.parts:
        last = len(folder.parts) - 1 - folder.parts[::-1].index(IMAGES)
        folder = Path(*folder.parts[:last], LABELS, *folder.parts[last + 1 :])
    return folder if folder.is_dir() and next(folder.rglob("*_labelIds.png"), None) else None


def label_file(name: str) -> str:
    image = PurePosixPath(name)
    return str(image.with_name(f"{image.stem.removesuffix(f'_{IMAGES}')}_{LABELS}_labelIds.png"))
