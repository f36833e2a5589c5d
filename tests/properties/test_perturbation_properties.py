"""What holds for every perturbation and any image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.perturbations.geometric import VerticalFlip
from inlier.perturbations.noise import GaussianNoise, SignNoise
from inlier.perturbations.weather import Fog

every_kind = pytest.mark.parametrize("kind", [Fog, VerticalFlip, GaussianNoise, SignNoise])


@st.composite
def images(draw):
    shape = [draw(st.integers(1, most)) for most in (3, 4, 40, 40)]
    values = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    return values * draw(st.sampled_from([0.0, 0.3, 1.0]))


def perturbed(kind, severity, x, seed):
    return kind(severity)(x, torch.Generator().manual_seed(seed))


@every_kind
@settings(deadline=None, max_examples=25)
@given(images())
def test_severity_0_is_the_identity(kind, x):
    assert torch.equal(kind(0)(x), x)


@every_kind
@settings(deadline=None, max_examples=40)
@given(images(), st.integers(1, 5), st.integers(0, 2**31))
def test_images_stay_images_and_equal_seeds_give_equal_images(kind, x, severity, seed):
    before, state = x.clone(), torch.random.get_rng_state()
    y = perturbed(kind, severity, x, seed)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert 0 <= y.min() <= y.max() <= 1
    assert torch.equal(y, perturbed(kind, severity, x, seed))
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", [Fog, GaussianNoise, SignNoise])
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_other_images_and_other_seeds_are_perturbed_otherwise(kind, severity, seed):
    twins = torch.full((2, 3, 16, 16), 0.5)
    y = perturbed(kind, severity, twins, seed)
    assert not torch.equal(y[0], y[1])
    assert not torch.equal(y, perturbed(kind, severity, twins, seed + 1))


@every_kind
def test_gradients_pass_through(kind):
    x = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    perturbed(kind, 1, x, 0).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()
