"""One folder a class, as ImageNet is published: `FOLDER/CLASS/IMAGE`. Source: Deng et al. 2009."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from inlier.datasets.base import Choice
from inlier.datasets.folder import ImageFolder
from inlier.datasets.groups import one_group
from inlier.datasets.labels import FolderClasses
from inlier.datasets.paths import existing_folder, image_files

__all__ = ["class_folders"]


def class_folders(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> ImageFolder:
    """The images of a folder, each labelled with the subfolder it is in; all of one group unless told otherwise.

    Args:
        path: the folder that holds the classes.
        labelled: whether batches carry labels.
        choice: see `Dataset`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: an image lies in no subfolder, or see `ImageFolder`.
    """
    labels = FolderClasses(image_files(existing_folder(path))) if labelled else None
    # A class is no recording: groups by folder would leave whole classes out of every fold.
    return ImageFolder(path, labels=labels, grouping=one_group, **choice)
