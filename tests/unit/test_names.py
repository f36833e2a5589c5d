"""A list of names finds the images it means, wherever it was written."""

import pytest

from inlier.datasets.names import NameIndex, listed, natural

NAMES = ("val/a/1.png", "val/a/2.png", "val/b/1.jpg", "val/two words.png")
INDEX = NameIndex(NAMES, "pictures")


def written(folder, text):
    path = folder / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_sort_as_numbers():
    assert sorted(["b10", "b2", "a/10", "a/9"], key=natural) == ["a/9", "a/10", "b2", "b10"]


@pytest.mark.parametrize(
    "entry",
    [
        "val/a/2.png",
        "val/a/2",
        "a/2.png",
        "2.webp",
        "2",
        "/data/set/val/a/2.png",
        r"C:\set\val\a\2.png",
        "./val/a/2.PNG",
    ],
)
def test_folders_above_or_left_out_and_endings_do_not_matter(entry):
    assert INDEX.find(entry) == 1


@pytest.mark.parametrize("entry", ["train/a/2.png", "b/2", "22.png", "", "/", "val/a"])
def test_what_is_not_there_is_not_found(entry):
    assert INDEX.find(entry) is None


def test_an_entry_that_could_be_several_is_refused_unless_its_ending_tells():
    assert INDEX.find("1.jpg") == 2
    with pytest.raises(ValueError, match=r"'1' could be any of 'val/a/1\.png', 'val/b/1\.jpg' in 'pictures'"):
        INDEX.find("1")


def test_dots_in_a_name_are_no_ending():
    assert NameIndex(["drive.2", "drive.3.png"], "x").find("drive.3") == 1
    assert NameIndex(["drive.2", "drive.3.png"], "x").find("drive") is None


@pytest.mark.parametrize(
    "text",
    [
        "val/b/1.jpg\nval/a/1.png\n",
        "# chosen by hand\n\n  a/1.png  \r\nb/1.jpg",
        "/set/val/a/1.png /set/annotations/a/9.png\n/set/val/b/1.png /set/annotations/b/9.png\n",
        "a/1.png,labels/9.png\nb/1.jpg,labels/9.png",
        "a/1.png\tx 7\nb/1.jpg\tx 7",
        "a/1 0\nb/1 0",
    ],
)
def test_the_first_column_counts_and_the_order_of_the_images_stays(tmp_path, text):
    assert listed(written(tmp_path, text), INDEX) == (0, 2)


def test_a_name_may_hold_spaces(tmp_path):
    assert listed(written(tmp_path, "val/two words.png\n2.png"), INDEX) == (1, 3)
    assert listed(written(tmp_path, "two words.png labels/2.png"), INDEX) == (3,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a/1\nx\ny\nz\nw\n",
            r"4 of the images named .*list\.txt' are not in 'pictures': 'x', 'y', 'z', \.\.\.\. Names ",
        ),
        ("a/1\nb/1\nval/a/1.png\n", r"lists 'val/a/1\.png' twice, in lines 1 and 3"),
        ("# nothing\n", r"lists no image; expected one name a line, such as 'val/a/1\.png'"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        listed(written(tmp_path, text), INDEX)


def test_a_list_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a text file with one image name a line"):
        listed(tmp_path / "list.txt", INDEX)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        listed(tmp_path, INDEX)
    (tmp_path / "list.txt").write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(ValueError, match=r"is no text in UTF-8 \(byte 0\)"):
        listed(tmp_path / "list.txt", INDEX)
