"""The score is the textbook sum of -log densities; its gradient is that of the smooth version."""

import math

import numpy as np
import pytest
import torch

from inlier.densities.histogram import EMPTY, Histogram
from inlier.errors import NotFitted


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-2, 2, d) + 3


def test_score_is_the_sum_of_numpy_s_log_densities():
    x, new = rows(200, 6), rows(50, 6, seed=1)
    expected = np.zeros(50)
    for i in range(6):
        counts, edges = np.histogram(x[:, i].double(), bins=10)
        width = edges[1] - edges[0]
        for row in range(50):
            value = new[row, i].item()
            inside = edges[0] <= value <= edges[-1]
            held = counts[np.clip(np.searchsorted(edges, value, side="right") - 1, 0, 9)] if inside else 0
            expected[row] -= math.log(max(held, EMPTY) / (200 * width))
    score = Histogram(6, bins=10).fit(x)(new)
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_every_row_it_was_fitted_to_lies_in_a_bin_that_holds_rows():
    x = rows(300, 50) + 1000  # far from zero, where float32 has few digits left
    histogram = Histogram(50).fit(x)
    held = histogram.steps.gather(0, histogram._bin(x))
    assert (held <= (300 / histogram.inverse_width).log() + 1e-5).all()


def test_outside_scores_as_half_a_row_and_is_not_clipped_to_the_training_scores():
    x = rows(300, 20)
    histogram = Histogram(20).fit(x)
    worst = histogram(x).max()
    half, all_ = x[:1].clone(), x[:1] + 1e4
    half[:, :10] += 1e4
    assert worst < histogram(half) < histogram(all_)
    assert histogram(all_).item() == pytest.approx(((300 / histogram.inverse_width) / EMPTY).log().sum().item())


def test_what_is_not_a_number_lies_outside():
    histogram, strange = Histogram(20).fit(rows(300, 20)), torch.full((1, 20), torch.nan)
    assert histogram(strange).item() == histogram(torch.full((1, 20), 1e6)).item()
    assert histogram.smooth(strange).isnan()


def test_gradient_of_the_score_is_that_of_smooth_and_the_value_is_not():
    histogram = Histogram(8).fit(rows(300, 8))
    x = rows(20, 8, seed=1).requires_grad_()
    score, smooth = histogram(x), histogram.smooth(x)
    with torch.no_grad():
        torch.testing.assert_close(score, histogram(x))
    assert (score - smooth).abs().max() > 0.1
    torch.testing.assert_close(*(torch.autograd.grad(s.sum(), x)[0] for s in (score, smooth)))


def test_smooth_is_continuous_and_meets_the_steps_in_the_middle_of_the_bins():
    histogram = Histogram(1, bins=7).double().fit(rows(100, 1).double())
    width = 1 / histogram.inverse_width
    middles = histogram.low + (torch.arange(7)[:, None] + 0.5) * width
    torch.testing.assert_close(histogram.smooth(middles), histogram.steps[1:-1, 0])
    line = torch.linspace(-9, 9, 100_001).double()[:, None] * width + histogram.low
    assert histogram.smooth(line).diff().abs().max() < 0.01


@pytest.mark.parametrize("constant", [False, True])
def test_farther_outside_is_always_worse(constant):
    x = rows(100, 3)
    if constant:
        x[:, 1] = 5.0
    histogram = Histogram(3).fit(x)
    for sign in (-1, 1):
        far = x.mean(0) + sign * torch.linspace(1, 50, 200)[:, None] * (x.amax(0) - x.amin(0)).clamp(min=1)
        for i in range(3):
            walk = x.mean(0).repeat(200, 1)
            walk[:, i] = far[:, i]
            assert (histogram.smooth(walk).diff() > 0).all()


def test_state_dict_keeps_scores_and_count():
    x = rows(100, 5)
    histogram, copy = Histogram(5, bins=12).fit(x), Histogram(5, bins=12)
    copy.load_state_dict(histogram.state_dict(), strict=True)
    assert torch.equal(copy(x), histogram(x))
    assert torch.equal(copy.smooth(x), histogram.smooth(x))
    assert copy.count == 100


def test_score_of_a_batch_is_the_scores_one_by_one():
    histogram, x = Histogram(40).fit(rows(100, 40)), rows(9, 40, seed=1)
    torch.testing.assert_close(histogram(x), torch.cat([histogram(row[None]) for row in x]))


def test_use_before_fit_says_so():
    with pytest.raises(NotFitted, match="fit"):
        Histogram(3)(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.randn(9, 4), r"\(n, 3\)"), (torch.randn(0, 3), "n > 0"), (torch.full((9, 3), torch.nan), "not finite")],
)
def test_fit_says_what_is_wrong_with_its_rows(x, message):
    with pytest.raises(ValueError, match=message):
        Histogram(3).fit(x)


def test_rows_in_batches_make_the_same_histogram_as_all_at_once():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    whole, parts = Histogram(4, 8).fit(x), Histogram(4, 8).fit(list(x.split(7)))
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())
