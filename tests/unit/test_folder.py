"""Whatever lies in a folder comes out as upright RGB in [0, 1], in order and grouped, or is skipped with a reason."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets.base import Skipped
from inlier.datasets.folder import ImageFolder


def save(path: Path, values: np.ndarray, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def rgb(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def only(path: Path, **options) -> torch.Tensor:
    """The one image of a folder, (3, h, w)."""
    (batch,) = ImageFolder(path, **options).batches(8)
    assert batch.images.dtype == torch.float32
    assert batch.images.shape[:2] == (1, 3)
    return batch.images[0]


def expected(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_files_come_out_to_the_bit(tmp_path, suffix):
    save(tmp_path / f"a.{suffix}", rgb())
    assert torch.equal(only(tmp_path), expected(rgb()))


def test_webp_and_jpeg_are_read(tmp_path):
    save(tmp_path / "a.webp", rgb(), lossless=True)
    assert torch.equal(only(tmp_path), expected(rgb()))
    save(tmp_path / "b.jpg", np.full((16, 16, 3), 100, np.uint8))
    save(tmp_path / "c.jpeg", np.full((16, 16, 3), 100, np.uint8))
    assert [batch.names for batch in ImageFolder(tmp_path).batches(8)] == [("a.webp",), ("b.jpg", "c.jpeg")]


def test_names_are_relative_and_in_natural_order(tmp_path):
    for name in ("b/1.png", "a/10.png", "a/9.png", "a/deep/er/1.png", "b2/1.png", "b10/1.png"):
        save(tmp_path / name, rgb())
    source = ImageFolder(tmp_path)
    names = [name for batch in source.batches(4) for name in batch.names]
    assert names == ["a/9.png", "a/10.png", "a/deep/er/1.png", "b/1.png", "b2/1.png", "b10/1.png"]
    assert len(source) == 6


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    save(tmp_path / "a.png", rgb())
    save(tmp_path / ".cache" / "b.png", rgb())
    (tmp_path / "._a.png").write_bytes(b"a resource fork")
    (tmp_path / "notes.txt").write_text("no image")
    assert ImageFolder(tmp_path).names == ("a.png",)


def test_a_batch_never_mixes_sizes(tmp_path):
    for number, height in enumerate((4, 4, 4, 5, 4)):
        save(tmp_path / f"{number}.png", rgb(height))
    shapes = [tuple(batch.images.shape) for batch in ImageFolder(tmp_path).batches(2)]
    assert shapes == [(2, 3, 4, 9), (1, 3, 4, 9), (1, 3, 5, 9), (1, 3, 4, 9)]


def test_a_size_makes_all_images_equal(tmp_path):
    for number, height in enumerate((8, 16)):
        save(tmp_path / f"{number}.png", np.full((height, 20, 3), 51, np.uint8))
    (batch,) = ImageFolder(tmp_path, size=(4, 10)).batches(8)
    assert torch.allclose(batch.images, torch.full((2, 3, 4, 10), 0.2))


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    save(tmp_path / "a.png", stripes)
    inner = only(tmp_path, size=(8, 8))[:, :, 1:-1]
    assert ((inner - 0.5).abs() < 0.01).all()


def test_grey_has_three_equal_channels(tmp_path):
    save(tmp_path / "a.png", rgb()[..., 0])
    assert torch.equal(only(tmp_path), expected(rgb()[..., :1]).expand(3, -1, -1))


def test_a_palette_is_looked_up(tmp_path):
    blocks = np.repeat(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8), 3, 0)
    Image.fromarray(blocks).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert torch.equal(only(tmp_path), expected(blocks))


def test_transparency_is_put_on_black(tmp_path):
    values = np.full((2, 2, 4), 200, np.uint8)
    values[0, :, 3], values[1, :, 3] = 255, 0
    save(tmp_path / "a.png", values)
    image = only(tmp_path)
    assert torch.equal(image[:, 0], torch.full((3, 2), 200 / 255))
    assert torch.equal(image[:, 1], torch.zeros(3, 2))


def test_a_transparent_colour_of_a_palette_is_put_on_black(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert only(tmp_path)[:, 0].tolist() == [[0, 0], [0, 1], [0, 0]]


def test_cmyk_becomes_rgb(tmp_path):
    save(tmp_path / "a.tif", np.full((4, 4, 3), (255, 0, 0), np.uint8), mode="CMYK")
    assert torch.equal(only(tmp_path)[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    save(tmp_path / f"a.{suffix}", np.array([[0, 1000, 40_000, 65_535]], np.uint16))
    for row in only(tmp_path)[:, 0]:
        assert torch.allclose(row, torch.tensor([0, 1000, 40_000, 65_535]) / 65_535)
    assert only(tmp_path, size=(1, 2)).amax() < 1


def test_pixels_without_a_stated_range_are_skipped(tmp_path):
    save(tmp_path / "a.png", rgb())
    save(tmp_path / "b.tif", np.ones((4, 4), np.float32))
    source = ImageFolder(tmp_path)
    assert sum(len(batch.names) for batch in source.batches(2)) == 1
    assert "no stated range" in source.skipped[0].reason


def test_a_camera_held_sideways_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right
    save(tmp_path / "a.png", rgb(), exif=exif)
    assert torch.equal(only(tmp_path), expected(np.rot90(rgb(), -1).copy()))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_taken_with_a_note(tmp_path, suffix):
    frames = [Image.fromarray(rgb(seed=seed)) for seed in range(3)]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    source = ImageFolder(tmp_path)
    (batch,) = source.batches(1)
    assert torch.equal(batch.images[0], expected(rgb()))
    assert [note.name for note in source.notes] == [f"a.{suffix}"]


def test_broken_files_are_skipped_counted_and_explained(tmp_path):
    save(tmp_path / "a.png", rgb())
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    whole = save(tmp_path / "cut.png", rgb(64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    source = ImageFolder(tmp_path)
    for _ in range(2):  # counted anew each time
        assert [batch.names for batch in source.batches(8)] == [("a.png",)]
        assert [skipped.name for skipped in source.skipped] == ["cut.png", "empty.jpg", "text.png"]
    assert len(source) == 4
    assert source.skipped[2] == Skipped("text.png", "not an image in any format that Pillow reads")
    assert str(tmp_path) not in "".join(skipped.reason for skipped in source.skipped)


def test_more_than_100_megapixels_are_skipped_and_fewer_warn_nobody(tmp_path):
    save(tmp_path / "a.png", rgb())
    Image.new("1", (100_001, 1_000)).save(tmp_path / "huge.png")
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    source = ImageFolder(tmp_path)
    assert sum(len(batch.names) for batch in source.batches(8)) == 1
    assert source.skipped == [Skipped("huge.png", "100001 x 1000 pixels are more than 100 megapixels")]
    assert limit == Image.MAX_IMAGE_PIXELS
    assert filters == list(warnings.filters)


def test_an_image_that_pillow_calls_a_bomb_is_read_below_our_limit(tmp_path, monkeypatch):
    save(tmp_path / "a.png", rgb())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # between half of this image's 54 pixels and all of them
    assert torch.equal(only(tmp_path), expected(rgb()))


def test_a_folder_without_one_readable_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No image in .*\.png, \.jpg"):
        ImageFolder(tmp_path)
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"None of the 1 images .*a\.png: not an image"):
        next(ImageFolder(tmp_path).batches(4))


def test_a_missing_folder_names_the_nearest_one(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*train'\?"):
        ImageFolder(tmp_path / "trian" / "left")
    with pytest.raises(NotADirectoryError, match="is a file"):
        ImageFolder(save(tmp_path / "a.png", rgb()))


def test_groups_may_be_named_by_an_expression(tmp_path):
    for name in ("siteA/d1_1.png", "siteA/d1_2.png", "siteB/d2_1.png"):
        save(tmp_path / name, rgb())
    assert ImageFolder(tmp_path).groups == {"siteA/d1": 2, "siteB/d2": 1}
    assert ImageFolder(tmp_path, group_by=r"site(\w)").groups == {"A": 2, "B": 1}
    assert ImageFolder(tmp_path, group_by=r"d\d").groups == {"d1": 2, "d2": 1}
    (batch,) = ImageFolder(tmp_path, group_by="site.").batches(8)
    assert batch.groups == ("siteA", "siteA", "siteB")


def test_an_expression_that_cannot_group_is_refused(tmp_path):
    save(tmp_path / "a" / "b.png", rgb())
    with pytest.raises(ValueError, match=r"does not match 'a/b\.png'"):
        ImageFolder(tmp_path, group_by="site")
    with pytest.raises(ValueError, match="no regular expression"):
        ImageFolder(tmp_path, group_by="(")


def test_bad_sizes_are_refused(tmp_path):
    save(tmp_path / "a.png", rgb())
    with pytest.raises(ValueError, match="height, width"):
        ImageFolder(tmp_path, size=(0, 4))
    with pytest.raises(ValueError, match="at least 1"):
        next(ImageFolder(tmp_path).batches(0))


def test_file_names_may_be_chosen_by_a_pattern(tmp_path):
    for name in ("a/1_left.png", "a/1_right.png", "left/2_right.png"):
        save(tmp_path / name, rgb())
    assert ImageFolder(tmp_path, pattern="*_left.*").names == ("a/1_left.png",)
    with pytest.raises(ValueError, match=r"No image in .* and called \*_top\.\*"):
        ImageFolder(tmp_path, pattern="*_top.*")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_bytes_changed_at_random_are_read_or_skipped_and_never_raise(tmp_path, kind):
    generator = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rgb(24, 24)).save(buffer, kind)
    save(tmp_path / "0.png", rgb())
    for number in range(1, 60):
        content = bytearray(buffer.getvalue())
        for place in generator.integers(0, min(len(content), 200 if number % 2 else len(content)), 3):
            content[place] = generator.integers(256)
        cut = generator.integers(1, len(content)) if number % 5 == 0 else len(content)
        (tmp_path / f"{number}.{kind.lower()}").write_bytes(content[:cut])
    (tmp_path / f"60.{kind.lower()}").write_bytes(generator.bytes(100))
    source = ImageFolder(tmp_path, size=(8, 8))
    read = 0
    for batch in source.batches(8):
        assert ((batch.images >= 0) & (batch.images <= 1)).all()
        read += len(batch.names)
    assert read + len(source.skipped) == len(source)
    assert source.skipped
    assert all(skipped.reason for skipped in source.skipped)
