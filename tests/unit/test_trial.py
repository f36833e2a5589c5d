"""Every column has one threshold that never moves, and what is counted is what an 8-bit file would hold."""

import json
from dataclasses import replace

import pytest
import torch

from inlier.attacks.joint import limit_of
from inlier.attacks.objectives import unseen
from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import NotFitted
from inlier.evaluation.metrics import auroc, rate_interval
from inlier.evaluation.results import MONITOR, CleanRow, Results
from inlier.evaluation.trial import (
    Change,
    Panel,
    Seen,
    Trial,
    clean_rows,
    evasive,
    take,
    try_out,
)
from inlier.monitor import Monitor
from inlier.perturbations.geometric import VerticalFlip

CLASSES = ("sky", "road", "car")


def images(count, seed):
    """Smooth random pictures on which the network is not of one mind."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    return (smooth * 255).round() / 255


@pytest.fixture(scope="module")
def backbone():
    """Pointwise, so that it predicts the same for a pixel wherever it lies."""
    weights = (
        torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
        torch.randn(3, 8, generator=torch.Generator().manual_seed(1)),
    )
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1))
    for layer, weight in zip((network[0], network[2]), weights, strict=True):
        layer.weight.data = 3 * weight[:, :, None, None]
        layer.bias.data.zero_()
    return Backbone(network, Segmentation(CLASSES, void=""), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def monitor(backbone):
    fitted = Monitor(backbone, ["mahalanobis", "energy"], seed=0).fit(images(60, 0))
    return fitted.calibrate(false_alarm_rate=0.1, blocks=1)


@pytest.fixture(scope="module")
def panel(monitor):
    return Panel(monitor)


def change(make, **settings):
    return Change("change", "a change", "perturbation", make, **settings)


def test_a_panel_shows_the_monitor_and_each_of_its_detectors(panel, monitor):
    assert panel.columns == (MONITOR, "mahalanobis", "energy")
    seen = panel.look(images(4, 1))
    assert torch.equal(seen.scores[MONITOR], monitor.score(images(4, 1)))
    for name, scores in monitor.scores(images(4, 1)).items():
        assert torch.equal(seen.scores[name], scores)
    assert torch.equal(seen.prediction, monitor.backbone.predict(images(4, 1)))


def test_the_only_detector_of_a_monitor_is_the_monitor(backbone):
    single = Monitor(backbone, "mahalanobis", seed=0).fit(images(30, 0)).calibrate(false_alarm_rate=0.1, blocks=1)
    assert Panel(single).columns == (MONITOR,)


def test_every_column_has_its_own_threshold_at_the_same_rate(panel, monitor):
    assert panel.false_alarm_rate == 0.1
    thresholds = panel.thresholds()
    assert thresholds[MONITOR] == monitor.calibration.threshold(0.1)
    assert thresholds["energy"] == monitor.calibrations["energy"].threshold(0.1)
    scores = {name: torch.tensor([value - 0.01, value + 0.01]) for name, value in thresholds.items()}
    assert all(flags.tolist() == [False, True] for flags in panel.flagged(scores).values())


def test_a_monitor_without_a_threshold_is_refused(backbone):
    for refused in (Panel, limit_of, lambda m: evasive(m, 0.01)):
        with pytest.raises(NotFitted, match="calibrated"):
            refused(Monitor(backbone, "mahalanobis"))


def test_taking_many_is_looking_at_all(panel):
    told = []
    taken = take(panel, images(11, 2), progress=lambda *step: told.append(step), phase="taking")
    whole = panel.look(images(11, 2))
    for name in panel.columns:
        assert torch.allclose(taken.scores[name], whole.scores[name])
    assert torch.equal(taken.prediction, whole.prediction)
    assert told == [("taking", 8, 11), ("taking", 11, 11)]


def test_clean_rows_count_alarms_and_wrong_pixels_by_group(panel):
    above, below = panel.thresholds()[MONITOR] + 1, panel.thresholds()[MONITOR] - 1
    low = torch.full((4,), -1e6)
    scores = {MONITOR: torch.tensor([above, below, above, above]), "mahalanobis": low, "energy": low}
    labels = torch.zeros(4, 2, 2, dtype=torch.long)
    prediction = labels.clone()
    prediction[0, 0] = 1
    a, b = clean_rows(panel, Seen(scores, prediction), labels, ["a", "a", "b", "b"], known=["a"])
    assert (a.group, a.known, a.images, a.wrong) == ("a", True, 2, 0.25)
    assert (b.group, b.known, b.images, b.wrong) == ("b", False, 2, 0.0)
    assert (a.alarms, b.alarms) == (
        {MONITOR: 1, "mahalanobis": 0, "energy": 0}, {MONITOR: 2, "mahalanobis": 0, "energy": 0},
    )  # fmt: skip
    assert a.interval() == rate_interval(1, 2)


def test_a_change_that_changes_nothing_is_no_trial(panel):
    before = take(panel, images(9, 3))
    trial = try_out(panel, change(lambda x: x), images(9, 3), before)
    assert all(torch.allclose(trial.after[name], before.scores[name]) for name in panel.columns)
    row = trial.row(panel, before.scores)
    assert (row.images, row.changed, row.evaded) == (9, 0, 0)
    assert row.auroc[MONITOR] == pytest.approx(0.5)
    assert trial.picture.heat.max() < 1e-5


def test_what_8_bits_cannot_hold_does_not_count(panel):
    before = take(panel, images(9, 3))
    trial = try_out(panel, change(lambda x: (x + 0.4 / 255).clamp(0, 1)), images(9, 3), before)
    assert torch.allclose(trial.after[MONITOR], before.scores[MONITOR])


def test_a_flipped_image_is_compared_with_the_flipped_prediction(panel):
    before = take(panel, images(9, 3))
    flip = VerticalFlip(1)
    assert try_out(panel, change(flip), images(9, 3), before).damage.min() > 0
    followed = try_out(panel, change(flip, moves=lambda maps: maps.flip(-2)), images(9, 3), before)
    assert followed.damage.max() == 0
    assert followed.picture.changed == 0
    assert followed.picture.heat.max() < 1e-5


def test_a_row_counts_damaged_images_without_an_alarm_among_those_let_pass_before(panel):
    high, low = panel.thresholds()[MONITOR] + 1, panel.thresholds()[MONITOR] - 1
    whole = try_out(panel, change(lambda x: x), images(5, 3), take(panel, images(5, 3)))
    rest = {name: torch.zeros(5) for name in panel.columns if name != MONITOR}
    trial = Trial(
        whole.change,
        {MONITOR: torch.tensor([low, low, low, low, high]), **rest},
        {MONITOR: torch.tensor([low, low, high, low, low]), **rest},
        torch.tensor([0.3, 0.9, 0.9, 0.29, 0.9]),  # damaged, damaged, caught, hardly damaged, flagged before
        whole.picture,
    )
    clean = {name: torch.linspace(low - 1, low + 1, 4) for name in panel.columns}
    row = trial.row(panel, clean)
    assert (row.eligible, row.evaded) == (4, 2)
    assert row.caught[MONITOR] == pytest.approx(0.2)
    assert row.auroc[MONITOR] == auroc(clean[MONITOR], trial.after[MONITOR])
    assert row.evasion_interval() == rate_interval(2, 4)


def test_unseen_is_damage_below_the_limit_and_less_the_further_above(panel):
    context = type("Context", (), {"prediction": torch.zeros(3, 1, 1, dtype=torch.long), "labels": None})()
    context.mean = lambda values: values.flatten(1).mean(1)
    observation = type(
        "Observation", (), {"output": torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(3, -1, -1, -1)}
    )
    bound = 0.9 * panel.thresholds()[MONITOR]
    scores = torch.tensor([bound - 0.1, bound + 1, bound + 2])

    assert torch.allclose(
        unseen(lambda _: scores, bound)(observation(), context), torch.tensor([1.0, -1.0, -2.0]), atol=1e-5
    )


def test_who_knows_the_monitor_damages_without_an_alarm_and_within_eps(panel, monitor):
    clean = images(8, 4)
    before = take(panel, clean)
    eps = 0.1
    attacked = evasive(monitor, eps)(clean)
    assert (attacked - clean).abs().max() <= eps + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    quiet = ~panel.flagged(before.scores)[MONITOR] & (before.scores[MONITOR] < 0.9 * panel.thresholds()[MONITOR])
    trial = try_out(panel, change(lambda x: evasive(monitor, eps)(x)), clean, before)
    assert quiet.any()
    assert not (panel.flagged(trial.after)[MONITOR] & quiet).any()
    assert (trial.damage[quiet] > 0).all()


def test_results_are_json_and_pool_the_groups_known_and_unseen(panel):
    before = take(panel, images(3, 3))
    trial = try_out(panel, change(lambda x: x), images(3, 3), before)
    rows = tuple(
        CleanRow(group, known, 10, wrong, dict.fromkeys(panel.columns, count), (0.0,) * 10)
        for group, known, wrong, count in (("a", True, 0.1, 1), ("b", True, 0.3, 0), ("c", False, 0.5, 9))
    )
    results = Results(
        "net", 9, CLASSES, (16, 16), ((0, 0, 0),) * 3, ("mahalanobis", "energy"), {"a": 30}, "made up", 0.1,
        panel.thresholds(), rows, (trial.row(panel, before.scores),), {"change": trial.picture}, (1.0, 2.0),
        {"all": 3.0}, 0, "inlier demo",
    )  # fmt: skip
    assert results.alarms(known=True) == (1, 20, *rate_interval(1, 20), pytest.approx(0.2))
    assert results.alarms(known=False)[:2] == (9, 10)
    assert replace(results, clean=()).alarms(known=True)[:4] == (0, 0, 0.0, 1.0)
    told = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert "pictures" not in told
    assert told["clean"][0]["interval"][MONITOR] == list(rate_interval(1, 10))
    assert told["trials"][0]["eligible"] == results.trials[0].eligible
