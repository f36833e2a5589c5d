"""Curves are the metrics' own, and intervals keep to the symmetries of what they speak of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.evaluation.intervals import auroc_interval, aurocs, bootstrap, median_interval, paired_rate_interval
from inlier.evaluation.metrics import (
    aupr,
    auroc,
    changed_iou,
    changed_share,
    fpr_at_tpr,
    precision_recall_curve,
    rates_at,
    roc_curve,
)

sides = st.lists(st.integers(-4, 4), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=float))
counts = st.tuples(*[st.integers(0, 40)] * 4).filter(any)


@settings(deadline=None)
@given(sides, sides)
def test_every_point_of_a_roc_curve_is_what_its_threshold_does(clean, anomalous):
    fpr, tpr, thresholds = roc_curve(clean, anomalous)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (thresholds.diff() < 0).all()
    for false, true, threshold in zip(fpr, tpr, thresholds, strict=True):
        assert rates_at(threshold.item(), clean, anomalous) == (true, false)
    assert torch.trapezoid(tpr, fpr).item() == pytest.approx(auroc(clean, anomalous), abs=1e-12)


@settings(deadline=None)
@given(sides, sides, st.floats(0.01, 1))
def test_fpr_at_tpr_is_a_point_of_the_roc_curve(clean, anomalous, tpr):
    curve = roc_curve(clean, anomalous)
    assert fpr_at_tpr(clean, anomalous, tpr=tpr) == curve.fpr[curve.tpr >= tpr].min()


@pytest.mark.parametrize("positive", ["anomalous", "clean"])
@settings(deadline=None)
@given(sides, sides)
def test_the_steps_of_a_precision_recall_curve_enclose_aupr(positive, clean, anomalous):
    precision, recall, _ = precision_recall_curve(clean, anomalous, positive)
    steps = recall.diff(prepend=recall.new_zeros(1))
    assert (steps >= 0).all()
    assert recall[-1] == 1
    assert (precision * steps).sum().item() == pytest.approx(aupr(clean, anomalous, positive), abs=1e-12)


@settings(deadline=None)
@given(counts)
def test_the_paired_interval_changes_sign_when_the_two_change_places(table):
    both, only_a, only_b, neither = table
    value, low, high = paired_rate_interval(*table)
    swapped = paired_rate_interval(both, only_b, only_a, neither)
    assert swapped == pytest.approx((-value, -high, -low), abs=1e-12)
    # What is not flagged by B is flagged by "not B".
    assert paired_rate_interval(neither, only_a, only_b, both) == pytest.approx((value, low, high), abs=1e-12)
    assert -1 <= low <= value <= high <= 1


@settings(deadline=None)
@given(sides, sides, st.floats(0.5, 0.99))
def test_the_auroc_interval_is_mirrored_with_its_scores(clean, anomalous, confidence):
    value, low, high = auroc_interval(clean, anomalous, confidence)
    assert 0 <= low <= value <= high <= 1
    assert auroc_interval(anomalous, clean, confidence) == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-7)
    wider = auroc_interval(clean, anomalous, (1 + confidence) / 2)
    assert wider.low <= low + 1e-9
    assert high <= wider.high + 1e-9


@settings(deadline=None, max_examples=25)
@given(sides, sides, st.integers(0, 99))
def test_the_bootstrap_of_auroc_sees_only_the_order_of_scores(clean, anomalous, seed):
    samples = [torch.from_numpy(side) for side in (clean, anomalous)]
    plain = bootstrap(aurocs, *samples, resamples=60, seed=seed)
    assert bootstrap(aurocs, *(side.exp() - 7 for side in samples), resamples=60, seed=seed) == plain
    assert 0 <= plain.low <= plain.high <= 1


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_median_lies_within_its_interval(values):
    value, low, high = median_interval(values)
    assert low <= value <= high


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_changed_iou_is_0_exactly_where_nothing_changed_and_does_not_care_for_order_or_names(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(4, (2, 3, 5, 4), generator=generator)
    b[0] = a[0]
    told = changed_iou(a, b, 4)
    assert told[0] == 0
    assert torch.equal(told == 0, changed_share(a, b) == 0)
    assert torch.equal(told, changed_iou(b, a, 4))
    names = torch.randperm(4, generator=generator)
    assert torch.allclose(told, changed_iou(names[a], names[b], 4))
    assert (told <= 1).all()
