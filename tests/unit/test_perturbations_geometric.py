"""Where the camera looks: images and their label maps move alike."""

import math

import pytest
import torch

from inlier.perturbations.geometric import Roll, Shift, VerticalFlip

MOVING = [VerticalFlip, Roll, Shift]
moving = pytest.mark.parametrize("kind", MOVING)
severities = pytest.mark.parametrize("severity", range(1, 6))
COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def coded(n=3, height=60, width=80):
    """Images coloured by label, and the labels: blocks as of a street."""
    labels = torch.randint(4, (n, height // 10, width // 10), generator=seeded(5))
    labels = labels.repeat_interleave(10, 1).repeat_interleave(10, 2)
    return COLOURS[labels].permute(0, 3, 1, 2).contiguous(), labels


def read(images):
    """The label whose colour is nearest."""
    return (images[:, None] - COLOURS.view(1, 4, 3, 1, 1)).square().sum(2).argmin(1)


@moving
@severities
def test_an_image_and_its_labels_stay_aligned(kind, severity):
    images, labels = coded()
    after, moved = kind(severity)(images, seeded(7)), kind(severity).move(labels, seeded(7))
    assert moved.dtype == labels.dtype
    assert moved.shape == labels.shape
    agreed = (read(after) == moved).float().mean()
    assert agreed > (0.97 if kind is Roll else 0.9999)  # turned edges are mixed colours
    assert (moved != labels).float().mean() > 0.05
    assert (read(after) == kind(severity).move(labels, seeded(8))).float().mean() < 0.97 or kind is VerticalFlip


@moving
def test_maps_of_channels_move_as_maps_do_and_classes_stay(kind):
    _, labels = coded()
    moved = kind(3).move(labels, seeded())
    soft = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert torch.equal(kind(3).move(soft, seeded()).argmax(1), moved)
    assert torch.equal(kind(3).move(labels == 2, seeded()), moved == 2)
    assert torch.equal(kind(3).move(torch.arange(3), seeded()), torch.arange(3))
    assert torch.equal(kind(3).move(torch.eye(3), seeded()), torch.eye(3))
    assert torch.equal(kind(0).move(labels), labels)
    assert kind(3).move(labels[:0], seeded()).shape == (0, 60, 80)


@pytest.mark.parametrize("kind", [Roll, Shift])
def test_what_moves_at_random_asks_for_a_generator(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} is random: hand it a generator"):
        kind(1).move(torch.zeros(1, 4, 4))


@pytest.mark.parametrize(("severity", "degrees"), [(1, 2), (2, 5), (3, 10), (4, 20), (5, 30)])
def test_roll_turns_by_half_to_all_of_its_angle_to_either_side(severity, degrees):
    x, y = Roll(severity).places(400, 101, 101, seeded())
    angle = torch.atan2(y[:, 50, 100] - 50, x[:, 50, 100] - 50).rad2deg()
    assert angle.abs().min() >= degrees / 2 - 1e-3
    assert angle.abs().max() <= degrees + 1e-3
    assert angle.abs().max() > 0.98 * degrees
    assert 150 < (angle > 0).sum() < 250
    torch.testing.assert_close(x[:, 50, 50], torch.full((400,), 50.0))  # about the middle
    length = torch.hypot(x[:, 0, 0] - 50, y[:, 0, 0] - 50)
    torch.testing.assert_close(length, torch.full((400,), 50 * math.sqrt(2)))


@pytest.mark.parametrize(("severity", "share"), [(1, 0.02), (2, 0.05), (3, 0.1), (4, 0.15), (5, 0.2)])
def test_shift_moves_by_its_share_of_the_shorter_side(severity, share):
    height, width, n = 100, 140, 200
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width)
    code = (rows * width + columns).expand(n, -1, -1)
    middle = Shift(severity).move(code, seeded())[:, 50, 70]
    down, across = middle // width - 50, middle % width - 70
    way = torch.hypot(down.float(), across.float())
    assert (way - share * height).abs().max() <= math.sqrt(0.5) + 1e-4
    quadrants = {(int(a > 0), int(b > 0)) for a, b in zip(down, across, strict=True)}
    assert len(quadrants) == 4


def test_what_comes_into_view_is_the_mirror_image():
    x = torch.rand(40, 3, 20, 20, generator=seeded())
    seen = Shift(5).move(torch.arange(400).view(1, 20, 20).expand(40, -1, -1), seeded(1))
    rows, columns = seen[:, :, 0] // 20, seen[:, 0, :] % 20
    for path in (*rows, *columns):
        steps = path.diff().abs()
        assert (steps == 1).all()  # to and fro by single steps, nothing twice, nothing black
    shifted = Shift(5)(x, seeded(1))
    assert torch.equal(shifted, x.flatten(2).gather(2, seen.flatten(1)[:, None].expand(-1, 3, -1)).view_as(x))


@moving
def test_gradients_pass_through_moves(kind):
    x = torch.rand(1, 3, 9, 9, generator=seeded()).requires_grad_()
    kind(2)(x, seeded()).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).sum() > 0.8 * x.numel()


@moving
def test_maps_may_be_moved_all_at_once_where_images_came_in_batches(kind):
    images, labels = coded(n=9)
    at_once, source = kind(3).move(labels, seeded()), seeded()
    in_batches = torch.cat([kind(3)(images[start : start + 4], source) for start in (0, 4, 8)])
    assert (read(in_batches) == at_once).float().mean() > 0.97
