"""The experiment in hardening, small: what it chooses, counts and draws, and that it goes on."""

import json
import shutil

import pytest
from PIL import Image
from toy_segmentation import NAMES, scenes, segmenter

from inlier.attacks.joint import WAYS
from inlier.detectors.spec import DetectorSpec
from inlier.errors import Mismatch
from inlier.evaluation import hardening
from inlier.evaluation.hardening import ATTACKERS, HardeningExperiment
from inlier.monitor import DEFAULT
from inlier.report.document import document_html, document_text
from inlier.report.hardening_page import hardening_page

SETTINGS = (
    {"name": "weak", "grey_levels": 4, "steps": 3, "batch_size": 4, "lr": 1e-3},
    {"name": "strong", "grey_levels": 12, "steps": 6, "batch_size": 4, "lr": 3e-2, "shares": (0.5, 1.0)},
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images and label maps; in place of the truth, what the network says, with one row of void."""
    root = tmp_path_factory.mktemp("hardening")
    network = segmenter()
    for seed, (part, count) in enumerate({"train": 30, "val": 4, "test": 5}.items()):
        images = (scenes(count, seed) * 255).round()
        labels = network.predict(images / 255).byte()
        labels[:, 0] = 3
        for folder, arrays in ((root / part, images.byte().permute(0, 2, 3, 1)), (root / f"{part}annot", labels)):
            folder.mkdir()
            for number, array in enumerate(arrays):
                Image.fromarray(array.numpy()).save(folder / f"a_{number:03}.png")
    return root


def experiment(root, **more):
    given = {
        "title": "Toys", "backbone": "toy", "train": "toy:{data}/train", "choose": "toy:{data}/val",
        "test": "toy:{data}/test", "settings": SETTINGS, "grey_levels": (10, 20), "choose_images": 2, "choose_steps": 2,
        "test_images": 3, "attackers": ("oblivious, hinge", "dual, hinge"), "attack_steps": 2, "judged": 3,
        "false_alarm_rate": 0.1, "also": (), "most_cost": 1.0, "many_draws": 3,
    }  # fmt: skip
    return HardeningExperiment(**(given | more))


@pytest.fixture(scope="module")
def opened():
    """A network and a layout that are in no table."""
    from inlier.datasets.folder import ImageFolder
    from inlier.datasets.labels import LabelFolder

    def images(text):
        folder = text.removeprefix("toy:")
        return ImageFolder(folder, labels=LabelFolder(f"{folder}annot", NAMES))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardening, "load_backbone", lambda text: segmenter())
        patch.setattr(hardening, "open_images", images)
        yield


@pytest.fixture(scope="module")
def ran(folders, opened, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "toys"
    return out, experiment(folders).run(out, data=folders, command="inlier evaluate toys.toml")


def test_costs_are_against_the_better_of_original_and_control(ran):
    _, results = ran
    rows = {row["name"]: row for row in results["frontier"]}
    assert list(rows) == ["original", "control", "control 1", "weak", "strong, 50 % of the way", "strong"]
    assert rows["original"]["value"] == pytest.approx(1.0)
    for name, control in (("weak", "control"), ("strong", "control 1"), ("strong, 50 % of the way", "control 1")):
        assert rows[name]["control"] == control
        best = max(rows["original"]["value"], rows[control]["value"])
        assert rows[name]["cost"] == pytest.approx(best - rows[name]["value"])
        low, high = rows[name]["cost_interval"]
        assert low <= rows[name]["cost"] <= high
    assert results["tested"]["cost"] == results["tested"]["costs"][results["chosen"]]


def test_the_setting_of_which_attacks_change_least_is_chosen_among_those_that_are_cheap_enough(ran, folders, opened):
    _, results = ran
    damage = {row["name"]: sum(each["damage"] for each in row["attacked"]) for row in results["frontier"]}
    cheap = [name for name in damage if name.startswith(("weak", "strong"))]
    assert results["chosen"] == min(cheap, key=damage.get)
    costs = {row["name"]: row["cost"] for row in results["frontier"] if "cost" in row}
    work = hardening._Work(experiment(folders, most_cost=-1.0), ran[0].parent / "other", folders, None)
    assert work.choose(results["frontier"]).name == min(costs, key=costs.get)


def test_a_setting_that_may_cost_too_much_is_not_chosen(ran, folders, opened):
    out, _ = ran
    sure, unsure = ({"name": name, "cost": 0.01, "cost_interval": [0.0, high], "attacked": [{"damage": damage}]}
                    for name, high, damage in (("weak", 0.02, 0.9), ("strong", 0.04, 0.1)))  # fmt: skip
    half = unsure | {"name": "strong, 50 % of the way"}
    work = hardening._Work(experiment(folders, most_cost=0.03), out.parent / "another", folders, None)
    assert work.choose([sure, unsure, half]).name == "weak"


def test_success_is_the_worst_of_the_attackers_and_of_what_others_made(ran):
    _, results = ran
    for tried in results["tried"].values():
        for found in tried["monitors"].values():
            assert {row["attack"] for row in found["rows"]} == {
                "oblivious, hinge", "dual, hinge, on default", "dual, hinge, on random look"
            }  # fmt: skip
            for worst in found["worst"]:
                rows = [row for row in found["rows"] if row["eps"] == worst["eps"]]
                for key in ("success_0.3", "success_0.5"):
                    assert worst[key]["rate"] >= max(row[key]["rate"] for row in rows) - 1e-9
                    assert worst[key]["rate"] <= sum(row[key]["rate"] for row in rows) + 1e-9
            assert found["false_alarms"]["images"] == 5


def test_what_chance_is_worth_is_tried_with_the_secret_and_with_more_draws(ran):
    _, results = ran
    found = results["tried"][results["chosen"]]["chance"]
    assert (found["attack"], found["many_draws"]) == ("dual, hinge, on random look", 3)
    assert all(0 <= found[who]["hits"] <= found[who]["images"] <= 3 for who in ("secret", "many"))
    checked = {gate["name"]: gate["verdict"] for gate in results["gates"]}
    assert checked["who knows the look's secret succeeds as often as who does not"] in ("PASS", "FAIL")
    assert checked["averaging over 3 draws gains nothing"] in ("PASS", "FAIL")


def test_the_best_attacker_who_knows_a_monitor_is_given_twice_the_steps(ran):
    out, results = ran
    tried = results["tried"][results["chosen"]]
    assert set(tried["twice"]) == set(tried["monitors"])
    for kind, found in tried["twice"].items():
        assert found["attack"] == f"dual, hinge, on {kind}"
        rows = {
            row["eps"]: row["success_0.3"]
            for row in tried["monitors"][kind]["rows"]
            if row["attack"] == found["attack"]
        }
        assert found["before"] == rows[found["eps"]]
    checked = [gate for gate in results["gates"] if gate["name"] == "twice the steps gain nothing"]
    assert [gate["monitor"] for gate in checked] == list(tried["twice"])
    assert len(list(out.glob("work/*twice*"))) == 2


def test_what_is_beside_the_random_look_may_be_chosen_and_the_page_says_so(ran, folders, opened):
    out, results = ran
    wanted = ("mahalanobis", "random_look")
    work = hardening._Work(experiment(folders, detectors=wanted), out.parent / "beside", folders, None)
    asked = {kind: [str(spec) for spec in work.monitor("original", kind).specs] for kind in hardening.MONITORS}
    assert asked == {"default": [str(DetectorSpec.parse(text)) for text in DEFAULT], "random look": list(wanted)}
    told = json.loads(json.dumps(results | {"kind": "hardening"}))
    pages = [told, told | {"config": told["config"] | {"detectors": wanted}}]
    pages.append(told | {"config": {key: value for key, value in told["config"].items() if key != "detectors"}})
    given, chosen, earlier = (document_text(hardening_page(page)) for page in pages)
    assert "profile + disagreement + random_look, at every image" in given
    assert "mahalanobis + random_look, at every image" in chosen
    assert "the same and one random look, at every image" in earlier


def test_fewer_attackers_may_be_run_on_other_networks_and_the_page_says_so(ran, folders, opened, tmp_path):
    out, first = ran
    shutil.copytree(out / "work", tmp_path / "work")
    settings = json.loads((out / "work" / "settings.json").read_text())
    fewer = {"also": ["original"], "also_attackers": ["dual, hinge"]}
    (tmp_path / "work" / "settings.json").write_text(json.dumps(settings | fewer))
    results = experiment(folders, **fewer).run(tmp_path, data=folders)
    attacks = {
        name: {row["attack"].partition(", on")[0] for row in found["monitors"]["default"]["rows"]}
        for name, found in results["tried"].items()
    }
    assert attacks == {"original": {"dual, hinge"}, first["chosen"]: {"oblivious, hinge", "dual, hinge"}}
    document = hardening_page(json.loads(json.dumps(results | {"kind": "hardening"})))
    (section,) = (each for each in document.sections if each.name == "success")
    assert section.text[0].endswith("On original there were 1: dual, hinge.")
    with pytest.raises(LookupError, match="attacker"):
        experiment(folders, also_attackers=("dual, segpgd",))


def test_what_stays_together_in_calibration_is_as_given_and_the_page_says_so(ran, folders, opened):
    out, results = ran
    work = hardening._Work(experiment(folders, blocks=6), out.parent / "blocks", folders, None)
    assert "blocks of about 6 neighbouring images" in work.monitor("original", "default").clean.made
    told = json.loads(json.dumps(results | {"kind": "hardening"}))
    for blocks, said in (("auto", "training<"), (6, "over blocks of 6 neighbours<"), ("group", "over whole groups<")):
        assert said in document_html(hardening_page(told | {"config": told["config"] | {"blocks": blocks}}))


def test_fewer_attackers_may_be_run_on_the_default_and_the_page_says_so(ran, folders, opened, tmp_path):
    out, first = ran
    shutil.copytree(out / "work", tmp_path / "work")
    for file in (tmp_path / "work").glob("*judged*"):
        file.unlink()
    fewer = {"attackers": ["oblivious, hinge", "dual, hinge", "selective, hinge"], "default_attackers": ["dual, hinge"]}
    settings = json.loads((out / "work" / "settings.json").read_text())
    (tmp_path / "work" / "settings.json").write_text(json.dumps(settings | fewer))
    results = experiment(folders, **fewer).run(tmp_path, data=folders)
    attacks = {row["attack"] for row in results["tried"][first["chosen"]]["monitors"]["default"]["rows"]}
    assert attacks == {
        "oblivious, hinge", "dual, hinge, on default", "dual, hinge, on random look", "selective, hinge, on random look"
    }  # fmt: skip
    document = hardening_page(json.loads(json.dumps(results | {"kind": "hardening"})))
    (section,) = (each for each in document.sections if each.name == "success")
    assert section.text[0].endswith("On the default, of those who know a monitor: dual, hinge.")
    with pytest.raises(LookupError, match="attacker"):
        experiment(folders, default_attackers=("dual, segpgd",))


def test_the_suite_is_also_run_on_other_networks_and_the_page_sets_their_success_against_their_cost(
    ran, folders, opened, tmp_path
):
    out, first = ran
    shutil.copytree(out / "work", tmp_path / "work")
    also = ("control", "weak", "strong, 50 % of the way", first["chosen"])
    (tmp_path / "work" / "settings.json").write_text(
        (out / "work" / "settings.json").read_text().replace('"also": []', f'"also": {json.dumps(also)}')
    )
    results = experiment(folders, also=also).run(tmp_path, data=folders)
    assert len(results["tried"]) == len(set(also) | {first["chosen"]})
    assert results["tried"][first["chosen"]] == first["tried"][first["chosen"]]
    control = {"strong": "control 1"}.get(first["chosen"].partition(",")[0], "control")
    assert {"weak", "strong, 50 % of the way", control} <= set(results["tried"])
    document = hardening_page(json.loads(json.dumps(results | {"kind": "hardening"})))
    (section,) = (each for each in document.sections if each.name == "trade")
    costs = results["tested"]["costs"]
    shown = sorted(costs.keys() & set(results["tried"]), key=lambda name: section.text[0].index(f"{name}: "))
    assert len(shown) >= 2
    assert [costs[name] for name in shown] == sorted(costs[name] for name in shown)
    assert len(section.plots) == 2
    alone = hardening_page(json.loads(json.dumps(first | {"kind": "hardening"})))
    assert not any(each.name == "trade" for each in alone.sections)


def test_it_goes_on_with_what_is_done_and_refuses_other_settings(ran, folders, opened, monkeypatch):
    out, results = ran
    for name in ("fine_tuned", "attack_monitor", "changed"):
        monkeypatch.setattr(hardening, name, None)
    again = experiment(folders).run(out, data=folders, command="inlier evaluate toys.toml")
    assert {**again, "seconds": 0} == {**results, "seconds": 0}
    with pytest.raises(Mismatch, match="attack_steps = 2, and this one has 4"):
        experiment(folders, attack_steps=4).run(out, data=folders)


def test_the_page_says_what_was_chosen_and_shows_every_network(ran):
    results = json.loads(json.dumps(ran[1] | {"kind": "hardening"}))
    document = hardening_page(results)
    page, text = document_html(document), document_text(document)
    assert results["chosen"] in page
    assert f"{100 * results['tested']['cost']:.1f} points" in document.verdict
    for row in results["frontier"]:
        assert row["name"] in text
    assert page.count("<svg") >= 3
    assert "at eps 20/255" in document.verdict


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"detectors": ("profile",)}, "has 'random_look' among its detectors, not only profile"),
        ({"detectors": "profile"}, "not only profile"),
        ({"blocks": "grup"}, "'group' or a number of images of at least 1, not 'grup'"),
        ({"blocks": 0}, "at least 1, not 0"),
        ({"attackers": ("dual, hing",)}, "Did you mean 'dual, hinge'"),
        ({"settings": ()}, "is tried with settings"),
        ({"settings": ({"name": "a/b"},)}, "needs a name of its own"),
        ({"settings": ({"name": "a", "shares": (0.0,)},)}, "shares above 0"),
        ({"settings": ({"name": "a", "stepz": 3},)}, "no setting 'stepz'. Did you mean 'steps'"),
        ({"also": ("strong, 50% of the way",)}, "Did you mean 'strong, 50 % of the way'"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(folders, more, said):
    with pytest.raises((ValueError, LookupError), match=said):
        experiment(folders, **more)


def test_every_way_of_the_suite_is_one_of_the_table():
    assert len({(one.way, one.loss, one.weight) for one in ATTACKERS.values()}) == 14
    assert {name for name, one in ATTACKERS.items() if not WAYS[one.way].knows} == {
        "oblivious, hinge", "oblivious, cross_entropy", "oblivious, segpgd", "oblivious, masked"
    }  # fmt: skip
