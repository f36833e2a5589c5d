"""A contact sheet as a source: many small images of one size in one lossless file, row by row.

Labels and names lie beside it: for `test.webp` in `test_labels.npz` (`labels`, `names`), or in `labels.npz`
(`test_labels`, `test_names`, `class_names`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import numpy as np
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from inlier.datasets.base import Choice, Dataset
from inlier.datasets.groups import one_group
from inlier.datasets.npz import Arrays
from inlier.datasets.paths import existing_file
from inlier.datasets.pixels import MOST_PIXELS, Picture, decoded, permitted, reason
from inlier.errors import Mismatch

__all__ = ["SheetImages", "beside", "sheet"]

TILE = (32, 32)


class SheetImages(Dataset):
    """The tiles of a contact sheet.

    Without a file beside it every place on the sheet is an image; with labels or names, as many as there are of them,
    and the rest of the last row is empty.

    Args:
        path: the image file.
        tile: (h, w) of a tile; by default the array `tile` beside it, or else 32 x 32.
        labelled: whether batches carry labels, where there are any.
        group_by, groups, split, size, channels: see `Dataset`. By default all images are of one group.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it cannot be read, its sides are no multiples of the tile's; or see `Dataset`.
        Mismatch: there are more labels or names than places, or not as many labels as names.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tile: tuple[int, int] | None = None,
        labelled: bool = True,
        **choice: Unpack[Choice],
    ) -> None:
        path = existing_file(Path(path), "an image of many tiles")
        arrays, prefix = beside(path)
        height, width = tile or side_tile(arrays) or TILE
        if min(height, width) < 1:
            raise ValueError(f"A tile has 1 pixel or more, not {height} x {width}")
        self._tile = (height, width)
        self._pixels = whole_sheet(path)
        rows, columns = self._pixels.shape[0] / height, self._pixels.shape[1] / width
        if not (rows.is_integer() and columns.is_integer()):
            raise ValueError(
                f"'{path}' is {self._pixels.shape[0]} x {self._pixels.shape[1]} pixels, which tiles of "
                f"{height} x {width} do not fill; give the tile's size as an array tile in a file beside it"
            )
        self._columns = int(columns)
        places = count = int(rows * columns)
        names: tuple[str, ...] = tuple(str(number) for number in range(places))
        classes: tuple[str, ...] = ()
        self._labels: Int64[Tensor, "n *hw"] | None = None
        if arrays is not None:
            told = next((arrays[key] for key in (f"{prefix}labels", f"{prefix}names") if key in arrays), None)
            count = places if told is None else len(told)
            if count > places:
                raise Mismatch(f"'{arrays.path}' has {count} labels or names, and '{path}' has {places} tiles")
            names = arrays.image_names(prefix, count)
            if labelled:
                self._labels, classes = arrays.labels(prefix, count)
        super().__init__(names, str(path), grouping=one_group, classes=classes, **choice)

    def picture(self, place: int) -> Picture:
        """One tile."""
        (height, width), (row, column) = self._tile, divmod(place, self._columns)
        tile = self._pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        return decoded(Image.fromarray(tile), self.size, self.channels)

    def label(self, place: int) -> Int64[Tensor, "*hw"]:
        """What the file beside the sheet says of the tile."""
        assert self._labels is not None
        return self._labels[place]


def sheet(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> SheetImages:
    """The tiles of a contact sheet; see `SheetImages`."""
    return SheetImages(path, labelled=labelled, **choice)


def beside(path: Path) -> tuple[Arrays | None, str]:
    """The arrays that lie beside a sheet, if any, and what their names begin with."""
    own, common, prefix = path.with_name(f"{path.stem}_labels.npz"), path.with_name("labels.npz"), f"{path.stem}_"
    if own.is_file():
        return Arrays(own), ""
    if common.is_file():
        arrays = Arrays(common)
        if any(name.startswith(prefix) for name in arrays.names):
            return arrays, prefix
    return None, ""


def side_tile(arrays: Arrays | None) -> tuple[int, int] | None:
    if arrays is None or "tile" not in arrays:
        return None
    tile = arrays["tile"]
    if tile.dtype.kind not in "iu" or tile.shape != (2,):
        raise ValueError(f"'tile' of '{arrays.path}' must be (height, width), not {tile.dtype} {tile.shape}")
    return int(tile[0]), int(tile[1])


def whole_sheet(path: Path) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    try:
        with permitted(), Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS // 1_000_000} megapixels")
            return np.array(image.convert("RGB"))
    except Exception as error:  # broken bytes raise anything: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"'{path}' cannot be read: {reason(error)}") from error
