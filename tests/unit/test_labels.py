"""Labels are class indices: read from label maps whatever values these hold, or from the folder an image is in."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets.labels import FolderClasses, LabelFolder, label_map

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_a_label_map_is_found_by_the_name_of_its_image(tmp_path):
    save(tmp_path / "drive" / "1.png", IDS)
    assert torch.equal(label_map(tmp_path, "drive/1.webp"), torch.from_numpy(IDS).long())
    palette = Image.fromarray(IDS).convert("P")
    palette.putdata(IDS.flatten().tolist())
    palette.save(tmp_path / "2.png")
    assert torch.equal(label_map(tmp_path, "2.jpg"), torch.from_numpy(IDS).long())


def test_labels_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "1.png"))):
        label_map(tmp_path, "1.webp")
    save(tmp_path / "1.png", np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="3 channels"):
        label_map(tmp_path, "1.webp")
    (tmp_path / "1.png").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        label_map(tmp_path, "1.webp")


def test_values_of_16_bits_are_labels_too(tmp_path):
    save(tmp_path / "1.png", np.array([[0, 300]], np.uint16))
    labels = LabelFolder(tmp_path, [str(number) for number in range(301)])
    assert labels("1.png").tolist() == [[0, 300]]


def test_ids_become_labels_and_names_are_changed_as_told(tmp_path):
    save(tmp_path / "x_ids.png", np.array([[7, 8], [255, 7]], np.uint8))
    labels = LabelFolder(
        tmp_path, ["road", "car", "void"], rename=lambda name: f"{name[:-4]}_ids.png", ids={7: 0, 8: 1, 255: 2}
    )
    assert labels("x.jpg").tolist() == [[0, 1], [2, 0]]


def test_a_value_that_is_no_label_is_refused(tmp_path):
    save(tmp_path / "1.png", IDS)
    with pytest.raises(ValueError, match=r"'1\.png' hold 2; expected 0 to 1 for 2 classes \('road', 'car'\)"):
        LabelFolder(tmp_path, ["road", "car"])("1.jpg")
    with pytest.raises(ValueError, match="hold 1; expected 0, 2 to 4, 9 for"):
        LabelFolder(tmp_path, ["road", "car"], ids={0: 0, 2: 1, 3: 1, 4: 1, 9: 1})("1.jpg")


def test_a_folder_of_labels_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        LabelFolder(tmp_path / "labels", ["road"])


def test_the_first_folder_is_the_class_and_classes_are_sorted_as_published_indices_are():
    labels = FolderClasses(["n10/a.jpg", "n2/sub/b.jpg", "n10/c.jpg"])
    assert labels.classes == ("n10", "n2")
    assert [int(labels(name)) for name in ("n10/a.jpg", "n2/sub/b.jpg")] == [0, 1]


def test_an_image_in_no_class_is_refused():
    with pytest.raises(ValueError, match=r"1 images lie in no class's folder, such as 'b\.jpg'; expected FOLDER/CLASS"):
        FolderClasses(["a/a.jpg", "b.jpg"])
