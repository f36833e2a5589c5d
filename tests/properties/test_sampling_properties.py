"""Blue noise in volumes of every size, by Hypothesis."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.sampling import SamplingKey, blue_noise, uniform

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
