"""The same pixels as Pillow and colorsys, up to rounding to 8 bit."""

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from inlier.perturbations.colour import from_hsv, luma, to_hsv
from inlier.perturbations.digital import Jpeg, Pixelate
from inlier.perturbations.photometric import brightened, contrasted, saturated

LEVEL = 1 / 255


@pytest.fixture
def picture():
    """Blocks and noise, at a size that no block size divides, on 8 bit."""
    source = torch.Generator().manual_seed(0)
    blocks = torch.rand(3, 9, 11, generator=source).repeat_interleave(7, 1).repeat_interleave(6, 2)
    return (0.8 * blocks + 0.2 * torch.rand(3, 63, 66, generator=source)).mul(255).round().div(255)[None]


def to_pillow(images):
    return Image.fromarray(images[0].mul(255).round().byte().permute(1, 2, 0).numpy())


def from_pillow(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(brightened, ImageEnhance.Brightness), (contrasted, ImageEnhance.Contrast), (saturated, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 1.8])
def test_factors_of_jitter(picture, ours, theirs, factor):
    found = ours(picture, torch.full((1, 1, 1, 1), factor - 1))
    expected = from_pillow(theirs(to_pillow(picture)).enhance(factor))
    assert (found - expected).abs().max() < 2 * LEVEL


def test_luma(picture):
    expected = torch.from_numpy(np.asarray(to_pillow(picture).convert("L")).copy()) / 255
    assert (luma(picture)[0, 0] - expected).abs().max() < LEVEL


def test_hsv(picture):
    corners = torch.tensor([[r, g, b] for r in (0, 0.5, 1) for g in (0, 0.5, 1) for b in (0, 0.5, 1)])
    colours = torch.cat([picture[0].flatten(1).T[::17], corners])
    expected = torch.tensor([colorsys.rgb_to_hsv(*colour) for colour in colours.tolist()])
    found = to_hsv(colours.T[None, :, :, None])[0, :, :, 0].T
    torch.testing.assert_close(found[:, 1:], expected[:, 1:])
    apart = (found[:, 0] - expected[:, 0]).abs()
    assert torch.minimum(apart, 1 - apart).max() < 1e-5
    back = from_hsv(expected.float().T[None, :, :, None])[0, :, :, 0].T
    torch.testing.assert_close(back, colours, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (2, 18), (3, 15), (4, 10), (5, 7)])
def test_jpeg(picture, severity, quality):
    file = io.BytesIO()
    to_pillow(picture).save(file, "JPEG", quality=quality)
    expected = from_pillow(Image.open(file))
    assert torch.equal(Jpeg(severity)(picture), expected)
    assert torch.equal(Jpeg(1, quality=quality)(picture), expected)


@pytest.mark.parametrize(("severity", "scale"), [(1, 0.6), (2, 0.5), (3, 0.4), (4, 0.3), (5, 0.25)])
def test_pixelate(picture, severity, scale):
    small = to_pillow(picture).resize((int(66 * scale), int(63 * scale)), Image.Resampling.BOX)
    expected = from_pillow(small.resize((66, 63), Image.Resampling.BOX))
    assert (Pixelate(severity)(picture) - expected).abs().max() < 1.5 * LEVEL
