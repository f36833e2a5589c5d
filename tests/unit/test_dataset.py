"""What all data sets share: splits, groups, labels, sizes, and images that cannot be read."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets import base
from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import LabelFolder
from inlier.images import LabelledSource


def random(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def tree(tmp_path):
    """Five images of two drives, with labels 0 to 4."""
    for number in range(5):
        name = f"drive{number // 3}/f{number}.png"
        save(tmp_path / "images" / name, random(seed=number))
        save(tmp_path / "labels" / name, np.full((6, 9), number, np.uint8))
    return tmp_path


def labelled(tree, **options):
    return ImageFolder(tree / "images", labels=LabelFolder(tree / "labels", [*"abcde"]), **options)


def names(source, size=2):
    return [name for batch in source.batches(size) for name in batch.names]


def test_a_split_takes_what_it_lists_in_the_order_of_the_images(tree):
    (tree / "list.txt").write_text(
        "images/drive1/f3.png labels/drive1/f3.png\nimages/drive0/f1.png labels/drive0/f1.png\n"
    )
    source = labelled(tree, split=tree / "list.txt")
    assert names(source) == ["drive0/f1.png", "drive1/f3.png"]
    assert (len(source), source.groups) == (2, {"drive0": 1, "drive1": 1})
    (batch,) = source.batches(2)
    assert batch.labels.amax((1, 2)).tolist() == [1, 3]


def test_a_table_of_groups_goes_with_a_split(tree):
    (tree / "list.txt").write_text("f1\nf4\n")
    (tree / "groups.csv").write_text("image,group\n" + "".join(f"f{number},day{number % 2}\n" for number in range(5)))
    source = labelled(tree, split=tree / "list.txt", groups=tree / "groups.csv")
    assert source.groups == {"day1": 1, "day0": 1}
    (batch,) = source.batches(2)
    assert batch.groups == ("day1", "day0")


def test_batches_carry_labels_where_there_are_classes(tree):
    source = labelled(tree)
    assert isinstance(source, LabelledSource)
    assert source.classes == tuple("abcde")
    for batch in source.batches(2):
        assert batch.labels.shape == (len(batch.images), 6, 9)
        assert batch.labels.dtype == torch.long
    plain = ImageFolder(tree / "images")
    assert isinstance(plain, LabelledSource)
    assert plain.classes == ()
    assert all(batch.labels is None for batch in plain.batches(2))


def test_labels_take_the_size_of_their_images(tree):
    (batch,) = labelled(tree, size=(3, 4)).batches(8)
    assert batch.labels.shape == (5, 3, 4)
    assert batch.labels.amax((1, 2)).tolist() == batch.labels.amin((1, 2)).tolist() == [0, 1, 2, 3, 4]


def test_an_image_whose_labels_are_missing_or_wrong_is_skipped_with_the_reason(tree):
    (tree / "labels/drive0/f0.png").unlink()
    (tree / "labels/drive0/f1.png").write_text("hello")
    save(tree / "labels/drive0/f2.png", np.full((6, 9), 7, np.uint8))
    save(tree / "labels/drive1/f3.png", np.zeros((6, 8), np.uint8))
    source = labelled(tree)
    assert names(source) == ["drive1/f4.png"]
    assert [skipped.name for skipped in source.skipped] == [f"drive{n // 3}/f{n}.png" for n in range(4)]
    for skipped, told in zip(
        source.skipped,
        ("No labels for", "cannot be read", "hold 7; expected 0 to 4", "6 x 8 pixels, and the image is 6 x 9"),
        strict=True,
    ):
        assert told in skipped.reason
    assert len(names(ImageFolder(tree / "images"))) == 5


def test_one_channel_is_had_for_the_asking(tree):
    (batch,) = ImageFolder(tree / "images", channels=1).batches(8)
    assert batch.images.shape == (5, 1, 6, 9)
    with pytest.raises(ValueError, match="3 channels, or 1 for grey, not 4"):
        ImageFolder(tree / "images", channels=4)


def test_a_batch_holds_no_more_pixels_than_the_limit_or_one_image(tree, monkeypatch):
    monkeypatch.setattr(base, "MOST_PIXELS", 2 * 6 * 9)
    assert [len(batch.names) for batch in ImageFolder(tree / "images").batches(8)] == [2, 2, 1]
    monkeypatch.setattr(base, "MOST_PIXELS", 1)
    assert [len(batch.names) for batch in ImageFolder(tree / "images").batches(8)] == [1] * 5


PEAK = """
import sys
from pathlib import Path
from inlier.datasets.folder import ImageFolder

def status(key):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(key))

for _ in ImageFolder(Path(sys.argv[1]) / "small", size=(36, 48)).batches(8): pass
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = status("VmRSS")
size = (36, 48) if sys.argv[2] == "resized" else None
shapes = [tuple(b.images.shape) for b in ImageFolder(Path(sys.argv[1]) / "large", size=size).batches(8)]
print(shapes, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is told elsewhere")
@pytest.mark.parametrize(
    ("how", "shapes", "megabytes"),
    [
        ("resized", [(2, 3, 36, 48)], 250),  # decoded: 4 bytes a pixel
        ("whole", [(1, 3, 36, 48), (1, 3, 5000, 10_000)], 1000),  # decoded, as an array, and as floats
    ],
)
def test_an_image_of_50_megapixels_is_read_within_stated_memory(tmp_path, how, shapes, megabytes):
    save(tmp_path / "small" / "a.png", random(36, 48))
    save(tmp_path / "large" / "a.png", random(36, 48))
    Image.new("RGB", (10_000, 5000), "gray").save(tmp_path / "large" / "b.png", compress_level=1)
    told = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), how], capture_output=True, text=True, check=True
    ).stdout.strip()
    came, _, used = told.rpartition(" ")
    assert came == str(shapes)
    assert 150 < int(used) < megabytes
