"""The collision report end to end on a toy network, whose bottleneck, logits and key are met, and who notices."""

import json

import numpy as np
import pytest
import torch
from toy_segmentation import scenes

from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.collisions import LAYERS, Collisions, null_space
from inlier.evaluation.measure import without_nan
from inlier.report.document import document_html, document_text
from inlier.report.documents import DOCUMENTS
from inlier.report.folder import without_images

SETTINGS = {
    "networks": [{"name": "toy", "backbone": "toy_classifier:classifier", "bottleneck": "1"}],
    "monitors": [
        {"name": "daain", "detectors": "daain(distance=6, blocks=1, head='euclidean')", "seeds": [0, 1]},
        {"name": "alone", "detectors": "mahalanobis(taps='1')", "label": "bottleneck alone"},
    ],
    "fit": "{data}/fit.npz", "clean": "{data}/clean.npz", "held_out": 20, "reference": 20, "images": 2, "rate": 0.1,
    "starts": [
        {"name": "noise", "drawn": "noise"},
        {"name": "photograph", "label": "a photograph", "images": "{data}/odd.npz"},
    ],
    "l2": [1, 90], "steps": 30, "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, images in {"fit": scenes(20, 1), "clean": scenes(60, 2), "odd": torch.rand(2, 3, 20, 16)}.items():
        np.savez(folder / f"{name}.npz", images=(images * 255).round().byte().movedim(1, -1).numpy())
    return folder


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("collisions") / "out"
    settings = {**SETTINGS, "size": [12, 12]}
    results = from_keywords(Collisions, settings, "toy").run(out, data=data, command="inlier evaluate toy.toml")
    return out, settings, json.loads(json.dumps(without_nan({"format": 1, "kind": "collisions", **results})))


def test_collisions_come_nearer_in_every_layer_and_stay_in_their_ball(ran):
    _, _, results = ran
    assert len(results["cells"]) == len(LAYERS) * 2 * 2
    radius = {(ball["norm"], ball["given"]): ball["eps"] for ball in results["balls"]}
    assert radius["l2", 90] == pytest.approx(90 * (432 / 150528) ** 0.5)
    for cell in results["cells"]:
        layer = cell["layer"]
        assert cell["least"] <= cell["mape"][layer] <= cell["most"]
        assert cell["unrounded"] < cell["before"]
        room = 0.5 / 255 * (432**0.5 if cell["norm"] == "l2" else 1)  # of rounding
        assert cell["changed"] <= radius[cell["norm"], cell["given"]] + room + 1e-5
    small, large = (
        [cell["unrounded"] for cell in results["cells"] if cell["norm"] == "l2" and cell["given"] == given]
        for given in (1, 90)
    )
    assert all(b < a for a, b in zip(small, large, strict=True))


def test_several_starts_come_at_least_as_near_and_are_told_of(ran, data, tmp_path):
    settings = ran[1]
    few = {**settings, "l2": [90], "monitors": SETTINGS["monitors"][1:], "layers": ["bottleneck", "logits"]}
    once, thrice = (
        from_keywords(Collisions, {**few, "restarts": restarts}, "toy").run(tmp_path / str(restarts), data=data)
        for restarts in (1, 3)
    )
    pairs = list(zip(once["cells"], thrice["cells"], strict=True))
    assert all(more["unrounded"] <= one["unrounded"] + 1e-9 for one, more in pairs)
    assert any(more["unrounded"] < one["unrounded"] for one, more in pairs)
    page = document_html(DOCUMENTS["collisions"](json.loads(json.dumps(without_nan({"kind": "collisions", **thrice})))))
    assert "random starts in the ball: 3" in page
    with pytest.raises(ValueError, match="steps and restarts above 0"):
        from_keywords(Collisions, {**few, "restarts": 0}, "toy")


def test_who_looks_at_the_bottleneck_alone_takes_its_collisions_for_their_targets(ran):
    _, _, results = ran
    base = next(b for b in results["baselines"] if b["monitor"] == "alone")
    assert base["auroc_starts"]["auroc"] == 1
    assert all(base["starts"].values())
    judged = {row["layer"]: row for row in results["judged"] if row["monitor"] == "alone" and row["given"] == 90}
    assert judged["bottleneck"]["auroc"] == pytest.approx(base["auroc_targets"]["auroc"], abs=0.2)
    assert judged["bottleneck"]["flagged"]["hits"] == 2 * base["targets"]["hits"]
    same = [cell["same"] for cell in results["cells"] if cell["layer"] == "bottleneck" and cell["given"] == 90]
    assert same == [1.0, 1.0]


def test_a_collision_of_all_taps_would_have_to_be_the_image_itself(ran):
    _, _, results = ran  # the first module only flattens it
    for cell in results["cells"]:
        if cell["layer"] == "all" and cell["given"] < 90:
            assert cell["unrounded"] > 0.02
        elif cell["layer"] == "bottleneck" and cell["given"] == 90:
            assert cell["unrounded"] < 0.005


def test_the_null_space_is_met_exactly_and_by_the_attack():
    found = null_space(steps=150)
    assert found["exact"] < 1e-5
    assert found["attack"] < found["start"] / 100


def test_the_page_tells_everything_and_leaves_pictures_out_when_asked(ran):
    _, _, results = ran
    page = document_html(DOCUMENTS["collisions"](results))
    for said in (
        "Sampling keys",
        "a photograph",
        "MAPE",
        "daain, key 0",
        "pseudo-inverse",
        "data:image",
        "L2 90 (here",
    ):
        assert said in page
    assert "bottleneck" in document_text(DOCUMENTS["collisions"](results))
    bare = without_images(results)
    assert "data:image" not in json.dumps(bare)
    assert "data:image" not in document_html(DOCUMENTS["collisions"](bare))
    assert bare["cells"] == results["cells"]


def test_what_is_done_is_not_done_again_and_gives_the_same(ran, data, monkeypatch):
    out, settings, results = ran
    for name in ("collide", "scores_of"):
        monkeypatch.setattr(f"inlier.evaluation.collisions.{name}", None)
    monkeypatch.setattr("inlier.evaluation.collisions.null_space", lambda: {"exact": 0.0, "attack": 0.0, "start": 1.0})
    again = without_nan(from_keywords(Collisions, settings, "toy").run(out, data=data))
    for told in ("cells", "judged", "baselines", "scatters"):
        assert json.loads(json.dumps(again[told])) == results[told]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layers": ["bottelneck"]}, "bottleneck"), ({"starts": []}, "Starts need names"),
        ({"l2": []}, "eps in l2"),
        ({"starts": [{"name": "x"}]}, "images or drawn"), ({"starts": [{"name": "x", "drawn": "spirals"}]}, "spiral"),
        ({"networks": [{"name": "toy", "backbone": "toy_classifier:classifier"}]}, "needs a bottleneck"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(change, named):
    with pytest.raises((ValueError, LookupError), match=named):
        from_keywords(Collisions, {**SETTINGS, **change}, "toy")


def test_a_key_that_no_monitor_has_is_told(data, tmp_path):
    settings = {**SETTINGS, "size": [12, 12], "monitors": SETTINGS["monitors"][1:], "layers": ["key"]}
    with pytest.raises(Mismatch, match="a monitor with a key"):
        from_keywords(Collisions, settings, "toy").run(tmp_path / "out", data=data)
