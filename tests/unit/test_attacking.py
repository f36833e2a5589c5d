"""Chosen attackers on a monitor: what is told of each image is true, and what is done is not done again."""

import json
from dataclasses import replace

import pytest
import torch
from attacked import attack_results, fitted, subjects
from torch import nn
from toy_segmentation import scenes

from inlier.attacks.constraints import LowResolution, MaskedPatch, SharedDelta
from inlier.attacks.recipes import RECIPES
from inlier.attacks.universal import gd_uap
from inlier.backbones.base import Backbone, Classification
from inlier.errors import Mismatch
from inlier.evaluation.assaults import Cell, median_smallest, norm_of, recipe_attack
from inlier.evaluation.attacking import COLUMNS, AttackRun, attackers_of, doubts, surface_of
from inlier.evaluation.subjects import Subjects
from inlier.images import TensorImages
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack") / "out"
    kept = {}
    attackers, norm = attackers_of(["pgd", "square"], ["dual"], steps=20)
    run = AttackRun(
        fitted(), subjects(), folder, attackers=attackers, epsilons=(0.12, 0.06), norm=norm,
        keep=lambda name, eps, images: kept.update({(name, eps): images}),
    )  # fmt: skip
    return folder, *run.run(), kept


def test_rows_of_images_are_true_of_the_images_that_were_kept(ran):
    _, results, rows, kept = ran
    monitor, clean = fitted(), subjects().images
    assert len(rows) == 3 * 2 * len(clean)
    before = monitor.backbone.predict(clean)
    for number, row in enumerate(rows):
        assert tuple(row) == COLUMNS
        i = number % len(clean)
        image = kept[row["attack"], row["eps"]][i : i + 1]
        assert row["damage"] == pytest.approx((monitor.backbone.predict(image) != before[i]).float().mean().item())
        assert row["flagged_after"] == monitor(image).flagged.item()
        assert row["score_after"] == pytest.approx(monitor.score(image).item(), rel=1e-4)
        assert row["Linf"] == pytest.approx((image - clean[i]).abs().max().item(), abs=1e-6)
        assert row["L2"] == pytest.approx((image - clean[i]).norm().item(), rel=1e-4)
        assert row["evaded"] == (row["damage"] >= 0.3 and not row["flagged_after"] and not row["flagged_before"])
        assert (row["steps"] is None) == (row["attack"] == "square")
    for row in results["rows"]:
        there = [each for each in rows if (each["attack"], each["eps"]) == (row["attack"], row["eps"])]
        assert row["success_0.3"]["hits"] == sum(each["evaded"] for each in there)
        assert row["norms"]["L1"] == pytest.approx(sum(each["L1"] for each in there) / len(there), rel=1e-4)
    assert [row["eps"] for row in results["worst"]] == [0.06, 0.12]


def test_who_knows_the_monitor_does_better_and_who_has_gradients_leaves_a_trace(ran):
    rows = {(row["attack"], row["eps"]): row for row in ran[1]["rows"]}
    assert rows["dual", 0.12]["success_0.3"]["hits"] > rows["pgd_linf", 0.12]["success_0.3"]["hits"]
    assert len(rows["dual", 0.12]["trace"]) == 21
    assert rows["dual", 0.12]["trace"][-1] > rows["dual", 0.12]["trace"][0]
    assert rows["square", 0.12]["trace"] == []
    assert rows["pgd_linf", 0.12]["auroc"] == 1.0


def verdicts(gates):
    return {gate["name"]: gate["verdict"] for gate in gates}


def test_checks_of_the_attackers_are_in_the_results(ran):
    found = verdicts(ran[1]["gates"])
    run = {name: verdict for name, verdict in found.items() if verdict != "not run"}
    assert set(run.values()) == {"PASS"}
    assert set(run) == {
        "who knows more succeeds more often", "white-box at least as strong as black-box", "success rises with eps",
        "no success is lost in rounding to 8 bit", "dead gradients", "finite differences agree with the gradient",
        "five passes agree", "the monitor leaves predictions alone",
    }  # fmt: skip
    assert len(found) == len(run) + 3
    (ladder,) = (gate for gate in ran[1]["gates"] if gate["name"].startswith("who knows"))
    assert ladder["wanted"] == "T3 >= T0 >= noise"


def eight(evaded, lost=0, dead=0.0):
    """What an attacker made of eight images, of which so many evade, the first ones; scores above 1 are flagged."""
    after, gone = torch.where(torch.arange(8) < evaded, 0.5, 2.0).double(), torch.arange(8) < lost
    return Cell(
        torch.full((8,), 0.5).double(), after, torch.full((8,), 0.5).double(), 1.0, torch.zeros(8, 4),
        torch.zeros(8, dtype=torch.long), dead_gradients=dead, lost=gone,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "wrong"),
    [
        ("who knows more succeeds more often", {("dual", 0.12): eight(2)}),
        ("white-box at least as strong as black-box", {("square", 0.12): eight(8), ("dual", 0.12): eight(7)}),
        ("success rises with eps", {("dual", 0.06): eight(8), ("dual", 0.12): eight(5)}),
        ("no success is lost in rounding to 8 bit", {("dual", 0.06): eight(2, lost=8)}),
        ("dead gradients", {("dual", 0.06): eight(6, dead=0.02)}),
    ],
)
def test_attackers_who_were_too_weak_fail_a_check(gate, wrong, tmp_path):
    attackers, norm = attackers_of(["pgd", "square"], ["dual"], steps=20)
    run = AttackRun(fitted(), subjects(), tmp_path / "out", attackers=attackers, epsilons=(0.06, 0.12), norm=norm)
    right = {(one.name, eps): eight(6 if one.tier == "T3" else 4) for one in attackers for eps in run.epsilons}
    assert verdicts(each.told() for each in run.gates(right))[gate] == "PASS"
    assert verdicts(each.told() for each in run.gates(right | wrong))[gate] == "FAIL"


def test_who_is_after_the_alarm_or_moves_a_patch_is_not_held_against_noise(tmp_path):
    patch = MaskedPatch(torch.ones(subjects().images.shape[-2:]).bool())
    for name, ways, given in (("alarm", ["false_alarm"], None), ("patch", ["dual"], patch)):
        attackers, _ = attackers_of([], ways, steps=5)
        run = AttackRun(
            fitted(), subjects(), tmp_path / name, attackers=attackers, epsilons=(0.1,), parametrisation=given
        )
        found = verdicts(run.run()[0]["gates"])
        assert found["who knows more succeeds more often"] == "not run"
        assert ("success rises with eps" in found) == (name == "patch")
        assert found["dead gradients"] == "PASS"


def test_going_on_makes_nothing_anew_and_other_settings_are_refused(ran, monkeypatch):
    folder, results, rows, _ = ran
    monkeypatch.setattr("inlier.evaluation.assaults.attack_monitor", None)
    monkeypatch.setattr("inlier.evaluation.assaults.ask_monitor", None)
    attackers, norm = attackers_of(["pgd", "square"], ["dual"], steps=20)
    again, told = AttackRun(fitted(), subjects(), folder, attackers=attackers, epsilons=(0.06, 0.12), norm=norm).run()
    assert told == rows
    for found in (again, results):
        found.pop("seconds", None)
    assert json.dumps(again) == json.dumps(results)
    with pytest.raises(Mismatch, match="seed"):
        AttackRun(fitted(), subjects(), folder, attackers=attackers, epsilons=(0.06, 0.12), seed=2)
    with pytest.raises(Mismatch, match="pixels"):
        AttackRun(fitted(), Subjects(1 - subjects().images, subjects().names), folder, attackers=attackers,
                  epsilons=(0.06, 0.12))  # fmt: skip


def test_progress_is_told_step_by_step_to_the_end(tmp_path):
    told = []
    attackers, _ = attackers_of(["pgd"], ["dual"], steps=5)
    AttackRun(
        fitted(), subjects(), tmp_path, attackers=attackers, epsilons=(0.1,), batch_size=2,
        progress=lambda *step: told.append(step),
    ).run()  # fmt: skip
    assert [done for _, done, _ in told] == list(range(2, 42, 2))
    assert {total for _, _, total in told} == {40}


def test_a_classifier_is_attacked_where_it_is_right(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))
    backbone = Backbone(network, Classification(("cat", "dog", "fox")))
    images = scenes(8, 5)
    labels = backbone.predict(images)
    labels[0] = (labels[0] + 1) % 3
    source = TensorImages(images, labels=labels, classes=("cat", "dog", "fox"))
    found = Subjects.of(source, backbone)
    assert (len(found), found.wrong, found.names[0]) == (7, 1, "1")
    monitor = Monitor(backbone, "mahalanobis", seed=0).fit(scenes(60, 1)).calibrate(false_alarm_rate=0.05)
    attackers, norm = attackers_of(["pgd"], [], steps=5)
    results, rows = AttackRun(monitor, found, tmp_path, attackers=attackers, epsilons=(0.5,), norm=norm).run()
    assert set(results["pictures"][0]["classes"]) <= set(backbone.task.classes)
    assert {row["damage"] for row in rows} <= {0.0, 1.0}
    assert any(row["damage"] == 1.0 for row in rows)
    with pytest.raises(ValueError, match="right"):
        Subjects.of(TensorImages(images[1:], labels=(labels[1:] + 1) % 3, classes=("cat", "dog", "fox")), backbone)


def test_target_maps_are_those_of_each_image_whatever_the_batches(tmp_path):
    attackers, _ = attackers_of(["houdini_targeted"], [], steps=10, target="other_scene")
    runs = [
        AttackRun(fitted(), subjects(), tmp_path / f"{size}", attackers=attackers, epsilons=(0.2,), batch_size=size)
        for size in (1, 4)
    ]
    found = [run.at_work.wanted(attackers[0], fitted().backbone) for run in runs]
    assert torch.equal(*found)
    assert torch.equal(found[0], fitted().backbone.predict(subjects().images).roll(1, 0))
    one, four = (torch.tensor([row["damage"] for row in run.run()[1]]) for run in runs)
    torch.testing.assert_close(one, four)
    assert one.max() > 0


def test_another_surface_is_another_attack_and_is_told(tmp_path):
    attackers, _ = attackers_of([], ["oblivious"], steps=6)
    files = Subjects(to_8_bit(subjects().images), subjects().names)
    patches = [MaskedPatch.rectangle((4, 4), tuple(subjects().images.shape[2:]), at) for at in (None, (0, 0))]

    def ran(moved):
        return AttackRun(fitted(), files, tmp_path, attackers=attackers, epsilons=(1.0,), parametrisation=moved)

    results, rows = ran(patches[0]).run()
    assert "a patch of 16 pixels" in results["settings"]["surface"]
    assert 0 < max(row["L0"] for row in rows) <= 3 * 16
    for other in (patches[1], LowResolution((4, 4)), None):
        with pytest.raises(Mismatch, match="surface"):
            ran(other)
    with pytest.raises(TypeError, match="SharedDelta"):
        surface_of(SharedDelta())


def test_a_delta_for_all_images_is_an_attacker_at_its_own_eps(tmp_path):
    clean, kept = subjects().images, {}
    delta = gd_uap(fitted().backbone, tuple(clean.shape[2:]), prior="none", eps=0.12, iterations=2, taps="everywhere")
    attackers, norm = attackers_of([], ["dual"], steps=2, deltas=["all"])

    def run(epsilons=(0.12,), deltas=None, **more):
        return AttackRun(
            fitted(), subjects(), tmp_path, attackers=attackers, epsilons=epsilons, norm=norm,
            deltas=deltas or {"all": delta}, keep=lambda name, eps, images: kept.update({name: images}), **more,
        )  # fmt: skip

    results, _ = run().run()
    torch.testing.assert_close(kept["all"], to_8_bit(delta(clean)))
    row = next(row for row in results["rows"] if row["attack"] == "all")
    assert (row["tier"], row["steps_used"]) == ("T0", 0)
    assert row["damage"] == pytest.approx(
        (fitted().backbone.predict(kept["all"]) != fitted().backbone.predict(clean)).float().mean().item()
    )
    assert results["configs"]["all"]["method"] == "gd_uap"
    with pytest.raises(ValueError, match=r"made for eps 30.6/255 in Linf, and is added as it is: attack at this eps"):
        run((0.12, 0.06))
    with pytest.raises(ValueError, match="no patch"):
        run(parametrisation=LowResolution((4, 4)))
    with pytest.raises(Mismatch, match="deltas"):
        run(deltas={"all": replace(delta, delta=-delta.delta)})
    with pytest.raises(ValueError, match="twice"):
        attackers_of([], [], deltas=["all", "all"])


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"recipes": ["pgdd"]}, LookupError, "Did you mean"),
        ({"ways": ["duel"]}, LookupError, "Did you mean 'dual'"),
        ({}, ValueError, "a recipe, such as pgd"),
        ({"recipes": ["pgd", "pgd_linf"]}, ValueError, "twice"),
        ({"recipes": ["pgd_l2", "fgsm"]}, ValueError, "one norm at a time"),
        ({"recipes": ["pgd_l2", "square"]}, ValueError, "one norm at a time"),
        ({"recipes": ["fgsm"], "steps": 3}, ValueError, "no steps"),
        ({"recipes": ["fgsm"], "restarts": 3}, ValueError, "no restarts"),
        ({"recipes": ["square"], "restarts": 3}, ValueError, "only asks"),
        ({"recipes": ["rays"], "steps": 20}, ValueError, "'rays' needs at least 23 questions to do anything, not 20"),
        ({"recipes": ["spsa"], "steps": 500, "queries": 3}, ValueError, "at least 4 questions"),
        ({"recipes": ["square"], "queries": 1}, ValueError, "at least 2 questions"),
        ({"recipes": ["pgd"], "queries": 100}, ValueError, "square, spsa, rays; none of them is here"),
        ({"ways": ["dual"], "weights": [1.0]}, ValueError, "for the way 'weighted'"),
        ({"ways": ["weighted"], "weights": [1.0, 0.0]}, ValueError, "above 0"),
        ({"ways": ["weighted"], "weights": [1.0, 1.0]}, ValueError, "twice"),
        ({"recipes": ["dag"]}, ValueError, "--target"),
        ({"ways": ["dual"], "target": 1}, ValueError, "for recipes"),
    ],
)  # fmt: skip
def test_attackers_that_cannot_be_are_refused(given, error, told):
    with pytest.raises(error, match=told):
        attackers_of(given.pop("recipes", []), given.pop("ways", []), **given)


def test_every_weight_is_an_attacker():
    made, _ = attackers_of([], ["dual", "weighted"], weights=[0.1, 1, 10])
    assert [(one.name, one.way, one.weight) for one in made] == [
        ("dual", "dual", 0.1), ("weighted 0.1", "weighted", 0.1), ("weighted 1", "weighted", 1),
        ("weighted 10", "weighted", 10),
    ]  # fmt: skip
    assert [one.name for one in attackers_of([], ["weighted"])[0]] == ["weighted"]


def test_questions_are_counted_apart_from_steps_where_both_are_said():
    def steps(**given):
        return [one.steps for one in attackers_of(["pgd", "rays"], ["dual"], **given)[0]]

    assert steps(steps=30) == [30, 30, 30]
    assert steps(steps=30, queries=200) == [30, 200, 30]
    assert steps(queries=200) == [40, 200, 50]


def test_every_recipe_can_be_made_at_an_eps_and_keeps_its_proportions():
    for name in RECIPES:
        attack = recipe_attack(name, 0.02)
        assert attack.constraint.eps == 0.02
        assert norm_of(name) == ("l2" if name.endswith("_l2") else "linf")
    assert recipe_attack("ifgsm", 0.02).stepper.size == pytest.approx(0.01)
    assert norm_of("dual") is None
    assert attackers_of(["pgd_l2"], ["dual"])[1] == "l2"


def test_the_median_of_the_least_eps_is_that_of_silent_images():
    def cell(after, damage):
        before = torch.tensor([0.0, 0.0, 0.0, 9.0])
        return Cell(before, torch.tensor(after), torch.tensor(damage), 1.0, torch.zeros(4, 4), torch.zeros(4).long())

    weak = cell([0.0, 5.0, 0.0, 0.0], [0.9, 0.9, 0.1, 0.9])
    strong = cell([0.0, 0.0, 0.0, 0.0], [0.9, 0.9, 0.1, 0.9])
    assert median_smallest({0.1: [weak], 0.2: [strong]}) == 0.2
    assert median_smallest({0.1: [weak]}) is None
    assert median_smallest({0.1: [weak, strong]}) == 0.1
    half = cell([0.0, 0.0, 5.0, 5.0], [0.9, 0.1, 0.9, 0.9])
    alarmed = replace(half, before=torch.tensor([0.0, 0.0, 9.0, 9.0]))
    assert median_smallest({0.1: [alarmed]}) == 0.1


def test_what_makes_an_attacker_a_poor_witness_is_said():
    row = {"attack": "pgd", "eps": 0.1, "dead_gradients": 0.2, "lost": 3}
    assert ["20%" in doubts(row)[0], "3 images" in doubts(row)[1]] == [True, True]
    assert doubts(row | {"dead_gradients": 0.0, "lost": 0}) == []


def test_results_are_strict_json(tmp_path):
    results, _ = attack_results(tmp_path)
    assert results["kind"] == "attack"
    assert len(results["pictures"]) == 12
    assert all(strip["predicted_after"].startswith("data:image/") for strip in results["pictures"])
