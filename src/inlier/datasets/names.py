"""Names of images: their order, and how a list of names finds the images it means.

A list was written on another machine: it may name folders above the images, or leave some out, or give another ending.
An entry means the image whose path and the entry's end alike, folder by folder, endings of image files aside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from inlier.datasets.paths import SUFFIXES, existing_file, without_suffix

__all__ = ["NameIndex", "few", "listed", "natural", "read_text"]

FIRST_IMAGE = re.compile(rf"(.*?(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)}))(?=[\s,;]|$)", re.IGNORECASE)
SEPARATOR = re.compile(r"[\s,;]+")


def natural(name: str) -> tuple[list[list[str | int]], str]:
    """Sorts 2 before 10, and folder by folder; even places are text, odd ones numbers."""
    parts = [re.split(r"(\d+)", part.lower()) for part in name.split("/")]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in parts], name


class NameIndex:
    """Finds images by what a list calls them.

    Args:
        names: of the images; paths with forward slashes.
        where: what they are in, for messages.
    """

    def __init__(self, names: Sequence[str], where: str) -> None:
        self.names = tuple(names)
        self.where = where
        self._whole: dict[str, list[int]] = {}
        self._tails: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            parts = without_suffix(name).split("/")
            self._whole.setdefault("/".join(parts), []).append(index)
            for start in range(1, len(parts)):
                self._tails.setdefault("/".join(parts[start:]), []).append(index)

    def find(self, entry: str) -> int | None:
        """The place of the image that `entry` means, if there is one.

        Raises:
            ValueError: it could mean several.
        """
        parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".")]
        tails = [without_suffix("/".join(parts[start:])) for start in range(len(parts))]
        found = next((self._whole[tail] for tail in tails if tail in self._whole), None)
        if found is None:
            found = self._tails.get(tails[0], []) if tails else []
        if len(found) > 1:
            found = [index for index in found if self.names[index].endswith(parts[-1])] or found
        if len(found) > 1:
            raise ValueError(f"'{entry}' could be any of {few([self.names[i] for i in found])} in '{self.where}'")
        return found[0] if found else None

    def unknown(self, entries: Sequence[str], source: Path) -> ValueError:
        """What to raise when entries of the file `source` mean no image."""
        return ValueError(
            f"{len(entries)} of the images named in '{source}' are not in '{self.where}': {few(entries)}. "
            f"Names there look like '{self.names[0]}'"
        )


def listed(path: str | Path, index: NameIndex) -> tuple[int, ...]:
    """The places of the images that a text file lists, one a line, in the order of the images.

    Of a line with several columns (CamVid's `image.png labels.png`) the first counts; empty lines and those that begin
    with # do not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text or lists nothing, an image that is not there, or one twice.
    """
    path = Path(path)
    lines: dict[int, int] = {}
    missing = []
    for number, line in enumerate(read_text(path, "a text file with one image name a line").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        image = FIRST_IMAGE.match(text)
        entry = image.group(1) if image else SEPARATOR.split(text)[0]
        place = index.find(entry)
        if place is None:
            missing.append(entry)
        elif place in lines:
            raise ValueError(f"'{path}' lists '{index.names[place]}' twice, in lines {lines[place]} and {number}")
        else:
            lines[place] = number
    if missing:
        raise index.unknown(missing, path)
    if not lines:
        raise ValueError(f"'{path}' lists no image; expected one name a line, such as '{index.names[0]}'")
    return tuple(sorted(lines))


def read_text(path: Path, expected: str) -> str:
    """The text of a file in UTF-8.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is no text.
    """
    try:
        return existing_file(path, expected).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no text in UTF-8 (byte {error.start}); expected {expected}") from error


def few(names: Sequence[str]) -> str:
    """The first three, quoted, and whether there are more."""
    told = ", ".join(f"'{name}'" for name in names[:3])
    return told + (", ..." if len(names) > 3 else "")
