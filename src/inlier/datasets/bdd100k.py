"""BDD100K: one frame of each of 100,000 clips of 40 seconds, 10,000 of them with label maps.

`images/10k/SPLIT/NAME.jpg` or `images/100k/SPLIT/NAME.jpg`, and `labels/sem_seg/masks/SPLIT/NAME.png` whose values are
the train ids of Cityscapes, 255 for void. Source: Yu et al. 2020.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Unpack

from inlier.backbones.espnet import CITYSCAPES_CLASSES
from inlier.datasets.base import Choice
from inlier.datasets.folder import ImageFolder
from inlier.datasets.groups import recording
from inlier.datasets.labels import LabelFolder
from inlier.datasets.paths import as_written, existing_folder

__all__ = ["TRAIN_IDS", "bdd100k", "ride"]

TRAIN_IDS = {train_id: train_id for train_id in range(19)} | {255: CITYSCAPES_CLASSES.index("void")}
CLIP = re.compile(r"(?:^|/)([0-9a-f]{8})-[0-9a-f]{8}(?:-\d+)?\.\w+$")
MASKS = ("labels", "sem_seg", "masks")


def bdd100k(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> ImageFolder:
    """The images of one folder of BDD100K; group = what clips of one name's first half share.

    A name is `FIRST-SECOND`, eight hexadecimal digits each, and is that of the clip. Many clips share the first half.
    The authors do not say what it stands for; we assume a driver or a ride, and that frames which share it are not
    independent: if that is wrong, groups are larger than need be, which costs little.

    Args:
        path: such as `ROOT/images/10k/val`.
        labelled: whether batches carry labels, where there are any.
        choice: see `Dataset`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: it is the root, or see `ImageFolder`.
    """
    folder = as_written(existing_folder(path))
    if (folder / "images").is_dir():
        raise ValueError(
            f"'{path}' is the root; give the images of one split, such as bdd100k:{path / 'images/10k/val'}"
        )
    masks = sem_seg_masks(folder)
    labels = LabelFolder(masks, CITYSCAPES_CLASSES, ids=TRAIN_IDS) if masks and labelled else None
    return ImageFolder(path, labels=labels, grouping=ride, **choice)


def ride(name: str) -> str:
    """The first half of a clip's name.

    >>> ride("val/b1d0a191-03dcecc2.jpg")
    'b1d0a191'
    """
    match = CLIP.search(name)
    return match.group(1) if match else recording(name)


def sem_seg_masks(folder: Path) -> Path | None:
    """Where the labels of the images in `folder` are, if there are any: those of 100k have none."""
    for depth, part in reversed(list(enumerate(folder.parts))):
        if part == "images" and folder.parts[depth + 1 : depth + 2] == ("10k",):
            masks = Path(*folder.parts[:depth], *MASKS, *folder.parts[depth + 2 :])
            return masks if masks.is_dir() else None
    return None
