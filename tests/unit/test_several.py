"""Several data sets are read as one: in order, each image in its group, with its label, and no name twice."""

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets.folder import ImageFolder
from inlier.datasets.labels import LabelFolder
from inlier.datasets.several import Several

NAMES = {"monday": ("1.png", "2.png"), "tuesday": ("north_7.png", "north_8.png"), "wednesday": ("north_9.png",)}


@pytest.fixture
def days(tmp_path):
    """A folder a day with images of one colour, and a folder of their labels."""
    for number, (name, day) in enumerate((name, day) for day, names in NAMES.items() for name in names):
        for folder, value in ((day, (number, 50, 100)), (f"{day}_labels", number % 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = np.broadcast_to(np.array(value, np.uint8), (4, 6, 3) if isinstance(value, tuple) else (4, 6))
            Image.fromarray(pixels).save(tmp_path / folder / name)
    return tmp_path


def parts(days, **options):
    return [ImageFolder(days / day, **options) for day in NAMES]


def read(source):
    return [
        (name, group, round(255 * image[0, 0, 0].item()))
        for batch in source.batches(2)
        for name, group, image in zip(batch.names, batch.groups, batch.images, strict=True)
    ]


def test_images_keep_their_order_and_groups_and_a_folder_that_tells_none_is_one(days):
    source = Several(parts(days))
    assert len(source) == 5
    assert source.groups == {"monday": 2, "north": 3}
    assert read(source) == [
        ("1.png", "monday", 0), ("2.png", "monday", 1),
        ("north_7.png", "north", 2), ("north_8.png", "north", 3), ("north_9.png", "north", 4),
    ]  # fmt: skip


def test_a_pattern_or_a_table_groups_them_all(days):
    assert Several(parts(days), group_by=r"\d").groups == {"1": 1, "2": 1, "7": 1, "8": 1, "9": 1}
    (days / "groups.csv").write_text("image,group\n1,a\n2,b\nnorth_7,a\nnorth_8,b\nnorth_9,b\n")
    assert Several(parts(days), groups=days / "groups.csv").groups == {"a": 2, "b": 3}


def test_a_part_of_which_some_are_wanted_gives_those(days):
    (days / "list.txt").write_text("north_8\n")
    source = Several([ImageFolder(days / "tuesday", split=days / "list.txt"), ImageFolder(days / "monday")])
    assert read(source) == [("north_8.png", "north", 3), ("1.png", "monday", 0), ("2.png", "monday", 1)]


def test_labels_and_size_are_those_of_the_parts(days):
    source = Several(
        [
            ImageFolder(days / day, labels=LabelFolder(days / f"{day}_labels", ["a", "b"]), size=(2, 3))
            for day in ("monday", "wednesday")
        ]
    )
    assert source.classes == ("a", "b")
    first, second = source.batches(2)
    assert first.images.shape == (2, 3, 2, 3)
    assert torch.equal(first.labels, torch.tensor([0, 1])[:, None, None].expand(2, 2, 3))
    assert torch.equal(second.labels, torch.zeros(1, 2, 3, dtype=torch.int64))
    mixed = Several([ImageFolder(days / "monday", labels=LabelFolder(days / "monday_labels", ["a", "b"])),
                     ImageFolder(days / "tuesday")])  # fmt: skip
    assert mixed.classes == ()
    assert all(batch.labels is None for batch in mixed.batches(4))


def test_broken_images_of_any_part_are_skipped_and_told(days):
    (days / "tuesday/north_8.png").write_text("no image")
    source = Several(parts(days))
    assert [name for name, _, _ in read(source)] == ["1.png", "2.png", "north_7.png", "north_9.png"]
    assert [one.name for one in source.skipped] == ["north_8.png"]


def test_what_cannot_be_one_is_refused(days):
    monday, tuesday, _ = parts(days)
    again = ImageFolder(days / "tuesday")
    with pytest.raises(ValueError, match=r"tuesday' have images of the same name, 'north_7\.png', 'north_8"):
        Several([monday, tuesday, again])
    with pytest.raises(ValueError, match=r"not 3 channels at size \(2, 3\), 3 channels at size None"):
        Several([monday, ImageFolder(days / "tuesday", size=(2, 3))])
    with pytest.raises(ValueError, match="none came"):
        Several([])
