"""What holds for the drift martingale: it wins from a change, and next to never from exchangeable scores."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, kstest

from inlier.streams.martingale import EXPONENTS, ConformalMartingale

# Few distinct values, so that ties are the rule.
score = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.just(math.inf))
many = st.lists(score, max_size=30)


def run(reference, stream, seed=0):
    martingale = ConformalMartingale(reference, seed=seed)
    return martingale, [martingale.update(value) for value in stream]


@pytest.mark.parametrize("draw", [lambda r: r.gauss(0, 1), lambda r: float(r.randrange(4))], ids=["no ties", "ties"])
def test_the_share_of_exchangeable_streams_with_drift_declared_is_at_most_the_chance_stated(draw):
    delta, runs = 0.05, 250
    declared = 0
    for number in range(runs):
        random = Random(number)
        # One level a stream: exchangeable, but far from independent draws of a law known beforehand.
        level = random.gauss(0, 3)
        scores = [level + draw(random) for _ in range(110)]
        martingale, _ = run(scores[:30], scores[30:], seed=number)
        declared += martingale.log_largest >= -math.log(delta)
    assert declared <= binom.ppf(0.999, runs, delta)


def test_p_values_of_exchangeable_scores_are_uniform_and_uncorrelated():
    lagged, every = [], []
    for number in range(40):
        random = Random(number)
        _, p_values = run([random.gauss(0, 1) for _ in range(5)], [random.gauss(0, 1) for _ in range(100)], number)
        every += p_values
        lagged += [(a - 0.5) * (b - 0.5) for a, b in pairwise(p_values)]
    assert kstest(every, "uniform").pvalue > 0.01
    # Of independent uniform pairs the product has mean 0 and standard deviation 1/12.
    assert abs(sum(lagged) / len(lagged)) < 4 / 12 / math.sqrt(len(lagged))


def test_ranks_by_a_fixed_calibration_set_would_break_the_guarantee():
    # Why the martingale does not use them: with an unlucky reference they are not uniform, for as long as it runs.
    delta, runs, declared = 0.05, 100, 0
    for number in range(runs):
        random = Random(number)
        reference = [random.gauss(0, 1) for _ in range(10)]
        capital = largest = 0.0
        for _ in range(300):
            value = random.gauss(0, 1)
            p = (sum(other > value for other in reference) + random.random()) / (len(reference) + 1)
            capital += math.log(0.5 * p**-0.5)
            largest = max(largest, capital)
        declared += largest >= -math.log(delta)
    assert declared > binom.ppf(0.999, runs, delta)


@pytest.mark.parametrize(("shift", "at_most"), [(10.0, 10), (3.0, 20), (-3.0, 20)])
def test_a_shift_of_the_scores_is_declared_soon(shift, at_most):
    delays = []
    for number in range(15):
        random = Random(number)
        martingale, _ = run([random.gauss(0, 1) for _ in range(200)], [random.gauss(0, 1) for _ in range(50)], number)
        delay = 0
        while martingale.log_value < math.log(1000):
            martingale.update(random.gauss(shift, 1))
            delay += 1
            assert delay < 200
        delays.append(delay)
    assert sorted(delays)[len(delays) // 2] <= at_most


def test_a_long_quiet_past_does_not_use_up_the_capital():
    delays = []
    for quiet in (0, 3000):
        random = Random(0)
        martingale, _ = run([random.gauss(0, 1) for _ in range(200)], [random.gauss(0, 1) for _ in range(quiet)])
        start = martingale.count
        while martingale.log_value < math.log(1000):
            martingale.update(random.gauss(5, 1))
        delays.append(martingale.count - start)
    assert delays[1] <= delays[0] + 15


def test_the_mean_number_of_exchangeable_scores_until_shiryaev_roberts_reaches_c_is_at_least_c():
    level, lengths = 20, []
    for number in range(150):
        random = Random(number)
        martingale, _ = run([random.gauss(0, 1) for _ in range(30)], [], number)
        while martingale.log_shiryaev_roberts < math.log(level) and martingale.count < 400:
            martingale.update(random.gauss(0, 1))
        lengths.append(martingale.count)
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((n - mean) ** 2 for n in lengths) / len(lengths) ** 2)
    assert mean > level - 3 * spread


def test_every_bet_is_a_density():
    for k in EXPONENTS:
        assert quad(lambda p, k=k: k * p ** (k - 1), 0, 1)[0] == pytest.approx(1, abs=1e-6)


@settings(deadline=None)
@given(many, many)
def test_p_values_lie_strictly_between_0_and_1_and_the_capital_stays_finite(reference, stream):
    martingale, p_values = run(reference, stream)
    assert all(0 < p < 1 for p in p_values)
    assert math.isfinite(martingale.log_value)
    assert martingale.log_largest >= max(0.0, martingale.log_value)


@settings(deadline=None)
@given(many, many)
def test_only_the_order_of_scores_matters(reference, stream):
    # Strictly growing, and exact for the values above.
    def grown(value):
        return 2 * value if math.isfinite(value) else value

    one, p_values = run(reference, stream)
    other, same = run(list(map(grown, reference)), list(map(grown, stream)))
    assert p_values == same
    assert one.log_value == other.log_value


@settings(deadline=None)
@given(many, many, many)
def test_a_state_resumed_goes_on_as_if_nothing_had_happened(reference, before, after):
    whole, _ = run(reference, before + after)
    first, _ = run(reference, before)
    second = ConformalMartingale(reference)
    second.resume(first.state())
    for value in after:
        second.update(value)
    assert second.log_value == whole.log_value
    assert second.log_shiryaev_roberts == whole.log_shiryaev_roberts
    second.restart()
    assert [second.update(value) for value in after] == run(reference, after)[1]
