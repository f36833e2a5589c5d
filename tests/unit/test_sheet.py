"""Tiles of a sheet come out row by row, each with the label and name that lie beside the sheet."""

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets.sheet import SheetImages
from inlier.errors import Mismatch


def tiles(count, height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def written(folder, values, columns, name="test.png"):
    """A sheet with empty places at the end of its last row."""
    count, height, width, _ = values.shape
    rows = -(-count // columns)
    pixels = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, tile in enumerate(values):
        row, column = divmod(place, columns)
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def together(source):
    return torch.cat([batch.images for batch in source.batches(4)])


def expected(values):
    return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 255


def test_tiles_come_row_by_row(tmp_path):
    source = SheetImages(written(tmp_path, tiles(6), 3), tile=(4, 6))
    assert torch.equal(together(source), expected(tiles(6)))
    assert (source.names, source.classes, source.groups) == (tuple("012345"), (), {"all": 6})
    assert next(source.batches(4)).labels is None


def test_labels_and_the_tile_lie_in_a_file_of_the_sheets_own(tmp_path):
    path = written(tmp_path, tiles(5), 3)
    np.savez(tmp_path / "test_labels.npz", labels=[1, 0, 2, 1, 1], names=[*"vwxyz"], tile=[4, 6])
    np.savez(tmp_path / "labels.npz", test_labels=[9] * 5, tile=[9, 9])
    source = SheetImages(path)
    assert torch.equal(together(source), expected(tiles(5)))  # the sixth place is empty
    assert [label for batch in source.batches(2) for label in batch.labels.tolist()] == [1, 0, 2, 1, 1]
    assert (source.names, source.classes) == (tuple("vwxyz"), ("0", "1", "2"))


def test_labels_lie_in_a_file_for_several_sheets(tmp_path):
    path = written(tmp_path, tiles(4), 2)
    np.savez(
        tmp_path / "labels.npz", test_labels=[1, 0, 1, 1], train_labels=[0], class_names=["cat", "dog"], tile=[4, 6]
    )
    source = SheetImages(path)
    assert source.classes == ("cat", "dog")
    assert next(source.batches(4)).labels.tolist() == [1, 0, 1, 1]
    assert SheetImages(path, labelled=False).classes == ()
    other = written(tmp_path, tiles(4), 2, "other.png")
    assert SheetImages(other, tile=(4, 6)).classes == ()


def test_by_default_tiles_are_32_x_32_and_may_be_grey_and_resized(tmp_path):
    values = tiles(2, 32, 32)
    source = SheetImages(written(tmp_path, values, 2), channels=1, size=(8, 8))
    assert together(source).shape == (2, 1, 8, 8)
    assert len(source) == 2


def test_a_sheet_that_does_not_fit_is_refused(tmp_path):
    path = written(tmp_path, tiles(4), 2)
    with pytest.raises(ValueError, match="is 8 x 12 pixels, which tiles of 32 x 32 do not fill"):
        SheetImages(path)
    with pytest.raises(ValueError, match="1 pixel or more, not 0 x 6"):
        SheetImages(path, tile=(0, 6))
    np.savez(tmp_path / "test_labels.npz", labels=[0] * 5, tile=[4, 6])
    with pytest.raises(Mismatch, match=r"5 labels or names, and .* has 4 tiles"):
        SheetImages(path)
    np.savez(tmp_path / "test_labels.npz", labels=[0] * 4, names=["a"], tile=[4, 6])
    with pytest.raises(Mismatch, match="1 names in 'names' for 4 images"):
        SheetImages(path)
    np.savez(tmp_path / "test_labels.npz", labels=[0] * 4, tile=[4.5, 6])
    with pytest.raises(ValueError, match=r"'tile' of .* must be \(height, width\), not float64"):
        SheetImages(path)


def test_a_sheet_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read: not an image"):
        SheetImages(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*a\.png'"):
        SheetImages(tmp_path / "b.png")
    Image.new("1", (100_001, 1_000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than 100 megapixels"):
        SheetImages(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("sheet", "count", "classes", "each"), [("cifar10/test", 5000, 10, 500), ("gtsrb/test", 1200, 43, None)]
)
def test_real_sheets_are_cut_as_their_readme_does(data, sheet, count, classes, each):
    source = SheetImages(data / f"{sheet}.webp")
    pixels = np.asarray(Image.open(data / f"{sheet}.webp").convert("RGB"))
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    cut = pixels.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    batches = list(source.batches(1000))
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected(cut))
    assert (len(source), len(source.classes), source.skipped) == (count, classes, [])
    counts = torch.cat([batch.labels for batch in batches]).bincount(minlength=classes)
    assert int(counts.sum()) == count
    assert each is None or counts.tolist() == [each] * classes


def test_names_of_cifar_images_begin_with_their_class(data):
    source = SheetImages(data / "cifar10" / "test.webp")
    for batch in source.batches(1000):
        assert [name.split("/")[0] for name in batch.names] == [source.classes[label] for label in batch.labels]
