"""The layouts of images that come with inlier: one line each.

A factory takes the path and, by keyword, whether batches carry labels (`labelled`) and what `Choice` names.
"""

from __future__ import annotations

from collections.abc import Callable

from inlier.datasets.base import Dataset
from inlier.registry import Entry, Registry

__all__ = ["DATASETS"]

DATASETS: Registry[Callable[..., Dataset]] = Registry(
    "dataset",
    {
        "folder": Entry("inlier.datasets.folder:image_folder", "any folder of images, nested or not, without labels"),
        "class_folders": Entry(
            "inlier.datasets.class_folders:class_folders", "one folder a class: FOLDER/CLASS/IMAGE", "Deng et al. 2009"
        ),
        "npz": Entry("inlier.datasets.npz:npz", "arrays images and labels, or packed JPEG files, in an .npz file"),
        "sheet": Entry("inlier.datasets.sheet:sheet", "tiles of one image file, labels in an .npz file beside it"),
        "camvid": Entry(
            "inlier.datasets.camvid:camvid", "ROOT/train with its labels in ROOT/trainannot", "Brostow et al. 2008"
        ),
        "cityscapes": Entry(
            "inlier.datasets.cityscapes:cityscapes",
            "ROOT or ROOT/leftImg8bit/SPLIT with its labels under gtFine",
            "Cordts et al. 2016",
        ),
        "bdd100k": Entry(
            "inlier.datasets.bdd100k:bdd100k",
            "ROOT/images/10k/SPLIT with its labels under labels/sem_seg/masks",
            "Yu et al. 2020",
        ),
        "textures": Entry("inlier.datasets.textures:textures", "no files but a number, textures:120: drawn by chance"),
    },
)
