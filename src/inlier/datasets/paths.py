"""Folders and files that must be there, and the images among them."""

from __future__ import annotations

import difflib
import os
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["SUFFIXES", "as_written", "existing_file", "existing_folder", "image_files", "without_suffix"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""What image files end in; upper case will do as well."""


def existing_folder(path: Path) -> Path:
    """`path`, if it is a folder.

    Raises:
        FileNotFoundError: it is not there; the message names the nearest folder that is.
        NotADirectoryError: it is a file.
    """
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(f"'{path}' is a file; give the folder that it is in")
    raise FileNotFoundError(f"No folder '{path}': {what_is_there(path, 'Give a folder of images.')}")


def existing_file(path: Path, expected: str) -> Path:
    """`path`, if it is a file; `expected` says in the message what it should hold.

    Raises:
        FileNotFoundError: it is not there; the message names the nearest that is.
        IsADirectoryError: it is a folder.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; expected {expected}")
    raise FileNotFoundError(f"No file '{path}': {what_is_there(path, f'Expected {expected}.')}")


def as_written(path: Path) -> Path:
    """The absolute path without following links: a layout is what the user sees, wherever the files are kept."""
    return Path(os.path.abspath(path))


def image_files(folder: Path, pattern: str = "*") -> list[str]:
    """Paths of the image files in a folder and its subfolders, relative to it; hidden ones are left out.

    `pattern` is a glob that the file's own name must match.
    """
    names = (
        file.relative_to(folder)
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and fnmatchcase(file.name, pattern) and file.is_file()
    )
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def without_suffix(name: str) -> str:
    """A name without the ending of an image file; other endings stay, for `drive.2` ends in none."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in SUFFIXES else name


def what_is_there(path: Path, otherwise: str) -> str:
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    siblings = [entry.name for entry in missing.parent.iterdir() if missing == path or entry.is_dir()]
    close = difflib.get_close_matches(missing.name, siblings, n=1)
    hint = f"Did you mean '{missing.parent / close[0]}'?" if close else otherwise
    return f"'{missing.parent}' has no '{missing.name}'. {hint}"
