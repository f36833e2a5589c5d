"""Score metrics look at the order of the scores only."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.evaluation.metrics import aupr, auroc, fpr_at_tpr, rate_interval

sides = st.lists(st.integers(-4, 4), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=float))
METRICS = [
    auroc,
    aupr,
    partial(aupr, positive="clean"),
    fpr_at_tpr,
    partial(fpr_at_tpr, tpr=0.6, positive="clean"),
]
NAMES = ["auroc", "aupr", "aupr clean", "fpr", "fpr clean"]  # a function's own name holds its address


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
@settings(deadline=None)
@given(
    sides,
    sides,
    st.lists(st.floats(allow_nan=False), min_size=9, max_size=9, unique=True),
    st.randoms(use_true_random=False),
)
def test_only_the_order_of_scores_matters(metric, clean, anomalous, levels, random):
    levels = np.sort(levels)
    raised = [levels[values.astype(int) + 4] for values in (clean, anomalous)]
    shuffled = [random.sample(list(values), len(values)) for values in raised]
    assert metric(*shuffled) == metric(clean, anomalous)


@settings(deadline=None)
@given(sides, sides)
def test_auroc_is_antisymmetric(clean, anomalous):
    assert auroc(clean, anomalous) == pytest.approx(1 - auroc(anomalous, clean), abs=1e-15)
    assert auroc(clean, anomalous) == pytest.approx(auroc(-anomalous, -clean), abs=1e-15)


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
@settings(deadline=None)
@given(sides, sides)
def test_metrics_are_shares(metric, clean, anomalous):
    assert 0 <= metric(clean, anomalous) <= 1


@settings(deadline=None)
@given(sides, sides, st.floats(0.01, 1), st.floats(0.01, 1))
def test_finding_more_never_costs_less(clean, anomalous, one, other):
    low, high = sorted((one, other))
    assert fpr_at_tpr(clean, anomalous, tpr=low) <= fpr_at_tpr(clean, anomalous, tpr=high)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 200), st.floats(0.5, 0.999))
def test_an_interval_holds_the_rate_seen_and_widens_with_confidence(hits, count, confidence):
    hits = min(hits, count)
    low, high = rate_interval(hits, count, confidence)
    assert 0 <= low <= hits / count <= high <= 1
    wider = rate_interval(hits, count, (1 + confidence) / 2)
    assert wider[0] <= low
    assert high <= wider[1]
