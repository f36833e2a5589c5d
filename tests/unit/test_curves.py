"""Robustness curves end to end on a toy network: what is told is what the attack did, and it goes on after a kill."""

import json

import numpy as np
import pytest
import torch
from toy_segmentation import scenes

from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.curves import Curves
from inlier.evaluation.measure import without_nan
from inlier.report.document import document_html, document_text
from inlier.report.documents import DOCUMENTS
from inlier.report.folder import without_images, write_report


def saved(folder, name, images):
    np.savez(folder / f"{name}.npz", images=(images * 255).round().byte().movedim(1, -1).numpy())


SETTINGS = {
    "networks": [{"name": "toy", "backbone": "toy_segmentation:segmenter", "label": "a toy"}],
    "monitors": [
        {"name": "bands", "detectors": "mahalanobis", "label": "Mahalanobis"},
        {"name": "energy", "detectors": "energy"},
    ],
    "fit": "{data}/fit.npz", "clean": "{data}/clean.npz", "anomalies": [{"name": "odd", "images": "{data}/odd.npz"}],
    "held_out": 25, "reference": 30, "images": 6, "rate": 0.1, "steps": 25, "step_size": 0.004, "warm_steps": 6,
    "epsilons": [1, 8, 25], "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    saved(folder, "fit", scenes(40, 1))
    saved(folder, "clean", scenes(60, 2))
    saved(folder, "odd", (scenes(8, 3) + 0.08 * torch.rand(8, 3, 12, 12)).clamp(0, 1))
    return folder


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("curves") / "out"
    told = []
    results = from_keywords(Curves, SETTINGS, "toy").run(
        out, data=data, command="inlier evaluate toy.toml", progress=lambda phase, done, total: told.append(phase)
    )
    assert any("path" in phase for phase in told)
    return out, json.loads(json.dumps(without_nan({"format": 1, "kind": "curves", **results})))


def rows(results, **wanted):
    return [row for row in results["rows"] if all(row[name] == value for name, value in wanted.items())]


def test_the_attack_takes_from_every_detector_what_noise_does_not(ran):
    _, results = ran
    assert len(results["rows"]) == 2 * 2
    for row in results["rows"]:
        assert row["auroc_at"] < row["auroc"] + 1e-9
        assert row["loss"] == pytest.approx(row["auroc_at"] - row["auroc"])
        assert row["dead"] == 0
    for curve in results["curves"]:
        assert len(curve["at"]) == len(curve["auroc"]) == len(curve["through"])
        assert all(
            low <= value <= high for low, value, high in zip(curve["low"], curve["auroc"], curve["high"], strict=True)
        )
        assert curve["auroc"][-1] < curve["auroc"][0]
    hidden = rows(results, monitor="bands", direction="hide")[0]
    assert hidden["auroc"] > 0.8
    curve = next(
        c for c in results["curves"] if c["monitor"] == "bands" and c["direction"] == "hide" and c["norm"] == "Linf"
    )
    assert curve["auroc"][0] == pytest.approx(hidden["auroc"])
    assert curve["auroc"][-1] < 0.5


def test_a_ball_is_no_weaker_than_the_path_and_rounding_is_seen(ran):
    _, results = ran
    assert {row["eps"] for row in results["balls"]} == {1, 8, 25}
    for row in results["balls"]:
        if row["auroc_path"] is not None:
            assert row["auroc_balls"] <= row["auroc_path"] + 0.1
    assert {gate["verdict"] for gate in results["gates"]} == {"PASS"}
    views = results["strips"][0]["views"]
    assert [view["eps"] for view in views] == [0, 1, 8, 25]
    limit = next(m["limit"] for m in results["monitors"] if m["monitor"] == results["strips"][0]["monitor"])
    assert all(view["flagged"] == (view["score"] > limit) for view in views)


def test_what_is_done_is_not_done_again_and_gives_the_same(ran, data, monkeypatch):
    out, results = ran
    for name in ("curves.Attack", "curves.attack_monitor", "curves.scores_of", "guarded.scores_of"):
        monkeypatch.setattr(f"inlier.evaluation.{name}", None)
    again = without_nan(from_keywords(Curves, SETTINGS, "toy").run(out, data=data))
    for told in ("rows", "curves", "balls", "monitors", "gates", "images", "notes"):
        assert json.loads(json.dumps(again[told])) == results[told]


def test_a_folder_of_other_settings_is_refused(ran, data):
    with pytest.raises(Mismatch, match="steps"):
        from_keywords(Curves, {**SETTINGS, "steps": 3}, "toy").run(ran[0], data=data)


def test_the_page_tells_everything_and_leaves_pictures_out_when_asked(ran, tmp_path):
    _, results = ran
    page = document_html(DOCUMENTS["curves"](results))
    for said in ("Mahalanobis", "energy", "AUROC over Linf", "1/255", "Checks against fooling ourselves", "data:image"):
        assert said in page
    text = document_text(DOCUMENTS["curves"](results))
    assert "robust" not in text.lower().replace("robustness curves", "")
    bare = without_images(results)
    assert bare["rows"] == results["rows"]
    assert "data:image" not in json.dumps(bare)
    assert "data:image" not in document_html(DOCUMENTS["curves"](bare))
    written = write_report(tmp_path, bare)
    assert (tmp_path / "tables" / "hide_toy.csv") in written


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"anomalies": []}, "names of their own"), ({"epsilons": [2, 1]}, "rise"), ({"images": 0}, "above 0"),
        ({"networks": []}, "networks"), ({"rate": 2}, "rate"), ({"anomalies": [{"name": "o", "image": "x"}]}, "image"),
        ({"monitors": [{"name": "x", "detectors": "no"}]}, "No detector"),
        ({"monitors": [{"name": "a"}, {"name": "a"}]}, "'a'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(change, named):
    with pytest.raises((ValueError, LookupError), match=named):
        from_keywords(Curves, {**SETTINGS, **change}, "toy")


def test_too_few_clean_images_are_told(data, tmp_path):
    with pytest.raises(ValueError, match="There are 60 clean images"):
        from_keywords(Curves, {**SETTINGS, "reference": 50}, "toy").run(tmp_path / "out", data=data)
