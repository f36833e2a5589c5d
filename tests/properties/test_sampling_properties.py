"""Sampling keys in volumes and layers of every size, by Hypothesis."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.anatomy import KeyRing
from inlier.readers import SampledActivations
from inlier.sampling import SamplingKey, balanced, blue_noise, spacing, uniform
from inlier.taps import Tap

volumes = st.tuples(*[st.integers(1, 16)] * 3)
crowded = st.tuples(volumes, st.floats(2, 40))  # from thousands of points to a distance larger than the volume
roomy = st.tuples(st.tuples(*[st.integers(20, 48)] * 3), st.floats(10, 20))  # truncation takes little of the distance
cases = crowded | roomy
seeds = st.integers(0, 2**32)


def gaps(key: SamplingKey) -> torch.Tensor:
    """|difference| of every pair of points along every axis: (pairs, 3)."""
    first, second = torch.triu_indices(len(key), len(key), offset=1)
    return (key.points[first] - key.points[second]).abs().double()


@settings(max_examples=60, deadline=None)
@given(cases, seeds)
def test_points_are_inside_the_volume_and_there_is_always_one(case, seed):
    volume, distance = case
    key = blue_noise(volume, distance, seed)
    assert len(key) >= 1
    assert (key.points >= 0).all()
    assert (key.points < torch.tensor(volume)).all()
    assert key.volume == volume


@settings(max_examples=60, deadline=None)
@given(cases, seeds)
def test_no_two_points_are_nearer_than_the_distance_less_what_truncation_takes(case, seed):
    assert (gaps(blue_noise(*case, seed)).norm(dim=1) > case[1] - 3**0.5).all()


@settings(max_examples=60, deadline=None)
@given(cases, seeds)
def test_real_points_that_keep_the_distance_exist_in_the_cells_of_every_pair(case, seed):
    # Truncation moves a coordinate by less than 1, so the real gap along an axis is less than the integer one plus 1.
    assert ((gaps(blue_noise(*case, seed)) + 1).norm(dim=1) > case[1]).all()


@settings(max_examples=40, deadline=None)
@given(cases, seeds)
def test_one_seed_is_one_key(case, seed):
    assert blue_noise(*case, seed) == blue_noise(*case, seed)


@settings(max_examples=40, deadline=None)
@given(volumes, st.integers(1, 4096), seeds)
def test_uniform_draws_different_points_inside(volume, count, seed):
    count = min(count, volume[0] * volume[1] * volume[2])
    key = uniform(volume, count, seed)
    assert len(set(map(tuple, key.points.tolist()))) == count == len(key)
    assert ((key.points >= 0) & (key.points < torch.tensor(volume))).all()


layers = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(layers, seeds)
def test_a_balanced_key_has_as_many_points_in_every_layer_as_it_can(shapes, seed):
    size = (24, 24)
    key = balanced(shapes, size, 8, seed)
    assert key == balanced(shapes, size, 8, seed)
    assert len(key) <= len(blue_noise((sum(shape[0] for shape in shapes), *size), 8, seed))
    ends = torch.tensor([shape[0] for shape in shapes]).cumsum(0)
    counts = torch.bincount(torch.bucketize(key.points[:, 0].contiguous(), ends, right=True), minlength=len(shapes))
    rooms = torch.tensor([channels * height * width for channels, height, width in shapes])
    assert (counts <= rooms).all()
    roomy = counts[counts < rooms]
    assert len(roomy) == 0 or roomy.max() - roomy.min() <= 1
    assert len(roomy) == 0 or (counts[counts == rooms] <= roomy.max()).all()


@settings(max_examples=40, deadline=None)
@given(layers, seeds)
def test_points_of_one_layer_of_a_balanced_key_keep_its_spacing(shapes, seed):
    size = (24, 24)
    points, start = balanced(shapes, size, 8, seed).points.double(), 0
    for shape in shapes:
        inside = points[(points[:, 0] >= start) & (points[:, 0] < start + shape[0])]
        start += shape[0]
        if len(inside) > 1:
            assert torch.pdist(inside).min() >= spacing(shape, size, len(inside)) - 1e-9


sizes = st.tuples(st.integers(4, 40), st.integers(4, 40))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["blue_noise", "balanced", "uniform"]), layers, sizes, st.floats(3, 20), seeds)
def test_gathering_equals_up_sampling_then_indexing(kind, shapes, size, distance, seed):
    taps = {Tap(str(number)): shape for number, shape in enumerate(shapes)}
    key = KeyRing(seed=seed).draw(kind, taps, size, distance)
    generator = torch.Generator().manual_seed(0)
    activations = {tap: torch.rand(2, *shape, generator=generator) for tap, shape in taps.items()}
    volume = torch.cat([F.interpolate(activation, size=size) for activation in activations.values()], dim=1)
    reader = SampledActivations(key, taps)
    gathered = reader.combine([reader.keep(place, activations[tap]) for place, tap in enumerate(reader.taps)])
    channel, y, x = key.points.unbind(1)
    assert torch.equal(gathered, volume[:, channel, y, x])


@settings(max_examples=60, deadline=None)
@given(layers, sizes, st.floats(3, 20), seeds)
def test_a_balanced_key_lies_inside_its_volume_and_reads_no_activation_twice(shapes, size, distance, seed):
    key = balanced(shapes, size, distance, seed)
    assert key.volume == (sum(shape[0] for shape in shapes), *size)
    assert ((key.points >= 0) & (key.points < torch.tensor(key.volume))).all()
    taps = {Tap(str(number)): shape for number, shape in enumerate(shapes)}
    reader = SampledActivations(key, taps)
    for place, tap in enumerate(reader.taps):
        seen = reader.keep(place, torch.arange(math.prod(taps[tap])).view(1, *taps[tap]))[0].tolist()
        assert len(set(seen)) == len(seen)
