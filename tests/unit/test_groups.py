"""Every image has its group: from a table, from a pattern, or from how its file is called."""

import pytest

from inlier.datasets.groups import grouped, one_group, recording
from inlier.datasets.names import NameIndex

NAMES = ("site1/aa_1.png", "site1/aa_2.png", "site2/bb_1.png")
INDEX = NameIndex(NAMES, "pictures")
ALL = (0, 1, 2)


def table(folder, text):
    path = folder / "groups.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("0001TP_006690.webp", "0001TP"),
        ("Seq05VD_f00030.png", "Seq05VD"),
        ("0016E5_00390.png", "0016E5"),
        ("drive1/000012.jpg", "drive1"),
        ("drive1/left/f12.jpg", "drive1/left"),
        ("drive1/cam_2_0001.jpg", "drive1/cam_2"),
        ("IMG 2019-05-03 0007.jpg", "IMG 2019-05-03"),
        ("site/portrait.png", "site/portrait"),
        ("000012.png", "all"),
    ],
)
def test_frames_of_one_recording_are_a_group(name, group):
    assert recording(name) == group


def test_without_a_pattern_or_a_table_the_layout_says():
    assert grouped(INDEX, ALL) == ("site1/aa", "site1/aa", "site2/bb")
    assert grouped(INDEX, ALL, otherwise=one_group) == ("all",) * 3


def test_a_table_gives_each_image_its_group_in_whatever_order_and_beside_other_columns(tmp_path):
    path = table(
        tmp_path, "camera,image,group\nx,site2/bb_1.png,monday\ny,/data/site1/aa_2.jpg, tuesday \n,aa_1,monday\n"
    )
    assert grouped(INDEX, ALL, groups=path) == ("monday", "tuesday", "monday")


def test_a_table_as_a_spreadsheet_writes_it_is_read(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_bytes("\ufeffimage,group\r\nbb_1,ä\r\naa_1,ä\r\n".encode())
    assert grouped(INDEX, (0, 2), groups=str(path)) == ("ä", "ä")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,group\naa_1,x\n", r"no group for 2 of 3 images: 'site1/aa_2\.png', 'site2/bb_1\.png'$"),
        ("image,group\naa_1,x\naa_2,y\nbb_1,x\nsite1/aa_1.png,x\n", r"names 'site1/aa_1\.png' twice, in lines 2 and 5"),
        ("image,group\naa_1,x\nc_1,x\nc_2,x\n", r"2 of the images named .* are not in 'pictures': 'c_1', 'c_2'\. "),
        ("image,group\naa_1,\n", "no group in line 2"),
        ("image,group\n,x\n", "no image in line 2"),
        ("image,group\naa_1\n", "no group in line 2"),
        ("image,groups\naa_1,x\n", r"no column 'group'.* Did you mean 'groups'\?"),
        ("", "no column 'image'.* It is empty"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        grouped(INDEX, ALL, groups=table(tmp_path, text))


def test_a_table_may_say_more_than_is_wanted(tmp_path):
    path = table(tmp_path, "image,group\naa_1,x\naa_2,y\nbb_1,z\n")
    assert grouped(INDEX, (1,), groups=path) == ("y",)


def test_a_table_that_is_not_there_is_named(tmp_path):
    path = table(tmp_path, "")
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*groups\.csv'\?"):
        grouped(INDEX, ALL, groups=path.with_name("group.csv"))


def test_a_table_and_a_pattern_are_not_taken_together(tmp_path):
    with pytest.raises(ValueError, match="not from both"):
        grouped(INDEX, ALL, groups=tmp_path, group_by="site")
