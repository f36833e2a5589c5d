"""Which images belong together: frames of one drive, pictures of one site, patient or day.

Groups come from a table, from a pattern in the names, or from how a layout names its files; in this order.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from inlier.datasets.names import NameIndex, few, read_text
from inlier.registry import nearest

__all__ = ["group_table", "grouped", "one_group", "recording"]

FRAME_NUMBER = re.compile(r"(?:(?:^|[\s_.-]+)[A-Za-z])?[\s_.-]*\d+$")


def recording(name: str) -> str:
    """The recording that a file is a frame of: its folder, and its name up to the frame number; `all` if none is left.

    >>> [recording(name) for name in ("0001TP_006690.webp", "Seq05VD_f00030.png", "drive1/000012.jpg", "7.png")]
    ['0001TP', 'Seq05VD', 'drive1', 'all']
    """
    path = PurePosixPath(name)
    kept = FRAME_NUMBER.sub("", path.stem)
    parent = "" if path.parent == PurePosixPath() else str(path.parent)
    return "/".join(part for part in (parent, kept) if part) or "all"


def one_group(name: str) -> str:
    """`all`, for images of which nothing tells what belongs together."""
    return "all"


def grouped(
    index: NameIndex,
    places: Sequence[int],
    *,
    group_by: str | None = None,
    groups: str | Path | None = None,
    otherwise: Callable[[str], str] = recording,
) -> tuple[str, ...]:
    """The group of each image at `places`.

    Args:
        index: the names of all images.
        places: of those wanted.
        group_by: a regular expression searched in each name; its first group, or else the whole match, names the
            image's group.
        groups: a CSV file with the columns `image` and `group`.
        otherwise: the group of a name, where neither is given.

    Raises:
        ValueError: both are given, `group_by` is no regular expression or does not match a name, or the file does not
            give each image its group.
        FileNotFoundError: there is no such file.
    """
    names = [index.names[place] for place in places]
    if groups is not None:
        if group_by is not None:
            raise ValueError(f"Groups come from a table or from a pattern, not from both '{groups}' and {group_by!r}")
        table = group_table(groups, index)
        missing = [index.names[place] for place in places if place not in table]
        if missing:
            raise ValueError(f"'{groups}' has no group for {len(missing)} of {len(names)} images: {few(missing)}")
        return tuple(table[place] for place in places)
    if group_by is not None:
        return matched(group_by, names)
    return tuple(otherwise(name) for name in names)


def group_table(path: str | Path, index: NameIndex) -> dict[int, str]:
    """The groups in a CSV file with the columns `image` and `group`, by the place of the image; other columns are left.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a row lacks its image or group, or names an image that is not there, or one
            that another row names too.
    """
    path = Path(path)
    rows = csv.DictReader(io.StringIO(read_text(path, "a CSV file with the columns image and group")))
    columns = list(rows.fieldnames or ())
    for column in ("image", "group"):
        if column not in columns:
            told = nearest(column, columns) if columns else "It is empty."
            raise ValueError(f"'{path}' has no column '{column}'; expected the columns image and group. {told}")
    table: dict[int, str] = {}
    lines: dict[int, int] = {}
    missing = []
    for row in rows:
        image, group = ((row[column] or "").strip() for column in ("image", "group"))
        if not image or not group:
            raise ValueError(f"'{path}' has no {'group' if image else 'image'} in line {rows.line_num}")
        place = index.find(image)
        if place is None:
            missing.append(image)
        elif place in lines:
            raise ValueError(
                f"'{path}' names '{index.names[place]}' twice, in lines {lines[place]} and {rows.line_num}"
            )
        else:
            table[place], lines[place] = group, rows.line_num
    if missing:
        raise index.unknown(missing, path)
    return table


def matched(pattern: str, names: Sequence[str]) -> tuple[str, ...]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_by={pattern!r} is no regular expression: {error}") from error
    groups = []
    for name in names:
        match = expression.search(name)
        group = match and match.group(1 if expression.groups else 0)
        if not group:
            raise ValueError(f"group_by={pattern!r} does not match '{name}', so that it has no group")
        groups.append(group)
    return tuple(groups)
