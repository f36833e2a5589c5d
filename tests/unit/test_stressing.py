"""A stress test from a file's settings: it is that of the monitor which these settings make, and it goes on."""

import json

import numpy as np
import pytest
import torch
from toy_segmentation import scenes, segmenter

from inlier.attacks.joint import limit_of
from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.measure import without_nan
from inlier.evaluation.stress import Stress
from inlier.evaluation.stressing import StressExperiment
from inlier.evaluation.subjects import Subjects
from inlier.monitor import Monitor
from inlier.report.document import document_html
from inlier.report.documents import DOCUMENTS

SETTINGS = {
    "backbone": "toy_segmentation:segmenter", "fit": "{data}/fit.npz", "clean": "{data}/clean.npz",
    "monitor": {"name": "bands", "detectors": "mahalanobis"}, "control": {"name": "energy", "detectors": "energy"},
    "images": 3, "grey_levels": [10, 25], "budget": "smoke", "rate": 0.1, "title": "A toy, attacked",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, images in (("fit", scenes(40, 1)), ("clean", scenes(12, 2))):
        np.savez(folder / f"{name}.npz", images=(images * 255).round().byte().movedim(1, -1).numpy())
    return folder


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("stressed") / "out"
    return out, from_keywords(StressExperiment, SETTINGS, "toy").run(out, data=data, command="inlier evaluate toy.toml")


def stored(images):
    return (images * 255).round() / 255


def test_it_is_the_stress_test_of_the_monitor_that_the_settings_make(ran, tmp_path):
    _, results = ran
    monitor, control = (
        Monitor(segmenter(), name, seed=0).fit(stored(scenes(40, 1))).calibrate(false_alarm_rate=0.1)
        for name in ("mahalanobis", "energy")
    )
    attacked = stored(scenes(12, 2))[[0, 4, 8]]
    by_hand = Stress(
        monitor, Subjects(attacked, ("a", "b", "c")), tmp_path, epsilons=(10 / 255, 25 / 255), budget="smoke", rate=0.1,
        control=control,
    ).run()  # fmt: skip
    told = [[(row["attack"], row["eps"], row["damage"], row["success_0.3"]) for row in each["rows"]]
            for each in (results, by_hand)]  # fmt: skip
    assert told[0] == told[1]
    gates = [{gate["name"]: gate["observed"] for gate in each["gates"]} for each in (results, by_hand)]
    assert gates[0] == gates[1]
    assert "no control was given" not in gates[0].values()
    assert max(row["damage"] for row in results["rows"]) > 0


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(ran, data, monkeypatch):
    out, results = ran
    monkeypatch.setattr("inlier.evaluation.assaults.attack_monitor", None)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    again = from_keywords(StressExperiment, SETTINGS, "toy").run(out, data=data)
    for told in ("rows", "worst", "gates", "notes"):
        assert json.dumps(again[told]) == json.dumps(results[told])
    with pytest.raises(Mismatch, match="images"):
        from_keywords(StressExperiment, {**SETTINGS, "images": 2}, "toy").run(out, data=data)


def test_the_page_tells_it(ran):
    results = json.loads(json.dumps(without_nan({"format": 1, "kind": "stress", **ran[1]})))
    page = document_html(DOCUMENTS["stress"](results))
    assert "A toy, attacked" in page
    assert "inlier evaluate toy.toml" in page
    assert results["gates"][0]["name"] in page


def test_attackers_with_monitors_of_their_own_are_fitted_from_the_settings_too(data, tmp_path):
    attacked = scenes(12, 2)[[0, 4, 8]]  # which he leaves out
    for name, images in (("his", torch.cat([attacked[:2], scenes(30, 7), attacked[2:]])), ("attacked", attacked)):
        np.savez(data / f"{name}.npz", images=(images * 255).round().byte().movedim(1, -1).numpy())
    more = {"surrogates": [{"name": "his", "detectors": "mahalanobis"}], "surrogate_fit": "{data}/his.npz"}
    results = from_keywords(StressExperiment, SETTINGS | more, "toy").run(tmp_path / "out", data=data)
    his = Monitor(segmenter(), "mahalanobis", seed=0).fit(stored(scenes(30, 7))).calibrate(false_alarm_rate=0.1)
    assert results["settings"]["surrogates"] == {"his": pytest.approx(limit_of(his, 0.1))}
    assert {row["tier"] for row in results["worst"]} == {"T0", "T1", "T3"}
    name = "the attackers' own monitors pass the images unchanged"
    gate = next(gate for gate in results["gates"] if gate["name"] == name)
    assert gate["observed"] == f"{int((his.score(stored(attacked)) <= limit_of(his, 0.1)).sum())} of 3"
    none = more | {"surrogate_fit": "{data}/attacked.npz"}
    with pytest.raises(ValueError, match="All 3 images are among those that are attacked"):
        from_keywords(StressExperiment, SETTINGS | none, "toy").run(tmp_path / "none", data=data)
    same = {"surrogates": [{"name": "his", "detectors": "mahalanobis"}]}
    with pytest.raises(ValueError, match="is the monitor itself"):
        from_keywords(StressExperiment, SETTINGS | same, "toy").run(tmp_path / "same", data=data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"budget": "fulll"}, "Did you mean 'full'"), ({"grey_levels": []}, "above 0"), ({"images": 0}, "above 0"),
        ({"rate": 1}, "rate"), ({"control": {"name": "default"}, "monitor": {"name": "default"}}, "'default'"),
        ({"monitor": {"name": "m", "detectors": "mahalanobbis"}}, "Did you mean 'mahalanobis'"),
        ({"grey_level": [1]}, "'grey_levels'"), ({"surrogate_fit": "{data}/fit.npz"}, "there are none"),
        ({"surrogates": [{"name": "bands"}]}, "'bands'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(change, told):
    with pytest.raises((ValueError, LookupError), match=told):
        from_keywords(StressExperiment, {**SETTINGS, **change}, "toy")
