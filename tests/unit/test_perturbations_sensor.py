"""Noise, dead rows, blocks and JPEG equal their definitions."""

import pytest
import torch

from inlier.perturbations.digital import Jpeg, Pixelate
from inlier.perturbations.noise import ImpulseNoise, ShotNoise
from inlier.perturbations.sensor import DeadRows
from inlier.testing.specimens import scenes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("severity", "grains"), [(1, 60), (2, 25), (3, 12), (4, 5), (5, 3)])
def test_shot_noise_counts_grains(severity, grains):
    counts = grains * ShotNoise(severity).perturb(torch.full((1, 1, 300, 300), 0.3), seeded())
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
    assert counts.mean().item() == pytest.approx(0.3 * grains, rel=0.01)
    assert counts.var().item() == pytest.approx(0.3 * grains, rel=0.03)  # of a Poisson count: the mean
    assert ShotNoise(severity)(torch.zeros(1, 1, 5, 5), seeded()).max() == 0


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (2, 0.06), (3, 0.09), (4, 0.17), (5, 0.27)])
def test_impulse_noise_is_salt_and_pepper_in_equal_shares(severity, share):
    y = ImpulseNoise(severity)(torch.full((1, 3, 300, 300), 0.4), seeded())
    assert set(y.unique().tolist()) == {0.0, torch.tensor(0.4).item(), 1.0}
    assert (y == 1).float().mean().item() == pytest.approx(share / 2, rel=0.05)
    assert (y == 0).float().mean().item() == pytest.approx(share / 2, rel=0.05)
    alone = ((y == 1).sum(1) == 1).float().mean()
    assert alone > 0.8 * 3 * share / 2 * (1 - share / 2) ** 2  # channel by channel


@pytest.mark.parametrize(("severity", "dead"), [(1, 2), (2, 4), (3, 10), (4, 20), (5, 40)])
def test_dead_rows_are_black_and_the_others_whole(severity, dead):
    x = 0.1 + 0.9 * torch.rand(4, 3, 200, 5, generator=seeded(1))
    y = DeadRows(severity)(x, seeded())
    black = (y == 0).all(3).all(1)
    assert black.sum(1).tolist() == [dead] * 4
    assert torch.equal(y, torch.where(black[:, None, :, None], 0, x))
    assert len(black.unique(dim=0)) == 4


def test_a_small_image_loses_a_row_too():
    assert (DeadRows(1)(torch.ones(1, 1, 3, 2), seeded()) == 0).all(3).sum() == 1


@pytest.mark.parametrize(("severity", "scale"), [(1, 0.6), (2, 0.5), (3, 0.4), (4, 0.3), (5, 0.25)])
def test_pixelate_leaves_as_many_blocks_as_the_smaller_image_has_pixels(severity, scale):
    x = torch.rand(1, 1, 40, 60, generator=seeded())
    y = Pixelate(severity)(x)
    assert len(y.unique()) == int(40 * scale) * int(60 * scale)


def test_pixelate_by_whole_blocks_is_their_mean():
    x = torch.rand(2, 3, 8, 12, generator=seeded())
    mean = torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(Pixelate(5)(x), mean)


def test_jpeg_loses_more_with_every_severity_and_hardly_anything_at_quality_90():
    x = torch.nn.functional.avg_pool2d(scenes(4, (128, 192)), 2)  # as smooth as photographs are
    losses = [(Jpeg(severity)(x) - x).abs().mean().item() for severity in range(1, 6)]
    assert losses == sorted(losses)
    harmless = {Jpeg(severity, quality=90)(x).sub(x).abs().mean().item() for severity in range(1, 6)}
    assert len(harmless) == 1
    assert harmless.pop() < 0.75 * losses[0]


def test_jpeg_gives_8_bit_values_of_the_same_shape_grey_or_rgb():
    for channels in (1, 3):
        x = torch.rand(2, channels, 17, 22, generator=seeded(), dtype=torch.float64)
        y = Jpeg(2)(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        torch.testing.assert_close(255 * y, (255 * y).round())


@pytest.mark.parametrize("quality", [0, 101, 50.5, "90"])
def test_a_quality_that_is_none_is_refused(quality):
    with pytest.raises(ValueError, match="quality of Jpeg must be a whole number from 1 to 100"):
        Jpeg(quality=quality)


def test_jpeg_of_four_channels_is_refused():
    with pytest.raises(ValueError, match="with 3 channels or 1, not 4"):
        Jpeg()(torch.zeros(1, 4, 8, 8))
