"""Points of a key are put into a lattice so that neighbours stay neighbours, and the state tells nothing of it."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from inlier.densities.bijections.lattice import Lattice, OnLattice
from inlier.densities.flow import Flow
from inlier.errors import Mismatch
from inlier.sampling import SamplingKey, blue_noise, uniform

VOLUME = (520, 256, 512)


@pytest.fixture(scope="module")
def key():
    return blue_noise(VOLUME, 64, seed=0)


def places(key, lattice):
    """(cells, 3): where each cell's point is and where its cell's middle is, in cells."""
    channels, rows, columns = lattice.shape
    sides = torch.tensor([size / number for size, number in zip(key.volume, lattice.shape, strict=True)])
    middles = torch.cartesian_prod(torch.arange(rows), torch.arange(columns), torch.arange(channels))[:, [2, 0, 1]]
    return (key.points[lattice.index.flatten()] + 0.5) / sides, middles + 0.5


def test_every_cell_has_a_point_of_its_own_and_fewer_are_left_over_than_there_are_positions(key):
    lattice = Lattice.of(key)
    channels, rows, columns = lattice.shape
    assert lattice.index.shape == (rows * columns, channels)
    assert len(lattice.index.unique()) == lattice.index.numel()
    assert lattice.index.max() < len(key) == lattice.points
    assert len(key) - rows * columns < lattice.index.numel() <= len(key)


def test_points_that_lie_on_a_lattice_are_put_where_they_are():
    grid = torch.cartesian_prod(torch.arange(7), torch.arange(3), torch.arange(4))
    shaken = 10 * grid + torch.randint(0, 9, grid.shape, generator=torch.Generator().manual_seed(0))
    lattice = Lattice.of(SamplingKey(shaken, (70, 30, 40), "by hand"))
    assert lattice.shape == (7, 3, 4)
    for position, numbers in enumerate(lattice.index.tolist()):
        row, column = divmod(position, 4)
        assert grid[numbers].tolist() == [[channel, row, column] for channel in range(7)]


def test_points_of_blue_noise_lie_near_their_cells(key):
    here, middles = places(key, Lattice.of(key))
    beside = (here - middles)[:, 1:].abs().amax(1)  # by row and column: who shares a 1x1 convolution with whom
    assert (beside < 1).float().mean() > 0.9
    gaps = torch.cdist(here, middles).square()
    nearest = gaps[linear_sum_assignment(gaps)].mean()  # what no matching does better
    assert gaps.diagonal().mean() < 0.2 * gaps.mean()
    assert gaps.diagonal().mean() < 8 * nearest


def test_a_key_makes_one_lattice(key):
    again = Lattice.of(SamplingKey(key.points.clone(), key.volume, key.rule))
    assert torch.equal(Lattice.of(key).index, again.index)


def test_it_is_never_printed(key):
    lattice = Lattice.of(key)
    assert "index" not in repr(lattice)
    assert "tensor" not in repr(lattice)
    assert "index" not in repr(Flow(len(key), 1, mixing="conv1x1", lattice=lattice))


def test_a_flat_volume_has_two_channels_too():
    lattice = Lattice.of(uniform((1, 8, 8), 9, seed=0))
    assert lattice.shape[0] == 2  # a coupling needs two channels, however flat the volume is
    assert lattice.index.numel() == 8


def test_a_single_point_is_refused():
    with pytest.raises(ValueError, match="at least 2 points"):
        Lattice.of(uniform((4, 8, 8), 1, seed=0))


def test_the_state_does_not_tell_who_is_beside_whom(key):
    """Two keys of one size have states of the same names and shapes, equal before anything is learnt."""
    count = 24
    one, other = (
        Flow(count, 2, width=4, mixing="conv1x1", lattice=Lattice.of(uniform(VOLUME, count, seed=seed)))
        for seed in (0, 1)
    )
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(one.blocks[0].cells.index, other.blocks[0].cells.index)


def test_it_is_a_stack_of_1x1_convolutions():
    """What a network of convolutions with the same weights gives for the points laid out as an image."""
    key = uniform((60, 20, 20), 50, seed=0)
    lattice = Lattice.of(key)
    channels, rows, columns = lattice.shape
    flow = Flow(50, 1, width=8, mixing="conv1x1", lattice=lattice)
    flow.fit(torch.randn(80, 50, generator=torch.Generator().manual_seed(0)), epochs=5, learning_rate=5e-3)
    (on_lattice,) = flow.blocks
    assert isinstance(on_lattice, OnLattice)
    (block,) = on_lattice.blocks
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        points, _ = on_lattice.actnorm(x)
        image = points[:, lattice.index].view(6, rows, columns, channels).permute(0, 3, 1, 2)
        image = image * block.actnorm.log_scale.exp()[:, None, None] + block.actnorm.offset[:, None, None]
        kept, changed = image.split(block.coupling.sizes, dim=1)
        enter, leave = block.coupling.enter, block.coupling.leave
        hidden = torch.conv2d(kept, enter.weight[..., None, None], enter.bias).relu()
        a, b = (0.1 * torch.conv2d(hidden, leave.weight[..., None, None], leave.bias)).chunk(2, dim=1)
        image = torch.cat([kept, changed * (2 * a.tanh()).exp() + b], dim=1)
        matrix = block.mixing.matrix()[block.permutation.index]
        image = torch.conv2d(image, matrix[..., None, None])
        z, _ = flow(x)
        laid_out = z[:, lattice.index].view(6, rows, columns, channels).permute(0, 3, 1, 2)
        torch.testing.assert_close(laid_out, image, atol=1e-5, rtol=1e-5)
        alone = torch.ones(50, dtype=torch.bool)
        alone[lattice.index.flatten()] = False
        assert alone.sum() == 50 - math.prod(lattice.shape)
        torch.testing.assert_close(z[:, alone], points[:, alone])


def test_a_lattice_of_another_key_is_refused(key):
    with pytest.raises(Mismatch, match=f"made of {len(key)} points, and the flow has 9 dimensions"):
        Flow(9, 1, mixing="conv1x1", lattice=Lattice.of(key))
    with pytest.raises(ValueError, match="and no other needs the lattice"):
        Flow(len(key), 1, mixing="lu", lattice=Lattice.of(key))
