"""Perturbations equal their definitions."""

import math
import time

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.perturbations.base import Perturbation, to_8_bit
from inlier.perturbations.clouds import plasma
from inlier.perturbations.geometric import VerticalFlip
from inlier.perturbations.noise import GaussianNoise, SignNoise
from inlier.perturbations.weather import Fog

ALL = [Fog, VerticalFlip, GaussianNoise, SignNoise]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed))


def test_fog_equals_its_formula():
    for severity, (density, decay) in enumerate([(1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)], start=1):
        x = images(2, 3, 20, 30) * torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)
        veil = plasma(2, 32, decay, seeded())[:, None, :20, :30]
        brightest = torch.stack([image.max() for image in x]).view(2, 1, 1, 1)
        expected = ((x + density * veil) * brightest / (brightest + density)).clamp(0, 1)
        torch.testing.assert_close(Fog(severity)(x, seeded()), expected)


def test_plasma_equals_diamond_square_point_by_point():
    size, decay = 16, 1.7
    source, grid, step, amplitude = seeded(), np.zeros((16, 16)), size, 1.0
    while step > 1:
        half, cells = step // 2, range(0, size, step)
        noise = amplitude * (2 * torch.rand(3, 1, len(cells), len(cells), generator=source).double().numpy() - 1)
        for i in cells:
            for j in cells:
                corners = [grid[(i + a) % size, (j + b) % size] for a in (0, step) for b in (0, step)]
                grid[i + half, j + half] = np.mean(corners) + noise[0, 0, i // step, j // step]
        for i in cells:
            for j in cells:
                for kind, (row, column) in enumerate([(i, j + half), (i + half, j)], start=1):
                    around = [
                        grid[(row + a) % size, (column + b) % size]
                        for a, b in ((half, 0), (-half, 0), (0, half), (0, -half))
                    ]
                    grid[row, column] = np.mean(around) + noise[kind, 0, i // step, j // step]
        step, amplitude = half, amplitude / decay**2
    expected = (grid - grid.min()) / (grid.max() - grid.min())
    np.testing.assert_allclose(plasma(1, size, decay, seeded())[0], expected, atol=1e-5)


def test_plasma_fills_zero_to_one_and_differs_from_image_to_image():
    clouds = plasma(4, 64, 2.0, seeded())
    assert clouds.shape == (4, 64, 64)
    assert clouds.amin((1, 2)).tolist() == [0] * 4
    assert clouds.amax((1, 2)).tolist() == [1] * 4
    assert len(clouds.flatten(1).unique(dim=0)) == 4


def test_plasma_grows_rougher_as_the_decay_falls():
    roughness = [plasma(8, 128, decay, seeded()).diff(dim=2).abs().mean() for decay in (3.0, 2.0, 1.7, 1.4)]
    assert roughness == sorted(roughness)


def test_fog_takes_contrast_from_a_real_frame_and_is_quick(data):
    frame = np.asarray(Image.open(sorted((data / "camvid" / "test").iterdir())[70]).convert("RGB"))
    x = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] / 255
    detail = [Fog(severity)(x, seeded()).diff(dim=3).abs().mean() for severity in range(6)]
    assert all(after < 0.6 * detail[0] for after in detail[1:])
    started = time.perf_counter()
    for _ in range(5):
        Fog(1)(x, seeded())
    assert (time.perf_counter() - started) / 5 < 0.3  # measured 4 ms; a loop over pixels takes seconds


def test_vertical_flip_turns_the_image_upside_down():
    x = images(2, 3, 5, 4)
    for severity in range(1, 6):
        assert torch.equal(VerticalFlip(severity)(x)[0, 0, 0], x[0, 0, 4])
        assert torch.equal(VerticalFlip(severity)(VerticalFlip(severity)(x)), x)


@pytest.mark.parametrize(("severity", "std"), [(1, 0.08), (2, 0.12), (3, 0.18), (4, 0.26), (5, 0.38)])
def test_gaussian_noise_has_its_standard_deviation(severity, std):
    noise = GaussianNoise(severity).perturb(torch.zeros(1, 1, 300, 300), seeded())
    assert noise.mean().item() == pytest.approx(0, abs=4 * std / 300)
    assert noise.std().item() == pytest.approx(std, rel=0.01)


def test_sign_noise_moves_every_value_by_eps():
    x = 0.1 + 0.8 * images(1, 3, 50, 50)
    moved = SignNoise(severity=3, eps=0.02)(x, seeded()) - x
    torch.testing.assert_close(moved.abs(), torch.full_like(x, 0.02), rtol=0, atol=1e-6)
    assert abs((moved > 0).float().mean() - 0.5) < 4 * 0.5 / math.sqrt(moved.numel())


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("severity", [-1, 6, 1.5, "1", None])
def test_a_severity_that_is_none_is_refused(kind, severity):
    with pytest.raises(ValueError, match=f"{kind.__name__} must be an integer from 0"):
        kind(severity)


@pytest.mark.parametrize("kind", [Fog, GaussianNoise, SignNoise])
def test_random_perturbations_ask_for_a_generator(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} is random: hand it a generator"):
        kind()(images(1, 3, 8, 8))


@pytest.mark.usefixtures("unchecked_shapes")
def test_images_out_of_range_are_refused_with_their_range():
    with pytest.raises(ValueError, match=r"not in \[0, 255\]. Divide 8-bit images by 255"):
        VerticalFlip()(torch.tensor([0.0, 255.0]).view(1, 1, 2, 1))
    with pytest.raises(ValueError, match="Expected images in"):
        VerticalFlip(0)(torch.full((1, 1, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"not torch.uint8 of shape \(1, 1, 2, 2\)"):
        VerticalFlip()(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"of shape \(3, 2, 2\)"):
        VerticalFlip()(torch.zeros(3, 2, 2))


def test_eps_that_is_no_size_is_refused():
    for eps in (0.0, -0.1, 2.0):
        with pytest.raises(ValueError, match="eps must be above 0"):
            SignNoise(eps=eps)


def test_8_bit_rounding_keeps_8_bit_images_and_takes_the_nearest_of_others():
    grey = torch.arange(256).view(1, 1, 16, 16) / 255
    assert torch.equal(to_8_bit(grey), grey)
    assert (to_8_bit(images(1, 3, 9, 9)) - images(1, 3, 9, 9)).abs().max() <= 0.5 / 255 + 1e-7


def test_a_perturbation_without_perturb_cannot_be_made():
    with pytest.raises(TypeError, match="perturb"):
        Perturbation()
