"""The stress test: what it counts, that it goes on, and that its gates find monitors that only seem to hold."""

import json

import pytest
import torch
from toy_segmentation import scenes, segmenter

from inlier.anatomy import Anatomy
from inlier.cli.stress import epsilons_from, told
from inlier.detectors.base import Detector
from inlier.detectors.mahalanobis import mahalanobis
from inlier.errors import Mismatch
from inlier.evaluation.stress import BUDGETS, Stress, suite
from inlier.monitor import Monitor

EPSILONS = (0.06, 0.12)


@pytest.fixture(scope="module")
def backbone():
    return segmenter()


@pytest.fixture(scope="module")
def monitor(backbone):
    return fitted(backbone, "mahalanobis")


def fitted(backbone, detector):
    return Monitor(backbone, detector, seed=0).fit(scenes(60, 1)).calibrate(false_alarm_rate=0.05)


@pytest.fixture(scope="module")
def images():
    return scenes(8, 2)


@pytest.fixture(scope="module")
def ran(monitor, backbone, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("stress") / "out"
    kept = {}
    work = Stress(
        monitor, images, out, epsilons=EPSILONS, budget="smoke", control=fitted(backbone, "max_softmax"),
        keep=lambda name, eps, attacked: kept.update({(name, eps): attacked}),
    )  # fmt: skip
    return out, work.run(), kept


def gates_of(results):
    return {gate["name"]: gate["verdict"] for gate in results["gates"]}


def test_rows_are_what_the_kept_images_say(ran, monitor, images):
    _, results, kept = ran
    silent = ~monitor(images).flagged
    assert results["silent"] == int(silent.sum())
    assert len(results["rows"]) == len(EPSILONS) * len(suite("smoke"))
    before = monitor.backbone.predict(images)
    evaded = {}
    for row in results["rows"]:
        attacked = kept[row["attack"], row["eps"]]
        assert torch.equal(attacked, (attacked * 255).round() / 255)
        assert (attacked - images).abs().max() <= row["eps"] + 0.5 / 255 + 1e-6
        damage = (monitor.backbone.predict(attacked) != before).float().mean((1, 2))
        flagged = monitor(attacked).flagged
        evaded[row["attack"], row["eps"]] = (damage >= 0.3) & ~flagged & silent
        assert row["damage"] == pytest.approx(damage.mean().item())
        assert row["success_0.3"]["hits"] == int(evaded[row["attack"], row["eps"]].sum())
        assert row["success_0.3"]["images"] == int(silent.sum())
        assert row["detected_0.3"]["hits"] == int((flagged & silent & (damage >= 0.3)).sum())
    for line in results["worst"]:
        names = [one.name for one in suite("smoke") if line["tier"] == "T3" or one.tier == line["tier"]]
        worst = torch.stack([evaded[name, line["eps"]] for name in names]).any(0)
        assert line["success_0.3"]["hits"] == int(worst.sum())


def test_a_weak_monitor_is_broken_and_its_gates_pass(ran):
    _, results, _ = ran
    assert results["verdict"] == "broken at eps 30.6/255"
    found = gates_of(results)
    assert found["without a bound every image evades"] == "PASS"
    assert found["finite differences agree with the gradient"] == "PASS"
    assert found["five passes agree"] == "PASS"
    assert found["dead gradients"] == "PASS"
    assert found["who knows more succeeds more often"] == "PASS"
    assert found["the suite breaks what is known to break"] == "PASS"


def test_what_is_done_is_not_done_again_and_gives_the_same(ran, monitor, backbone, images, monkeypatch):
    out, results, _ = ran
    monkeypatch.setattr("inlier.evaluation.stress.attack_monitor", None)
    work = Stress(monitor, images, out, epsilons=EPSILONS, budget="smoke", control=fitted(backbone, "max_softmax"))
    again = work.run()
    for results_of in (results, again):
        results_of.pop("seconds", None)
    assert json.dumps(again) == json.dumps(results)


@pytest.mark.parametrize(
    ("change", "named"), [({"budget": "standard"}, "budget"), ({"seed": 3}, "seed"), ({"epsilons": (0.1,)}, "epsilons")]
)
def test_a_folder_of_other_settings_is_refused(ran, monitor, images, change, named):
    with pytest.raises(Mismatch, match=named):
        Stress(monitor, images, ran[0], **{"epsilons": EPSILONS, "budget": "smoke", **change})


def test_other_images_and_a_strangers_folder_are_refused(ran, monitor, images, tmp_path):
    with pytest.raises(Mismatch, match="pixels"):
        Stress(monitor, 1 - images, ran[0], epsilons=EPSILONS, budget="smoke")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(Mismatch, match="not empty"):
        Stress(monitor, images, tmp_path)


class Masked(Detector):
    """The default's distance in coarse steps: what it says can be believed, its gradient is nothing."""

    name = "masked"

    def __init__(self, anatomy):
        super().__init__()
        self.inner = mahalanobis(anatomy)
        self.requires = self.inner.requires

    def fit(self, readings, *, seed=0, progress=None):
        self.inner.fit(readings)
        return self

    def forward(self, observation):
        score = self.inner(observation)
        return (4 * score).round() / 4 + 0 * score


def test_a_monitor_that_hides_its_gradient_is_caught_by_the_gates(backbone, images, tmp_path):
    masked = fitted(backbone, Masked(Anatomy.of(backbone, (12, 12), 3)))
    found = gates_of(Stress(masked, images[:4], tmp_path, epsilons=(0.12,), budget="smoke").run())
    assert found["finite differences agree with the gradient"] == "FAIL"
    assert found["dead gradients"] == "PASS"  # since the network's own gradient is alive, this gate alone would not do
    assert found["the suite breaks what is known to break"] == "not run"


def test_a_monitor_that_answers_differently_each_time_is_caught(backbone, images, tmp_path):
    monitor = fitted(backbone, "mahalanobis")
    plain, noise = monitor.objective, torch.Generator().manual_seed(0)
    monitor.objective = lambda observation: (
        plain(observation) + 0.1 * torch.rand(len(observation.images), generator=noise)
    )
    found = gates_of(Stress(monitor, images[:4], tmp_path, epsilons=(0.12,), budget="smoke").run())
    assert found["five passes agree"] == "FAIL"


def test_suites_grow_with_the_budget_and_start_with_one_of_each_tier():
    sizes = [len(suite(budget)) for budget in BUDGETS]
    assert sizes == sorted(set(sizes))
    for budget in BUDGETS:
        made = suite(budget)
        assert [one.tier for one in made[:2]] == ["T0", "T3"]
        assert len({one.name for one in made}) == len(made)
    with pytest.raises(ValueError, match="standard"):
        suite("large")


def test_the_table_has_every_attacker_every_gate_and_the_verdict(ran):
    text = told(ran[1])
    for one in suite("smoke"):
        assert one.name in text
    for gate in ran[1]["gates"]:
        assert gate["name"] in text
    assert text.endswith(f"Verdict: {ran[1]['verdict']}")
    assert "robust" not in text


@pytest.mark.parametrize("text", ["", "0", "1/0", "two", "1/255,,2/255", "3"])
def test_an_eps_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="such as 1/255"):
        epsilons_from(text)


def test_epsilons_may_be_fractions():
    assert epsilons_from("2/255,0.1") == [2 / 255, 0.1]
