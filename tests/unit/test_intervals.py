"""Intervals hold what they should as often as they say, and are those of the papers."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from inlier.calibration import autocorrelation_length
from inlier.evaluation.intervals import (
    auroc_covariance,
    auroc_interval,
    aurocs,
    bootstrap,
    bootstrap_band,
    differences,
    means,
    median_interval,
    one_by_one,
    paired_rate_interval,
)
from inlier.evaluation.metrics import aupr, auroc, fpr_at_tpr


def normals(*shape, seed=0, shift=0.0):
    return shift + torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- bootstrap -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_holds_a_known_mean_about_as_often_as_it_says():
    draws = torch.distributions.Exponential(1.0)
    torch.manual_seed(0)
    holds = 0
    for _ in range(300):
        _, low, high = bootstrap(means, draws.sample((60,)), resamples=300, confidence=0.9)
        holds += low <= 1 <= high
    assert 0.83 < holds / 300 < 0.95  # a skewed mean of 60: a little below 0.9


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    scores = normals(30)
    state = torch.get_rng_state()
    assert bootstrap(means, scores) == bootstrap(means, scores)
    assert bootstrap(means, scores, seed=1) != bootstrap(means, scores)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interval_widens_with_confidence_and_narrows_with_images():
    few, many = normals(30), normals(30).repeat(9)
    wide, narrow = bootstrap(means, few), bootstrap(means, many)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(3, rel=0.15)
    surer = bootstrap(means, few, confidence=0.99)
    assert surer.low < wide.low < wide.value < wide.high < surer.high


def test_what_is_drawn_does_not_hang_on_how_many_resamples_are_drawn_at_a_time(monkeypatch):
    samples = normals(20), normals(15, shift=1.0)
    at_once = bootstrap(aurocs, *samples, resamples=50)
    sizes = []

    def counted(clean, anomalous):
        sizes.append(len(clean))
        return aurocs(clean, anomalous)

    monkeypatch.setattr("inlier.evaluation.intervals.CHUNK", 35 * 20)
    parts = bootstrap(counted, *samples, resamples=50)
    assert sizes == [1, 20, 20, 10]
    assert parts.value == at_once.value
    assert parts.low == pytest.approx(at_once.low, abs=0.1)


def test_aurocs_are_auroc_of_each_resample_and_column_ties_included():
    clean, anomalous = normals(7, 13, 2).round(decimals=1), normals(7, 9, 2, seed=1, shift=0.5).round(decimals=1)
    together = aurocs(clean, anomalous)
    assert together.shape == (7, 2)
    for resample in range(7):
        for column in range(2):
            alone = auroc(clean[resample, :, column], anomalous[resample, :, column])
            assert together[resample, column].item() == pytest.approx(alone, abs=1e-15)


@pytest.mark.parametrize("function", [auroc, aupr, fpr_at_tpr])
def test_any_function_of_single_samples_can_be_bootstrapped(function):
    samples = normals(25), normals(20, seed=1, shift=1.0)
    value, low, high = bootstrap(one_by_one(function), *samples, resamples=200)
    assert value == function(*samples)
    assert low < value < high
    if function is auroc:
        assert bootstrap(aurocs, *samples, resamples=200) == pytest.approx((value, low, high), abs=1e-12)


def test_means_of_flags_are_rates():
    flags = torch.tensor([True] * 30 + [False] * 70)
    value, low, high = bootstrap(means, flags, resamples=4000)
    assert value == 0.3
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 100)
    assert low == pytest.approx(0.3 - spread, abs=0.02)
    assert high == pytest.approx(0.3 + spread, abs=0.02)


def test_images_are_drawn_within_their_group():
    values = torch.tensor([0.0] * 5 + [1.0] * 15)
    groups = ["a"] * 5 + ["b"] * 15
    assert bootstrap(means, values, groups=[groups]) == (0.75, 0.75, 0.75)  # each drive as often as it is there
    free = bootstrap(means, values)
    assert free.low < 0.65 < 0.85 < free.high
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0))  # groups may be interleaved
    mixed = bootstrap(means, values[shuffled], groups=[[groups[i] for i in shuffled]])
    assert mixed == (0.75, 0.75, 0.75)


def test_paired_samples_draw_the_same_images():
    before, noise = normals(40), normals(40, seed=1) / 10

    def gain(a, b):
        return (b - a).mean(1)

    paired = bootstrap(gain, before, before + 1 + noise, paired=True)
    apart = bootstrap(gain, before, before + 1 + noise)
    assert paired.value == apart.value
    assert paired.high - paired.low < 0.2 * (apart.high - apart.low)
    assert paired == pytest.approx(bootstrap(means, 1 + noise), abs=1e-12)


def test_two_monitors_are_compared_on_the_same_images():
    clean, anomalous = normals(80), normals(80, seed=1, shift=1.0)
    rows = [torch.stack([side, side + 0.1 * normals(80, seed=seed)], 1) for side, seed in ((clean, 2), (anomalous, 3))]
    value, low, high = bootstrap(differences(aurocs), *rows)
    assert value == pytest.approx(auroc(rows[0][:, 1], rows[1][:, 1]) - auroc(rows[0][:, 0], rows[1][:, 0]))
    single = bootstrap(aurocs, clean, anomalous)
    assert low < value < high
    assert high - low < 0.3 * (single.high - single.low)  # what both monitors have in common cancels
    covariance = auroc_covariance(rows[0].T.numpy(), rows[1].T.numpy())
    spread = 2 * 1.96 * math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert high - low == pytest.approx(spread, rel=0.15)


def autoregressive(count, memory, seed):
    noise = normals(count, seed=seed) * math.sqrt(1 - memory**2)
    values = [normals(1, seed=seed + 10_000).item()]
    for step in noise[1:].tolist():
        values.append(memory * values[-1] + step)
    return torch.tensor(values, dtype=torch.float64)


def test_blocks_of_neighbours_widen_the_interval_of_a_video_to_about_what_is_true():
    widths, holds, naive_holds = [], 0, 0
    for seed in range(60):
        video = autoregressive(400, 0.8, seed)
        frames = bootstrap(means, video, resamples=200)
        blocks = bootstrap(means, video, resamples=200, block_length=25)
        widths.append((blocks.high - blocks.low) / (frames.high - frames.low))
        holds += blocks.low <= 0 <= blocks.high
        naive_holds += frames.low <= 0 <= frames.high
    # An autoregressive mean spreads sqrt((1 + 0.8) / (1 - 0.8)) = 3 times as much as an independent one.
    assert 2.2 < np.mean(widths) < 3.2
    assert holds >= 48
    assert naive_holds < 40


def test_the_autocorrelation_length_of_scores_serves_as_block_length():
    video = autoregressive(400, 0.8, 0)
    length = autocorrelation_length(video, ["drive"] * 400)
    assert 3 <= length <= 10
    frames, blocks = bootstrap(means, video), bootstrap(means, video, block_length=length)
    assert blocks.high - blocks.low > 1.4 * (frames.high - frames.low)


def test_blocks_never_cross_groups_and_go_round_at_their_ends():
    seen = []

    def kept(sample):
        seen.append(sample)
        return sample.double().mean(1)

    groups = ["a"] * 7 + ["b"] * 3
    bootstrap(kept, torch.arange(10), groups=[groups], block_length=4, resamples=500)
    drawn = seen[1]
    assert drawn.shape == (500, 10)
    first, second = drawn[:, :7], drawn[:, 7:]
    assert first.max() == 6
    assert second.min() == 7
    steps = (first[:, 1:4] - first[:, :3]) % 7
    assert (steps == 1).all()
    counts = first.flatten().bincount(minlength=7).double()  # ends are drawn as often as the middle
    assert (counts / counts.mean() - 1).abs().max() < 0.15
    assert ((second[:, 1:] - second[:, :-1]) % 3 == 1).all()  # a group shorter than a block is one run


def test_a_band_is_the_intervals_of_its_points():
    curve = normals(50, 4) + torch.arange(4.0)
    band = bootstrap_band(means, curve, resamples=300)
    assert band.value.shape == band.low.shape == band.high.shape == (4,)
    for point in range(4):
        alone = bootstrap(means, curve[:, point], resamples=300)
        assert (band.value[point], band.low[point], band.high[point]) == pytest.approx(alone, abs=1e-12)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_bootstrapped_is_refused():
    scores = normals(10)
    with pytest.raises(ValueError, match=r"Paired samples .* these have \[10, 9\]"):
        bootstrap(means, scores, scores[:9], paired=True)
    with pytest.raises(ValueError, match=r"Groups of \[3\] images were given .* \[10\]"):
        bootstrap(means, scores, groups=[["a"] * 3])
    with pytest.raises(ValueError, match=r"at least one image each, not of \[0\]"):
        bootstrap(means, scores[:0])
    with pytest.raises(ValueError, match="resamples >= 1 and block_length >= 1, not 1000 and 0"):
        bootstrap(means, scores, block_length=0)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(means, scores, confidence=95)
    with pytest.raises(ValueError, match="one_by_one"):
        bootstrap(lambda sample: sample.mean()[None], scores)
    with pytest.raises(ValueError, match="use bootstrap_band"):
        bootstrap(means, scores[:, None].expand(-1, 2))
    with pytest.raises(ValueError, match=r"no finite value for .* of 50 resamples"):
        bootstrap(lambda flags: 1 / flags.sum(1), torch.tensor([1.0, 0.0]), resamples=50)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_the_covariance_of_aurocs_is_that_of_placements():
    clean, anomalous = normals(3, 12).round(decimals=1).numpy(), normals(3, 9, seed=1).round(decimals=1).numpy()
    below = [(high[:, None] > low) + 0.5 * (high[:, None] == low) for low, high in zip(clean, anomalous, strict=True)]
    found, spared = np.array([pairs.mean(1) for pairs in below]), np.array([pairs.mean(0) for pairs in below])
    expected = np.cov(found) / 9 + np.cov(spared) / 12
    np.testing.assert_allclose(auroc_covariance(clean, anomalous), expected, atol=1e-12)
    np.testing.assert_allclose(auroc_covariance(clean[:1], anomalous[:1]), expected[:1, :1], atol=1e-12)


def test_delong_and_the_bootstrap_agree():
    clean, anomalous = normals(150), normals(100, seed=1, shift=1.0)
    spread = 1.96 * math.sqrt(auroc_covariance([clean], [anomalous]).item())
    value, low, high = bootstrap(aurocs, clean, anomalous, resamples=3000)
    assert high - low == pytest.approx(2 * spread, rel=0.08)
    newcombe = auroc_interval(clean, anomalous)
    assert newcombe.value == value
    assert newcombe.high - newcombe.low == pytest.approx(2 * spread, rel=0.15)


def test_the_covariance_needs_two_images_of_each_kind_and_one_set_of_them():
    with pytest.raises(ValueError, match="at least 2 clean"):
        auroc_covariance([[1.0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"\[\(2, 2\), \(3, 2\)\] images"):
        auroc_covariance([[1.0, 2.0], [1.0, 2.0, 3.0]], [[1.0, 2.0]] * 2)
    with pytest.raises(ValueError, match="at least 2 clean"):
        auroc_covariance([], [])


def hanley_mcneil(area, half, n, m):
    """Their variance, with the counts less one replaced as method 5 does."""
    two_anomalous, two_clean = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + half * (two_anomalous - area**2) + half * (two_clean - area**2)) / (n * m)


@pytest.mark.parametrize(("n", "m", "shift"), [(30, 20, 1.0), (117, 117, 3.0), (5, 60, 0.0), (30, 20, -2.0)])
def test_ends_of_newcombes_interval_are_as_many_standard_errors_away_as_asked(n, m, shift):
    value, low, high = auroc_interval(normals(n), normals(m, seed=1, shift=shift), confidence=0.9)
    for end in (low, high):
        error = math.sqrt(hanley_mcneil(end, (n + m) / 2 - 1, n, m))
        assert abs(end - value) / error == pytest.approx(norm.ppf(0.95), rel=1e-6)
    assert 0 < low < value < high < 1


def test_an_auroc_of_1_has_an_interval_below_it_though_its_bootstrap_has_none():
    clean, anomalous = torch.zeros(20), torch.ones(30)
    assert bootstrap(aurocs, clean, anomalous) == (1, 1, 1)
    value, low, high = auroc_interval(clean, anomalous)
    assert (value, high) == (1, 1)
    assert 0.8 < low < 0.95
    assert (1 - low) / math.sqrt(hanley_mcneil(low, 24, 20, 30)) == pytest.approx(norm.ppf(0.975), rel=1e-6)
    mirrored = auroc_interval(anomalous, clean)
    assert mirrored == pytest.approx((0, 1 - high, 1 - low), abs=1e-9)
    assert auroc_interval([0.0] * 10**5, [1.0] * 10**5).low == pytest.approx(1, abs=1e-3)
    assert auroc_interval([0.0], [1.0]).low < 0.5


@pytest.mark.parametrize("shift", [1.5, 3.0])
def test_newcombes_interval_holds_the_true_auroc_as_often_as_it_says(shift):
    true = norm.cdf(shift / math.sqrt(2))
    holds = 0
    for seed in range(250):
        _, low, high = auroc_interval(normals(25, seed=seed), normals(25, seed=seed + 1000, shift=shift))
        holds += low <= true <= high
    assert 0.92 < holds / 250 <= 1


@pytest.mark.parametrize(
    ("counts", "printed"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((36, 14, 0, 0), (0.1528, 0.4167)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
        ((30, 0, 0, 24), (-0.0358, 0.0358)),
    ],
)
def test_paired_rates_have_the_interval_that_newcombe_prints(counts, printed):
    """Table III, method 10."""
    value, low, high = paired_rate_interval(*counts)
    assert value == (counts[1] - counts[2]) / sum(counts)
    assert (round(low, 4), round(high, 4)) == printed


def test_a_paired_interval_holds_the_true_difference_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    chances = [0.5, 0.25, 0.1, 0.15]
    holds = [
        low <= 0.15 <= high
        for low, high in (
            paired_rate_interval(*draw)[1:] for draw in random.multinomial(60, chances, size=1000).tolist()
        )
    ]
    assert 0.935 < np.mean(holds) < 0.985


def test_counts_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"not \(1, -1, 0, 0\)"):
        paired_rate_interval(1, -1, 0, 0)
    with pytest.raises(ValueError, match="above 0"):
        paired_rate_interval(0, 0, 0, 0)
    with pytest.raises(ValueError, match="confidence"):
        paired_rate_interval(1, 1, 1, 1, confidence=0)


def test_an_interval_of_a_median_holds_it_at_least_as_often_as_it_says():
    for count in (6, 9, 10, 31):
        _, low, high = median_interval(range(count))
        k = int(low) + 1
        assert high == count - k
        assert 1 - 2 * binom.cdf(k - 1, count, 0.5) >= 0.95 > 1 - 2 * binom.cdf(k, count, 0.5)
    assert median_interval([3.0, 1.0, 2.0]) == (2, -math.inf, math.inf)
    assert median_interval([1.0] * 5)[1] == -math.inf
