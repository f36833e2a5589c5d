"""Every registered layout of image files keeps what sources of images promise."""

import numpy as np
import pytest
from PIL import Image

from inlier.datasets.load import open_images
from inlier.datasets.table import DATASETS
from inlier.testing.datasets import check_dataset

COUNT, SIZE = 5, (12, 20)


def picture(number, size=SIZE):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pairs(root, images, labels, label=2):
    """Images and maps of one label, named by patterns."""
    for number in range(COUNT):
        write(root / images.format(number), picture(number))
        if labels is not None:
            write(root / labels.format(number), np.full(SIZE, label, np.uint8))


def folder(root):
    pairs(root, "drive/{:03}.png", None)
    return root


def class_folders(root):
    pairs(root, "cat/{:03}.png", None)
    pairs(root, "dog/{:03}.png", None)
    return root


def npz(root):
    labels = np.arange(COUNT) % 3
    np.savez(root / "data.npz", images=np.stack([picture(n) for n in range(COUNT)]), labels=labels)
    return root / "data.npz"


def sheet(root):
    write(root / "test.png", picture(0, (64, 96)))
    np.savez(root / "test_labels.npz", labels=np.arange(6) % 2)
    return root / "test.png"


def camvid(root):
    pairs(root, "train/0001TP_{:06}.png", "trainannot/0001TP_{:06}.png")
    return root / "train"


def cityscapes(root):
    name = "val/ulm/ulm_000000_{:06}"
    pairs(root, f"leftImg8bit/{name}_leftImg8bit.png", f"gtFine/{name}_gtFine_labelIds.png", label=7)
    return root


def bdd100k(root):
    pairs(root, "images/10k/val/0ace96c3-{:08x}.jpg", "labels/sem_seg/masks/val/0ace96c3-{:08x}.png")
    return root / "images" / "10k" / "val"


def textures(root):
    return COUNT  # no files, but a number


MAKERS = {maker.__name__: maker for maker in (folder, class_folders, npz, sheet, camvid, cityscapes, bdd100k, textures)}


@pytest.mark.parametrize("name", MAKERS)
def test_a_registered_layout_keeps_its_promises(name, tmp_path):
    text = f"{name}:{MAKERS[name](tmp_path)}"
    labelled = [batch.labels is not None for batch in open_images(text).batches(2)]
    assert set(labelled) == {name != "folder"}  # else the claims about labels would be about none
    check_dataset(text)


def test_no_layout_is_left_out():
    assert set(MAKERS) == {name for name in DATASETS if DATASETS.entry(name).provider == "inlier"}
