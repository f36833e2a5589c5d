"""Blurs equal their definitions, keep the mean of an image and where things are."""

import math

import pytest
import torch

from inlier.perturbations.blur import DefocusBlur, MotionBlur, ZoomBlur, convolved, disc, fading, trail, zoomed
from inlier.perturbations.edges import mirrored, padded


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def point(size=61):
    x = torch.zeros(1, 1, size, size)
    x[..., size // 2, size // 2] = 1
    return x


def smooth(size=64):
    """A smooth image: slow waves."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return (0.5 + 0.2 * torch.sin(7 * x + 2 * y) + 0.2 * torch.cos(5 * y))[None, None]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_mirrored_goes_to_and_fro(size):
    walk = torch.tensor([*range(size), *range(size - 2, 0, -1)])
    places = torch.arange(-3 * len(walk), 3 * len(walk))
    assert torch.equal(mirrored(places, size), walk[places % len(walk)])


def test_padding_mirrors_also_further_than_the_image_is_large():
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert padded(x, 3).shape == (1, 1, 7, 8)
    assert padded(x, 3)[0, 0, 0].tolist() == [2, 1, 2, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(("severity", "radius"), [(1, 3), (2, 4), (3, 6), (4, 8), (5, 10)])
def test_a_point_out_of_focus_is_a_disc(severity, radius):
    spot = DefocusBlur(severity)(point())[0, 0]
    across = (torch.arange(61) - 30).float()
    distance = (across**2 + across[:, None] ** 2).sqrt()
    assert spot.sum().item() == pytest.approx(1, abs=1e-4)
    assert spot[distance > radius + 3].max() < 1e-5
    flat = spot[distance < radius - 2]
    assert flat.max() - flat.min() < 1e-6
    area = 1 / flat.mean().item()
    assert area == pytest.approx(math.pi * radius**2, rel=0.12)


def test_a_moving_camera_draws_a_point_to_a_line_about_it():
    angle = torch.tensor([0.0, math.pi / 4, -math.pi / 6])
    weights = fading(15, 8.0)
    kernels = trail(weights, angle)
    reach = kernels.shape[-1] // 2
    along = (torch.arange(2 * reach + 1) - reach).float()
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(3))
    x, y = (kernels.sum(1) * along).sum(1), (kernels.sum(2) * along).sum(1)
    torch.testing.assert_close(torch.stack([x, y]), torch.zeros(2, 3), atol=1e-4, rtol=0)
    assert kernels[0].sum(1)[along != 0].abs().max() < 1e-6  # along a row
    for kernel, turned in zip(kernels, angle, strict=True):
        aside = along[:, None] * turned.cos() - along * turned.sin()
        assert kernel[aside.abs() > math.sqrt(2)].abs().max() < 1e-6  # nowhere but on the line


def test_a_trail_fades_like_half_a_gaussian():
    weights = fading(10, 3.0)
    assert len(weights) == 21
    torch.testing.assert_close((weights / weights[0]).log(), -(torch.arange(21.0) ** 2) / 18)


@pytest.mark.parametrize("severity", range(1, 6))
def test_motion_lies_within_45_degrees_of_the_horizontal_and_keeps_things_in_place(severity):
    spots = MotionBlur(severity)(point(121).expand(30, -1, -1, -1), seeded())[:, 0]
    along = (torch.arange(121) - 60).float()
    x, y = (spots.sum(1) * along).sum(1), (spots.sum(2) * along).sum(1)
    assert torch.stack([x, y]).abs().max() < 1e-3
    wide, high = (spots.sum(1) * along**2).sum(1), (spots.sum(2) * along**2).sum(1)
    assert (wide > high - 0.5).all()
    assert high.max() > 2 * high.min()


@pytest.mark.parametrize("severity", range(1, 6))
def test_blurs_keep_a_plain_image(severity):
    plain = torch.full((2, 3, 20, 30), 0.3)
    for blur in (DefocusBlur, MotionBlur, ZoomBlur):
        torch.testing.assert_close(blur(severity)(plain, seeded()), plain, atol=1e-5, rtol=0)


def test_a_kernel_of_one_is_the_identity_and_kernels_may_differ_by_image():
    x = torch.rand(2, 3, 7, 9, generator=seeded())
    kernels = torch.zeros(2, 5, 5)
    kernels[0, 2, 2] = 1
    kernels[1, 2, 3] = 1  # a point goes one pixel to the right
    y = convolved(x, kernels)
    torch.testing.assert_close(y[0], x[0])
    torch.testing.assert_close(y[1, :, :, 1:], x[1, :, :, :-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_convolution_keeps_the_type(dtype):
    x = torch.rand(1, 1, 8, 8, generator=seeded()).to(dtype)
    y = convolved(x, disc(3, 0.1))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), convolved(x.double(), disc(3, 0.1)), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("severity", "largest"), [(1, 1.11), (2, 1.15), (3, 1.2), (4, 1.24), (5, 1.3)])
def test_zoom_blur_is_the_mean_of_copies_up_to_its_factor(severity, largest):
    x = smooth()
    copies = torch.stack([zoomed(x, factor) for factor in torch.linspace(0, math.log(largest), 200).exp().tolist()])
    torch.testing.assert_close(ZoomBlur(severity)(x), copies.mean(0), atol=5e-3, rtol=0)
    other = torch.stack([zoomed(x, factor) for factor in torch.linspace(1, 2 * largest - 1, 200).tolist()])
    assert (ZoomBlur(severity)(x) - other.mean(0)).abs().max() > 1e-2


def test_zoom_blur_leaves_no_ghosts_in_a_large_image():
    x = torch.zeros(1, 1, 400, 400)
    x[..., 340:343] = 1  # a thin line far from the middle
    profile = ZoomBlur(5)(x)[0, 0, 200, 343:375]
    assert profile.min() > 0.5 * profile.max()


def test_blurs_have_gradients():
    for blur in (DefocusBlur, MotionBlur, ZoomBlur):
        x = (0.2 + 0.6 * torch.rand(1, 3, 9, 9, generator=seeded())).requires_grad_()
        blur(1)(x, seeded()).square().sum().backward()
        assert x.grad.isfinite().all()
        assert (x.grad != 0).all()
