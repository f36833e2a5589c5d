"""CamVid as SegNet's authors published it: 480 x 360 frames of five drives, eleven classes.

`train/`, `val/` and `test/` hold the frames, `trainannot/` and so on beside them the label maps, whose values are the
labels: 0 sky ... 10 bicyclist, 11 void. Source: Brostow et al. 2008; the split of Badrinarayanan et al. 2017.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from inlier.backbones.espnet import CAMVID_CLASSES
from inlier.datasets.base import Choice
from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import LabelFolder
from inlier.datasets.paths import as_written, existing_folder

__all__ = ["camvid"]


def camvid(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> ImageFolder:
    """The frames of one folder of CamVid, with labels if the folder of its name and `annot` lies beside; group = drive.

    Args:
        path: `ROOT/train`, `ROOT/val` or `ROOT/test`.
        labelled: whether batches carry labels, where there are any.
        choice: see `Dataset`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: it is the folder above, or see `ImageFolder`.
    """
    folder = as_written(existing_folder(path))
    splits = sorted(inner.name for inner in folder.iterdir() if (folder / f"{inner.name}annot").is_dir())
    if splits:
        raise ValueError(f"'{path}' holds {', '.join(splits)} and their labels; give one: camvid:{path / splits[0]}")
    beside = folder.parent / f"{folder.name}annot"
    labels = LabelFolder(beside, CAMVID_CLASSES) if labelled and beside.is_dir() else None
    return ImageFolder(path, labels=labels, **choice)
