"""What a user writes is found, or answered with what was probably meant."""

import numpy as np
import pytest
from PIL import Image

from inlier.datasets.base import Dataset
from inlier.datasets.folder import ImageFolder
from inlier.datasets.load import open_images
from inlier.datasets.npz import NpzImages
from inlier.datasets.sheet import SheetImages
from inlier.datasets.table import DATASETS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two images, an archive of three, a sheet of four, and the two as one class of a folder of classes."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    for name in ("pictures/a_1.png", "pictures/b_1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    np.savez(tmp_path / "arrays.npz", images=np.zeros((3, 4, 4), np.uint8), labels=[0, 1, 0])
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "sheet.png")
    np.savez(tmp_path / "sheet_labels.npz", labels=[0, 1, 2, 3])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "count", "classes"),
    [
        ("pictures", ImageFolder, 2, 0),
        ("folder:pictures", ImageFolder, 2, 0),
        ("./pictures/", ImageFolder, 2, 0),
        ("arrays.npz", NpzImages, 3, 2),
        ("npz:arrays.npz", NpzImages, 3, 2),
        ("sheet.png", SheetImages, 4, 4),
        ("sheet:sheet.png", SheetImages, 4, 4),
        ("sheet:pictures/a_1.png", SheetImages, 1, 0),
        ("class_folders:.", ImageFolder, 3, 0),
    ],
)
def test_a_path_or_a_layout_and_a_path_is_opened(folder, text, kind, count, classes):
    if text.startswith("class_folders"):
        (folder / "sheet.png").unlink()
        count, classes = 2, 1
    source = open_images(text)
    assert isinstance(source, kind)
    assert (len(source), len(source.classes)) == (count, classes)
    assert open_images(text, labelled=False).classes == ()


def test_label_maps_beside_images_are_not_read_as_images(folder):
    for name in ("images/a_1.png", "labels/a_1.png"):
        (folder / "drawn" / name).parent.mkdir(parents=True)
        (folder / "drawn" / name).write_bytes((folder / "pictures/a_1.png").read_bytes())
    for text in ("drawn", "folder:drawn"):
        with pytest.raises(ValueError, match="label maps are no images: give drawn/images"):
            open_images(text)
    assert open_images("drawn/images").names == ("a_1.png",)
    (folder / "list.txt").write_text("images/a_1.png")
    assert open_images("drawn", split="list.txt").names == ("images/a_1.png",)
    (folder / "drawn/labels/a_1.png").unlink()
    assert open_images("drawn").names == ("images/a_1.png",)


OWN = [name for name in DATASETS if DATASETS.entry(name).target.startswith("inlier.")]


@pytest.mark.parametrize("layout", OWN)
def test_every_layout_takes_every_choice(folder, layout):
    paths = {"npz": "arrays.npz", "sheet": "sheet.png", "class_folders": ".", "textures": "2"}
    path = paths.get(layout, "pictures")
    if layout == "cityscapes":
        for number in (1, 2):
            (folder / "pictures" / f"{'ab'[number - 1]}_1.png").rename(
                folder / "pictures" / f"ulm_{number:06d}_000019_leftImg8bit.png"
            )
    if layout == "class_folders":
        (folder / "sheet.png").unlink()
    names = open_images(f"{layout}:{path}").names
    (folder / "list.txt").write_text(names[1])
    (folder / "groups.csv").write_text("image,group\n" + "".join(f"{name},friday\n" for name in names))
    source = open_images(
        f"{layout}:{path}", size=(8, 6), split=folder / "list.txt", groups="groups.csv", channels=1, labelled=False
    )
    assert isinstance(source, Dataset)
    (batch,) = source.batches(4)
    assert (batch.images.shape, batch.names, batch.groups) == ((1, 1, 8, 6), (names[1],), ("friday",))
    assert sum(open_images(f"{layout}:{path}", group_by="[a-z0-9]").groups.values()) == len(names)


def test_a_part_of_an_archive_is_a_split(folder):
    np.savez(
        folder / "parts.npz", train_images=np.zeros((3, 4, 4), np.uint8), test_images=np.zeros((2, 4, 4), np.uint8)
    )
    assert len(open_images("parts.npz", split="test")) == 2


def test_a_folder_whose_name_has_a_colon_is_a_folder(folder):
    (folder / "pictures").rename(folder / "monday:pictures")
    assert len(open_images("monday:pictures")) == 2
    assert len(open_images(f"folder:{folder / 'monday:pictures'}")) == 2


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("cmavid:pictures", LookupError, r"No dataset named 'cmavid'\. Did you mean 'camvid'\?"),
        ("zzz:pictures", LookupError, r"No dataset named 'zzz'\. There are: bdd100k, camvid"),
        ("camvid:", ValueError, "'camvid:' has no path; write camvid:PATH"),
        ("picture", FileNotFoundError, r"No folder 'picture': '\.' has no 'picture'\. Did you mean 'pictures'\?"),
        ("camvid:picture", FileNotFoundError, r"Did you mean 'pictures'\?"),
        (r"C:\pictures", FileNotFoundError, "No folder"),
        ("array.npz", FileNotFoundError, r"No file 'array\.npz': .* Did you mean 'arrays\.npz'\?"),
        ("pictures/a_1.png", ValueError, "is one image; give the folder that it is in, or sheet:"),
        ("npz:pictures", IsADirectoryError, "'pictures' is a folder; expected an .npz file"),
        ("folder:arrays.npz", NotADirectoryError, "'arrays.npz' is a file"),
        ("sheet_labels.csv", FileNotFoundError, "No folder"),
    ],
)
def test_what_cannot_be_opened_is_answered_with_a_way_out(folder, text, error, message):
    with pytest.raises(error, match=message):
        open_images(text)


def test_a_split_that_names_images_elsewhere_is_refused(folder):
    (folder / "list.txt").write_text("a_1\nc_1\n")
    with pytest.raises(ValueError, match=r"1 of the images named in 'list\.txt' are not in 'pictures': 'c_1'"):
        open_images("pictures", split="list.txt")
