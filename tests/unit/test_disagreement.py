"""Disagreement: its measure by hand, its regression against NumPy, and what a monitor keeps of it."""

import numpy as np
import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.detectors.disagreement import LEAST, Disagreement, disagreement, edge_share
from inlier.detectors.spec import DetectorSpec
from inlier.errors import Mismatch, NotFitted
from inlier.looks import Blur, Copy, HorizontalFlip, Jpeg
from inlier.monitor import Monitor
from inlier.observation import Readings, Recorded
from inlier.probe import Probe
from inlier.testing.specimens import scenes, tiny_backbone


class Darker(Copy):
    """Half the light: a linear network's logits are halved with it."""

    def images(self, images, generator=None):
        return images / 2

    def __repr__(self):
        return "Darker()"


def linear(dense, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dense:
        network, task = nn.Conv2d(3, classes, 1, bias=False), Segmentation
    else:
        network, task = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes, bias=False)), Classification
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Backbone(network, task("abcdef"[:classes]))


def images(n, size=8, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def rows(n, seed=0):
    """Measures as they may come: a logarithm that two numbers explain in part."""
    generator = np.random.default_rng(seed)
    own = np.stack([generator.uniform(0.1, 0.5, n), generator.uniform(0.01, 0.04, n)], axis=1)
    return np.column_stack([-3 + own @ [2.0, -9.0] + 0.1 * generator.standard_normal(n), own])


def readings_of(values, detector):
    names = tuple(str(i) for i in range(len(values)))
    return Readings({detector.reading: torch.from_numpy(values).float()}, names, ("all",) * len(values))


def fitted(look, backbone, clean=None):
    detector = Disagreement(look)
    clean = images(30, seed=1) if clean is None else clean
    return detector.fit(Probe(backbone).read(clean, also=detector.measures))


@pytest.mark.parametrize("dense", [True, False])
def test_it_is_measured_as_written_out_by_hand(dense):
    backbone, shown = linear(dense), images(2)
    logits = backbone(shown).numpy().astype(float)
    p, again = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (logits, logits / 2))
    apart, entropy = np.abs(p - again).sum(1), -(p * np.log(p)).sum(1)
    edges = np.zeros(2)
    if dense:
        apart, entropy = apart.mean((1, 2)), entropy.mean((1, 2))
        classes = logits.argmax(1)
        for i in range(2):
            across = (classes[i][:, 1:] != classes[i][:, :-1]).sum()
            edges[i] = (across + (classes[i][1:] != classes[i][:-1]).sum()) / (2 * 8 * 7)
        assert (edges > 0).all()
    expected = np.stack([np.log(apart + LEAST), entropy, edges], axis=1)
    found = Disagreement(Darker()).measure(Probe(backbone)(shown))
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-6)


def test_the_regression_is_numpy_s():
    values = rows(50)
    detector = Disagreement(Jpeg()).fit(readings_of(values, Disagreement(Jpeg())))
    design = np.column_stack([np.ones(50), values[:, 1:]])
    solution, squares, *_ = np.linalg.lstsq(design, values[:, 0], rcond=None)
    assert detector.coefficients.tolist() == pytest.approx(solution[1:], rel=1e-4)
    intercept = detector.typical - detector.centre @ detector.coefficients
    assert intercept.item() == pytest.approx(solution[0], rel=1e-4)
    assert detector.spread.item() == pytest.approx((squares[0] / 47) ** 0.5, rel=1e-4)
    residual = (values[:, 0] - design @ solution) / (squares[0] / 47) ** 0.5
    scores = detector(Recorded({detector.reading: torch.from_numpy(values).float()}))
    assert scores.tolist() == pytest.approx(residual, abs=1e-3)


def test_what_never_varies_explains_nothing_and_costs_no_freedom():
    values = rows(20)
    values[:, 2] = 0  # a classifier has no edges
    detector = Disagreement(Jpeg()).fit(readings_of(values, Disagreement(Jpeg())))
    slope, intercept = np.polyfit(values[:, 1], values[:, 0], 1)
    assert detector.coefficients.tolist() == pytest.approx([slope, 0], rel=1e-4)
    residual = values[:, 0] - slope * values[:, 1] - intercept
    assert detector.spread.item() == pytest.approx((np.square(residual).sum() / 18) ** 0.5, rel=1e-4)


def test_a_prediction_that_never_moves_has_finite_scores():
    values = rows(20)
    values[:, 0] = np.log(LEAST)
    detector = Disagreement(Jpeg()).fit(readings_of(values, Disagreement(Jpeg())))
    scores = detector(Recorded({detector.reading: torch.from_numpy(values).float()}))
    assert scores.isfinite().all()


def test_a_drift_that_the_prediction_tells_of_is_taken_off():
    values = rows(200)
    detector = Disagreement(Jpeg()).fit(readings_of(values, Disagreement(Jpeg())))
    scores = detector(Recorded({detector.reading: torch.from_numpy(rows(200, seed=1)).float()})).numpy()
    own = rows(200, seed=1)
    assert abs(np.corrcoef(own[:, 0], own[:, 1])[0, 1]) > 0.5
    assert abs(np.corrcoef(scores, own[:, 1])[0, 1]) < 0.15
    assert scores.std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", ["segmentation", "classifier"])
def test_the_second_look_is_made_once_and_costs_one_pass(kind):
    backbone = tiny_backbone(kind)
    detector = fitted(Jpeg(), backbone, scenes(10))
    observation = Probe(backbone)(scenes(2, seed=1))
    _ = observation.output
    assert observation.passes == 1
    detector(observation)
    assert observation.passes == 2
    detector(observation)
    detector.maps(observation)
    assert observation.passes == 2


@pytest.mark.parametrize("kind", ["segmentation", "classifier"])
@pytest.mark.parametrize("look", [Darker(), Blur(), Jpeg(50), HorizontalFlip()], ids=repr)
def test_score_of_a_batch_is_the_scores_one_by_one(kind, look):
    backbone, shown = tiny_backbone(kind), images(5)
    detector = fitted(look, backbone)
    together = detector(Probe(backbone)(shown))
    assert len(set(together.tolist())) == 5
    alone = torch.cat([detector(Probe(backbone)(one[None])) for one in shown])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_maps_have_the_mean_that_is_measured():
    backbone, shown = linear(True), images(3)
    detector, observation = Disagreement(Darker()), Probe(backbone)(shown)
    maps = detector.maps(observation)
    assert maps.shape == (3, 8, 8)
    torch.testing.assert_close((maps.mean((1, 2)) + LEAST).log(), detector.measure(observation)[:, 0])
    assert Disagreement(Darker()).maps(Probe(linear(False))(shown)) is None


def test_a_mirrored_prediction_is_compared_where_it_belongs():
    backbone = linear(True)  # sees single pixels: mirrored back, the prediction is the same
    measured = Disagreement(HorizontalFlip()).measure(Probe(backbone)(images(2)))
    torch.testing.assert_close(measured[:, 0], torch.full((2,), LEAST).log(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dense", [True, False])
def test_its_gradient_is_that_of_finite_differences(dense):
    # A classifier, whose edges do not count, and a dense one whose coefficient of edges is zero.
    backbone, shown = linear(dense).double(), images(2).double()
    detector = fitted(Blur(), linear(dense)).double()
    detector.coefficients[1] = 0
    direction = torch.randn(shown.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shown = shown * 0.8 + 0.1
    leaf = shown.clone().requires_grad_()
    detector(Probe(backbone)(leaf)).sum().backward()
    step = 1e-6
    up, down = (detector(Probe(backbone)(shown + sign * step * direction)).sum() for sign in (1, -1))
    torch.testing.assert_close((leaf.grad * direction).sum(), (up - down) / (2 * step), rtol=1e-4, atol=1e-7)


def test_the_share_of_edges_is_a_count_with_the_gradient_of_its_expectation():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    p = logits.softmax(1)
    share = edge_share(logits, p)
    assert torch.equal(share, edge_share(logits.detach(), p.detach()))
    assert share.mul(31).tolist() == pytest.approx([round(x) for x in share.mul(31).tolist()], abs=1e-4)
    one_half = torch.zeros(1, 2, 1, 2, requires_grad=True)  # two pixels, both classes as likely: they differ by half
    even = one_half.softmax(1)
    assert edge_share(one_half, even).item() == 0
    (gradient,) = torch.autograd.grad(edge_share(one_half, even).sum(), even)
    assert gradient.flatten().tolist() == [-0.5] * 4


def test_a_recorded_image_scores_as_it_did_and_needs_no_network():
    backbone = tiny_backbone("segmentation")
    detector = fitted(Jpeg(), backbone, scenes(20))
    shown = scenes(5, seed=1)
    readings = Probe(backbone).read(shown, also=detector.measures)
    (recorded,) = readings.observations()
    with torch.no_grad():
        torch.testing.assert_close(detector(recorded), detector(Probe(backbone)(shown)))
    assert recorded.passes == 0


def test_a_saved_monitor_and_its_readings_give_the_same_scores(tmp_path):
    backbone, names = tiny_backbone("segmentation"), ["disagreement", "energy", "disagreement(look='blur')"]
    monitor = Monitor(backbone, names, seed=0).fit(scenes(40)).calibrate(false_alarm_rate=0.1)
    shown = scenes(6, seed=1)
    readings = monitor.read(shown)
    assert {f"disagreement, {look!r}" for look in (Jpeg(75), Blur(1.0))} < set(readings.values)
    monitor.save(tmp_path / "a.inlier")
    loaded = Monitor.load(tmp_path / "a.inlier", backbone)
    with torch.no_grad():
        scores = monitor.score(shown)
        assert torch.equal(loaded.score(shown), scores)
    torch.testing.assert_close(monitor.score_of(readings), scores)
    readings.save(tmp_path / "a.readings")
    torch.testing.assert_close(loaded.score_of(Readings.load(tmp_path / "a.readings")), scores)


def test_a_monitor_fitted_to_readings_is_that_fitted_to_images():
    backbone, clean = tiny_backbone("segmentation"), scenes(40)
    of_images = Monitor(backbone, "disagreement", seed=0).fit(clean).calibrate(false_alarm_rate=0.1)
    readings = Monitor(backbone, "disagreement", seed=0).read(clean)
    of_readings = Monitor(backbone, "disagreement", seed=0).fit(readings).calibrate(false_alarm_rate=0.1)
    assert torch.equal(of_images.calibration_scores, of_readings.calibration_scores)


def test_readings_for_another_look_are_refused():
    backbone, clean = tiny_backbone("segmentation"), scenes(20)
    readings = Monitor(backbone, "disagreement(look='median')").read(clean)
    with pytest.raises(Mismatch, match=r"neither 'disagreement, Jpeg\(quality=75\)' nor logits: read the images again"):
        Monitor(backbone, "disagreement").fit(readings)
    with_logits = Monitor(backbone, "energy").read(clean, logits=True)
    with pytest.raises(Mismatch, match=r"Jpeg needs the network.*: read the images again"):
        Monitor(backbone, "disagreement").fit(with_logits)


def test_what_cannot_be_fitted_is_refused():
    detector = Disagreement(Jpeg())
    with pytest.raises(NotFitted, match="call fit"):
        detector(Probe(linear(True))(images(1)))
    with pytest.raises(ValueError, match="at least 4 clean images, not 3"):
        detector.fit(readings_of(rows(3), detector))
    with pytest.raises(Mismatch, match=r"read the images with also=detector\.measures"):
        detector.fit(Probe(linear(True)).read(images(5)))


def test_a_name_with_settings_makes_it():
    assert DetectorSpec.parse("disagreement").build(None).look == Jpeg(75)
    assert disagreement(None, look="blur", strength=2.0).look == Blur(2.0)
