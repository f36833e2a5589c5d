"""A calibration does what its definitions say."""

import copy
import math

import pytest
import torch
from scipy.stats import norm

from inlier.calibration import (
    Calibration,
    autocorrelation_length,
    blocked_folds,
    count_below,
    group_folds,
    images_needed,
    least_rate,
    log_upper_tail,
)
from inlier.errors import NotFitted

RULES = ("order_statistic", "high_probability", "robust")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_p_values_equal_their_definition_with_ties():
    scores = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0])
    tried = torch.tensor([0.0, 1.0, 2.0, 2.5, 5.0, 6.0])
    expected = [(1 + sum(s >= t for s in scores.tolist())) / 6 for t in tried.tolist()]
    assert Calibration().fit(scores).p_value(tried).tolist() == expected


def test_a_threshold_is_the_order_statistic():
    calibration = Calibration().fit(torch.arange(1.0, 100.0).flip(0))
    assert calibration.threshold(0.01) == 99
    assert calibration.threshold(0.05) == math.ceil(100 * 0.95)
    assert calibration.threshold(0.29) == 71  # 0.29 * 100 is below 29 in floating point
    assert calibration.threshold(0.999) == 1


def test_too_few_images_are_refused_with_the_number_needed():
    twelve = torch.arange(12.0)
    with pytest.raises(ValueError, match=r"has 12 images; a false-alarm rate of 0.01 needs at least 99\."):
        Calibration().fit(twelve).threshold(0.01)
    with pytest.raises(ValueError, match=r"has 12 images; a false-alarm rate of 0.05 needs at least 59\."):
        Calibration("high_probability").fit(twelve).flagged(twelve, 0.05)


@pytest.mark.parametrize("rule", ["order_statistic", "high_probability"])
@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1, 0.05, 1 / 3, 0.013])
def test_images_needed_is_the_first_number_that_is_accepted(rule, rate):
    needed = images_needed(rate, rule, 0.75)
    Calibration(rule, 0.75).fit(torch.arange(float(needed))).threshold(rate)
    if needed > 1:
        with pytest.raises(ValueError, match=f"needs at least {needed}"):
            Calibration(rule, 0.75).fit(torch.arange(needed - 1.0)).threshold(rate)


@pytest.mark.parametrize("rule", ["order_statistic", "high_probability"])
def test_the_least_rate_of_so_many_images_is_kept_by_them_and_hardly_a_smaller_one(rule):
    for count in (1, 2, 9, 12, 24, 60, 98, 99, 100, 500):
        rate = least_rate(count, rule)
        assert images_needed(rate, rule) <= count
        assert images_needed(rate / 1.11, rule) > count
    assert least_rate(0, rule) is None
    assert least_rate(12, "robust") is None


def test_images_needed_for_high_probability_solves_its_inequality():
    for rate, confidence in ((0.5, 0.75), (0.01, 0.95), (0.05, 0.9), (0.001, 0.99)):
        needed = images_needed(rate, "high_probability", confidence)
        assert (1 - rate) ** needed <= 1 - confidence + 1e-12
        assert (1 - rate) ** (needed - 1) > 1 - confidence


@pytest.mark.parametrize("count", [60, 200])
def test_high_probability_keeps_the_rate_with_its_confidence_and_order_statistic_on_average(count):
    draws = torch.rand(20_000, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def rates(rule):  # of uniform scores, the rate above a threshold is one minus the threshold
        k = round(Calibration(rule).fit(torch.arange(1.0, count + 1)).threshold(0.05))
        return 1 - draws.kthvalue(k).values, 1 - draws.kthvalue(max(k - 1, 1)).values

    kept, less_strict = rates("high_probability")
    assert (kept <= 0.05).double().mean() > 0.94
    assert (less_strict <= 0.05).double().mean() < 0.95  # the smallest threshold that will do
    average = rates("order_statistic")[0]
    law = Calibration().fit(draws[0]).realised_rate(0.05)
    assert law.mean == pytest.approx(average.mean().item(), abs=2e-3)
    assert law.mean <= 0.05
    assert law.low == pytest.approx(average.quantile(0.025).item(), abs=5e-3)
    assert law.high == pytest.approx(average.quantile(0.975).item(), abs=6e-3)


def test_robust_is_the_upper_tail_of_a_normal_of_log_scores():
    scores = (2 + 0.5 * normal(500)).exp()
    logs = scores.log()
    centre = logs.quantile(0.5)
    spread = 1.4826 * (logs - centre).abs().quantile(0.5)
    calibration = Calibration("robust").fit(scores)
    tried = torch.linspace(scores.min(), 100 * scores.max(), 50, dtype=torch.float64)
    z = ((tried.log() - centre) / spread).numpy()
    torch.testing.assert_close(calibration.p_value(tried), torch.from_numpy(norm.sf(z)), rtol=1e-10, atol=0)
    assert calibration.threshold(0.01) == pytest.approx((centre + spread * norm.isf(0.01)).exp().item(), rel=1e-12)


def test_robust_takes_scores_as_they_are_where_one_is_not_positive():
    scores = normal(501)
    spread = 1.4826 * (scores - scores.median()).abs().median()
    expected = (scores.median() + spread * norm.isf(0.05)).item()
    assert Calibration("robust").fit(scores).threshold(0.05) == pytest.approx(expected, rel=1e-12)


def test_robust_goes_on_below_zero_where_calibration_scores_were_positive():
    calibration = Calibration("robust").fit(normal(99).exp())
    p = calibration.p_value(torch.tensor([-1e6, -1.0, 0.0, 1e-6]))
    assert p.isfinite().all()
    assert (p > 0.95).all()


def test_robust_hardly_moves_when_a_tenth_of_the_images_is_bad():
    clean = normal(1000).exp()
    dirty = torch.where(torch.arange(1000) % 10 == 0, 1e9, clean)
    moved = Calibration("robust").fit(dirty).threshold(0.05) / Calibration("robust").fit(clean).threshold(0.05)
    assert 1 < moved < 1.6
    assert Calibration().fit(dirty).threshold(0.05) == 1e9


def test_robust_refuses_scores_without_spread_and_a_law():
    with pytest.raises(ValueError, match="Use the rule 'order_statistic'"):
        Calibration("robust").fit(torch.tensor([1.0, 1.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="guarantees no rate"):
        Calibration("robust").fit(normal(9)).realised_rate(0.05)


def test_the_upper_tail_agrees_with_scipy():
    z = torch.linspace(-2, 60, 5000, dtype=torch.float64)
    torch.testing.assert_close(log_upper_tail(z), torch.from_numpy(norm.logsf(z.numpy())), rtol=1e-12, atol=0)


def test_the_binary_search_agrees_with_searchsorted():
    values = torch.cat([normal(200).mul(3).round(), torch.tensor([torch.inf, -torch.inf])])
    for size in (1, 2, 3, 7, 8, 9, 100):
        ordered = normal(size, seed=1).mul(3).round().sort().values
        assert torch.equal(count_below(ordered, values), torch.searchsorted(ordered, values))


@pytest.mark.parametrize("rule", RULES)
def test_surprisal_has_the_gradient_of_finite_differences_everywhere(rule):
    calibration = Calibration(rule).fit(normal(50).exp())
    tried = torch.linspace(-20, 200, 997, dtype=torch.float64, requires_grad=True)
    calibration.surprisal(tried).sum().backward()
    step = 1e-6
    with torch.no_grad():
        slopes = (calibration.surprisal(tried + step) - calibration.surprisal(tried - step)) / (2 * step)
    assert (tried.grad > 0).all()
    torch.testing.assert_close(tried.grad, slopes, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("rule", ["order_statistic", "high_probability"])
def test_surprisal_is_minus_log_p_at_calibration_scores(rule):
    scores = normal(40).round(decimals=1)
    calibration = Calibration(rule).fit(scores)
    torch.testing.assert_close(calibration.surprisal(scores), -calibration.p_value(scores).log(), rtol=1e-14, atol=0)


def test_robust_surprisal_is_minus_log_p():
    calibration = Calibration("robust").fit(normal(200))
    tried = torch.linspace(-1.5, 10, 50, dtype=torch.float64)
    torch.testing.assert_close(calibration.surprisal(tried), -calibration.p_value(tried).log())


def test_the_tail_of_surprisal_is_that_of_exponential_scores():
    scores = -torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log() * 3
    far = Calibration().fit(scores).surprisal(torch.tensor([30.0, 60.0, 90.0]))
    assert torch.allclose(far.diff(), torch.full((2,), 10.0), rtol=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_surprisal_does_not_saturate(rule, dtype):
    calibration = Calibration(rule).fit(normal(100))
    tried = torch.cat([-torch.logspace(6, 0, 13), torch.logspace(-2, 6, 17)]).to(dtype)
    surprisal = calibration.surprisal(tried)
    assert surprisal.dtype == dtype
    assert surprisal.isfinite().all()
    assert (surprisal.diff() > 0).all()


def test_surprisal_of_equal_calibration_scores_still_rises():
    calibration = Calibration().fit(torch.full((20,), 7.0))
    surprisal = calibration.surprisal(torch.tensor([6.0, 7.0, 7.5, 1e6]))
    assert surprisal.isfinite().all()
    assert (surprisal.diff() > 0).all()
    assert calibration.flagged(torch.tensor([7.0, 7.1]), 0.05).tolist() == [False, True]


@pytest.mark.parametrize("rule", RULES)
def test_a_score_that_is_nan_or_infinite_is_flagged(rule):
    calibration = Calibration(rule).fit(normal(100))
    worst = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert calibration.flagged(worst, 0.05).tolist() == [True, True, False]
    assert (calibration.p_value(worst) <= 0.05).tolist() == [True, True, False]


@pytest.mark.parametrize("rule", RULES)
def test_a_state_dict_of_any_length_loads_into_a_fresh_calibration(rule):
    fitted = Calibration(rule).fit(normal(77).exp())
    assert list(fitted.state_dict()) == ["scores"]
    inside = torch.nn.ModuleDict({"calibration": Calibration(rule)})
    inside.load_state_dict({"calibration.scores": fitted.scores})
    tried = normal(50, seed=1).exp()
    for loaded in (inside["calibration"], copy.deepcopy(fitted)):
        assert loaded.count == 77
        assert loaded.threshold(0.05) == fitted.threshold(0.05)
        assert torch.equal(loaded.p_value(tried), fitted.p_value(tried))
        assert torch.equal(loaded.surprisal(tried), fitted.surprisal(tried))


@pytest.mark.parametrize("rule", RULES)
def test_a_calibration_exports_for_any_batch_size_and_any_score(rule):
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calibration = Calibration(rule).fit(normal(33).exp())

        def forward(self, scores):
            return self.calibration.p_value(scores), self.calibration.surprisal(scores)

    batch = {0: torch.export.Dim("n", min=1, max=4096)}
    exported = torch.export.export(Both(), (torch.ones(3),), dynamic_shapes=(batch,)).module()
    assert not [node for node in exported.graph.nodes if "searchsorted" in str(node.target)]  # ONNX has none
    tried = torch.cat([torch.linspace(-5, 50, 200), Both().calibration.scores.float(), torch.tensor([torch.nan])])
    for one, other in zip(exported(tried), Both()(tried), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_a_fresh_calibration_says_that_it_is_not_fitted():
    calibration = Calibration()
    assert calibration.count == 0
    for use in (calibration.p_value, calibration.surprisal):
        with pytest.raises(NotFitted, match="call fit"):
            use(torch.zeros(1))
    with pytest.raises(NotFitted):
        calibration.threshold(0.05)
    with pytest.raises(NotFitted):
        calibration.realised_rate(0.05)


def test_scores_that_are_not_finite_are_counted_and_leave_the_calibration_as_it_was():
    calibration = Calibration().fit(torch.arange(5.0))
    with pytest.raises(ValueError, match="3 of 4 calibration scores are nan or infinite"):
        calibration.fit(torch.tensor([1.0, torch.nan, torch.inf, -torch.inf]))
    with pytest.raises(ValueError, match=r"not \(0,\)"):
        calibration.fit(torch.empty(0))
    assert calibration.count == 5


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_a_rate_outside_0_and_1_is_refused(rate):
    for rule in RULES:
        with pytest.raises(ValueError, match="false_alarm_rate must lie between 0 and 1"):
            Calibration(rule).fit(normal(9)).threshold(rate)
        with pytest.raises(ValueError, match="false_alarm_rate must lie between 0 and 1"):
            images_needed(rate, rule)


def test_an_unknown_rule_or_confidence_is_refused():
    with pytest.raises(ValueError, match="There are 'order_statistic', 'high_probability', 'robust'"):
        Calibration("quantile")
    with pytest.raises(ValueError, match="confidence must lie"):
        Calibration("high_probability", confidence=95)


def autoregressive(count, coefficient, seed):
    steps, values = normal(count, seed=seed).tolist(), [0.0]
    for step in steps:
        values.append(coefficient * values[-1] + step)
    return torch.tensor(values[1:])


def test_autocorrelation_length_finds_that_of_an_autoregression():
    scores = torch.cat([autoregressive(3000, 0.9, 0), 100 + autoregressive(3000, 0.9, 1)])
    groups = ["first"] * 3000 + ["second"] * 3000
    assert abs(autocorrelation_length(scores, groups) - math.log(0.3) / math.log(0.9)) < 2
    interleaved = torch.stack([torch.arange(3000), torch.arange(3000, 6000)], 1).flatten()
    assert autocorrelation_length(scores[interleaved], [groups[i] for i in interleaved]) == autocorrelation_length(
        scores, groups
    )


def test_autocorrelation_length_of_independent_or_constant_or_single_images_is_one():
    assert autocorrelation_length(normal(500), ["a"] * 500) == 1
    assert autocorrelation_length(torch.ones(50), ["a"] * 50) == 1
    assert autocorrelation_length(normal(3), ["a", "b", "c"]) == 1
    with pytest.raises(ValueError, match="3 scores and 2 groups"):
        autocorrelation_length(normal(3), ["a", "b"])
    with pytest.raises(ValueError, match="level"):
        autocorrelation_length(normal(2), ["a", "b"], level=1.0)


def test_group_folds_number_groups_as_they_appear():
    assert group_folds(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    with pytest.raises(ValueError, match=r"at least 2 groups, not 1 \(drive\)\. Use blocked_folds"):
        group_folds(["drive"] * 5)


def test_blocked_folds_refuse_fewer_blocks_than_folds():
    with pytest.raises(ValueError, match="20 images in 1 groups make 2 blocks of about 10, too few for 5 folds"):
        blocked_folds(["a"] * 20, block=10, folds=5)
    with pytest.raises(ValueError, match="block >= 1 and folds >= 2"):
        blocked_folds(["a"] * 20, block=0, folds=5)
