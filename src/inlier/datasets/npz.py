"""An archive of arrays as a source: images as they are, or the bytes of JPEG files one after the other.

Arrays are `images` and `labels`, or several parts such as `train_images` and `train_labels`. Nothing is unpickled.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Int64
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inlier.datasets.base import Choice, Dataset
from inlier.datasets.groups import one_group
from inlier.datasets.paths import existing_file
from inlier.datasets.pixels import Picture, decoded, resized, with_channels
from inlier.errors import Mismatch
from inlier.registry import nearest

__all__ = ["Arrays", "NpzImages", "npz"]


class Arrays:
    """The arrays of an npz file, each read when asked for, and never unpickled.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is no whole npz file, or an array in it holds Python objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = existing_file(path, "an .npz file")
        with self._opened() as archive:
            self.names = tuple(archive.files)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> NDArray[Any]:
        with self._opened() as archive:
            try:
                return np.asarray(archive[name])
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                if "allow_pickle" in str(error):
                    raise ValueError(
                        f"Array '{name}' of '{self.path}' holds Python objects, which would have to be unpickled, and "
                        "that can run any code; save numbers or text (not dtype=object)"
                    ) from error
                raise ValueError(f"Array '{name}' of '{self.path}' cannot be read: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[NpzFile]:
        with self.path.open("rb") as file:  # numpy leaves a file open that it cannot read
            try:
                archive = np.load(file, allow_pickle=False)
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"'{self.path}' is no whole .npz file, as np.savez writes it") from error
            if not isinstance(archive, NpzFile):
                raise ValueError(f"'{self.path}' is a single array; expected an .npz file with the array images")
            with archive:
                yield archive

    def labels(self, prefix: str, count: int) -> tuple[Int64[Tensor, "n *hw"] | None, tuple[str, ...]]:
        """The array `PREFIXlabels`, if there is one, and the names in `class_names`, or else numbers.

        Raises:
            ValueError: labels are no whole numbers from 0, or `class_names` is no list of text.
            Mismatch: there are not `count` labels, or more classes than names.
        """
        key = f"{prefix}labels"
        if key not in self:
            return None, ()
        labels = self[key]
        if labels.dtype.kind not in "iu" or labels.ndim not in (1, 3) or labels.size == 0 or labels.min() < 0:
            raise ValueError(
                f"'{key}' of '{self.path}' must be whole numbers from 0, (n,) or (n, h, w), not "
                f"{labels.dtype} {labels.shape}"
            )
        if len(labels) != count:
            raise Mismatch(f"'{self.path}' has {len(labels)} labels in '{key}' for {count} images")
        highest = int(labels.max())
        if "class_names" not in self:
            return torch.from_numpy(labels.astype(np.int64)), tuple(str(label) for label in range(highest + 1))
        classes = self.text("class_names")
        if highest >= len(classes):
            raise Mismatch(f"'{key}' of '{self.path}' go up to {highest}, and 'class_names' has {len(classes)} names")
        return torch.from_numpy(labels.astype(np.int64)), classes

    def image_names(self, prefix: str, count: int) -> tuple[str, ...]:
        """The array `PREFIXnames`, or else the images' numbers.

        Raises:
            ValueError: it is no list of text, or has a name twice.
            Mismatch: there are not `count` of them.
        """
        key = f"{prefix}names"
        if key not in self:
            return tuple(str(number) for number in range(count))
        names = self.text(key)
        if len(names) != count:
            raise Mismatch(f"'{self.path}' has {len(names)} names in '{key}' for {count} images")
        if len(set(names)) < count:
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"'{key}' of '{self.path}' has '{twice}' more than once")
        return names

    def text(self, name: str) -> tuple[str, ...]:
        """An array of text.

        Raises:
            ValueError: it is none.
        """
        values = self[name]
        if values.dtype.kind != "U" or values.ndim != 1:
            raise ValueError(f"'{name}' of '{self.path}' must be a list of text, not {values.dtype} {values.shape}")
        return tuple(values.tolist())


class NpzImages(Dataset):
    """The images of an npz file, all of them in memory as they are stored.

    `images` is (n, h, w), (n, h, w, 1) or (n, h, w, 3), of 8-bit whole numbers or of floats in [0, 1]; or `jpeg` holds
    the bytes of JPEG files one after the other, the i-th from `off[i]` to `off[i + 1]`. `labels`, (n,) or (n, h, w),
    and the texts `names` and `class_names` may go with them. All but `class_names` may be of a part: `test_images`.

    Args:
        path: the file.
        split: a part, where the file has several; else a text file that lists names of images.
        labelled: whether batches carry labels, where there are any.
        group_by, groups, size, channels: see `Dataset`. By default all images are of one group.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is no npz file, or its arrays are not as above; or see `Dataset`.
        Mismatch: there are other numbers of labels or names than of images.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        labelled: bool = True,
        **choice: Unpack[Choice],
    ) -> None:
        arrays = Arrays(Path(path))
        prefix, choice["split"] = part_of(arrays, choice.get("split"))
        self._stored = stored_jpegs(arrays, prefix) if f"{prefix}jpeg" in arrays else stored_arrays(arrays, prefix)
        count = len(self._stored)
        self._labels, classes = arrays.labels(prefix, count) if labelled else (None, ())
        super().__init__(arrays.image_names(prefix, count), str(path), grouping=one_group, classes=classes, **choice)

    def picture(self, place: int) -> Picture:
        """What the arrays hold."""
        stored = self._stored[place]
        if isinstance(stored, bytes):
            with Image.open(io.BytesIO(stored)) as image:
                return decoded(image, self.size, self.channels)
        if stored.dtype == np.uint8:
            return decoded(
                Image.fromarray(stored.squeeze(-1) if stored.shape[-1] == 1 else stored), self.size, self.channels
            )
        pixels = torch.from_numpy(stored.astype(np.float32)).permute(2, 0, 1)
        return Picture(resized(with_channels(pixels, self.channels), self.size), (stored.shape[0], stored.shape[1]))

    def label(self, place: int) -> Int64[Tensor, "*hw"]:
        """What the array of labels holds."""
        assert self._labels is not None
        return self._labels[place]


def npz(path: Path, *, labelled: bool = True, **choice: Unpack[Choice]) -> NpzImages:
    """The images of an npz file; see `NpzImages`."""
    return NpzImages(path, labelled=labelled, **choice)


def part_of(arrays: Arrays, split: str | Path | None) -> tuple[str, str | Path | None]:
    """What the wanted arrays' names begin with, and the list of names that is left to go by."""
    parts = [
        name.removesuffix(ending) for ending in ("_images", "_jpeg") for name in arrays.names if name.endswith(ending)
    ]
    if split is not None and str(split) in parts:
        return f"{split}_", None
    if "images" in arrays or "jpeg" in arrays:
        return "", split
    if split is not None and parts and not Path(split).exists():
        raise ValueError(
            f"'{arrays.path}' has no part '{split}', and there is no such file. {nearest(str(split), parts)}"
        )
    if len(parts) == 1:
        return f"{parts[0]}_", split
    if not parts:
        raise ValueError(
            f"'{arrays.path}' has no images: expected an array images, PART_images, or jpeg and off; it has "
            f"{', '.join(arrays.names) or 'nothing'}"
        )
    raise ValueError(
        f"'{arrays.path}' has images of {', '.join(sorted(parts))}: choose one with split='{sorted(parts)[0]}'"
    )


def stored_arrays(arrays: Arrays, prefix: str) -> NDArray[Any]:
    """(n, h, w, c)"""
    key = f"{prefix}images"
    images = arrays[key]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
        hint = " (channels come last)" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        raise ValueError(
            f"'{key}' of '{arrays.path}' must be (n, h, w), (n, h, w, 1) or (n, h, w, 3), not {images.shape}{hint}"
        )
    if images.dtype.kind == "f":
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"'{key}' of '{arrays.path}' are floats from {low:g} to {high:g}; expected [0, 1]")
    elif images.dtype != np.uint8:
        raise ValueError(f"'{key}' of '{arrays.path}' must be of type uint8, or floats in [0, 1], not {images.dtype}")
    return images


def stored_jpegs(arrays: Arrays, prefix: str) -> Sequence[bytes]:
    key, ends = f"{prefix}jpeg", f"{prefix}off"
    if ends not in arrays:
        raise ValueError(f"'{arrays.path}' has '{key}' without '{ends}', which says where each file begins")
    content, offsets = arrays[key], arrays[ends]
    if content.dtype != np.uint8 or content.ndim != 1:
        raise ValueError(f"'{key}' of '{arrays.path}' must be bytes (uint8), not {content.dtype} {content.shape}")
    whole = offsets.dtype.kind in "iu" and offsets.ndim == 1 and len(offsets) > 1
    if not whole or offsets[0] < 0 or offsets[-1] > len(content) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(
            f"'{ends}' of '{arrays.path}' must rise from 0 to at most {len(content)}, the length of '{key}'"
        )
    packed = content.tobytes()
    return [packed[start:end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
