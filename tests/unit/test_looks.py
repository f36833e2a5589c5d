"""Looks at changed copies: what they change, by formula and by hand, and what gradient they pass."""

import math

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.looks import Blur, HorizontalFlip, Jpeg, Median, Rescale, coded, copy_look, halved, standing_in, table
from inlier.probe import Probe
from inlier.testing.specimens import scenes

EVERY = [Jpeg(), Jpeg(20), Rescale(), Rescale(0.3), Blur(), Blur(2.5), Median(), Median(5), HorizontalFlip()]
SIZES = [(16, 16), (13, 21), (1, 1), (2, 33), (40, 7)]


def noise(n, size=(24, 40), channels=3, seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("look", EVERY, ids=repr)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_copy_is_an_image_of_the_same_size_and_of_a_batch_that_one_by_one(look, size, channels):
    shown = noise(3, size, channels)
    copies = look.images(shown)
    assert copies.shape == shown.shape
    assert copies.dtype == shown.dtype
    assert ((copies >= 0) & (copies <= 1)).all()
    torch.testing.assert_close(copies, torch.cat([look.images(one[None]) for one in shown]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("look", EVERY, ids=repr)
def test_a_copy_is_not_the_image_but_looks_like_it(look):
    shown = scenes(4, (32, 48))
    apart = (look.images(shown) - shown).abs().mean()
    assert apart > 1e-3
    if not isinstance(look, HorizontalFlip):
        assert apart < 0.05


@pytest.mark.parametrize("look", EVERY, ids=repr)
def test_an_even_image_stays_as_it_is(look):
    even = torch.full((1, 3, 20, 36), 128 / 255)
    torch.testing.assert_close(look.images(even), even, rtol=0, atol=1e-6)


@pytest.mark.parametrize("look", EVERY, ids=repr)
def test_a_gradient_comes_through_and_changes_nothing_of_the_copy(look):
    shown = scenes(2, (24, 40)).requires_grad_()
    copies = look.images(shown)
    assert torch.equal(copies, look.images(shown.detach()))
    (gradient,) = torch.autograd.grad(copies.square().sum(), shown)
    assert gradient.isfinite().all()
    assert (gradient != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("look", EVERY, ids=repr)
def test_equal_looks_are_one_look(look):
    probe = Probe(Backbone(nn.Conv2d(3, 2, 1), Segmentation("ab")))
    seen = probe(noise(1))
    again = type(look)(*vars(look).values())
    assert seen.look(look) is seen.look(again)
    _ = seen.output, seen.look(look).output, seen.look(again).output
    assert seen.passes == 2


def test_what_stands_in_gives_its_gradient_and_nothing_else():
    x = torch.tensor([0.3, 1.7, -2.2], requires_grad=True)
    y = standing_in(x.square(), x.detach().round())
    assert y.tolist() == [0, 2, -2]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach())
    still = torch.ones(3)
    assert standing_in(torch.zeros(3), still) is still


# --- JPEG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "first", "last"), [(50, 16, 99), (75, 8, 50), (100, 1, 1), (10, 80, 255), (1, 255, 255)]
)
def test_steps_are_scaled_as_libjpeg_scales_them(quality, first, last):
    steps = table("luma", quality)
    assert (steps[0, 0], steps[7, 7]) == (first, last)


def transform(block):
    """The 8 x 8 discrete cosine transform, written out (ITU-T T.81, A.3.3)."""
    out = torch.zeros(8, 8, dtype=torch.float64)
    for u in range(8):
        for v in range(8):
            total = sum(
                block[x, y].item() * math.cos((2 * x + 1) * u * math.pi / 16) * math.cos((2 * y + 1) * v * math.pi / 16)
                for x in range(8)
                for y in range(8)
            )
            out[u, v] = total / 4 * (0.5**0.5 if u == 0 else 1) * (0.5**0.5 if v == 0 else 1)
    return out


def test_coefficients_are_rounded_to_multiples_of_the_steps():
    block = noise(1, (8, 8), 1)[0, 0].mul(200).sub(100)
    steps = table("luma", 10)
    expected = torch.round(transform(block) / steps) * steps
    found = transform(coded(block[None, None], steps)[0, 0])
    # The values are rounded in turn, by at most half a grey level each: 4 for a coefficient, at the very most.
    assert (found - expected).abs().max() < 1.5
    assert (expected == 0).sum() > 32


def test_blocks_do_not_know_of_each_other():
    shown = noise(1, (16, 72), 1) * 100
    changed = shown.clone()
    changed[..., :8, 16:24] = 0
    apart = coded(changed, table("luma", 75)) != coded(shown, table("luma", 75))
    assert apart[..., :8, 16:24].any()
    apart[..., :8, 16:24] = False
    assert not apart.any()


def test_steps_of_one_keep_whole_numbers():
    values = torch.randint(-100, 100, (2, 1, 13, 41), generator=torch.Generator().manual_seed(0)).float()
    assert (coded(values, torch.ones(8, 8)) - values).abs().max() <= 1


def test_chroma_is_the_mean_of_four_rounded_down_and_up_in_turn():
    planes = torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0]]).view(1, 1, 2, 4)  # both means are a half
    assert halved(planes)[0, 0, 0, :2].tolist() == [0, 1]


def test_a_grey_image_of_three_channels_is_compressed_as_one_of_one():
    shown = noise(2, channels=1)
    copies = Jpeg(60).images(shown.expand(-1, 3, -1, -1))
    torch.testing.assert_close(copies, Jpeg(60).images(shown).expand(-1, 3, -1, -1), rtol=0, atol=1e-6)


def test_lower_quality_is_a_greater_change():
    shown = scenes(3, (32, 48))
    apart = [(Jpeg(quality).images(shown) - shown).abs().mean().item() for quality in (95, 75, 40, 10)]
    assert apart == sorted(apart)


def test_values_that_come_out_are_those_of_8_bit():
    values = Jpeg(30).images(noise(2)) * 255
    torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-4)


def test_the_gradient_of_a_grey_jpeg_is_that_of_the_identity_where_nothing_is_clipped():
    shown = (noise(1, channels=1) * 0.2 + 0.4).requires_grad_()
    weights = noise(1, channels=1, seed=1)
    (gradient,) = torch.autograd.grad((Jpeg(75).images(shown) * weights).sum(), shown)
    torch.testing.assert_close(gradient, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_images_that_are_neither_grey_nor_rgb_are_refused():
    with pytest.raises(ValueError, match="of 1 or 3 channels, and 4 came"):
        Jpeg().images(noise(1, channels=4))


# --- the others -------------------------------------------------------------------------------------------------------


def test_blur_of_a_point_is_the_gaussian():
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    places = torch.arange(-10.0, 11)
    bell = torch.exp(-0.5 * (places / 1.5) ** 2) * (places.abs() <= 6)
    bell /= bell.sum()
    torch.testing.assert_close(Blur(1.5).images(point)[0, 0], bell[:, None] * bell, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [3, 5])
def test_median_is_that_of_the_square_around(size):
    shown, reach = noise(1, (9, 11)), size // 2
    copies = Median(size).images(shown)
    square = shown[0, 1, 4 - reach : 5 + reach, 6 - reach : 7 + reach]
    assert copies[0, 1, 4, 6] == square.flatten().median()
    corner = shown[0, 2].index_select(0, torch.arange(-reach, reach + 1).clamp_min(0))
    corner = corner.index_select(1, torch.arange(-reach, reach + 1).clamp_min(0))
    assert copies[0, 2, 0, 0] == corner.flatten().median()


def test_both_ways_to_the_median_of_nine_agree():
    shown = noise(2, (15, 17))
    padded = nn.functional.pad(shown, (1,) * 4, mode="replicate")
    expected = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).median(-1).values
    assert torch.equal(Median(3).images(shown), expected)


def test_rescaling_takes_away_what_is_fine_and_leaves_what_is_coarse():
    rows = torch.arange(48.0)
    fine, coarse = (0.5 + 0.3 * torch.cos(2 * math.pi * rows / period) for period in (2.2, 24))
    left = {}
    for name, wave in (("fine", fine), ("coarse", coarse)):
        shown = wave.expand(1, 3, 48, 48)
        left[name] = (Rescale(0.5).images(shown).std() / shown.std()).item()
    assert left["fine"] < 0.3
    assert left["coarse"] > 0.9


def test_predictions_for_a_mirrored_image_are_mirrored_back():
    network = nn.Conv2d(3, 4, 1)  # sees single pixels, so that mirror and network may be swapped
    seen = Probe(Backbone(network, Segmentation("abcd")))(noise(2))
    look = HorizontalFlip()
    torch.testing.assert_close(look.back(seen.look(look).output), seen.output)
    assert not torch.allclose(seen.look(look).output, seen.output)
    vectors = Probe(Backbone(nn.Sequential(nn.Flatten(), nn.Linear(2880, 3)), Classification("abc")))(noise(2)).output
    assert torch.equal(look.back(vectors), vectors)


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "strength", "look"),
    [
        ("jpeg", None, Jpeg(75)),
        ("jpeg", 90.0, Jpeg(90)),
        ("rescale", 0.5, Rescale(0.5)),
        ("blur", 2, Blur(2)),
        ("median", 5.0, Median(5)),
        ("flip", None, HorizontalFlip()),
    ],
)
def test_a_name_and_a_strength_make_a_look(kind, strength, look):
    assert copy_look(kind, strength) == look


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("jpg", None, "There is no look 'jpg'. Did you mean 'jpeg'"),
        ("flip", 1, "A flip has no strength: leave out strength=1"),
        ("jpeg", 0, "whole number from 1 to 100, not 0"),
        ("jpeg", 75.5, "whole number from 1 to 100, not 75.5"),
        ("rescale", 1.0, "between 0 and 1, not 1.0"),
        ("blur", 0, "more than 0, not 0"),
        ("blur", math.nan, "more than 0, not nan"),
        ("median", 4, "odd sides from 3 pixels, not 4"),
        ("median", 1, "odd sides from 3 pixels, not 1"),
    ],
)
def test_what_is_no_look_is_refused(kind, strength, message):
    with pytest.raises(ValueError, match=message):
        copy_look(kind, strength)
