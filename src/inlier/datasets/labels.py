"""Labels of images in folders: a PNG a label map, or the folder that an image is in.

Labels are indices into a list of class names. A class called `void` is no class: metrics leave its pixels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from inlier.datasets.names import few, natural
from inlier.datasets.paths import existing_folder
from inlier.datasets.pixels import permitted, reason

__all__ = ["FolderClasses", "LabelFolder", "Labels", "label_map", "translation", "with_png"]


class Labels(Protocol):
    """Where the labels of a folder's images come from."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""

    def __call__(self, name: str) -> Int64[Tensor, "*hw"]:
        """The label (a scalar), or the label map (h, w), of the image called `name`.

        Raises:
            FileNotFoundError: it has none.
            ValueError: it has one that cannot be right.
        """


def with_png(name: str) -> str:
    """The name of an image's label map, where only the ending differs."""
    return str(PurePosixPath(name).with_suffix(".png"))


class LabelFolder:
    """Label maps as PNGs of one channel in a folder.

    Args:
        path: the folder.
        classes: names of the classes, by label.
        rename: from an image's name to its label map's, both relative and with forward slashes.
        ids: the label of each value in the files, where they hold something else than labels.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
    """

    def __init__(
        self,
        path: str | Path,
        classes: Sequence[str],
        *,
        rename: Callable[[str], str] = with_png,
        ids: Mapping[int, int] | None = None,
    ) -> None:
        self.path = existing_folder(Path(path))
        self.classes = tuple(classes)
        self.rename = rename
        self.ids = dict(ids) if ids is not None else {label: label for label in range(len(self.classes))}

    def __call__(self, name: str) -> Int64[Tensor, "h w"]:
        """The label map of the image called `name`."""
        file = self.rename(name)
        values = read_label_map(self.path, name, file)
        present = values.flatten().bincount().nonzero().flatten().tolist()
        wrong = [value for value in present if value not in self.ids]
        if wrong:
            raise ValueError(
                f"its labels '{file}' hold {wrong[0]}; expected {ranges(sorted(self.ids))} for {len(self.classes)} "
                f"classes ({few(self.classes)})"
            )
        table = torch.zeros(max(present) + 1, dtype=torch.long)
        for value in present:
            table[value] = self.ids[value]
        return table[values]


class FolderClasses:
    """The class of an image is the first folder of its name, as in ImageNet's layout; classes are in sorted order.

    Args:
        names: of all images.

    Raises:
        ValueError: an image lies in no folder.
    """

    def __init__(self, names: Sequence[str]) -> None:
        loose = [name for name in names if "/" not in name]
        if loose:
            raise ValueError(
                f"{len(loose)} images lie in no class's folder, such as {few(sorted(loose, key=natural))}; "
                "expected FOLDER/CLASS/IMAGE"
            )
        # By code point, not in natural order: published class indices were numbered so.
        self.classes = tuple(sorted({name.split("/")[0] for name in names}))
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def __call__(self, name: str) -> Int64[Tensor, ""]:
        """The index of the first folder of `name`."""
        return torch.tensor(self._labels[name.split("/")[0]])


def label_map(path: str | Path, name: str) -> Int64[Tensor, "h w"]:
    """What the PNG of the same relative name in the folder `path` holds: a class for every pixel of the image `name`.

    Raises:
        FileNotFoundError: there is no such folder or no such PNG in it.
        ValueError: the file is no PNG of one channel that holds class indices.
    """
    return read_label_map(existing_folder(Path(path)), name, with_png(name))


def translation(classes: Sequence[str], wanted: Sequence[str]) -> Int64[Tensor, " classes"]:
    """For each label of a data set with `classes`, the index of the class of its name among a network's outputs.

    Raises:
        ValueError: a class is not among them; the message names it and what there is.
    """
    missing = [name for name in classes if name not in wanted]
    if missing:
        raise ValueError(
            f"The images' labels have classes that the network has not: {few(missing)}; it has {', '.join(wanted)}. "
            "Give the network's outputs the labels' names with --classes."
        )
    return torch.tensor([list(wanted).index(name) for name in classes])


def read_label_map(folder: Path, name: str, file: str) -> Int64[Tensor, "h w"]:
    path = folder / file
    if not path.is_file():
        raise FileNotFoundError(f"No labels for '{name}': expected '{path}', a PNG of one channel with class indices")
    try:
        with permitted(), Image.open(path, formats=("PNG",)) as image:
            values, mode = np.asarray(image), image.mode
    except Exception as error:  # broken bytes raise anything: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"'{path}' cannot be read as a PNG: {reason(error)}") from error
    if values.ndim != 2:
        raise ValueError(f"'{path}' has {values.shape[-1]} channels ({mode}); labels are one channel of class indices")
    return torch.from_numpy(values.astype(np.int64))


def ranges(values: Sequence[int]) -> str:
    """Sorted whole numbers in words: `0 to 18, 255`."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{low} to {high}" if high > low else str(low) for low, high in runs)
