"""Changes of light and colour equal their definitions."""

import pytest
import torch

from inlier.perturbations.colour import from_hsv, has_colour, luma, to_hsv
from inlier.perturbations.photometric import (
    Brightness,
    ColorJitter,
    Contrast,
    Gamma,
    GreyLevel,
    Saturation,
    WhiteBalance,
    brightened,
    contrasted,
    hue_turned,
    saturated,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed))


def jittered(colour, severity, n=2000):
    """What becomes of n copies of an image of one pixel."""
    x = torch.tensor(colour).view(1, -1, 1, 1).expand(n, -1, 1, 1)
    return ColorJitter(severity)(x, seeded())[..., 0, 0]


@pytest.mark.parametrize(("severity", "spread"), [(1, 0.4), (2, 0.5), (3, 0.6), (4, 0.7), (5, 0.8)])
def test_jitter_draws_its_factors_uniformly(severity, spread):
    factor = jittered([0.25], severity)[:, 0] / 0.25  # on an even grey only the brightness shows
    assert factor.min() >= 1 - spread - 1e-6
    assert factor.max() <= 1 + spread + 1e-6
    assert factor.mean().item() == pytest.approx(1, abs=4 * spread / (3 * 2000) ** 0.5)
    assert factor.var().item() == pytest.approx(spread**2 / 3, rel=0.1)


@pytest.mark.parametrize(("severity", "turn"), [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5)])
def test_jitter_turns_the_hue_uniformly(severity, turn):
    # The other three steps keep the hue of what they do not clip, and these colours are far from 0 and 1.
    after = jittered([0.4, 0.36, 0.36], severity)
    hue = to_hsv(after[..., None, None])[:, 0, 0, 0]
    turned = (hue + 0.5) % 1 - 0.5
    assert turned.abs().max() <= turn + 1e-4
    assert turned.abs().max() > 0.98 * turn
    assert turned.mean().abs() < 4 * turn / (3 * 2000) ** 0.5


def test_jitter_takes_its_four_steps_in_the_drawn_order():
    x, source = images(24, 3, 5, 7), seeded(3)
    drawn = 2 * torch.rand(24, 4, generator=source) - 1
    order = torch.rand(24, 4, generator=source).argsort(1)
    assert len(order.unique(dim=0)) > 10
    for severity, (spread, turn) in enumerate([(0.4, 0.1), (0.5, 0.2), (0.6, 0.3)], start=1):
        steps = [(brightened, spread), (contrasted, spread), (saturated, spread), (hue_turned, turn)]
        expected = []
        for image, amounts, turns in zip(x, drawn, order, strict=True):
            image = image[None]
            for step in turns:
                change, reach = steps[step]
                image = change(image, (reach * amounts[step]).view(1, 1, 1, 1))
            expected.append(image)
        torch.testing.assert_close(ColorJitter(severity)(x, seeded(3)), torch.cat(expected))


def test_the_steps_of_jitter_equal_their_formulas():
    x, amount = images(2, 3, 4, 5), torch.tensor([-0.3, 0.4]).view(2, 1, 1, 1)
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    f = 1 + amount
    mean = grey.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(brightened(x, amount), (f * x).clamp(0, 1))
    torch.testing.assert_close(contrasted(x, amount), (f * x + (1 - f) * mean).clamp(0, 1))
    torch.testing.assert_close(saturated(x, amount), (f * x + (1 - f) * grey).clamp(0, 1))
    hsv = to_hsv(x)
    turned = to_hsv(hue_turned(x, amount))
    torch.testing.assert_close(turned[:, 1:], hsv[:, 1:])
    gap = (turned[:, :1] - hsv[:, :1] - amount + 0.5) % 1 - 0.5
    torch.testing.assert_close(gap, torch.zeros_like(gap), atol=1e-5, rtol=0)


def test_a_whole_turn_of_the_hue_is_no_turn():
    x = images(2, 3, 4, 5)
    torch.testing.assert_close(hue_turned(x, torch.ones(2, 1, 1, 1)), x)


def test_grey_images_stay_grey_under_every_change_of_colour():
    grey = images(2, 1, 4, 5)
    for kind in (ColorJitter, Brightness, Contrast, Saturation, Gamma, WhiteBalance, GreyLevel):
        one, three = kind(2)(grey, seeded()), kind(2)(grey.expand(-1, 3, -1, -1), seeded())
        if kind is not WhiteBalance:
            torch.testing.assert_close(one.expand(-1, 3, -1, -1), three)
    assert torch.equal(Saturation(5)(grey), grey)
    assert torch.equal(WhiteBalance(5)(grey), grey)


@pytest.mark.parametrize(("severity", "amount"), [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5)])
def test_brightness_changes_the_value_alone(severity, amount):
    x = 0.05 + 0.95 * images(2, 3, 6, 6)
    before, up, down = to_hsv(x), to_hsv(Brightness(severity)(x)), to_hsv(Brightness(severity, "down")(x))
    torch.testing.assert_close(up[:, 2], (before[:, 2] + amount).clamp(max=1))
    torch.testing.assert_close(down[:, 2], (before[:, 2] - amount).clamp(min=0))
    torch.testing.assert_close(up[:, :2], before[:, :2], atol=1e-4, rtol=1e-4)


def test_black_grows_grey_with_brightness():
    assert torch.equal(Brightness(3)(torch.zeros(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 0.3))


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1), (5, 0.05)])
def test_contrast_shrinks_about_the_mean_of_each_channel(severity, factor):
    x = images(2, 3, 6, 6)
    y = Contrast(severity)(x)
    torch.testing.assert_close(y.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(y.std((2, 3)), factor * x.std((2, 3)))


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.3), (2, 0.1), (3, 2.0), (4, 5.0), (5, 20.0)])
def test_saturation_is_multiplied_and_nothing_else_changes(severity, factor):
    x = images(2, 3, 6, 6)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.4, 0.0  # a grey and a black pixel stay
    before, y = to_hsv(x), Saturation(severity)(x)
    after = to_hsv(y)
    torch.testing.assert_close(after[:, 1], (factor * before[:, 1]).clamp(max=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[:, 2], before[:, 2])
    torch.testing.assert_close(y[0, :, 0, :2], x[0, :, 0, :2])


@pytest.mark.parametrize(("severity", "exponent"), [(1, 1.2), (2, 1.5), (3, 2.0), (4, 2.5), (5, 3.0)])
def test_gamma_is_a_power_and_up_undoes_down(severity, exponent):
    x = images(1, 3, 6, 6)
    torch.testing.assert_close(Gamma(severity)(x), x**exponent)
    torch.testing.assert_close(Gamma(severity, "up")(Gamma(severity)(x)), x)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.05), (2, 0.1), (3, 0.15), (4, 0.2), (5, 0.3)])
def test_white_balance_trades_blue_for_red(severity, share):
    x = 0.5 * images(1, 3, 6, 6)
    red, green, blue = x[0]
    warm, cold = WhiteBalance(severity)(x)[0], WhiteBalance(severity, "cold")(x)[0]
    torch.testing.assert_close(warm, torch.stack([red * (1 + share), green, blue * (1 - share)]))
    torch.testing.assert_close(cold, torch.stack([red * (1 - share), green, blue * (1 + share)]))


def test_grey_level_is_one_step_of_an_8_bit_file_at_every_severity():
    x = torch.arange(256.0).view(1, 1, 16, 16) / 255
    for severity in range(1, 6):
        steps = (GreyLevel(severity)(x) * 255).round().flatten()
        assert steps.tolist() == [*range(1, 256), 255]


@pytest.mark.parametrize(
    ("kind", "known"), [(Brightness, "'up' or 'down'"), (Gamma, "'down' or 'up'"), (WhiteBalance, "'warm' or 'cold'")]
)
def test_a_direction_that_is_none_is_refused(kind, known):
    with pytest.raises(ValueError, match=f"direction of {kind.__name__} is {known}, not 'left'"):
        kind(1, direction="left")


@pytest.mark.parametrize("kind", [ColorJitter, Saturation, WhiteBalance])
def test_images_that_are_neither_rgb_nor_grey_are_refused(kind):
    with pytest.raises(ValueError, match="with 3 channels or 1, not 4"):
        kind(1)(images(1, 4, 2, 2), seeded())


def test_hue_saturation_and_value_are_a_round_trip():
    x = images(3, 3, 20, 20)
    torch.testing.assert_close(from_hsv(to_hsv(x)), x)
    assert has_colour(x)
    assert not has_colour(luma(x))


def test_gradients_pass_through_changes_of_light():
    for kind in (ColorJitter, Brightness, Contrast, Saturation, Gamma, WhiteBalance, GreyLevel):
        x = (0.2 + 0.6 * images(2, 3, 4, 4)).requires_grad_()
        kind(1)(x, seeded()).sum().backward()
        assert x.grad.isfinite().all()
        assert (x.grad != 0).any()
