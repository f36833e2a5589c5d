"""What holds for every calibration, whatever the scores."""

from collections import Counter
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.calibration import Calibration, blocked_folds, group_folds, images_needed

# Few distinct values, so that ties are the rule, and any others beside them.
score = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, allow_subnormal=True))
many_scores = st.lists(score, min_size=1, max_size=60).map(lambda values: torch.tensor(values, dtype=torch.float64))
rates = st.one_of(st.floats(0.01, 0.99), st.integers(1, 99).map(lambda percent: percent / 100))
rules = st.sampled_from(["order_statistic", "high_probability"])


@settings(deadline=None)
@given(many_scores, rates)
def test_p_values_are_super_uniform_on_exchangeable_scores(scores, rate):
    # Each of n + 1 scores is equally likely to be the new one: at most a share `rate` of them may have p <= rate.
    others = [torch.cat([scores[:i], scores[i + 1 :]]) for i in range(len(scores)) if len(scores) > 1]
    p = [Calibration().fit(rest).p_value(scores[i : i + 1]).item() for i, rest in enumerate(others)]
    assert sum(value <= rate for value in p) <= rate * len(scores) + 1e-9
    assert all(0 < value <= 1 for value in p)


@settings(deadline=None)
@given(many_scores, many_scores, rates)
def test_flags_threshold_and_p_values_of_the_order_statistic_agree_exactly(scores, tried, rate):
    if len(scores) < images_needed(rate):
        return
    calibration = Calibration().fit(scores)
    tried = torch.cat([tried, scores])
    flagged = calibration.flagged(tried, rate)
    threshold = calibration.threshold(rate)
    assert torch.equal(flagged, calibration.p_value(tried) <= rate)
    assert torch.equal(flagged, tried > threshold)
    assert not calibration.flagged(torch.tensor([threshold], dtype=torch.float64), rate).any()
    assert (scores == threshold).any()


@settings(deadline=None)
@given(many_scores, rates, rates, rules)
def test_a_larger_rate_never_raises_the_threshold(scores, one, other, rule):
    low, high = sorted((one, other))
    if len(scores) >= images_needed(low, rule):
        calibration = Calibration(rule).fit(scores)
        assert calibration.threshold(high) <= calibration.threshold(low)


@settings(deadline=None)
@given(many_scores, rates)
def test_high_probability_is_never_less_strict_than_the_order_statistic_at_an_even_chance(scores, rate):
    if len(scores) >= images_needed(rate, "high_probability"):
        assert Calibration("high_probability").fit(scores).threshold(rate) >= Calibration().fit(scores).threshold(rate)


@settings(deadline=None)
@given(many_scores, many_scores, rates)
def test_robust_flags_agree_with_its_p_values_but_for_rounding(scores, tried, rate):
    try:
        calibration = Calibration("robust").fit(scores)
    except ValueError:
        assert scores.unique(return_counts=True)[1].max() * 2 >= len(scores) or scores.std() < 1e-6
        return
    p = calibration.p_value(tried)
    flagged = calibration.flagged(tried, rate)
    assert flagged[p < rate * (1 - 1e-6) - 1e-9].all()
    assert not flagged[p > rate * (1 + 1e-6) + 1e-9].any()


@settings(deadline=None)
@given(many_scores, many_scores, rules)
def test_surprisal_is_finite_and_keeps_the_order_with_a_gradient_everywhere(scores, tried, rule):
    calibration = Calibration(rule).fit(scores)
    tried = torch.cat([tried, scores]).sort().values.requires_grad_()
    surprisal = calibration.surprisal(tried)
    surprisal.sum().backward()
    assert surprisal.isfinite().all()
    assert tried.grad.isfinite().all()
    assert (tried.grad > 0).all()
    assert (surprisal.diff() >= -1e-12 * surprisal[1:].abs()).all()
    # Strictly, where scores differ by more than double precision can lose.
    apart = tried.diff() > 1e-6 * tried.abs().max()
    assert (surprisal.diff()[apart] > 0).all()


@settings(deadline=None)
@given(many_scores, st.permutations(range(60)))
def test_the_order_of_calibration_scores_does_not_matter(scores, order):
    shuffled = scores[[i for i in order if i < len(scores)]]
    assert torch.equal(Calibration().fit(scores).scores, Calibration().fit(shuffled).scores)


groups_of_images = st.lists(st.sampled_from("abcd"), min_size=2, max_size=120)


@settings(deadline=None)
@given(groups_of_images, st.integers(1, 12), st.integers(2, 5))
def test_blocked_folds_are_contiguous_of_about_one_length_and_evenly_dealt(groups, block, folds):
    sizes = Counter(groups)
    pieces = {group: max(1, int(size / block + 0.5)) for group, size in sizes.items()}
    if sum(pieces.values()) < folds:
        return
    fold = blocked_folds(groups, block=block, folds=folds)
    assert torch.equal(fold, blocked_folds(groups, block=block, folds=folds))
    assert set(fold.tolist()) == set(range(folds))
    for group, size in sizes.items():
        own = [f for f, name in zip(fold.tolist(), groups, strict=True) if name == group]
        starts = [0] + [i for i, (before, after) in enumerate(pairwise(own), start=1) if before != after]
        assert len(starts) == pieces[group]  # neighbours differ only where a block ends
        lengths = [end - start for start, end in pairwise([*starts, size])]
        assert max(lengths) - min(lengths) <= 1
        dealt = Counter(own[start] for start in starts)
        assert max(dealt.values()) - min(dealt[f] for f in range(folds)) <= 1


@settings(deadline=None)
@given(groups_of_images)
def test_group_folds_hold_one_group_each(groups):
    if len(set(groups)) > 1:
        fold = group_folds(groups).tolist()
        assert len(set(zip(fold, groups, strict=True))) == len(set(groups)) == len(set(fold))
