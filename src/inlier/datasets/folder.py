"""A folder of images as a source: natural order, one group a recording, broken files skipped and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from inlier.datasets.base import Choice, Dataset
from inlier.datasets.groups import recording
from inlier.datasets.labels import Labels
from inlier.datasets.names import natural
from inlier.datasets.paths import SUFFIXES, existing_folder, image_files
from inlier.datasets.pixels import Picture, decoded

__all__ = ["ImageFolder", "image_folder"]


class ImageFolder(Dataset):
    """The images of a folder and all its subfolders, in natural order of their paths; hidden files are left out.

    Names are paths relative to the folder with forward slashes. Whatever the files hold comes out as RGB in [0, 1]:
    transparent pixels are put on black, since where nothing was recorded there was no light; 16-bit grey is divided by
    65535; of an animation the first frame is taken.

    Args:
        path: the folder.
        labels: where the images' labels are; by default batches have none.
        pattern: a glob that the names of files must match, folders aside.
        group_by, groups, split, size, channels: see `Dataset`.
        grouping: by default `recording`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: it holds no image file, or see `Dataset`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        labels: Labels | None = None,
        pattern: str = "*",
        grouping: Callable[[str], str] = recording,
        **choice: Unpack[Choice],
    ) -> None:
        self.path = existing_folder(Path(path))
        names = sorted(image_files(self.path, pattern), key=natural)
        if not names:
            called = "" if pattern == "*" else f" and called {pattern}"
            raise ValueError(
                f"No image in '{self.path}' or its subfolders: looked for files ending in {', '.join(SUFFIXES)}{called}"
            )
        self.labels = labels
        self._files = tuple(names)
        classes = () if labels is None else labels.classes
        super().__init__(names, str(self.path), grouping=grouping, classes=classes, **choice)

    def picture(self, place: int) -> Picture:
        """What the file holds."""
        with Image.open(self.path / self._files[place]) as image:
            return decoded(image, self.size, self.channels)

    def label(self, place: int) -> Int64[Tensor, "*hw"]:
        """What `labels` says of the file's name."""
        assert self.labels is not None
        return self.labels(self._files[place])


def image_folder(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> ImageFolder:
    """A plain folder of images; it has no labels, whether they are asked for or not.

    Raises:
        ValueError: images of its subfolders `images` and `labels` are both taken, or see `ImageFolder`.
    """
    source = ImageFolder(path, **choice)
    if {"images", "labels"} <= {name.partition("/")[0] for name in source.names}:
        raise ValueError(
            f"'{path}' has images in 'images' and label maps in 'labels', and label maps are no images: give "
            f"{(path / 'images').as_posix()}"
        )
    return source
