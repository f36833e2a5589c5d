"""The same intervals as SciPy, where it has them; where both draw, but for the luck of the draw."""

import numpy as np
import pytest
import scipy.stats
import torch

from inlier.evaluation.intervals import aurocs, bootstrap, means, median_interval, one_by_one
from inlier.evaluation.metrics import auroc


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    return random.exponential(size=60), random.normal(1, 1, size=45)


def test_bootstrap_of_a_mean(samples):
    ours = bootstrap(means, torch.from_numpy(samples[0]), resamples=20_000)
    told = scipy.stats.bootstrap(samples[:1], np.mean, n_resamples=20_000, method="percentile", rng=0)
    error = told.standard_error
    assert ours.value == pytest.approx(samples[0].mean())
    assert ours.low == pytest.approx(told.confidence_interval.low, abs=0.1 * error)
    assert ours.high == pytest.approx(told.confidence_interval.high, abs=0.1 * error)


def test_bootstrap_of_auroc(samples):
    ours = bootstrap(aurocs, *map(torch.from_numpy, samples), resamples=4000)
    told = scipy.stats.bootstrap(samples, auroc, n_resamples=4000, method="percentile", vectorized=False, rng=0)
    error = told.standard_error
    assert ours.value == auroc(*samples)
    assert ours.low == pytest.approx(told.confidence_interval.low, abs=0.15 * error)
    assert ours.high == pytest.approx(told.confidence_interval.high, abs=0.15 * error)


def test_bootstrap_of_a_paired_correlation(samples):
    x = samples[0][:45]
    y = x + samples[1]

    def correlation(a, b):
        return float(np.corrcoef(a, b)[0, 1])

    ours = bootstrap(one_by_one(correlation), torch.from_numpy(x), torch.from_numpy(y), paired=True, resamples=4000)
    told = scipy.stats.bootstrap(
        (x, y), correlation, n_resamples=4000, method="percentile", vectorized=False, paired=True, rng=0
    )
    assert ours.low == pytest.approx(told.confidence_interval.low, abs=0.15 * told.standard_error)
    assert ours.high == pytest.approx(told.confidence_interval.high, abs=0.15 * told.standard_error)


@pytest.mark.parametrize("count", [6, 7, 10, 15, 16, 99, 400])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_of_a_median(count, confidence):
    values = np.random.default_rng(count).normal(size=count)
    told = scipy.stats.quantile_test(values, q=np.median(values), p=0.5).confidence_interval(confidence)
    ours = median_interval(values, confidence)
    assert (ours.low, ours.high) == (told.low, told.high)
