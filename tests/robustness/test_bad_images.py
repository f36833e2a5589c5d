"""Images that a monitor must not take for what it was fitted to."""

import json

import pytest
import torch
from PIL import Image

from inlier.backbones.street import street_espnet
from inlier.errors import Mismatch
from inlier.images import TensorImages
from inlier.monitor import Monitor

SIZE = (48, 96)


@pytest.fixture(scope="module")
def monitor(fitted):
    return Monitor.load(fitted / "daain.inlier", street_espnet())


def images(n, height, width, channels=3):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(47, 96), (48, 95), (49, 96), (96, 48), (360, 480)])
def test_a_key_is_for_one_image_size_also_where_tapped_shapes_coincide(monitor, size):
    # Strides round: this network's activations for 47 and 48 rows are of the same shapes.
    for look in (monitor, monitor.score, monitor.scores):
        with pytest.raises(Mismatch, match=rf"drawn for images of 48 x 96 .*{size[0]} x {size[1]} came"):
            look(images(2, *size))


class TwoSizes:
    """A source of images of two sizes."""

    def __len__(self):
        return 40

    def batches(self, size):
        yield from TensorImages(images(20, *SIZE)).batches(size)
        yield from TensorImages(images(20, 47, 96)).batches(size)


def test_clean_images_of_two_sizes_are_refused_where_there_is_a_key():
    with pytest.raises(Mismatch, match=r"drawn for images of 48 x 96 .*47 x 96 came"):
        Monitor(street_espnet(), "daain(distance=32, blocks=1)", seed=0).fit(TwoSizes())


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_no_score_is_given_to_images_of_another_channel_count(monitor, channels):
    for look in (monitor, monitor.score, monitor.scores):  # one channel would spread over three
        with pytest.raises(ValueError, match=f"expects images of 3 channels, and {channels} came"):
            look(images(2, *SIZE, channels))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -0.01, 1.01])
def test_one_bad_pixel_in_one_image_of_a_batch_is_refused(monitor, value):
    batch = images(4, *SIZE)
    batch[2, 1, 5, 7] = value
    with pytest.raises(ValueError, match=r"NaN or infinite pixels|must be in \[0, 1\]"):
        monitor(batch)


@pytest.mark.parametrize("bad", [images(4, *SIZE)[:0], images(4, *SIZE)[0], images(4, *SIZE)[:, :, :0]])
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_batch_of_no_images_or_of_no_pixels_is_refused(monitor, bad):
    with pytest.raises(ValueError, match=r"Images must be \(n, c, h, w\) with none of them 0"):
        monitor(bad)


def test_50_megapixels_are_scored_when_they_are_resized(inlier, fitted, tmp_path):
    Image.new("RGB", (8660, 5774), (90, 120, 90)).save(tmp_path / "a.png")
    for name in ("daain", "bands"):
        ran = inlier(
            "score", fitted / f"{name}.inlier", "--backbone", "street", "--images", tmp_path, "--resize", "48x96"
        )
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["flagged"] is True
