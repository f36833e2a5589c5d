"""Frost, snow, rain, and what sticks to the glass."""

import math

import pytest
import torch

from inlier.perturbations.clouds import clouds, plasma
from inlier.perturbations.ice import ANGLE, Strokes, ice, sprung
from inlier.perturbations.lens import LensDrops, Occlusion, patch
from inlier.perturbations.weather import Frost, Rain, Snow, streaks


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed))


def likeness(x, down, across):
    """Correlation of images with themselves moved by so many pixels."""
    height, width = x.shape[-2:]
    a, b = x[..., : height - down, : width - across], x[..., down:, across:]
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize(
    ("severity", "keep", "cover"), [(1, 1.0, 0.4), (2, 0.8, 0.6), (3, 0.7, 0.7), (4, 0.65, 0.7), (5, 0.6, 0.75)]
)
def test_frost_equals_its_formula(severity, keep, cover):
    x = images(2, 1, 20, 30)
    layer = ice(2, 20, 30, seeded())[:, None]
    torch.testing.assert_close(Frost(severity)(x, seeded()), (keep * x + cover * layer).clamp(0, 1))
    tint = torch.tensor([0.92, 0.97, 1.0]).view(3, 1, 1)
    rgb = images(2, 3, 20, 30)
    torch.testing.assert_close(Frost(severity)(rgb, seeded()), (keep * rgb + cover * layer * tint).clamp(0, 1))


def test_ice_creeps_in_from_the_rim_and_differs_from_image_to_image():
    frost = ice(16, 90, 120, seeded())
    assert frost.amin() >= 0
    assert frost.amax() <= 1
    assert 0.25 < frost.mean() < 0.6
    middle = frost[:, 30:60, 40:80].mean()
    rim = torch.cat([frost[:, :10].flatten(1), frost[:, -10:].flatten(1)], dim=1).mean()
    assert rim > 1.15 * middle
    assert len(frost.flatten(1).unique(dim=0)) == 16
    assert (frost.flatten(1).std(1) > 0.08).all()  # crystals, and no even veil


def test_a_stroke_follows_its_arc():
    arc = Strokes(*(torch.tensor([[value]]) for value in (10.0, 20.0, 0.3, 12.0, 1.2)))
    steps = 20000
    headings = 0.3 + 1.2 * (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    ends = 10 + 12 * headings.cos().mean(), 20 + 12 * headings.sin().mean()
    x, y, heading = arc.at(torch.ones(1, 1))
    assert (x.item(), y.item(), heading.item()) == pytest.approx((*(end.item() for end in ends), 1.5), abs=1e-5)


def test_a_drawn_stroke_leaves_its_length_on_the_canvas_and_nothing_outside_it():
    parts = [torch.tensor([[5.0, 12.5], [30.0, -40.0]]), torch.tensor([[5.0, 20.2], [30.0, 3.0]])]
    parts += [torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[14.3, 7.6], [3.5, 9.0]]), torch.zeros(2, 2)]
    canvas = Strokes(*parts).drawn(40, 50)
    torch.testing.assert_close(canvas.sum((1, 2)), torch.tensor([14.3 + 7.6, 3.5]))  # the last one is out of sight
    assert (canvas[0] > 0).sum() >= 15


def test_branches_leave_at_60_degrees_to_both_sides():
    stem = Strokes(*(torch.full((1, 1), value) for value in (0.0, 0.0, 0.7, 100.0, 0.0)))
    branches = sprung(stem, 50, 0.4, lambda *shape, low, high: torch.full((1, *shape), (low + high) / 2))
    turned = branches.heading - 0.7
    torch.testing.assert_close(turned[0, :50], torch.full((50,), -ANGLE))
    torch.testing.assert_close(turned[0, 50:], torch.full((50,), ANGLE))
    assert (branches.length[0, :50].diff() < 0).all()
    assert branches.length.max() <= 40
    way = torch.hypot(branches.x, branches.y)
    torch.testing.assert_close(way[0, :50], (torch.arange(50) + 0.5) * 2)


def test_clouds_are_the_corner_of_a_plasma():
    assert torch.equal(clouds(2, 20, 33, 1.7, seeded()), plasma(2, 64, 1.7, seeded())[:, :20, :33])
    assert clouds(1, 1, 1, 1.7, seeded()).shape == (1, 1, 1)


@pytest.mark.parametrize("severity", range(1, 6))
def test_snow_is_flakes_and_the_same_turned_by_180_degrees_over_a_whiter_scene(severity):
    keep = {1: 0.8, 2: 0.7, 3: 0.7, 4: 0.65, 5: 0.55}[severity]
    flakes = Snow(severity).perturb(torch.zeros(2, 1, 40, 50), seeded()) - 0.5 * (1 - keep)
    torch.testing.assert_close(flakes, flakes.flip(-2, -1), atol=1e-5, rtol=0)
    assert flakes.min() > -1e-5
    assert flakes.max() > 0.2
    x = images(2, 3, 40, 50)
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    expected = keep * x + (1 - keep) * torch.maximum(x, 1.5 * grey + 0.5) + flakes
    torch.testing.assert_close(Snow(severity)(x, seeded()), expected.clamp(0, 1))


@pytest.mark.parametrize("kind", [Snow, Rain])
def test_snow_and_rain_fall(kind):
    for severity in range(1, 6):
        seen = kind(severity)(torch.full((12, 1, 96, 96), 0.2), seeded())
        assert likeness(seen, 3, 0) > likeness(seen, 0, 3) + 0.1


@pytest.mark.parametrize("length", [5.0, 12.0])
def test_a_streak_has_its_length_and_angle(length):
    sky = streaks(80, 80, 0.0005, length, torch.tensor([0.0, math.pi / 2]), seeded())
    flat, upright = sky[:1], sky[1:]
    assert likeness(flat, 0, 2) > 0.5 > likeness(flat, 2, 0)
    assert likeness(upright, 2, 0) > 0.5 > likeness(upright, 0, 2)
    reach = int(length)
    assert likeness(flat, 0, reach - 2) > likeness(flat, 0, reach + 2)
    assert sky.max() < 3


def test_rain_darkens_a_bright_sky_and_more_streaks_come_with_severity():
    white = torch.ones(4, 3, 64, 64)
    brightness = [Rain(severity)(white, seeded()).mean().item() for severity in range(6)]
    assert brightness == sorted(brightness, reverse=True)
    night = torch.full((4, 1, 64, 64), 0.05)
    wet = []
    for severity in range(1, 6):
        seen = Rain(severity)(night, seeded())
        wet.append((seen > seen.amin((1, 2, 3), keepdim=True) + 0.02).float().mean().item())
    assert wet == sorted(wet)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.05), (2, 0.1), (3, 0.2), (4, 0.3), (5, 0.45)])
def test_mud_hides_its_share(severity, share):
    cover = patch(5, 60, 80, share, seeded())
    assert (cover >= 0.5 - 1e-5).flatten(1).sum(1).tolist() == [round(share * 4800)] * 5
    assert cover.amin() == 0
    assert (cover.flatten(1).amax(1) > 0.9).all()
    x = torch.ones(5, 3, 60, 80)
    y = Occlusion(severity)(x, seeded())
    assert torch.equal(y[(cover == 0)[:, None].expand_as(y)], x[(cover == 0)[:, None].expand_as(x)])
    assert y[(cover == 1)[:, None].expand_as(y)].max() < 0.2
    assert len(cover.flatten(1).unique(dim=0)) == 5


def test_drops_leave_the_glass_between_them_clear_and_cover_more_with_severity():
    x = images(6, 3, 72, 96)
    covered = [(LensDrops(severity)(x, seeded()) != x).any(1).float().mean().item() for severity in range(1, 6)]
    assert covered == sorted(covered)
    assert 0.005 < covered[0] < 0.1
    assert 0.2 < covered[-1] < 0.7


def test_a_drop_shows_the_scene_upside_down():
    bright_above = torch.linspace(1, 0, 120).view(1, 1, -1, 1).expand(8, 1, 120, 160).contiguous()
    seen = LensDrops(5)(bright_above, seeded())
    inside = (seen - bright_above).abs() > 0.05
    slopes = seen.diff(dim=2)[inside[..., 1:, :] & inside[..., :-1, :]]
    assert slopes.median() > 0  # brighter downwards, where the scene itself grows darker


def test_a_drop_before_a_plain_wall_is_seen_by_its_rim_alone():
    wall = torch.full((3, 3, 60, 60), 0.5)
    seen = LensDrops(4)(wall, seeded())
    assert seen.max() <= 0.5 + 1e-5
    assert seen.min() >= 0.7 * 0.5 - 1e-5
    assert seen.min() < 0.45


def test_rain_and_ice_cover_as_much_of_a_large_image_as_of_a_small_one():
    rain, frost = [], []
    for size in (90, 360, 540):
        night = torch.full((2, 1, size, size), 0.05)
        seen = Rain(4).perturb(night, seeded())
        rain.append((seen - seen.amin()).mean().item())
        frost.append(ice(2, size, size, seeded()).mean().item())
    assert max(rain) < 1.5 * min(rain)
    assert max(frost) < 1.3 * min(frost)
