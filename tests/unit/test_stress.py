"""The stress test: what it counts, that it goes on, and that its gates find monitors that only seem to hold."""

import json
from dataclasses import replace

import pytest
import torch
from toy_segmentation import scenes, segmenter

from inlier.anatomy import Anatomy
from inlier.cli.arguments import epsilons_from
from inlier.cli.stress import told
from inlier.detectors.base import Detector
from inlier.detectors.mahalanobis import mahalanobis
from inlier.errors import Mismatch
from inlier.evaluation.assaults import Assault, Cell
from inlier.evaluation.stress import BUDGETS, NEAR, PUBLISHED, Stress, suite
from inlier.evaluation.subjects import Subjects
from inlier.evaluation.together import scale_of
from inlier.monitor import Monitor
from inlier.report.document import document_html
from inlier.report.stress_page import stress_document

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
    assert results["verdict"] == "broken at eps 30.6/255 (31.1/255 once rounded to 8 bit)"
    found = gates_of(results)
    assert found["without a bound every image evades"] == "PASS"
    assert found["finite differences agree with the gradient"] == "PASS"
    assert found["five passes agree"] == "PASS"
    assert found["dead gradients"] == "PASS"
    assert found["who knows more succeeds more often"] == "PASS"
    assert found["no success is lost in rounding to 8 bit"] == "PASS"
    assert found["the monitor leaves predictions alone"] == "PASS"
    assert found["white-box at least as strong as black-box"] == "not run"
    assert found["the suite breaks what is known to break"] == "PASS"


def test_what_is_done_is_not_done_again_and_gives_the_same(ran, monitor, backbone, images, monkeypatch):
    out, results, _ = ran
    monkeypatch.setattr("inlier.evaluation.assaults.attack_monitor", None)
    work = Stress(monitor, images, out, epsilons=EPSILONS, budget="smoke", control=fitted(backbone, "max_softmax"))
    again = work.run()
    for results_of in (results, again):
        results_of.pop("seconds", None)
    assert json.dumps(again) == json.dumps(results)


def test_who_has_monitors_of_his_own_gets_past_these_and_is_shown_to_the_monitor(monitor, backbone, images, tmp_path):
    own = {f"own {seed}": Monitor(backbone, "mahalanobis").fit(scenes(40, seed)).calibrate(false_alarm_rate=0.05)
           for seed in (7, 8)}  # fmt: skip
    kept = {}
    results = Stress(
        monitor, images, tmp_path, epsilons=EPSILONS, budget="smoke", surrogates=own,
        keep=lambda name, eps, attacked: kept.update({(name, eps): attacked}),
    ).run()  # fmt: skip
    name = "dual, hinge, through surrogates"
    rows = [row for row in results["rows"] if row["attack"].startswith(name)]
    assert [row["attack"] for row in rows] == [name, f"{name}, near their limit"] * 2
    assert {row["tier"] for row in rows} == {"T1"}
    assert [row["tier"] for row in results["worst"]] == ["T0", "T1", "T3"] * 2
    assert "T1" in results["smallest"][0]
    for row in rows:
        attacked = kept[row["attack"], row["eps"]]
        assert not any(each(attacked).flagged.any() for each in own.values())
        after = monitor(attacked)
        assert row["detected"]["hits"] == int((after.flagged & ~monitor(images).flagged).sum())
        assert row["damage"] > 0.1
    for who, margin in ((name, 1.0), (f"{name}, near their limit", NEAR)):
        seen = torch.stack([scale_of(each).of(each.score(kept[who, EPSILONS[1]])) for each in own.values()]).amax(0)
        assert (seen <= 0.05 - margin).all()  # as aimed at, but for rounding
    lines = told(results).splitlines()
    head = next(line for line in lines if line.endswith("/255"))
    assert {len(line) for line in lines if line.startswith(("T0  ", "T1  ", "T3  "))} == {len(head)}
    gate = next(gate for gate in results["gates"] if gate["name"] == "who knows more succeeds more often")
    assert gate["wanted"] == "T3 >= T1 >= T0 >= noise"
    assert len(gate["observed"].split(", ")) == 4
    page = stress_document(results | {"title": "Toys", "command": "inlier stress"})
    assert "T1, through monitors of his own" in document_html(page)


def test_a_surrogate_that_is_the_monitor_is_refused(monitor, images, tmp_path):
    with pytest.raises(ValueError, match="Surrogate 'spy' is the monitor itself"):
        Stress(monitor, images, tmp_path, surrogates={"spy": monitor})
    assert not list(tmp_path.iterdir())


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


def test_a_standard_test_asks_questions_makes_alarms_and_knows_the_labels(monitor, images, tmp_path, monkeypatch):
    monkeypatch.setattr("inlier.evaluation.stress.STEPS", {"smoke": 2, "standard": 4, "full": 8})
    monkeypatch.setattr("inlier.evaluation.stress.ASKED", {"standard": {"square": 20, "rays": 10}})
    few = images[:3]
    labels = monitor.backbone.predict(few)
    labels[:, :2] = monitor.backbone.task.void
    told = []
    work = Stress(
        monitor, Subjects(few, ("a", "b", "c"), labels), tmp_path, epsilons=EPSILONS, budget="standard",
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    results = work.run()
    assert [(row["attack"], row["eps"]) for row in results["queries"]] == [
        (name, eps) for eps in EPSILONS for name in ("square on the score", "rays on the flag")
    ]
    assert all(row["queries_used"] <= 21 and row["images"] == 3 for row in results["queries"])
    for row in results["false_alarms"]:
        with torch.no_grad():
            kept = work.at_work.cell(work.alarmists[0], row["eps"])
        assert row["flagged"]["hits"] == int((kept.after > work.limit).sum()) > 0
    clean, *attacked = results["quality"]
    assert (clean["accuracy"], clean["miou"]) == (1.0, 1.0)
    worst = {row["eps"]: row for row in attacked if row["attack"] == "worst image by image"}
    for row in attacked:
        assert worst[row["eps"]]["accuracy"] <= row["accuracy"] + 1e-9 < 1
    assert list(results["clean"]) == ["0.05"]
    assert set(results["refused_rates"]) == {"0.001", "0.01"}
    assert any("needs at least 999" in note for note in results["notes"])
    assert told[-1][1] == told[-1][2] == max(step[2] for step in told)
    assert [step[1] for step in told] == sorted(step[1] for step in told)


def test_at_a_laxer_rate_more_is_caught_of_the_same_images(ran, monitor, images, tmp_path):
    results = Stress(monitor, images[:3], tmp_path, epsilons=EPSILONS[:1], budget="smoke", rate=0.2).run()
    assert list(results["clean"]) == ["0.05", "0.2"]
    for row in results["worst"]:
        assert row["rates"]["0.2"] == row["success_0.3"]
    for row in results["rows"]:
        lax, strict = (row["rates"][rate]["detected_0.3"]["rate"] for rate in ("0.2", "0.05"))
        assert lax >= strict


def test_the_least_eps_of_half_of_the_images_is_one_that_was_tried(ran):
    results = ran[1]
    by_eps = {row["eps"]: row["success_0.3"]["rate"] for row in results["worst"] if row["tier"] == "T3"}
    assert results["smallest"][0]["T3"] == min(eps for eps, rate in by_eps.items() if rate >= 0.5)


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
    results = Stress(masked, images[:4], tmp_path, epsilons=(0.12,), budget="smoke").run()
    found = gates_of(results)
    assert found["finite differences agree with the gradient"] == "FAIL"
    failed = ", ".join(name for name, verdict in found.items() if verdict == "FAIL")
    assert told(results).endswith(f"Verdict: {results['verdict']}; gates failed: {failed}")
    assert found["dead gradients"] == "PASS"  # since the network's own gradient is alive, this gate alone would not do
    assert found["the suite breaks what is known to break"] == "not run"


def cell(evaded, *, damage=0.5, lost=None, dead=0.0, before=None):
    """What an attacker made of eight images, of which so many evade, the first ones; scores above 1 are flagged."""
    after = torch.where(torch.arange(8) < evaded, 0.5, 2.0).double()
    gone = None if lost is None else torch.arange(8) < lost
    return Cell(
        torch.full((8,), 0.5).double() if before is None else before, after, torch.full((8,), damage).double(), 1.0,
        torch.full((8, 4), 0.12), torch.zeros(8, dtype=torch.long), dead_gradients=dead, lost=gone,
    )  # fmt: skip


class MadeUp:
    """An attacker at work who comes back with what he is told to."""

    def __init__(self, cells):
        self.cells = {"one step": cell(0, damage=0.1), "twice the steps": cell(8), "unbounded": cell(8),
                      "unbounded, from another image": cell(0), **cells}  # fmt: skip

    def cell(self, one, eps, *, told="", **more):
        return self.cells[told]


@pytest.mark.parametrize(
    ("gate", "wrong"),
    [
        ("iterated attack against one step", {"one step": cell(0, damage=0.9)}),
        ("who knows more succeeds more often", {("dual, hinge", 0.12): cell(2), ("oblivious, hinge", 0.12): cell(6)}),
        ("white-box at least as strong as black-box", {"asked": cell(8), ("dual, hinge", 0.12): cell(7)}),
        ("white-box at least as strong as black-box", {"asked": cell(3)}),  # whose who may not ask got 4
        ("success rises with eps", {("dual, hinge", 0.06): cell(8), ("dual, hinge", 0.12): cell(4)}),
        ("without a bound every image evades", {"unbounded": cell(4), "unbounded, from another image": cell(7)}),
        ("twice the steps change nothing", {("dual, hinge", 0.06): cell(2)}),
        ("dead gradients", {("dual, hinge", 0.12): cell(8, dead=0.02)}),
        ("no success is lost in rounding to 8 bit", {("dual, hinge", 0.06): cell(3, lost=5)}),
    ],
)
def test_every_gate_fails_where_attackers_were_too_weak(gate, wrong, monitor, images, tmp_path, monkeypatch):
    work = Stress(monitor, images, tmp_path / "out", epsilons=EPSILONS, budget="smoke")
    asked = replace(work.suite[0], name="asked", tier="T2")
    work.asked = (asked,)

    def verdict_with(changed):
        cells = {(one.name, eps): cell(4 if one.tier == "T0" else 8, dead=0.5 if one.tier == "T0" else 0.0)
                 for one in work.suite for eps in EPSILONS}  # fmt: skip
        cells |= {name: made for name, made in changed.items() if isinstance(name, tuple)}
        work.at_work = MadeUp({name: made for name, made in changed.items() if isinstance(name, str)})
        queried = {("asked", eps): changed.get("asked", cell(4)) for eps in EPSILONS}
        gates = work.gates(cells, queried, dict.fromkeys(EPSILONS, cell(0)))
        return {each.name: each.verdict for each in gates}

    right, found = verdict_with({}), verdict_with(wrong)
    assert set(right.values()) <= {"PASS", "not run"}
    assert right[gate] == "PASS"
    assert found[gate] == "FAIL"


def test_who_may_ask_asks_first_about_what_others_made(monitor, backbone, images, tmp_path):
    own = {"own": Monitor(backbone, "mahalanobis").fit(scenes(60, 7)).calibrate(false_alarm_rate=0.05)}
    work = Stress(monitor, images[:5], tmp_path, epsilons=(0.12,), budget="smoke", surrogates=own)
    work.asked = (Assault("asks", "square", "", 6, tier="T2"),)
    results = work.run()
    row, through = results["queries"][0], work.at_work.cell(work.suite[2], 0.12)
    assert through.evaded(0.3)[:4].sum() == row["success_0.3"]["hits"] == 3
    assert row["queries_used"] == (2 + 2 + 2 + 6) / 4  # the second question was about what evaded, of three images
    assert (
        work.at_work.cell(work.asked[0], 0.12).config["starts"] == 3
    )  # of who does not know of the monitor, and two who have their own
    gate = next(gate for gate in results["gates"] if gate["name"] == "white-box at least as strong as black-box")
    assert gate["wanted"] == "T3 >= T2 >= T1, T0"
    assert gate["observed"].endswith(", 3 and 3 of 4 images")


def test_one_image_alone_is_attacked_from_its_negative(monitor, images, tmp_path):
    assert torch.equal(Stress(monitor, images[:1], tmp_path / "one", budget="smoke").others(), 1 - images[:1])
    assert torch.equal(Stress(monitor, images[:2], tmp_path / "two", budget="smoke").others(), images[[1, 0]])


def test_pictures_are_there_also_where_the_attack_was_made_without_them(ran, monitor, backbone, images, tmp_path):
    def run(keep):
        Stress(monitor, images[:2], tmp_path, epsilons=(0.12,), budget="smoke", keep=keep).run()

    kept: dict = {}
    run(None)
    run(lambda name, eps, attacked: kept.update({name: attacked}))
    again: dict = {}
    run(lambda name, eps, attacked: again.update({name: attacked}))
    assert list(kept) == list(again) == [one.name for one in suite("smoke")]
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert torch.equal(kept["dual, hinge"], (kept["dual, hinge"] * 255).round() / 255)
    assert not torch.equal(kept["dual, hinge"], images[:2])


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


def test_the_full_suite_has_published_attacks_too_and_they_do_harm(monitor, images, tmp_path):
    work = Stress(monitor, images[:2], tmp_path, epsilons=(0.12,), budget="smoke")
    published = [one for one in suite("full") if one.way in PUBLISHED]
    assert [one.tier for one in published] == ["T0"] * len(PUBLISHED)
    for one in published:
        made = work.at_work.cell(replace(one, steps=10), 0.12)
        assert made.damage.mean() > 0.1
        assert made.norms[:, 3].max() <= 0.12 + 0.5 / 255 + 1e-6


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
