"""Images by what a user writes: a path, or `layout:path`."""

from __future__ import annotations

from pathlib import Path

from inlier.datasets.base import Dataset
from inlier.datasets.paths import SUFFIXES, existing_folder
from inlier.datasets.sheet import beside
from inlier.datasets.table import DATASETS

__all__ = ["open_images"]


def open_images(
    text: str | Path,
    *,
    size: tuple[int, int] | None = None,
    group_by: str | None = None,
    groups: str | Path | None = None,
    split: str | Path | None = None,
    channels: int = 3,
    labelled: bool = True,
) -> Dataset:
    """The images that `path` or `layout:path` stands for.

    A bare path may be a folder, an .npz file, or a contact sheet with its labels beside it. What stands before the
    first colon counts as a layout if it is a name of the table.

    Args:
        text: such as `camvid:CamVid/train`, `mnist.npz` or a folder.
        size: (h, w) to resize to, bilinearly with antialiasing (labels: nearest).
        group_by: a regular expression searched in each name; its first group, or else the whole match, names the
            image's group. By default the layout says.
        groups: a CSV file with the columns `image` and `group`, instead of `group_by`.
        split: a text file that lists the images to take, one a line, or a part of an .npz file, such as `test`.
        channels: 3, or 1 for grey images.
        labelled: whether batches carry labels where there are any; an image whose labels are missing or broken is then
            skipped. Without labels, reading is faster.

    Raises:
        LookupError: there is no such layout and no such path.
        FileNotFoundError, NotADirectoryError, IsADirectoryError: there is no such folder or file.
        ValueError, Mismatch: what is there is not what the layout says, or does not fit the other arguments.
    """
    layout, path = told_apart(str(text))
    return DATASETS[layout](
        path, size=size, group_by=group_by, groups=groups, split=split, channels=channels, labelled=labelled
    )


def told_apart(text: str) -> tuple[str, Path]:
    layout, colon, rest = text.partition(":")
    if colon and layout in DATASETS:
        if not rest:
            raise ValueError(f"'{text}' has no path; write {layout}:PATH")
        return layout, Path(rest)
    path = Path(text)
    if colon and not path.exists() and layout.isidentifier() and len(layout) > 1:  # one letter is a drive of Windows
        DATASETS.entry(layout)  # names the nearest
    if path.suffix.lower() == ".npz":
        return "npz", path
    if path.suffix.lower() in SUFFIXES and path.is_file():
        if beside(path)[0] is None:
            raise ValueError(
                f"'{path}' is one image; give the folder that it is in, or sheet:{path} if it is a sheet of tiles"
            )
        return "sheet", path
    return "folder", existing_folder(path)
