"""Whatever a file holds comes out as was written, upright, in [0, 1]; what is right is computed without the reader."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.datasets.pixels import decoded, reason, resized, resized_labels, with_channels


def random(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(3).integers(0, high, shape, dtype=dtype)


def tensor(values, most=255):
    values = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    return torch.from_numpy(values.astype(np.float64) / most).permute(2, 0, 1).float()


def read(content, size=None, channels=3):
    return decoded(Image.open(io.BytesIO(content)), size, channels)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(values, colour, bits):
    """A PNG written by hand: rows without filters, big-endian."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_16_bit_grey_keeps_all_its_bits():
    values = random(5, 7, high=65536, dtype=np.uint16)
    for content in (png(values, 0, 16), b"P5 7 5 65535\n" + values.astype(">u2").tobytes()):
        picture = read(content)
        torch.testing.assert_close(picture.pixels, tensor(values, 65535), atol=1e-7, rtol=0)
        assert picture.notes == ()


def test_16_bit_colour_is_right_to_8_bits_and_says_so():
    values = random(5, 7, 3, high=65536, dtype=np.uint16)
    for content in (png(values, 2, 16), b"P6 7 5 65535\n" + values.astype(">u2").tobytes()):
        picture = read(content)
        torch.testing.assert_close(picture.pixels, tensor(values, 65535), atol=1 / 255, rtol=0)
        assert picture.notes == ("its 16 bits a channel were read as 8",)
    assert read(png(random(5, 7, 3), 2, 8)).notes == ()
    assert read(b"P6 7 5 255\n" + random(5, 7, 3).tobytes()).notes == ()


def test_16_bit_colour_with_transparency_is_put_on_black_to_8_bits():
    values = random(4, 4, 4, high=65536, dtype=np.uint16)
    exact = tensor(values[..., :3], 65535) * tensor(values[..., 3], 65535)
    torch.testing.assert_close(read(png(values, 6, 16)).pixels, exact, atol=2 / 255, rtol=0)


def test_partial_transparency_is_put_on_black():
    values = random(6, 6, 4)
    exact = tensor(values[..., :3]) * tensor(values[..., 3])
    torch.testing.assert_close(read(png(values, 6, 8)).pixels, exact, atol=1 / 255, rtol=0)
    grey = values[..., [0, 3]]
    exact = tensor(grey[..., 0]) * tensor(grey[..., 1])
    torch.testing.assert_close(read(png(grey, 4, 8)).pixels, exact, atol=1 / 255, rtol=0)


def test_a_cmyk_jpeg_is_ink_on_paper():
    ink = np.broadcast_to(np.array([30, 180, 90, 60], np.uint8), (16, 16, 4))
    plates = [Image.new("L", (16, 16), int(value)) for value in ink[0, 0]]
    content = encoded(Image.merge("CMYK", plates), "JPEG", quality=100)
    paper = (255 - ink[..., :3].astype(int)) * (255 - ink[..., 3:].astype(int)) / 255
    torch.testing.assert_close(read(content).pixels, tensor(paper), atol=3 / 255, rtol=0)


def test_a_grey_jpeg_has_three_equal_channels():
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8), (32, 32))
    pixels = read(encoded(Image.fromarray(ramp.copy()), "JPEG", quality=100)).pixels
    assert torch.equal(pixels[0], pixels[1])
    torch.testing.assert_close(pixels, tensor(ramp), atol=3 / 255, rtol=0)


def test_a_palette_with_transparency_in_steps_is_looked_up():
    indices = random(5, 5, high=4)
    colours, opacity = random(4, 3), bytes([0, 100, 200, 255])
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.flatten().tolist())
    image.putpalette(colours.flatten().tolist())
    exact = tensor(colours[indices]) * tensor(np.frombuffer(opacity, np.uint8)[indices])
    torch.testing.assert_close(read(encoded(image, "PNG", transparency=opacity)).pixels, exact, atol=1 / 255, rtol=0)


def test_one_bit_is_black_and_white():
    values = random(5, 9, high=2).astype(bool)
    assert torch.equal(read(encoded(Image.fromarray(values), "PNG")).pixels, tensor(values.astype(np.uint8), 1))


TURNS = {  # what makes upright what a camera with this EXIF orientation has stored
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("depth", [8, 16])
def test_every_orientation_of_a_camera_is_made_upright(orientation, depth):
    stored = random(3, 5, 3) if depth == 8 else random(3, 5, high=65536, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(encoded(Image.fromarray(stored), "PNG", exif=exif))
    upright = TURNS[orientation](stored).copy()
    torch.testing.assert_close(picture.pixels, tensor(upright, 2**depth - 1), atol=1e-7, rtol=0)
    assert picture.before == upright.shape[:2]


def test_of_an_animated_gif_the_first_frame_is_taken_with_a_note():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    picture = read(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert torch.equal(picture.pixels[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert picture.notes == ("it has several frames; the first was taken",)


def test_one_channel_is_brightness_and_grey_keeps_its_values():
    values = random(6, 6, 3)
    exact = (values @ np.array([0.299, 0.587, 0.114]) / 255)[None]
    torch.testing.assert_close(read(png(values, 2, 8), channels=1).pixels, torch.from_numpy(exact).float())
    grey = random(6, 6)
    assert torch.equal(read(png(grey, 0, 8), channels=1).pixels, tensor(grey)[:1])
    deep = read(png(random(6, 6, high=65536, dtype=np.uint16), 0, 16), channels=1).pixels
    assert torch.equal(with_channels(with_channels(deep, 3), 1), deep)


def test_a_resized_picture_says_what_it_was_and_keeps_its_mean():
    values = random(64, 96, 3)
    picture = read(png(values, 2, 8), size=(16, 12))
    assert picture.pixels.shape == (3, 16, 12)
    assert picture.before == (64, 96)
    torch.testing.assert_close(picture.pixels.mean((1, 2)), tensor(values).mean((1, 2)), atol=0.02, rtol=0)


def test_floats_are_resized_as_files_are():
    values = random(64, 96, 3)
    floats = resized(tensor(values), (16, 12))
    torch.testing.assert_close(floats, read(png(values, 2, 8), size=(16, 12)).pixels, atol=1.01 / 255, rtol=0)
    assert resized(floats, (16, 12)) is floats
    assert resized(floats, None) is floats


@pytest.mark.parametrize("size", [(3, 5), (6, 10), (12, 20), (7, 4)])
def test_labels_are_resized_to_the_nearest_pixel(size):
    labels = torch.from_numpy(random(6, 10)).long()
    nearest = torch.nn.functional.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0]
    assert torch.equal(resized_labels(labels, size), nearest.long())


def test_a_reason_is_never_empty():
    assert reason(EOFError()) == "EOFError"
    assert reason(ValueError("cut")) == "cut"
