"""Alarms, adaptation and the stream made of them."""

import itertools
import json
import math

import pytest
import torch
from scipy.stats import poisson

from inlier.backbones.base import Backbone, Classification
from inlier.calibration import Calibration
from inlier.errors import Mismatch, NotFitted
from inlier.monitor import Monitor
from inlier.streams.adaptation import RunningMedian
from inlier.streams.alarm import Alarm, AlarmRule
from inlier.streams.false_alarms import FalseAlarms, flags_told, frames_for, rule_for
from inlier.streams.martingale import ConformalMartingale
from inlier.streams.stream import Stream, thinned


def doubles(values):
    return torch.as_tensor(values, dtype=torch.float64)


@pytest.fixture
def clean():
    """Scores of two recordings, log-normal as distances are."""
    return torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()


GROUPS = ["a"] * 150 + ["b"] * 150


def stream_of(clean, **settings):
    return Stream(Calibration().fit(clean), 0.05, clean, GROUPS, **({"drift_every": 1} | settings))


# --- alarms ----------------------------------------------------------------------------------------------------------


def test_an_alarm_is_raised_at_k_of_n_and_cleared_after_as_many_quiet_frames():
    alarm = Alarm(AlarmRule(needed=2, window=3, quiet=4))
    flags = [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1]
    said = {number: event for number, flag in enumerate(flags) if (event := alarm.update(bool(flag)))}
    assert said == {4: "raised", 10: "cleared", 13: "raised"}


def test_a_score_that_goes_to_and_fro_is_one_alarm():
    alarm = Alarm(AlarmRule(needed=3, window=5))
    events = [alarm.update(number % 2 == 0) for number in range(200)]
    assert [event for event in events if event] == ["raised"]
    assert alarm.on


def brute_force_rate(rule, p, steps=200):
    """Alarms a frame by pushing the chances of all states through the definition of `Alarm`, step by step."""
    states = {(False, 0, 0): 1.0}
    raised, counted = 0.0, 0
    for step in range(steps):
        after = {}
        for (on, flags, quiet), chance in states.items():
            for flag in (False, True):
                alarm = Alarm(rule)
                alarm.resume({"on": on, "flags": flags, "quiet": quiet})
                event = alarm.update(flag)
                weight = chance * (p if flag else 1 - p)
                raised += weight * (event == "raised") * (step >= steps // 2)
                state = alarm.state()
                key = (state["on"], state["flags"], min(state["quiet"], rule.clears_after))
                after[key] = after.get(key, 0.0) + weight
        states = after
        counted += step >= steps // 2
    return raised / counted


@pytest.mark.parametrize(
    ("rule", "p"),
    [(AlarmRule(1, 1), 0.1), (AlarmRule(2, 3), 0.2), (AlarmRule(3, 4, 5), 0.3)],
    ids=str,
)
def test_the_rate_of_alarms_is_that_of_the_chain_of_states(rule, p):
    assert rule.rate(p) == pytest.approx(brute_force_rate(rule, p), rel=1e-6)


def test_the_rate_of_single_flags_cleared_at_once_is_that_of_runs():
    # An alarm for every run of flags: a flag after a quiet frame.
    assert AlarmRule(1, 1).rate(0.05) == pytest.approx(0.05 * 0.95)


@pytest.mark.parametrize("k", [1, 2, 5, 8, 12])
def test_the_wait_for_k_flags_in_a_row_is_that_of_feller(k):
    p = 0.2
    wait = (1 - p**k) / ((1 - p) * p**k)
    cleared = (1 - (1 - p) ** k) / (p * (1 - p) ** k)
    # The linear system loses as many digits as alarms are rare.
    assert AlarmRule(k, k).rate(p) == pytest.approx(1 / (wait + cleared), rel=1e-6)


def test_more_flags_needed_never_make_more_alarms_when_flags_are_rare():
    rates = [AlarmRule(needed, 10).rate(0.05) for needed in range(1, 11)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert AlarmRule(3, 5).rate(0.0) == AlarmRule(3, 5).rate(1.0) == 0


@pytest.mark.parametrize("settings", [(0, 3), (4, 3), (3, 13), (2, 3, 2)])
def test_a_rule_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match="An alarm"):
        AlarmRule(*settings)


# --- adaptation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 4, 5])
def test_the_running_median_is_the_median_of_the_last_values_and_zeros_before(window):
    values = torch.randn(40, generator=torch.Generator().manual_seed(1)).tolist()
    median, history = RunningMedian(window), [0.0] * window
    for value in values:
        median.add(value)
        history.append(value)
        assert median.value == pytest.approx(float(doubles(history[-window:]).quantile(0.5)))


def test_adaptation_repairs_a_slow_change_and_says_what_it_absorbed(clean):
    rising = clean * torch.linspace(0, 3, 300, dtype=torch.float64).exp()
    plain, adapting = stream_of(clean), stream_of(clean, adapt=25)
    untouched, adapted = plain.update(rising), adapting.update(rising)
    assert sum(moment.over for moment in untouched) > 100
    assert sum(moment.over for moment in adapted) < 40
    # The monitor's own verdict on the frame, and drift, do not depend on adaptation.
    assert [moment.flagged for moment in adapted] == [moment.flagged for moment in untouched]
    assert [moment.martingale for moment in adapted] == [moment.martingale for moment in untouched]
    assert adapting.drifted


def test_a_sudden_change_is_not_absorbed(clean):
    changed = torch.cat([clean[:60], 1000 * clean[60:260]])
    assert all(moment.over for moment in stream_of(clean, adapt=25).update(changed)[60:])


def test_adaptation_counts_in_logarithms_where_all_clean_scores_are_positive(clean):
    stream = stream_of(clean, adapt=3)
    constant = stream.calibration.score_at(1.0)
    adapted = [moment.adapted for moment in stream.update(doubles([constant] * 6))]
    assert adapted[:2] == [constant] * 2
    # One robust deviation above the median is taken off: the clean median is left.
    assert adapted[-1] == pytest.approx(float(clean.log().quantile(0.5).exp()), rel=1e-2)


def test_without_an_offset_adaptation_keeps_scores_and_ties_to_the_bit(clean):
    stream = stream_of(clean, adapt=25)
    tried = doubles([stream.threshold, math.nextafter(stream.threshold, math.inf)])
    moments = stream.update(tried)
    assert [moment.adapted for moment in moments] == tried.tolist()
    assert [moment.over for moment in moments] == [False, True]


# --- the stream ------------------------------------------------------------------------------------------------------


def test_without_adaptation_a_stream_says_of_every_frame_what_the_monitor_says(clean):
    tried = torch.randn(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64).exp() * 2
    calibration = Calibration().fit(clean)
    moments = stream_of(clean).update(tried)
    assert [moment.p_value for moment in moments] == calibration.p_value(tried).tolist()
    assert [moment.flagged for moment in moments] == calibration.flagged(tried, 0.05).tolist()
    assert all(moment.over == moment.flagged and moment.adapted == moment.score for moment in moments)
    assert [moment.frame for moment in moments] == list(range(200))


@pytest.mark.parametrize("adapt", [0, 10])
def test_however_scores_are_cut_into_calls_the_same_comes_out(clean, adapt):
    tried = torch.cat([clean[:40], 30 * clean[40:80], clean[80:120]])
    whole = stream_of(clean, adapt=adapt).update(tried)
    one_by_one = stream_of(clean, adapt=adapt)
    assert [moment for score in tried for moment in one_by_one.update(score[None])] == whole
    parted = stream_of(clean, adapt=adapt)
    assert parted.update(tried[:0]) + parted.update(tried[:57]) + parted.update(tried[57:]) == whole


@pytest.mark.parametrize("adapt", [0, 10])
def test_a_state_that_went_through_json_goes_on_as_if_nothing_had_happened(clean, adapt):
    tried = torch.cat([clean[:30], 30 * clean[30:80], clean[80:120]])
    whole = stream_of(clean, adapt=adapt).update(tried)
    first = stream_of(clean, adapt=adapt)
    first.update(tried[:35])
    second = stream_of(clean, adapt=adapt)
    second.resume(json.loads(json.dumps(first.state())))
    assert second.update(tried[35:]) == whole[35:]
    with pytest.raises(Mismatch, match="Make it with the same monitor and settings"):
        stream_of(clean, adapt=10 - adapt).resume(first.state())


def test_an_onset_raises_one_alarm_and_declares_drift_and_the_end_clears_it(clean):
    tried = torch.cat([clean[:100], 50 * clean[100:130], clean[130:200]])
    moments = stream_of(clean, rule=AlarmRule(3, 5)).update(tried)
    events = [(event, moment.frame) for moment in moments for event in moment.events]
    assert [event for event, _ in events] == ["alarm raised", "drift declared", "alarm cleared"]
    raised, declared, _ = (frame for _, frame in events)
    assert raised <= 104
    assert declared <= 115
    assert moments[-1].drift
    assert not moments[-1].alarm


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_counts_as_larger_than_all(clean, odd):
    moment = stream_of(clean, adapt=5).update(doubles([odd]))[0]
    assert moment.flagged
    assert moment.over
    assert moment.p_value == 1 / 301
    assert json.loads(json.dumps(moment.row(), allow_nan=False))["score"] is None


def test_drift_is_looked_for_at_frames_as_far_apart_as_clean_scores_stay_correlated():
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = torch.stack([noise[place : place + 8].sum() for place in range(390)]).exp()
    stream = Stream(Calibration().fit(slow), 0.05, slow, ["a"] * 390)
    assert 4 <= stream.drift_every <= 8
    stream.update(slow[:40])
    assert stream.martingale.count == math.ceil(40 / stream.drift_every)
    peer = ConformalMartingale(slow[:: stream.drift_every].tolist())
    for value in slow[: 40 : stream.drift_every].tolist():
        peer.update(value)
    assert stream.martingale.log_value == peer.log_value


def test_thinned_takes_from_every_group_from_its_first_on():
    assert thinned(doubles([0, 10, 1, 11, 2, 12, 3]), ["a", "b", "a", "b", "a", "b", "a"], 2) == [0, 2, 10, 12]


def test_a_stream_of_a_monitor_has_its_threshold_and_clean_scores():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                                  torch.nn.Flatten(), torch.nn.Linear(4, 2))  # fmt: skip
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    monitor = Monitor(Backbone(network, Classification(("cat", "dog")))).fit(images)
    with pytest.raises(NotFitted):
        Stream.of(monitor)
    monitor.calibrate(false_alarm_rate=0.1)
    stream = Stream.of(monitor, rule=AlarmRule(2, 3), drift=0.01)
    verdict = monitor(images)
    moments = stream.update(verdict.score)
    assert stream.threshold == monitor.calibration.threshold(0.1)
    assert [moment.flagged for moment in moments] == verdict.flagged.tolist()


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"drift": 0.0}, "chance of declaring"), ({"adapt": -1}, "adapt >= 0"), ({"drift_every": 0}, "drift_every >= 1")],
)
def test_settings_that_make_no_sense_are_refused(clean, settings, told):
    with pytest.raises(ValueError, match=told):
        stream_of(clean, **settings)


def test_equal_clean_scores_have_no_unit_to_adapt_in():
    same = torch.ones(100, dtype=torch.float64)
    with pytest.raises(ValueError, match="Use adapt=0"):
        Stream(Calibration().fit(same), 0.05, same, ["a"] * 100, adapt=5)
    assert not Stream(Calibration().fit(same), 0.05, same, ["a"] * 100).update(same)[-1].alarm


# --- how often alarms mean nothing -----------------------------------------------------------------------------------


def test_false_alarms_are_counted_recording_by_recording(clean):
    high = clean.clone()
    high[148:152] = 1e6  # two frames at the end of one recording, two at the start of the next
    stream = Stream(Calibration().fit(clean), 0.05, clean, GROUPS, rule=AlarmRule(3, 3), drift_every=1)
    quiet = clean.clamp(max=stream.threshold)
    assert FalseAlarms.of(stream, torch.where(high > 1e5, high, quiet), GROUPS).alarms == 0
    joined = FalseAlarms.of(stream, torch.where(high > 1e5, high, quiet), ["a"] * 300)
    assert (joined.alarms, joined.over, joined.frames) == (1, 4, 300)
    assert joined.observed_per_hour(2) == pytest.approx(2 * 3600 / 300)


def test_counting_false_alarms_leaves_the_stream_as_it_was(clean):
    stream = stream_of(clean, adapt=10)
    stream.update(clean[:50])
    before = json.dumps(stream.state())
    FalseAlarms.of(stream, clean, GROUPS)
    assert json.dumps(stream.state()) == before


@pytest.mark.parametrize("alarms", [0, 1, 7])
def test_the_upper_limit_of_alarms_is_where_so_few_become_unlikely(alarms):
    found = FalseAlarms(AlarmRule(), 268, 12, alarms, 0.0)
    expected = found.at_most_per_hour(1.0, 0.95) / 3600 * 268
    assert poisson.cdf(alarms, expected) == pytest.approx(0.05)


def test_frames_needed_are_those_whose_upper_limit_without_an_alarm_is_the_rate_asked_for():
    needed = frames_for(2, 10)
    assert FalseAlarms(AlarmRule(), needed, 0, 0, 0.0).at_most_per_hour(10) <= 2
    assert FalseAlarms(AlarmRule(), needed - 1, 0, 0, 0.0).at_most_per_hour(10) > 2


def test_the_rule_for_a_budget_is_the_quickest_that_keeps_to_it(clean):
    stream = stream_of(clean)
    found = rule_for(stream, clean, GROUPS, alarms_per_hour=1, frame_rate=1)
    assert max(found.observed_per_hour(1), found.independent_per_hour(1)) <= 1
    quicker = stream_of(clean, rule=AlarmRule(found.rule.needed - 1, 10))
    missed = FalseAlarms.of(quicker, clean, GROUPS)
    assert max(missed.observed_per_hour(1), missed.independent_per_hour(1)) > 1


def test_clean_scores_that_come_in_runs_need_a_stricter_rule_than_the_formula_says(clean):
    in_order = clean.sort().values  # all flags of a recording in one run
    stream = stream_of(clean)
    apart = rule_for(stream, clean, GROUPS, alarms_per_hour=1, frame_rate=1).rule
    with pytest.raises(ValueError, match="No alarm of 10 frames keeps to 1 an hour at 1 frames a second"):
        rule_for(stream, in_order, GROUPS, alarms_per_hour=1, frame_rate=1)
    assert apart.needed < 10


@pytest.mark.parametrize(
    ("rate", "frame_rate", "told"),
    [(0.01, 30, "18 flagged frames a minute"), (0.05, 30, "90 flagged frames a minute"),
     (0.001, 1, "3.6 flagged frames an hour")],
)  # fmt: skip
def test_a_rate_is_told_in_frames_a_minute_or_an_hour(rate, frame_rate, told):
    assert flags_told(rate, frame_rate) == f"{100 * rate:g} % of frames at {frame_rate} frames a second is {told}"
