"""Frames as they come: of a folder that may still grow, of paths or raw pixels on a pipe, of a file of several frames.

Each source is an iterator of frames in their order; None says that there is nothing new for now. A frame that cannot
be read comes with the reason in place of its pixels, so that it is told and counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from inlier.datasets.names import natural
from inlier.datasets.paths import SUFFIXES, existing_file, existing_folder, image_files
from inlier.datasets.pixels import MOST_PIXELS, decoded, permitted, reason, resized, with_channels

__all__ = ["Frame", "animation_frames", "folder_frames", "path_frames", "raw_frames"]

SECONDS_TO_SETTLE = 2.0
"""A file changed within this time may still be being written: it is read when it stays the same from look to look."""


@dataclass(frozen=True)
class Frame:
    """A frame, or why there is none.

    Attributes:
        name: what it is called in rows and logs.
        pixels: (c, h, w) in [0, 1]; None if it could not be read.
        problem: why not.
    """

    name: str
    pixels: Float[Tensor, "c h w"] | None
    problem: str | None = None


def folder_frames(
    path: str | Path,
    *,
    skip: Container[str] = (),
    after: str | None = None,
    follow: bool = False,
    poll: float = 0.5,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frame | None]:
    """The images of a folder and its subfolders, in natural order; with `follow` those that come later too, for ever.

    What comes while others are read is in natural order among what came with it. A file that is written in place is
    read when it has stopped growing for a look or two; one that is renamed into its place, at once.

    Args:
        path: the folder.
        skip: names, paths relative to the folder, that are left out.
        after: leave out what is not behind this name.
        follow: go on when all are read.
        poll: seconds between two looks.
        size: (h, w) to resize to.
        channels: 3, or 1 for grey.
        sleep: how to wait.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: there is no image in it, and none is waited for.
    """
    folder = existing_folder(Path(path))
    taken: set[str] = set()
    changing: dict[str, tuple[int, int]] = {}
    while True:
        there = image_files(folder)
        if not there and not follow:
            raise ValueError(
                f"No image in '{folder}' or its subfolders: looked for files ending in {', '.join(SUFFIXES)}"
            )
        for name in sorted(set(there) - taken, key=natural):
            if name in skip or (after is not None and natural(name) <= natural(after)):
                taken.add(name)
                continue
            if follow and not _settled(folder / name, name, changing):
                continue
            taken.add(name)
            changing.pop(name, None)
            yield _of_file(folder / name, name, size, channels)
        if not follow:
            return
        yield None
        sleep(poll)


def path_frames(
    lines: Iterable[str], *, size: tuple[int, int] | None = None, channels: int = 3
) -> Iterator[Frame | None]:
    """The images whose paths come, one a line; empty lines do not count."""
    for line in lines:
        name = line.rstrip("\r\n")
        if name:
            yield _of_file(Path(name), name, size, channels)


def raw_frames(
    pipe: BinaryIO,
    shape: tuple[int, int],
    *,
    start: int = 0,
    size: tuple[int, int] | None = None,
    channels: int = 3,
) -> Iterator[Frame | None]:
    """Frames of 8-bit RGB without anything between them, as `ffmpeg -f rawvideo -pix_fmt rgb24 -` writes them.

    A frame that the pipe ends within comes with that as its problem.

    Args:
        pipe: that the bytes come from.
        shape: (h, w) of every frame; nothing in the bytes tells a wrong one.
        start: number of the first frame, for its name.
        size: (h, w) to resize to.
        channels: 3, or 1 for grey.
    """
    height, width = shape
    wanted = height * width * 3
    number = start
    while content := _read_all(pipe, wanted):
        name = f"stdin#{number}"
        number += 1
        if len(content) < wanted:
            yield Frame(name, None, f"the stream ended after {len(content)} of the frame's {wanted} bytes")
            return
        values = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(height, width, 3).copy())
        pixels = with_channels(values.permute(2, 0, 1).float().div_(255), channels)
        yield Frame(name, resized(pixels, size))


def animation_frames(
    path: str | Path, *, skip: Container[str] = (), size: tuple[int, int] | None = None, channels: int = 3
) -> Iterator[Frame | None]:
    """The frames of a GIF, WebP, PNG or TIFF file that has several.

    Args:
        path: the file.
        skip: names, `file#number`, that are left out.
        size: (h, w) to resize to.
        channels: 3, or 1 for grey.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is no image, or a single one, or larger than 100 megapixels.
    """
    path = existing_file(Path(path), "a GIF, WebP, PNG or TIFF file of several frames")
    image = None
    try:
        with permitted():
            image = Image.open(path)
            count = int(getattr(image, "n_frames", 1))
    except Exception as error:  # broken bytes raise anything
        if image is not None:
            image.close()
        raise ValueError(
            f"'{path}' cannot be read: {reason(error)}. Give a folder of images or a file of several frames; pipe "
            "those of a video: ffmpeg -i VIDEO -f rawvideo -pix_fmt rgb24 - | inlier watch --images - --raw HxW ..."
        ) from error
    with image:
        if count < 2:
            raise ValueError(f"'{path}' is one image; give the folder that it is in")
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"'{path}' has frames of more than {MOST_PIXELS // 1_000_000} megapixels")
        for number in range(count):
            name = f"{path.name}#{number}"
            if name in skip:
                continue
            try:
                with permitted():
                    image.seek(number)
                    pixels = decoded(image.copy(), size, channels).pixels
            except Exception as error:
                yield Frame(name, None, reason(error))
                return  # frames are differences to those before them: none is right after a broken one
            yield Frame(name, pixels)


def _of_file(path: Path, name: str, size: tuple[int, int] | None, channels: int) -> Frame:
    try:
        with permitted(), Image.open(path) as image:
            return Frame(name, decoded(image, size, channels).pixels)
    except Exception as error:  # broken bytes raise anything
        return Frame(name, None, "there is no such file" if isinstance(error, FileNotFoundError) else reason(error))


def _settled(file: Path, name: str, changing: dict[str, tuple[int, int]]) -> bool:
    try:
        now = file.stat()
    except FileNotFoundError:
        return False
    if time.time() - now.st_mtime > SECONDS_TO_SETTLE:
        return True
    before, changing[name] = changing.get(name), (now.st_size, now.st_mtime_ns)
    return before == changing[name]


def _read_all(pipe: BinaryIO, count: int) -> bytes:
    """So many bytes, or what there is before the end; a pipe may give fewer at a time."""
    parts = []
    while count and (part := pipe.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
