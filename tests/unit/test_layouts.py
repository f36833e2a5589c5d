"""Published layouts: where the images are, where their labels, what these mean, and what belongs together."""

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.backbones.espnet import CAMVID_CLASSES, CITYSCAPES_CLASSES
from inlier.datasets.bdd100k import bdd100k, ride
from inlier.datasets.camvid import camvid
from inlier.datasets.cityscapes import city, cityscapes
from inlier.datasets.class_folders import class_folders

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)


def labels(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 9), value, np.uint8)).save(path)


def told(source):
    """{name: (group, the label that all pixels have)}"""
    return {
        name: (group, None if batch.labels is None else batch.labels[i].unique().item())
        for batch in source.batches(3)
        for i, (name, group) in enumerate(zip(batch.names, batch.groups, strict=True))
    }


def test_camvid_has_its_labels_in_the_folder_beside(tmp_path):
    for name, label in (("0001TP_006690", 0), ("0001TP_006720", 11), ("Seq05VD_f00000", 3)):
        image(tmp_path / "train" / f"{name}.png")
        labels(tmp_path / "trainannot" / f"{name}.png", label)
    image(tmp_path / "val" / "0016E5_07959.png")
    source = camvid(tmp_path / "train")
    assert source.classes == CAMVID_CLASSES
    assert told(source) == {
        "0001TP_006690.png": ("0001TP", 0),
        "0001TP_006720.png": ("0001TP", 11),
        "Seq05VD_f00000.png": ("Seq05VD", 3),
    }
    assert camvid(tmp_path / "train", labelled=False).classes == ()
    assert camvid(tmp_path / "val").classes == ()
    with pytest.raises(ValueError, match=r"holds train and their labels; give one: camvid:.*train$"):
        camvid(tmp_path)


def test_camvids_own_lists_are_read(tmp_path):
    for name in ("a_1", "a_2"):
        image(tmp_path / "val" / f"{name}.webp")
    (tmp_path / "val.txt").write_text("/SegNet/CamVid/val/a_2.png /SegNet/CamVid/valannot/a_2.png\n")
    assert camvid(tmp_path / "val", split=tmp_path / "val.txt").names == ("a_2.webp",)


def test_cityscapes_ids_become_train_ids_and_all_others_void(tmp_path):
    root, frame = tmp_path / "cityscapes", "aachen_{:06d}_000019"
    for label_id in range(34):
        image(root / "leftImg8bit/train/aachen" / f"{frame.format(label_id)}_leftImg8bit.png")
        folder = root / "gtFine/train/aachen"
        labels(folder / f"{frame.format(label_id)}_gtFine_labelIds.png", label_id)
        labels(folder / f"{frame.format(label_id)}_gtFine_instanceIds.png", 99)
    source = cityscapes(root)
    found = [label for _, label in told(source).values()]
    evaluated = {found[label_id]: label_id for label_id in range(34) if found[label_id] != 19}
    # The label ids of road, sidewalk, building ... bicycle, from the definition of the data set.
    assert [evaluated[train_id] for train_id in range(19)] == [
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33
    ]  # fmt: skip
    assert source.classes == CITYSCAPES_CLASSES
    assert source.classes[19] == "void"


def test_cityscapes_may_be_opened_at_any_depth(tmp_path):
    for place, label_id in (("train/aachen/aachen_000000", 7), ("val/bad-honnef/bad-honnef_000001", 26)):
        for frame in ("000018", "000019"):
            image(tmp_path / "leftImg8bit" / f"{place}_{frame}_leftImg8bit.png")
            labels(tmp_path / "gtFine" / f"{place}_{frame}_gtFine_labelIds.png", label_id)
    labels(tmp_path / "gtFine" / "train/aachen/aachen_000000_000019_gtFine_color.png", 1)
    for path, groups in (
        (tmp_path, {"aachen": 2, "bad-honnef": 2}),
        (tmp_path / "leftImg8bit", {"aachen": 2, "bad-honnef": 2}),
        (tmp_path / "leftImg8bit" / "val", {"bad-honnef": 2}),
        (tmp_path / "leftImg8bit" / "val" / "bad-honnef", {"bad-honnef": 2}),
    ):
        source = cityscapes(path)
        assert source.groups == groups
        assert {label for _, label in told(source).values()} == {
            {"aachen": 0, "bad-honnef": 13}[name] for name in groups
        }
        assert source.skipped == []
    assert cityscapes(tmp_path, group_by="[^/]+?_[0-9]{6}(?=_)").groups == {"aachen_000000": 2, "bad-honnef_000001": 2}


def test_cityscapes_files_may_lie_side_by_side_and_without_labels(tmp_path):
    image(tmp_path / "ulm_000000_000019_leftImg8bit.webp")
    assert cityscapes(tmp_path).classes == ()
    labels(tmp_path / "ulm_000000_000019_gtFine_labelIds.png", 23)
    assert told(cityscapes(tmp_path)) == {"ulm_000000_000019_leftImg8bit.webp": ("ulm", 10)}
    image(tmp_path / "other" / "a.png")
    with pytest.raises(ValueError, match=r"No image in .* and called \*_leftImg8bit\.\*"):
        cityscapes(tmp_path / "other")


def test_the_city_of_a_file_not_named_so_is_its_recording():
    assert city("drive1/00001.png") == "drive1"


def test_bdd100k_has_train_ids_for_the_10k_images_alone(tmp_path):
    for subset in ("10k", "100k"):
        for name in ("0ace96c3-48481887", "0ace96c3-00000000", "adb4871d-4d063244"):
            image(tmp_path / "images" / subset / "val" / f"{name}.jpg")
    masks = tmp_path / "labels/sem_seg/masks/val"
    for name, value in (("0ace96c3-48481887", 18), ("0ace96c3-00000000", 0), ("adb4871d-4d063244", 255)):
        labels(masks / f"{name}.png", value)
    source = bdd100k(tmp_path / "images/10k/val")
    assert source.classes == CITYSCAPES_CLASSES
    assert told(source) == {
        "0ace96c3-00000000.jpg": ("0ace96c3", 0),
        "0ace96c3-48481887.jpg": ("0ace96c3", 18),
        "adb4871d-4d063244.jpg": ("adb4871d", 19),
    }
    assert told(bdd100k(tmp_path / "images/10k"))["val/adb4871d-4d063244.jpg"] == ("adb4871d", 19)
    assert bdd100k(tmp_path / "images/100k/val").classes == ()
    assert bdd100k(tmp_path / "images/10k/val", labelled=False).classes == ()
    with pytest.raises(
        ValueError, match=r"is the root; give the images of one split, such as bdd100k:.*images/10k/val"
    ):
        bdd100k(tmp_path)


def test_bdd100ks_own_lists_are_read(tmp_path):
    for name in ("b1c66a42-6f7d68ca", "b1c81faa-3df17267"):
        image(tmp_path / f"{name}.jpg")
    (tmp_path / "val.txt").write_text("b1c81faa-3df17267\n")
    assert bdd100k(tmp_path, split=tmp_path / "val.txt").names == ("b1c81faa-3df17267.jpg",)


def test_frames_of_a_tracked_video_are_of_its_ride_and_other_names_of_their_recording():
    assert ride("0000f77c-6257be58/0000f77c-6257be58-0000001.jpg") == "0000f77c"
    assert ride("drive1/00001.jpg") == "drive1"


def test_folders_are_classes_and_not_groups(tmp_path):
    for name in ("n02/1.jpg", "n01/1.jpg", "n01/deep/2.jpg"):
        image(tmp_path / name)
    source = class_folders(tmp_path)
    assert source.classes == ("n01", "n02")
    assert source.groups == {"all": 3}
    batches = list(source.batches(2))
    assert [label for batch in batches for label in batch.labels.tolist()] == [0, 0, 1]
    assert batches[0].labels.shape == (2,)
    assert class_folders(tmp_path, labelled=False).classes == ()
    image(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match="lie in no class's folder"):
        class_folders(tmp_path)


def test_camvid_has_two_test_drives_with_labels(data):
    source = camvid(data / "camvid" / "test")
    assert len(source) == 117
    assert source.groups == {"0001TP": 62, "Seq05VD": 55}
    name = source.names[0]
    exact = np.array(Image.open(data / "camvid" / "testannot" / name.replace(".webp", ".png")))
    batch = next(source.batches(2))
    assert torch.equal(batch.labels[0], torch.from_numpy(exact).long())
    assert batch.labels.shape[1:] == batch.images.shape[2:] == (360, 480)
    assert camvid(data / "camvid" / "train").groups == {"0001TP": 45, "0006R0": 74, "0016E5": 149}


def test_cityscapes_samples_have_labels_for_five_of_six_frames(data):
    source = cityscapes(data / "cityscapes_samples", size=(256, 512))
    shares = torch.zeros(20)
    for batch in source.batches(2):
        shares += batch.labels.flatten().bincount(minlength=20)
    assert source.groups == {"frankfurt": 2, "aachen": 4}
    assert [skipped.name for skipped in source.skipped] == ["full_2048x1024/frankfurt_000000_000294_leftImg8bit.webp"]
    assert shares.argmax() == CITYSCAPES_CLASSES.index("road")
    assert shares.sum() == 5 * 256 * 512


def test_bdd100k_samples_are_six_rides(data):
    source = bdd100k(data / "bdd100k_samples_a")
    assert list(source.groups.values()) == [1] * 6
    assert source.classes == ()
