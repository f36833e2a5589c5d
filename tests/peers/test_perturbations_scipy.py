"""The same pixels as scipy.ndimage and NumPy where they have the same operation."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from inlier.perturbations.blur import convolved, disc, fading, trail, zoomed
from inlier.perturbations.edges import padded
from inlier.perturbations.geometric import Roll, Shift


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed))


def channel_by_channel(change, x):
    return torch.stack([torch.stack([torch.from_numpy(change(c.numpy())) for c in image]) for image in x])


KERNELS = {
    "disc": disc(3, 0.1),
    "large disc": disc(10, 0.5),
    "trail": trail(fading(10, 3.0), torch.tensor([0.4])),
    "long trail": trail(fading(20, 15.0), torch.tensor([-0.7])),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("size", [(17, 22), (40, 31), (3, 50)], ids=str)
def test_convolution_with_mirrored_edges(name, size):
    x, kernel = images(2, 3, *size), KERNELS[name]
    expected = channel_by_channel(lambda c: ndimage.convolve(c, kernel[0].numpy(), mode="mirror"), x)
    torch.testing.assert_close(convolved(x, kernel), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.3, 2.5])
def test_magnification_about_the_middle(factor):
    x = images(1, 2, 21, 30)
    centre = (np.array([21, 30]) - 1) / 2
    offset = centre - centre / factor
    expected = channel_by_channel(
        lambda c: ndimage.affine_transform(c, [1 / factor] * 2, offset, order=1, mode="nearest"), x
    )
    torch.testing.assert_close(zoomed(x, factor), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("severity", range(1, 6))
def test_roll(severity):
    x, (height, width) = images(3, 2, 30, 45), (30, 45)
    columns, rows = Roll(severity).places(3, height, width, seeded())
    turned, moved = Roll(severity)(x, seeded()), Roll(severity).move(x[:, 0], seeded())
    for image, y, nearest, column, row in zip(x, turned, moved, columns, rows, strict=True):
        places = np.stack([row.numpy(), column.numpy()])
        expected = np.stack([ndimage.map_coordinates(c.numpy(), places, order=1, mode="mirror") for c in image])
        np.testing.assert_allclose(y, expected, atol=2e-5)
        expected = ndimage.map_coordinates(image[0].numpy(), places.round(), order=0, mode="mirror")
        np.testing.assert_array_equal(nearest, expected)
        angle = math.atan2(row[0, 1] - row[0, 0], column[0, 1] - column[0, 0])
        turned_by = ndimage.rotate(image[0].numpy(), math.degrees(angle), reshape=False, order=1, mode="mirror")
        np.testing.assert_allclose(y[0], turned_by, atol=2e-4)  # the angle is read off single pixels


@pytest.mark.parametrize("severity", range(1, 6))
def test_shift(severity):
    x = images(4, 3, 24, 33)
    shifted = Shift(severity)(x, seeded())
    rows = torch.arange(24).view(1, 24, 1).expand(4, 24, 33)
    columns = torch.arange(33).expand(4, 24, 33)
    down = Shift(severity).move(rows, seeded())[:, 12, 16] - 12
    across = Shift(severity).move(columns, seeded())[:, 12, 16] - 16
    for image, y, i, j in zip(x, shifted, down.tolist(), across.tolist(), strict=True):
        around = np.pad(image, [(0, 0), (10, 10), (10, 10)], mode="reflect")
        np.testing.assert_array_equal(y, around[:, 10 + i : 34 + i, 10 + j : 43 + j])


@pytest.mark.parametrize("reach", [0, 1, 6, 40])
def test_padding(reach):
    x = images(1, 1, 5, 7)
    expected = np.pad(x, [(0, 0), (0, 0), (reach, reach), (reach, reach)], mode="reflect")
    np.testing.assert_array_equal(padded(x, reach), expected)
