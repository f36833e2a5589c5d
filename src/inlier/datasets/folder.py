"""A folder of images as a source: natural order, one group a recording, broken files skipped and counted.

Whatever the files hold (grey, palette, CMYK, 16 bits, transparency, a camera held sideways) comes out as RGB in [0, 1].
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from inlier.images import Batch

__all__ = ["SUFFIXES", "ImageFolder", "Note", "Skipped", "label_map", "recording"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOST_PIXELS = 100_000_000
FRAME_NUMBER = re.compile(r"(?:(?:^|[\s_.-]+)[A-Za-z])?[\s_.-]*\d+$")


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Note:
    """What was left out of a file that could be read."""

    name: str
    text: str


class ImageFolder:
    """The images of a folder and all its subfolders, in natural order of their paths; hidden files are left out.

    Names are paths relative to the folder with forward slashes. Transparent pixels are put on black: where nothing was
    recorded there was no light. 16-bit grey is divided by 65535. Of an animation the first frame is taken.

    Args:
        path: the folder.
        group_by: a regular expression searched in each name; its first group, or else the whole match, names the
            image's group. By default images are grouped by `recording`.
        size: (h, w) to resize to, bilinearly with antialiasing. Without it, consecutive images of one size share a
            batch.

    Attributes:
        skipped: files that the last iteration could not read.
        notes: what the last iteration left out of files it did read.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: it holds no image file; `group_by` is no regular expression or does not match a name; a bad size.
    """

    def __init__(self, path: str | Path, *, group_by: str | None = None, size: tuple[int, int] | None = None) -> None:
        self.path = existing_folder(Path(path))
        if size is not None and min(size) < 1:
            raise ValueError(f"size is (height, width) of 1 pixel or more, not {size}")
        self.size = size
        self.names = tuple(sorted(image_files(self.path), key=natural))
        if not self.names:
            raise ValueError(f"No image in '{self.path}' or its subfolders: looked for files ending in {SUFFIX_LIST}")
        self._groups = (
            tuple(recording(name) for name in self.names) if group_by is None else matched(group_by, self.names)
        )
        self.skipped: list[Skipped] = []
        self.notes: list[Note] = []

    def __len__(self) -> int:
        return len(self.names)

    @property
    def groups(self) -> dict[str, int]:
        """How many files each group has, unreadable ones included, in the order of the images."""
        return dict(Counter(self._groups))

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` images, all of one height and width.

        Raises:
            ValueError: `size` is below 1, or not one file can be read.
        """
        if size < 1:
            raise ValueError(f"A batch holds at least 1 image, not {size}")
        self.skipped, self.notes = [], []
        waiting: list[tuple[Tensor, str, str]] = []
        for name, group in zip(self.names, self._groups, strict=True):
            image = self._read(name)
            if image is None:
                continue
            if len(waiting) == size or (waiting and waiting[0][0].shape != image.shape):
                yield together(waiting)
                waiting = []
            waiting.append((image, name, group))
        if not waiting:
            first = self.skipped[0]
            raise ValueError(
                f"None of the {len(self)} image files in '{self.path}' can be read; {first.name}: {first.reason}"
            )
        yield together(waiting)

    def _read(self, name: str) -> Float[Tensor, "3 h w"] | None:
        try:
            with permitted(), Image.open(self.path / name) as image:
                if getattr(image, "is_animated", False):
                    self.notes.append(Note(name, "it has several frames; the first was taken"))
                return rgb(image, self.size)
        except Exception as error:  # broken bytes raise anything: OSError, SyntaxError, struct.error, ...
            self.skipped.append(Skipped(name, reason(error)))
            return None


def recording(name: str) -> str:
    """The recording that a file is a frame of: its folder, and its name up to the frame number; `all` if none is left.

    >>> [recording(name) for name in ("0001TP_006690.webp", "Seq05VD_f00030.png", "drive1/000012.jpg", "7.png")]
    ['0001TP', 'Seq05VD', 'drive1', 'all']
    """
    path = PurePosixPath(name)
    kept = FRAME_NUMBER.sub("", path.stem)
    parent = "" if path.parent == PurePosixPath() else str(path.parent)
    return "/".join(part for part in (parent, kept) if part) or "all"


def label_map(path: str | Path, name: str) -> Int64[Tensor, "h w"]:
    """The class of every pixel of the image called `name`: the PNG of the same relative name in the folder `path`.

    Raises:
        FileNotFoundError: there is no such folder or no such PNG in it.
        ValueError: the file is no PNG of one channel that holds class indices.
    """
    file = existing_folder(Path(path)) / PurePosixPath(name).with_suffix(".png")
    if not file.is_file():
        raise FileNotFoundError(f"No labels for '{name}': expected '{file}', a PNG of one channel with class indices")
    try:
        with permitted(), Image.open(file, formats=("PNG",)) as image:
            values, mode = np.asarray(image), image.mode
    except Exception as error:  # as above
        raise ValueError(f"'{file}' cannot be read as a PNG: {reason(error)}") from error
    if values.ndim != 2:
        raise ValueError(f"'{file}' has {values.shape[-1]} channels ({mode}); labels are one channel of class indices")
    return torch.from_numpy(values.astype(np.int64))


SUFFIX_LIST = ", ".join(SUFFIXES)


def existing_folder(path: Path) -> Path:
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(f"'{path}' is a file; give the folder that it is in")
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    siblings = [folder.name for folder in missing.parent.iterdir() if folder.is_dir()]
    close = difflib.get_close_matches(missing.name, siblings, n=1)
    hint = f"Did you mean '{missing.parent / close[0]}'?" if close else "Give a folder of images."
    raise FileNotFoundError(f"No folder '{path}': '{missing.parent}' has no '{missing.name}'. {hint}")


def image_files(folder: Path) -> list[str]:
    names = (
        file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def natural(name: str) -> tuple[list[list[str | int]], str]:
    """Sorts 2 before 10, and folder by folder; even places are text, odd ones numbers."""
    parts = [re.split(r"(\d+)", part.lower()) for part in name.split("/")]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in parts], name


def matched(pattern: str, names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_by={pattern!r} is no regular expression: {error}") from error
    groups = []
    for name in names:
        match = expression.search(name)
        group = match and match.group(1 if expression.groups else 0)
        if group is None:
            raise ValueError(f"group_by={pattern!r} does not match '{name}', so that it has no group")
        groups.append(group)
    return tuple(groups)


@contextmanager
def permitted() -> Iterator[None]:
    """Let Pillow open what is below our own limit of pixels, and read past damaged tags, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def rgb(image: Image.Image, size: tuple[int, int] | None) -> Float[Tensor, "3 h w"]:
    """The first frame in [0, 1], upright."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS // 1_000_000} megapixels")
    depth = 16 if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG") else 8
    if depth == 8 and image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no stated range; save 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if depth == 16:
        # As floats, which Pillow resizes in full precision.
        upright = Image.fromarray(np.asarray(upright).astype(np.float32) / 65535)
    elif upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        opaque = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", opaque.size, "black"), opaque).convert("RGB")
    else:
        upright = upright.convert("RGB")
    if size is not None and upright.size != (size[1], size[0]):
        upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    values = torch.from_numpy(np.array(upright))
    if depth == 16:
        return values.clamp(0, 1).expand(3, -1, -1)
    return values.permute(2, 0, 1).float() / 255


def together(images: list[tuple[Tensor, str, str]]) -> Batch:
    pixels, names, groups = zip(*images, strict=True)
    return Batch(torch.stack(pixels), names, groups)


def reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in any format that Pillow reads"
    return str(error) or type(error).__name__
