"""A monitor fits, calibrates, scores and explains as its documentation says."""

import copy
import math
import warnings

import pytest
import torch
from scipy.stats import betabinom
from torch import nn

from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import espnet
from inlier.calibration import blocked_folds
from inlier.datasets.folder import ImageFolder
from inlier.detectors.mahalanobis import mahalanobis
from inlier.detectors.table import DETECTORS
from inlier.errors import Mismatch, NotFitted
from inlier.images import TensorImages
from inlier.monitor import Monitor
from inlier.perturbations.table import PERTURBATIONS
from inlier.probe import Probe
from inlier.sampling import SamplingKey

EVERY = [name if name != "daain" else "daain(distance=6, blocks=1)" for name in DETECTORS]
MORE_PASSES = ("mc_dropout", "disagreement", "random_look", "gradient_alignment")
ONE_LOOK = [name for name in EVERY if name not in MORE_PASSES]
"""Those that do not look again."""


def images(n, seed=0, size=16):
    """Flat images of different colours with noise: exchangeable, and each with something of its own."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    return (0.25 + 0.5 * colour + 0.2 * torch.rand(n, 3, size, size, generator=generator)).clamp(0, 1)


class Counting(nn.Module):
    """Counts forward passes and the images in them."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return self.network(x)


def make_backbone(counting=False, seed=0):
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(8, 3, 1),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(Counting(network) if counting else network, Segmentation(("a", "b", "c")))


@pytest.fixture(scope="module")
def backbone():
    return make_backbone()


@pytest.fixture(scope="module")
def everything(backbone):
    """A monitor of all detectors; tests must not change it."""
    return Monitor(backbone, EVERY, seed=0).fit(images(60)).calibrate(false_alarm_rate=0.1, folds=2)


def same_state(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# --- scoring ---------------------------------------------------------------------------------------------------------


def test_score_of_a_batch_is_the_scores_one_by_one(everything):
    fresh = images(9, seed=1)
    together = everything.scores(fresh)
    assert list(together) == list(DETECTORS)
    one_by_one = [everything.scores(image[None]) for image in fresh]
    for name, scores in together.items():
        torch.testing.assert_close(scores, torch.cat([one[name] for one in one_by_one]), rtol=1e-4, atol=1e-5)
    # Fused surprisals are steep where clean scores are dense, so that rounding shows.
    fused = torch.cat([everything.score(image[None]) for image in fresh])
    torch.testing.assert_close(everything.score(fresh), fused, rtol=1e-2, atol=1e-2)


def test_several_detectors_share_one_forward_pass_and_clean_images_are_read_once():
    backbone = make_backbone(counting=True)
    passes = backbone.network.passes
    monitor = Monitor(backbone, ONE_LOOK, seed=0).fit(images(20), batch_size=8)
    assert passes[1:] == [8, 8, 4]  # the first finds the taps
    passes.clear()
    monitor.calibrate(false_alarm_rate=0.2)
    assert passes == []
    for look in (monitor.score, monitor.scores, monitor, lambda x: monitor(x, why=True)):
        look(images(5, seed=1))
        assert passes == [5]
        passes.clear()


def test_nothing_of_the_users_module_changes():
    backbone = make_backbone()
    network = backbone.network
    before, attributes = (
        copy.deepcopy(network.state_dict()),
        {name: set(vars(m)) for name, m in network.named_modules()},
    )
    fresh = images(3, seed=1)
    expected = network(fresh)
    monitor = Monitor(backbone, EVERY, seed=0).fit(images(20)).calibrate(false_alarm_rate=0.2)
    monitor.train()(fresh, why=True)
    monitor.score(fresh.requires_grad_()).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {name: set(vars(m)) for name, m in network.named_modules()} == attributes
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())
    assert not any(m.training for m in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(network(fresh), expected)


def test_a_verdict_is_the_backbones_output_and_the_calibrated_score(everything, backbone):
    fresh = images(6, seed=1)
    verdict = everything(fresh, [f"{i}.png" for i in range(6)])
    with torch.no_grad():
        assert torch.equal(verdict.output, backbone(fresh))
        assert torch.equal(verdict.score, everything.score(fresh))
    assert torch.equal(verdict.prediction, backbone.predict(fresh))
    assert torch.equal(verdict.p_value, everything.calibration.p_value(verdict.score))
    assert torch.equal(verdict.flagged, verdict.p_value <= 0.1)
    assert verdict.names[5] == "5.png"
    assert verdict.why is None
    assert not verdict.score.requires_grad


@pytest.mark.usefixtures("unchecked_shapes")
def test_images_that_no_camera_delivers_are_refused(everything):
    with pytest.raises(ValueError, match="expects images of 3 channels, and 1 came"):
        everything(images(2)[:, :1])
    with pytest.raises(ValueError, match="8-bit pixels go over 255"):
        everything(images(2) * 255)
    with pytest.raises(TypeError, match="floating point"):
        everything((images(2) * 255).byte())
    with pytest.raises(ValueError, match="2 images came with 1 names"):
        everything(images(2), ["a"])
    with pytest.raises(Mismatch, match="drawn for images of 16 x 16"):
        everything(images(2, size=20))


def test_the_score_has_a_gradient_that_an_attacker_can_follow(everything):
    fresh = images(4, seed=1).requires_grad_()
    everything.score(fresh).sum().backward()
    assert fresh.grad.isfinite().all()
    assert (fresh.grad != 0).flatten(1).any(1).all()


# --- fusion ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["max", "sum"])
def test_a_fused_score_is_made_of_the_detectors_surprisals(backbone, fusion):
    monitor = (
        Monitor(backbone, ["mahalanobis", "energy"], fusion=fusion).fit(images(60)).calibrate(false_alarm_rate=0.1)
    )
    fresh = images(5, seed=1)
    surprisals = torch.stack([monitor.calibrations[n].surprisal(s) for n, s in monitor.scores(fresh).items()])
    expected = surprisals.amax(0) if fusion == "max" else surprisals.sum(0)
    assert torch.equal(monitor.score(fresh), expected)


@pytest.mark.parametrize("fusion", ["max", "sum"])
@pytest.mark.parametrize("held_out", [False, True])
def test_a_fused_monitor_keeps_its_rate_on_fresh_exchangeable_images(backbone, fusion, held_out):
    monitor = Monitor(backbone, ["mahalanobis(grid=(1, 1))", "max_logit", "entropy"], fusion=fusion).fit(images(400))
    groups = [str(i % 4) for i in range(400)]
    monitor.calibrate(TensorImages(images(400, 1), groups=groups) if held_out else None, false_alarm_rate=0.1, blocks=1)
    allowed = math.floor(0.1 * 401)
    alarms = int(monitor(images(1500, seed=2)).flagged.sum())
    law = betabinom(1500, allowed, 401 - allowed)  # alarms given a threshold that is itself a draw
    assert law.ppf(0.001) <= alarms <= law.ppf(0.999)


def test_several_detectors_need_their_calibrations_and_a_new_fit_forgets_the_old_ones(backbone):
    monitor = Monitor(backbone, ["entropy", "energy"]).fit(images(30))
    with pytest.raises(NotFitted, match=r"call calibrate\(\) first"):
        monitor.score(images(2))
    monitor.calibrate(false_alarm_rate=0.2).score(images(2))
    monitor.fit(images(30, seed=4))
    with pytest.raises(NotFitted, match=r"call calibrate\(\) first"):
        monitor.score(images(2))


def test_one_detector_may_be_used_with_several_settings(backbone):
    monitor = Monitor(backbone, ["max_softmax", "max_softmax(reduce='max')", "max_softmax"])
    monitor.fit(images(30))
    assert list(monitor.detectors) == ["max_softmax", "max_softmax-2", "max_softmax-3"]
    one, other, again = monitor.scores(images(4, seed=1)).values()
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_detectors_that_read_differently_stand_side_by_side(backbone):
    monitor = Monitor(backbone, ["mahalanobis", "mahalanobis(grid=(1, 1))", "daain(distance=6, blocks=1)",
                                 "daain(distance=6, blocks=1, head='euclidean')"], seed=0)  # fmt: skip
    monitor.fit(images(40)).calibrate(false_alarm_rate=0.1)
    fresh = images(4, seed=1)
    for name, spec in zip(monitor.detectors, monitor.specs, strict=True):
        alone = Monitor(backbone, spec, seed=0).fit(images(40))
        assert torch.equal(monitor.scores(fresh)[name], alone.score(fresh))


def test_wrong_arguments_are_refused(backbone):
    with pytest.raises(ValueError, match="needs detectors and fusion"):
        Monitor(backbone, [])
    with pytest.raises(ValueError, match="fusion 'max' or 'sum'"):
        Monitor(backbone, fusion="mean")
    with pytest.raises(LookupError, match="Did you mean 'mahalanobis'"):
        Monitor(backbone, "mahalanobi")


# --- calibration -----------------------------------------------------------------------------------------------------


def test_cross_fitted_scores_come_from_detectors_that_did_not_see_the_fold(backbone):
    clean = images(40)
    clean[17] = 1 - clean[17].round()  # so odd that a detector that saw it has learnt of it
    monitor = Monitor(backbone, "mahalanobis").fit(clean).calibrate(false_alarm_rate=0.1, blocks=4)
    seen, unseen = monitor.score(clean)[17].item(), monitor.clean.scores["mahalanobis"][17].item()
    assert unseen > 5 * seen
    # And they are those of a detector fitted by hand to the other folds.
    fold = blocked_folds(["all"] * 40, block=4, folds=5)
    assert torch.equal(monitor.clean.folds, fold)
    for number in range(5):
        inside = fold == number
        detector = mahalanobis(Anatomy.of(backbone, (16, 16)))
        probe = Probe(backbone, detector.requires)
        detector.fit(probe.read(clean[~inside]))
        by_hand = detector(probe(clean[inside])).double()
        torch.testing.assert_close(monitor.clean.scores["mahalanobis"][inside], by_hand, rtol=1e-3, atol=1e-4)


def test_a_clean_images_fused_score_comes_from_calibrations_without_its_fold(backbone):
    monitor = Monitor(backbone, ["entropy", "energy"]).fit(images(30)).calibrate(false_alarm_rate=0.2, blocks=3)
    inside = monitor.clean.folds == 2
    others = {
        name: copy.deepcopy(c).fit(monitor.clean.scores[name][~inside]) for name, c in monitor.calibrations.items()
    }
    surprisals = [others[name].surprisal(monitor.clean.scores[name][inside].double()) for name in others]
    assert torch.equal(monitor.calibration_scores[inside], torch.stack(surprisals).amax(0))


def test_the_calibration_holds_the_clean_scores_in_their_order(backbone):
    monitor = Monitor(backbone, "entropy").fit(images(30)).calibrate(false_alarm_rate=0.2)
    torch.testing.assert_close(monitor.calibration_scores, monitor.score(images(30)), rtol=1e-4, atol=1e-5)
    assert torch.equal(monitor.calibration.scores, monitor.calibration_scores.double().sort().values)


def test_too_few_images_are_refused_with_the_number_needed_and_the_old_calibration_stays(backbone):
    monitor = Monitor(backbone, ["mahalanobis", "energy"]).fit(images(30)).calibrate(false_alarm_rate=0.1)
    before, fresh = monitor(images(5, seed=1)), images(5, seed=1)
    with pytest.raises(ValueError, match=r"has 30 images; a false-alarm rate of 0.01 needs at least 99\."):
        monitor.calibrate(false_alarm_rate=0.01)
    with pytest.raises(ValueError, match="needs at least 299"):
        monitor.calibrate(false_alarm_rate=0.01, rule="high_probability")
    groups = TensorImages(images(6, seed=3), groups=list("abcabc"))
    with pytest.raises(ValueError, match=r"has 6 images; a false-alarm rate of 0.1 needs at least 9\."):
        monitor.calibrate(groups, false_alarm_rate=0.1)
    after = monitor(fresh)
    assert after.to_dict() == before.to_dict()
    assert monitor.false_alarm_rate == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "median"}, "No calibration rule named 'median'"),
        ({"rule": "high_probability", "confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate must lie between 0 and 1"),
        ({"blocks": "groups"}, "blocks is 'auto', 'group' or a number of images, not 'groups'"),
        ({"blocks": "group"}, "Leaving one group out needs at least 2 groups, not 1"),
        ({"blocks": 0}, "block >= 1"),
        ({"blocks": 20}, "make 2 blocks of about 20, too few for 5 folds"),
        ({"folds": 1}, "at least 2 folds, not 1"),
        ({"folds": 0}, "at least 2 folds, not 0"),
        ({"folds": 31}, "too few for 31 folds"),
    ],
)
def test_impossible_calibrations_are_refused(backbone, settings, message):
    monitor = Monitor(backbone, "entropy").fit(images(30))
    with pytest.raises(ValueError, match=message):
        monitor.calibrate(**{"false_alarm_rate": 0.2} | settings)
    with pytest.raises(NotFitted, match="not calibrated"):
        monitor(images(1))


@pytest.mark.parametrize("rule", ["order_statistic", "high_probability", "robust"])
def test_a_rule_is_that_of_the_calibration(backbone, rule):
    monitor = (
        Monitor(backbone, "mahalanobis").fit(images(60)).calibrate(false_alarm_rate=0.1, rule=rule, confidence=0.9)
    )
    assert (monitor.calibration.rule, monitor.calibration.confidence) == (rule, 0.9)
    verdict = monitor(images(20, seed=1))
    assert torch.equal(verdict.flagged, verdict.score.double() > monitor.calibration.threshold(0.1))


def test_blocks_are_as_asked_and_the_monitor_says_so(backbone):
    source = TensorImages(images(40), groups=["a"] * 15 + ["b"] * 25)
    monitor = Monitor(backbone, "mahalanobis").fit(source)
    monitor.calibrate(false_alarm_rate=0.1, blocks="group")
    assert monitor.clean.folds.tolist() == [0] * 15 + [1] * 25
    assert monitor.clean.made == "cross-fitted over whole groups (2 groups)"
    monitor.calibrate(false_alarm_rate=0.1, blocks=5, folds=4)
    assert torch.equal(monitor.clean.folds, blocked_folds(source.groups, block=5, folds=4))
    assert monitor.clean.made == "cross-fitted over 4 folds of blocks of about 5 neighbouring images (2 groups)"
    assert monitor.clean.groups == source.groups


def test_automatic_blocks_are_as_long_as_neighbours_are_alike(backbone):
    independent = Monitor(backbone, "mahalanobis").fit(images(120)).calibrate(false_alarm_rate=0.1)
    assert "blocks of about 1 neighbouring" in independent.clean.made
    video = images(20).repeat_interleave(6, dim=0) + 0.02 * images(120, seed=1)
    alike = Monitor(backbone, "mahalanobis").fit(video.clamp(0, 1)).calibrate(false_alarm_rate=0.1)
    length = int(alike.clean.made.split("about ")[1].split()[0])
    assert 3 <= length <= 12


def test_held_out_images_are_scored_as_they_are(backbone):
    held_out = TensorImages(images(30, seed=2), groups=["a"] * 15 + ["b"] * 15)
    monitor = Monitor(backbone, "mahalanobis").fit(images(40)).calibrate(held_out, false_alarm_rate=0.1, batch_size=30)
    assert torch.equal(monitor.calibration_scores, monitor.score(held_out.images).double())
    assert monitor.clean.made == "held out, as they are"
    assert monitor.clean.groups == held_out.groups


@pytest.mark.usefixtures("unchecked_shapes")
def test_held_out_images_of_one_group_are_warned_of(backbone):
    monitor = Monitor(backbone, "mahalanobis").fit(images(40))
    with pytest.warns(UserWarning, match=r"All 30 held-out images are of one group \(all\)"):
        monitor.calibrate(images(30, seed=2), false_alarm_rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.calibrate(TensorImages(images(30), groups=["a"] * 29 + ["b"]), false_alarm_rate=0.1)


def test_what_was_not_fitted_or_calibrated_says_so(backbone):
    monitor = Monitor(backbone, "daain(distance=6, blocks=1)", seed=0)
    for use in (lambda: monitor.score(images(1)), lambda: monitor.calibrate(), lambda: monitor.probe):
        with pytest.raises(NotFitted, match="call fit"):
            use()
    for use in (lambda: monitor(images(1)), lambda: monitor.save("x"), lambda: monitor.rekey(images(9)),
                lambda: monitor.calibration_scores):  # fmt: skip
        with pytest.raises(NotFitted, match="not calibrated"):
            use()
    with pytest.raises(ValueError, match="8-bit pixels go over 255"):
        monitor.fit(images(4).mul(255))


def test_images_of_several_sizes_suit_a_detector_that_does_not_sample(backbone):
    class Mixed:
        def __len__(self):
            return 40

        def batches(self, size):
            yield from TensorImages(images(20), groups=["a"] * 20).batches(size)
            yield from TensorImages(images(20, seed=1, size=20), groups=["b"] * 20).batches(size)

    monitor = Monitor(backbone, "mahalanobis").fit(Mixed()).calibrate(false_alarm_rate=0.1)
    assert monitor.score(images(2, size=24)).isfinite().all()
    with pytest.raises(Mismatch, match="drawn for images of 16 x 16"):
        Monitor(backbone, "daain(distance=6, blocks=1)", seed=0).fit(Mixed())


def test_progress_names_each_phase(backbone):
    told = []
    monitor = Monitor(backbone, ["mahalanobis", "daain(distance=6, blocks=1)"], seed=0)
    monitor.fit(images(20), progress=lambda *step: told.append(step))
    monitor.calibrate(false_alarm_rate=0.2, folds=2, progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(phase for phase, _, _ in told)) == [
        "reading", "fitting daain", "cross-fitting daain 1/2", "cross-fitting daain 2/2",
    ]  # fmt: skip
    assert [step[1:] for step in told if step[0] == "reading"] == [(8, 20), (16, 20), (20, 20)]


# --- keys and seeds --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_seeds_make_equal_monitors_and_other_seeds_others(backbone):
    def made(seed):
        state = torch.get_rng_state()
        monitor = Monitor(backbone, EVERY, seed=seed).fit(images(30)).calibrate(false_alarm_rate=0.2, folds=2)
        assert torch.equal(torch.get_rng_state(), state)
        return monitor

    one, same, other = made(3), made(3), made(4)
    assert torch.equal(one.keys.key.points, same.keys.key.points)
    assert same_state(one, same)
    assert torch.equal(one.score(images(5, seed=1)), same.score(images(5, seed=1)))
    assert not torch.equal(one.keys.key.points, other.keys.key.points)


def test_without_a_seed_every_monitor_has_a_key_of_its_own(backbone):
    keys = [Monitor(backbone, "daain(distance=6, blocks=1)").build((16, 16)).keys.key.points for _ in range(3)]
    assert len({tuple(points.flatten().tolist()) for points in keys}) == 3


def test_a_given_key_is_used_and_one_for_other_images_refused(backbone):
    key = SamplingKey(torch.tensor([[0, 1, 2], [3, 4, 5], [9, 9, 9]]), (40, 16, 16), "blue_noise(6)")
    volume = Monitor(backbone, "daain(distance=6)", seed=0).build((16, 16)).keys.key.volume
    given = SamplingKey(key.points, volume, key.rule)
    monitor = Monitor(backbone, "daain(distance=6)", key=given).build((16, 16))
    assert monitor.keys.key is given
    assert monitor.detectors["daain"].requires[0].size == 3
    with pytest.raises(Mismatch, match="One monitor has one key"):
        Monitor(backbone, "daain(distance=6)", key=key).build((16, 16))


def test_rekey_draws_another_key_and_keeps_rate_rule_detectors_and_fusion(backbone):
    specs = ["daain(distance=6, blocks=1)", "energy"]
    monitor = Monitor(backbone, specs, fusion="sum", seed=0).fit(images(40))
    monitor.calibrate(false_alarm_rate=0.2, rule="high_probability", confidence=0.8, folds=2)
    before = copy.deepcopy(monitor.state_dict())
    fresh = monitor.rekey(images(40), seed=1, folds=2)
    assert not torch.equal(fresh.keys.key.points, monitor.keys.key.points)
    assert (fresh.specs, fresh.fusion, fresh.false_alarm_rate) == (monitor.specs, "sum", 0.2)
    assert (fresh.calibration.rule, fresh.calibration.confidence) == ("high_probability", 0.8)
    assert not torch.equal(fresh.scores(images(3))["daain"], monitor.scores(images(3))["daain"])
    assert torch.equal(fresh.scores(images(3))["energy"], monitor.scores(images(3))["energy"])
    assert all(torch.equal(value, before[name]) for name, value in monitor.state_dict().items())


def test_a_monitor_without_a_key_cannot_be_rekeyed(backbone):
    monitor = Monitor(backbone, "entropy").fit(images(30)).calibrate(false_alarm_rate=0.2)
    with pytest.raises(Mismatch, match="no key to draw again"):
        monitor.rekey(images(30))


def test_a_detector_given_as_an_object_stays_as_it_came(backbone):
    detector = mahalanobis(Anatomy.of(backbone, (16, 16)))
    monitor = Monitor(backbone, [detector, "energy"]).fit(images(30)).calibrate(false_alarm_rate=0.2)
    assert detector.density.count == 0
    expected = Monitor(backbone, "mahalanobis").fit(images(30)).score(images(4, seed=1))
    assert torch.equal(monitor.scores(images(4, seed=1))["mahalanobis"], expected)


# --- why -------------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Red and blue go ways of their own, at resolutions of their own."""

    def __init__(self):
        super().__init__()
        self.red = nn.Conv2d(1, 5, 3, padding=1)
        self.blue = nn.Conv2d(1, 5, 3, stride=2, padding=1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2

    def forward(self, x):
        return torch.cat([self.red(x[:, :1]).mean((2, 3)), self.blue(x[:, 2:]).mean((2, 3))], dim=1)


@pytest.fixture(scope="module")
def branches():
    backbone = Backbone(Branches(), Classification([str(i) for i in range(10)]))
    return Monitor(backbone, "mahalanobis").fit(images(60)).calibrate(false_alarm_rate=0.1)


@pytest.mark.parametrize(("channel", "tap"), [(0, "red"), (2, "blue")])
def test_a_change_that_one_tap_sees_is_told_of_that_tap(branches, channel, tap):
    changed = images(6, seed=1)
    changed[:, channel] = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)).round()
    for taps in branches(changed, why=True).why.taps:
        assert taps[0][0] == tap
        assert taps[0][1] > 0.9


def test_shares_are_ordered_and_sum_to_one_at_most(everything):
    for monitor in (everything, Monitor(everything.backbone).fit(images(40)).calibrate(false_alarm_rate=0.1)):
        for taps in monitor(images(12, seed=1).round(), why=True).why.taps:
            shares = [share for _, share in taps]
            assert shares == sorted(shares, reverse=True)
            assert all(0 < share <= 1 for share in shares)
            assert sum(shares) <= 1 + 1e-5


def test_the_heat_map_is_hottest_where_the_image_was_changed(backbone):
    monitor = Monitor(backbone, "mahalanobis").fit(images(80)).calibrate(false_alarm_rate=0.1)
    for band in range(4):
        changed = images(5, seed=1)
        changed[:, :, 4 * band : 4 * band + 4] = changed[:, :, 4 * band : 4 * band + 4].round()
        heat = monitor(changed, why=True).why.heat
        assert heat.shape == (5, 16, 16)
        assert heat.flatten(1).amax(1).tolist() == pytest.approx([1] * 5)
        assert heat.min() >= 0
        assert heat.view(5, 4, 64).mean((0, 2)).argmax() == band


def test_a_clean_image_is_nearest_to_itself_and_an_odd_one_is_far(everything):
    clean = images(60)
    for i, (name, distance) in enumerate(everything(clean[20:25], why=True).why.nearest):
        assert name == str(20 + i)
        assert distance < 0.01
    (_, near), (_, far) = everything(torch.stack([images(1, 1)[0], images(1)[0].round()]), why=True).why.nearest
    assert near < 3
    assert far > 2 * near


def test_why_changes_no_number_of_the_verdict(everything):
    fresh = images(4, seed=1)
    plain, told = everything(fresh), everything(fresh, why=True)
    torch.testing.assert_close(told.score, plain.score, rtol=1e-4, atol=1e-4)
    assert torch.equal(told.flagged, plain.flagged)


def test_scores_of_the_output_alone_have_a_heat_map_and_no_taps(backbone):
    monitor = Monitor(backbone, "energy").fit(images(30)).calibrate(false_alarm_rate=0.2)
    why = monitor(images(2, seed=1), why=True).why
    assert why.taps == ((), ())
    assert why.nearest == (None, None)
    assert why.heat.isfinite().all()


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_camvid_is_calm_when_clean_and_alarmed_when_upside_down(data):
    weights = data / "weights" / "espnet_decoder_camvid_p2_q8.safetensors"
    train = ImageFolder(data / "camvid" / "train", size=(180, 240))
    monitor = Monitor(espnet(weights)).fit(train).calibrate(false_alarm_rate=0.05)
    assert "whole groups" in monitor.clean.made
    validation = next(ImageFolder(data / "camvid" / "val", size=(180, 240)).batches(24)).images
    assert monitor(validation).flagged.double().mean() < 0.3
    upside_down = PERTURBATIONS["vertical_flip"]()(validation)
    assert monitor(upside_down).flagged.double().mean() > 0.9


@pytest.mark.parametrize(
    "spec",
    [
        "daain(distance=6, blocks=1, key='balanced')",
        "daain(distance=6, blocks=1, key='uniform', taps='conv')",
        "daain(distance=6, blocks=1, taps=('network.0', 'network.3:input'))",
        "mahalanobis(taps='batch_norm_inputs, network.6')",
    ],
)
def test_a_monitor_with_taps_and_keys_of_the_users_choice_is_saved_loaded_and_rekeyed(spec, tmp_path):
    backbone = Backbone(make_backbone().network, Segmentation(("a", "b", "c")))
    spec = spec.replace("network.", "")
    monitor = Monitor(backbone, spec, seed=0).fit(images(40)).calibrate(false_alarm_rate=0.1, folds=2)
    monitor.save(tmp_path / "m.inlier")
    again = Monitor.load(tmp_path / "m.inlier", backbone)
    assert torch.equal(again.score(images(5, seed=1)), monitor.score(images(5, seed=1)))
    if monitor.keys.key is not None:
        fresh = monitor.rekey(images(40), seed=9, folds=2)
        assert fresh.keys.key.rule == monitor.keys.key.rule
        assert fresh.keys.key != monitor.keys.key
