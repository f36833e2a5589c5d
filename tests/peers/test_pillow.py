"""Compressed copies are Pillow's (libjpeg's) to a fraction of a grey level; medians are Pillow's to the bit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from inlier.datasets.scenes.scene import draw_many
from inlier.datasets.scenes.worlds import WORLDS
from inlier.looks import Jpeg, Median


@pytest.fixture(scope="module")
def scene():
    """(h, w, 3) 8-bit values of a drawn street; sides are whole numbers of blocks."""
    images, _ = draw_many(WORLDS["summer"], 1, seed=0)
    return images[0].permute(1, 2, 0).mul(255).round().byte().numpy()


def compressed(pixels, quality):
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).astype(int)


def shown(pixels):
    values = torch.tensor(pixels).float() / 255
    return values.permute(2, 0, 1)[None] if values.ndim == 3 else values[None, None]


def back(images):
    values = images[0].mul(255).round().int().numpy()
    return values.transpose(1, 2, 0) if len(values) == 3 else values[0]


@pytest.mark.parametrize("quality", [10, 50, 75, 90, 100])
def test_jpeg_is_pillow_s_within_half_a_grey_level_on_average(scene, quality):
    apart = np.abs(back(Jpeg(quality).images(shown(scene))) - compressed(scene, quality))
    lost = np.abs(compressed(scene, quality) - scene)
    assert apart.mean() < 0.5
    assert (apart > 2).mean() < 0.04  # coefficients half way between two steps
    if quality < 100:
        assert apart.mean() < lost.mean() / 4


@pytest.mark.parametrize("size", [(37, 53), (16, 17), (1, 1), (2, 31), (47, 64), (48, 63)])
def test_jpeg_of_sides_that_are_no_whole_blocks_is_pillow_s(scene, size):
    cut = np.ascontiguousarray(scene[-size[0] :, : size[1]])
    assert np.abs(back(Jpeg(75).images(shown(cut))) - compressed(cut, 75)).mean() < 0.7


def test_jpeg_of_a_grey_image_is_pillow_s(scene):
    grey = np.asarray(Image.fromarray(scene).convert("L"))
    assert np.abs(back(Jpeg(75).images(shown(grey))) - compressed(grey, 75)).mean() < 0.5


@pytest.mark.parametrize("size", [3, 5])
def test_median_is_pillow_s(scene, size):
    theirs = np.asarray(Image.fromarray(scene).filter(ImageFilter.MedianFilter(size))).astype(int)
    reach = size // 2  # they do otherwise at edges
    inside = (slice(reach, -reach), slice(reach, -reach))
    assert np.array_equal(back(Median(size).images(shown(scene)))[inside], theirs[inside])
