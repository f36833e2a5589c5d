"""An archive of arrays comes out as written; what would have to be unpickled, or does not fit together, is refused."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets.npz import NpzImages
from inlier.errors import Mismatch


def random(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def archive(folder, **arrays):
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz"


def everything(source, size=2):
    batches = list(source.batches(size))
    labels = None if batches[0].labels is None else torch.cat([batch.labels for batch in batches])
    return torch.cat([batch.images for batch in batches]), labels, [name for batch in batches for name in batch.names]


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16"])
def test_arrays_come_out_as_written(tmp_path, shape, dtype):
    values = random(*shape)
    stored = values if dtype == "uint8" else (values / 255).astype(dtype)
    images, labels, names = everything(NpzImages(archive(tmp_path, images=stored)))
    exact = torch.from_numpy(values.reshape(5, 4, 6, -1) / 255).float().permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    torch.testing.assert_close(images, exact, atol=1e-3 if dtype == "float16" else 1e-7, rtol=0)
    assert labels is None
    assert names == list("01234")


def test_grey_stays_one_channel_when_told_so(tmp_path):
    values = random(5, 4, 6)
    images, *_ = everything(NpzImages(archive(tmp_path, images=values), channels=1))
    assert torch.equal(images, torch.from_numpy(values).float()[:, None] / 255)
    images, *_ = everything(NpzImages(archive(tmp_path, images=values / 255), channels=1))
    assert images.shape == (5, 1, 4, 6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_and_label_maps_are_resized_together(tmp_path, dtype):
    values = np.full((2, 8, 8), 51, np.uint8)
    stored = values if dtype == "uint8" else (values / 255).astype(dtype)
    labels = np.arange(2).repeat(64).reshape(2, 8, 8)
    images, labels, _ = everything(NpzImages(archive(tmp_path, images=stored, labels=labels), size=(4, 2)))
    assert torch.allclose(images, torch.full((2, 3, 4, 2), 0.2))
    assert torch.equal(labels, torch.arange(2)[:, None, None].expand(2, 4, 2))


def test_labels_names_and_class_names_go_with_the_images(tmp_path):
    path = archive(
        tmp_path,
        images=random(3, 4, 4),
        labels=[2, 0, 2],
        names=["c_1.png", "a_1.png", "c_2.png"],
        class_names=[*"abc"],
    )
    source = NpzImages(path, group_by="^[a-z]")
    assert source.classes == ("a", "b", "c")
    assert source.groups == {"c": 2, "a": 1}
    _, labels, names = everything(source)
    assert (labels.tolist(), names) == ([2, 0, 2], ["c_1.png", "a_1.png", "c_2.png"])
    (tmp_path / "list.txt").write_text("c_2\na_1\n")
    _, labels, names = everything(NpzImages(path, split=tmp_path / "list.txt"))
    assert (labels.tolist(), names) == ([0, 2], ["a_1.png", "c_2.png"])
    source = NpzImages(path, labelled=False)
    assert (source.classes, everything(source)[1]) == ((), None)


def test_classes_without_names_are_numbers(tmp_path):
    assert NpzImages(archive(tmp_path, images=random(2, 4, 4), labels=[2, 0])).classes == ("0", "1", "2")


def test_a_part_is_chosen_where_there_are_several(tmp_path):
    parts = {"train_images": random(3, 4, 4), "train_labels": [0, 1, 0], "test_images": random(2, 4, 4)}
    path = archive(tmp_path, **parts)
    assert len(NpzImages(path, split="train")) == 3
    assert NpzImages(path, split="train").classes == ("0", "1")
    assert (len(NpzImages(path, split="test")), NpzImages(path, split="test").classes) == (2, ())
    with pytest.raises(ValueError, match="has images of test, train: choose one with split='test'"):
        NpzImages(path)
    with pytest.raises(ValueError, match=r"no part 'trian', and there is no such file\. Did you mean 'train'\?"):
        NpzImages(path, split="trian")
    path = archive(tmp_path, test_images=random(2, 4, 4))
    assert len(NpzImages(path)) == 2


def test_packed_jpegs_are_decoded_and_a_broken_one_is_skipped(tmp_path):
    files, flat = [], (20, 120, 220)
    for level in flat:
        buffer = io.BytesIO()
        Image.new("L", (8, 8), level).save(buffer, "JPEG", quality=100)
        files.append(buffer.getvalue())
    files[1] = b"hello"
    offsets = np.cumsum([0, *map(len, files)])
    path = archive(tmp_path, jpeg=np.frombuffer(b"".join(files), np.uint8), off=offsets)
    source = NpzImages(path)
    images, _, names = everything(source)
    assert names == ["0", "2"]
    assert torch.allclose(images.mean((1, 2, 3)), torch.tensor([20 / 255, 220 / 255]), atol=2 / 255)
    assert [(skipped.name, skipped.reason) for skipped in source.skipped] == [
        ("1", "not an image in any format that Pillow reads")
    ]
    for wrong in (offsets[::-1], offsets + 1, offsets - 1, offsets[:1], offsets / 2):
        with pytest.raises(ValueError, match=r"'off' of .* must rise from 0 to at most"):
            NpzImages(archive(tmp_path, jpeg=np.frombuffer(b"".join(files), np.uint8), off=wrong))
    with pytest.raises(ValueError, match="has 'jpeg' without 'off'"):
        NpzImages(archive(tmp_path, jpeg=np.frombuffer(b"".join(files), np.uint8)))


GOOD = random(3, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"pictures": GOOD}, ValueError, r"no images: expected an array images, .* it has pictures"),
        ({"images": random(3, 3, 4, 5)}, ValueError, r"not \(3, 3, 4, 5\) \(channels come last\)"),
        ({"images": random(3, 4)}, ValueError, r"not \(3, 4\)$"),
        ({"images": GOOD[:0]}, ValueError, r"not \(0, 4, 4, 1\)$"),
        ({"images": GOOD.astype(np.int64)}, ValueError, "of type uint8, or floats .*, not int64"),
        ({"images": GOOD.astype(np.float32)}, ValueError, r"floats from \d+ to 2\d\d; expected \[0, 1\]"),
        ({"images": np.full((1, 2, 2), np.nan)}, ValueError, "floats from nan to nan"),
        ({"images": GOOD, "labels": [0, 1]}, Mismatch, "2 labels in 'labels' for 3 images"),
        ({"images": GOOD, "labels": [0, 1, -1]}, ValueError, r"whole numbers from 0, .* not int64 \(3,\)"),
        ({"images": GOOD, "labels": [0.0, 1, 2]}, ValueError, "not float64"),
        (
            {"images": GOOD, "labels": [0, 1, 2], "class_names": ["a", "b"]},
            Mismatch,
            "up to 2, and 'class_names' has 2",
        ),
        ({"images": GOOD, "labels": [0, 1, 2], "class_names": [1, 2, 3]}, ValueError, "a list of text, not int64"),
        ({"images": GOOD, "names": ["a", "b"]}, Mismatch, "2 names in 'names' for 3 images"),
        ({"images": GOOD, "names": ["a", "b", "a"]}, ValueError, "has 'a' more than once"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message):
        NpzImages(archive(tmp_path, **arrays))


class Boom:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("key", ["images", "labels", "names"])
def test_python_objects_are_refused_and_not_unpickled(tmp_path, key):
    arrays = {"images": GOOD, "labels": np.arange(3)} | {key: np.array([Boom(), Boom(), Boom()], dtype=object)}
    with pytest.raises(ValueError, match=rf"Array '{key}' of .* holds Python objects, .*dtype=object"):
        NpzImages(archive(tmp_path, **arrays))


def test_files_that_are_no_archive_are_refused(tmp_path):
    path = archive(tmp_path, images=GOOD)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], pickle.dumps(Boom())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no whole \.npz file"):
            NpzImages(path)
    np.save(tmp_path / "b.npy", GOOD)
    with pytest.raises(ValueError, match="is a single array"):
        NpzImages(tmp_path / "b.npy")
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*a\.npz'"):
        NpzImages(tmp_path / "aa.npz")


def test_a_damaged_array_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=random(3, 40, 40))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Array 'images' of .* cannot be read: Bad CRC"):
        NpzImages(path)


def test_mnist_is_what_its_arrays_hold(data):
    source = NpzImages(data / "mnist.npz", split="test", channels=1)
    images, labels, _ = everything(source, 1000)
    with np.load(data / "mnist.npz") as arrays:
        assert torch.equal(images[:, 0] * 255, torch.from_numpy(arrays["test_images"]).float())
    assert labels.bincount().tolist() == [250] * 10
    assert source.classes == tuple("0123456789")


def test_tiny_imagenet_is_unpacked(data):
    source = NpzImages(data / "tiny_imagenet_val_a.npz")
    with np.load(data / "tiny_imagenet_val_a.npz") as arrays:
        start, end = arrays["off"][7:9]
        eighth = np.asarray(Image.open(io.BytesIO(arrays["jpeg"][start:end].tobytes())).convert("RGB"))
        assert source.names == tuple(arrays["names"])
    batch = next(source.batches(8))
    assert torch.equal(batch.images[7], torch.from_numpy(eighth.copy()).permute(2, 0, 1).float() / 255)
    assert (len(source), batch.labels, source.skipped) == (1000, None, [])
