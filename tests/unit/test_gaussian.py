"""Moments do not depend on how rows come; distances survive few rows, many scales, large offsets and saving."""

import time

import pytest
import torch

from inlier.densities.gaussian import Gaussian, Moments
from inlier.errors import NotFitted


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) @ mix


def close(one: Moments, two: Moments) -> None:
    assert one.count == two.count
    for name in ("mean", "scatter", "cubic", "quartic"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_the_definition():
    x = rows(50, 4).double() + 3
    moments, y = Moments(4).update(x), x - x.mean(0)
    torch.testing.assert_close(moments.mean, x.mean(0))
    torch.testing.assert_close(moments.scatter / 49, x.T.cov())
    torch.testing.assert_close(moments.cubic, (y.norm(dim=1, keepdim=True) ** 2 * y).sum(0))
    torch.testing.assert_close(moments.quartic, (y.norm(dim=1) ** 4).sum())


def test_moments_do_not_depend_on_the_batches():
    x, whole, streamed = rows(50, 4) + 3, Moments(4), Moments(4)
    whole.update(x)
    for batch in (x[:1], x[1:1], x[1:20], x[20:]):
        streamed.update(batch)
    close(streamed, whole)


def test_merged_moments_are_those_of_all_rows():
    x = rows(50, 4)
    close(Moments(4).update(x[:13]).merge(Moments(4).update(x[13:])).merge(Moments(4)), Moments(4).update(x))


def test_moments_keep_their_digits_far_from_zero():
    x = rows(200, 4).double()
    near, far = Moments(4).update(x), Moments(4)
    for batch in (x + 1e6).split(7):
        far.update(batch)
    torch.testing.assert_close(far.scatter, near.scatter, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(far.quartic, near.quartic, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("n", [25, 90, 300])  # low-rank form, full form from fewer rows than features, and from more
def test_batches_give_the_same_gaussian_as_all_rows(n):
    x, new = rows(n, 100) + 7, rows(5, 100, seed=1)
    whole, streamed = Gaussian(100).fit(x), Gaussian(100).fit(x.split(8))
    torch.testing.assert_close(streamed.mahalanobis(new), whole.mahalanobis(new), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n", [25, 300])
def test_standardised_distances_do_not_change_with_the_units(n):
    x, new, units = rows(n, 100), rows(5, 100, seed=1), torch.logspace(-5, 5, 100)
    distance = Gaussian(100).fit(x).mahalanobis(new)
    rescaled = Gaussian(100, constant=0.0).fit(x * units).mahalanobis(new * units)
    torch.testing.assert_close(rescaled, distance, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("n", [25, 300])
def test_both_forms_tell_what_lies_outside_the_data(n):
    d = 100
    basis = torch.linalg.qr(rows(d, d)).Q
    x = rows(n, d) @ basis[:, :5] @ basis[:, :5].T
    gaussian = Gaussian(d).fit(x)
    inside = 2 * rows(50, d, seed=1) @ basis[:, :5] @ basis[:, :5].T
    outside = basis[:, 50] * inside.norm(dim=1, keepdim=True)
    assert (gaussian.mahalanobis(outside) > 3 * gaussian.mahalanobis(inside)).all()


def test_25_rows_of_2000_features_separate_a_shift():
    gaussian = Gaussian(2000).fit(rows(25, 2000))
    clean, shifted = rows(40, 2000, seed=1), rows(40, 2000, seed=2) + 1.0
    assert gaussian.mahalanobis(shifted).min() > gaussian.mahalanobis(clean).max()


def test_fitting_268_rows_of_2000_features_is_quick():
    x = rows(268, 2000)
    start = time.perf_counter()
    Gaussian(2000).fit(x)
    assert time.perf_counter() - start < 2  # 0.05 s on an idle core


def test_a_constant_feature_counts_like_a_typical_one():
    x = rows(100, 20)
    x[:, 3] = 2.0
    moved = x.clone()
    moved[:, 3] += x.std(0).median()
    gaussian = Gaussian(20).fit(x)
    assert gaussian.mahalanobis(moved).isfinite().all()
    assert gaussian.mahalanobis(moved).mean() < 100 * gaussian.mahalanobis(x).mean()


def test_collinear_features_and_many_rows_stay_invertible():
    x = rows(5000, 6)
    x[:, 5] = x[:, 0]
    assert Gaussian(6).fit(x).mahalanobis(x).isfinite().all()


@pytest.mark.parametrize("n", [10, 300])
def test_gradient_is_that_of_the_distance(n):
    gaussian, x = Gaussian(30).double().fit(rows(n, 30)), rows(3, 30, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(gaussian.mahalanobis, (x,))


@pytest.mark.parametrize("n", [10, 300])
def test_state_dict_keeps_distances_and_count_in_either_form(n):
    x = rows(n, 30)
    gaussian, copy = Gaussian(30).fit(x), Gaussian(30).fit(rows(50, 30))
    copy.load_state_dict(gaussian.state_dict(), strict=True)
    assert torch.equal(copy.mahalanobis(x), gaussian.mahalanobis(x))
    assert torch.equal(copy.log_prob(x), gaussian.log_prob(x))
    assert copy.count == n


def test_state_of_another_size_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        Gaussian(30).load_state_dict(Gaussian(31).fit(rows(50, 31)).state_dict())


def test_use_before_fit_says_so():
    with pytest.raises(NotFitted, match="fit"):
        Gaussian(3).mahalanobis(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.randn(2, 3), ValueError, "at least 3 rows; 2 came"),
        (torch.randn(9, 4), ValueError, r"rows \(n, 3\)"),
        (torch.ones(9, 3), ValueError, "All 9 rows are equal"),
        (torch.full((9, 3), torch.inf), ValueError, "9 rows are not finite"),
        (iter([torch.randn(9, 3)]), TypeError, "only once"),
    ],
)
def test_fit_says_what_is_wrong_with_its_rows(x, error, message):
    with pytest.raises(error, match=message):
        Gaussian(3).fit(x)
