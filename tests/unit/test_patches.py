"""Patches: rings are where a slow loop finds them, a detector sees its own alone, and an experiment tells it all."""

import json
import math

import numpy as np
import pytest
import torch
from checked_page import Checker
from torch import nn
from toy_segmentation import scenes

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.intervals import aurocs
from inlier.evaluation.measure import without_nan
from inlier.evaluation.patch_results import area_bands, gates, mean_bands
from inlier.evaluation.patches import CLEAN, KINDS, Eye, Patches
from inlier.evaluation.rings import (
    CLIP,
    DistanceDetector,
    Ordinary,
    Square,
    ring_names,
    rings,
    seen_by,
    zones,
)
from inlier.files import read_tensors
from inlier.report.document import document_html, document_text
from inlier.report.documents import DOCUMENTS
from inlier.report.folder import without_images, write_report

# --- rings -----------------------------------------------------------------------------------------------------------


def slow_distance(square, grid, size):
    """By the nearest point of the patch, cell by cell."""
    found = torch.zeros(grid, dtype=torch.float64)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = (row + 0.5) * size[0] / grid[0], (column + 0.5) * size[1] / grid[1]
            near_y = min(max(y, square.top), square.top + square.side)
            near_x = min(max(x, square.left), square.left + square.side)
            found[row, column] = max(abs(y - near_y), abs(x - near_x))
    return found


@pytest.mark.parametrize("grid", [(12, 16), (6, 8), (3, 5), (24, 32)])
@pytest.mark.parametrize("square", [Square(3, 5, 4), Square(0, 0, 12), Square(11, 15, 1)])
def test_distances_and_rings_are_those_of_a_slow_loop(square, grid):
    size, edges = (12, 16), [2, 5]
    distance = square.distance(grid, size)
    assert torch.equal(distance, slow_distance(square, grid, size))
    for row in range(grid[0]):
        for column in range(grid[1]):
            d = distance[row, column].item()
            expected = 0 if d == 0 else 1 if d < 2 else 2 if d < 5 else 3
            assert rings(distance, edges)[row, column] == expected


def test_the_pixels_inside_are_those_of_the_mask_and_the_first_ring_is_as_wide_as_it_says():
    square = Square.at((0.5, 0.25), 4, (12, 20))
    numbers = rings(square.distance((12, 20), (12, 20)), [3])
    assert torch.equal(numbers == 0, square.mask((12, 20)))
    assert (numbers == 1).sum() == 10 * 10 - 4 * 4
    assert ring_names([3]) == ["inside", "0 to 3", "from 3"]


def test_a_zone_is_the_mean_over_its_ring_or_over_all_from_it_on():
    numbers = rings(Square(4, 4, 4).distance((12, 12), (12, 12)), [2, 50])
    maps = torch.rand(3, 12, 12)
    seen = seen_by(maps, zones(numbers, 4))
    for ring in range(3):
        assert seen[:, ring] == pytest.approx(maps[:, numbers == ring].double().mean(1).numpy())
        assert seen[:, 4 + ring] == pytest.approx(maps[:, numbers >= ring].double().mean(1).numpy())
    assert seen[:, [3, 7]].isnan().all()  # nothing is 50 pixels away


# --- what is ordinary, and who notices -------------------------------------------------------------------------------


def test_without_shrinkage_a_place_counts_alone_and_with_much_its_row_does():
    maps = torch.randn(50, 2, 3, 4) * torch.rand(1, 2, 3, 4).add(0.5) + torch.rand(1, 2, 3, 4)
    halves = [[maps[:20]], [maps[20:]]]
    alone, row = Ordinary.of(halves, 0), Ordinary.of(halves, 1e12)
    assert torch.allclose(alone.mean[0], maps.mean(0), atol=1e-5)
    assert torch.allclose(alone.std[0], maps.std(0, correction=0), atol=1e-5)
    assert torch.allclose(row.mean[0], maps.mean((0, 3))[..., None].expand(-1, -1, 4), atol=1e-5)
    assert torch.allclose(row.std[0][..., 0], maps.std((0, 3), correction=0), atol=1e-5)
    assert torch.allclose(alone.unit[0].flatten(), maps.std((0, 2, 3), correction=0), atol=1e-5)


def test_surprise_is_one_on_what_was_learnt_from_and_no_value_counts_more_than_the_clip():
    maps = torch.randn(200, 1, 4, 4)
    known = Ordinary.of([[maps]], 0)
    assert known.surprise([maps])[0].mean(0) == pytest.approx(1.0, abs=0.02)
    assert known.surprise([maps + 1e6])[0] == pytest.approx(CLIP**2)
    assert known.change([maps], [maps + 2 * known.unit[0]])[0] == pytest.approx(2.0, abs=1e-3)
    again = Ordinary.from_tensors(known.tensors(), torch.device("cpu"))
    assert torch.equal(again.std[0], known.std[0])


def test_a_detector_sees_what_is_planted_in_its_ring_and_no_other_does():
    generator = torch.Generator().manual_seed(0)
    known = Ordinary.of([[torch.randn(60, 3, 20, 20, generator=generator)]], 5)
    numbers = rings(Square(8, 8, 4).distance((20, 20), (20, 20)), [2, 4])
    inside = zones(numbers, 4)

    def seen(maps):
        return seen_by(known.surprise([maps])[0], inside)[:, None]

    held_out, clean = (torch.randn(60, 3, 20, 20, generator=generator) for _ in range(2))
    detector = DistanceDetector.fit(seen(held_out), 0.05)
    for ring in range(4):
        planted = clean + 3 * (numbers == ring)
        scores, others = detector.scores(seen(planted)), detector.scores(seen(clean))
        areas = aurocs(others[None], scores[None])[0]
        sees = [n == ring for n in range(4)] + [n <= ring for n in range(4)]
        assert torch.equal(scores[:, ~torch.tensor(sees)], others[:, ~torch.tensor(sees)])
        assert all(area > 0.9 for area, does in zip(areas.tolist(), sees, strict=True) if does)
        assert detector.flagged(scores)[:, ring].float().mean() > 0.5


def test_a_tap_without_a_place_is_left_out_and_a_zone_without_any_has_no_score():
    clean = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    clean[:, 1, 1] = clean[:, :, 2] = torch.nan
    detector = DistanceDetector.fit(clean, 0.1)
    scores = detector.scores(clean)
    torch.testing.assert_close(scores[:, 1], (clean[:, 0, 1] - clean[:, 0, 1].mean()) / clean[:, 0, 1].std())
    assert scores[:, 2].isnan().all()
    assert detector.limits.isnan().tolist() == [False, False, True]
    with pytest.raises(ValueError, match="images"):
        DistanceDetector.fit(clean[:5], 0.1)


def test_the_reach_of_a_network_is_its_receptive_field():
    """3 x 3, then 3 x 3 dilated by 4, then 2 x 2 pooling: 1 pixel, 5 pixels, then whole cells of those."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=4, dilation=4), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1)
    )
    eye = Eye.of(Backbone(network, Segmentation(("a", "b"))), (32, 32), "everywhere")
    square = Square(12, 12, 8)
    clean = torch.rand(2, 3, 32, 32)
    patched = torch.rand(2, 3, 32, 32).where(square.mask((32, 32)), clean)
    (_, then), (_, now) = eye(clean), eye(patched)
    reached = [(a != b).any(1) for a, b in zip(then, now, strict=True)]
    own = [square.distance(each.shape[1:], (32, 32)) for each in reached]
    assert torch.equal(reached[0][0], own[0] < 1)  # pixels at 0.5
    # A row of pixels is felt where one of the three taps of the dilated kernel meets what the first one felt.
    felt = torch.zeros(32, dtype=torch.bool)
    for row in range(32):
        felt[row] = any(11 <= row + step < 21 for step in (-4, 0, 4))
    assert torch.equal(reached[1][0], felt[:, None] & felt[None])
    assert own[1][reached[1][0]].max() == 4.5
    assert torch.equal(reached[2][0], reached[1][0].unflatten(0, (16, 2)).unflatten(2, (16, 2)).any(3).any(1))
    assert torch.equal(reached[3], reached[2])


def test_networks_without_places_are_told():
    flat = Backbone(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), Classification(("a", "b", "c")))
    with pytest.raises(Mismatch, match="is a map of places"):
        Eye.of(flat, (12, 12), "everywhere")
    cropping = Backbone(nn.Conv2d(3, 2, 1), Classification(("a", "b")), size=(14, 14), crop=(12, 12))
    with pytest.raises(Mismatch, match="crops"):
        Eye.of(cropping, (12, 12), "everywhere")


def held():
    """What two patches came to, with nothing to doubt."""
    cells = [
        {"network": "net", "side": side, "kind": kind, "damage": {"mean": mean}, "changed_outside": 0.0,
         "dead": 0.0 if kind == "attack" else None}
        for side in (4, 8) for kind, mean in (("attack", 0.5), ("noise", 0.2), ("grey", 0.2), ("object", 0.9))
    ]  # fmt: skip
    alarms = {"rings": [{"interval": [0.01, 0.2]}, None], "beyond": [{"interval": [0.0, 0.1]}, None]}
    return {"cells": cells, "false_alarms": [alarms]}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda found: None, []), (lambda found: found["cells"][1].update(damage={"mean": 0.6}), [0]),
        (lambda found: found["cells"][6].update(changed_outside=1 / 255), [1]),
        (lambda found: found["cells"][4].update(damage={"mean": 0.45}), []),
        (lambda found: found["cells"][4].update(damage={"mean": 0.35}), [2]),
        (lambda found: found["cells"][4].update(dead=0.02), [3]),
        (lambda found: found["false_alarms"][0]["rings"][0].update(interval=[0.06, 0.3]), [4]),
    ],
)  # fmt: skip
def test_every_gate_fails_where_it_should(change, failed):
    found = held()
    change(found)
    verdicts = [gate["verdict"] for gate in gates(found, images=10, rate=0.05)]
    assert [n for n, verdict in enumerate(verdicts) if verdict == "FAIL"] == failed


def test_intervals_are_told_where_there_is_a_value_and_have_a_width_at_an_auroc_of_one():
    values = torch.rand(9, 3).double()
    values[:, 1] = torch.nan
    first, nothing, last = mean_bands(values, 0)
    assert nothing is None
    assert first["mean"] == pytest.approx(values[:, 0].mean().item())
    assert last["low"] < last["mean"] < last["high"]
    (found, nowhere, _) = area_bands(values, values + 2, 0)
    assert (found["auroc"], nowhere) == (1.0, None)
    assert found["auroc_interval"][0] < 1


# --- the experiment --------------------------------------------------------------------------------------------------


SETTINGS = {
    "networks": [
        {"name": "toy", "backbone": "toy_segmentation:segmenter", "label": "a toy"},
        {"name": "signs", "backbone": "toy_classifier:convolutional"},
    ],
    "monitors": [{"name": "bands", "detectors": "mahalanobis(taps='0')", "label": "Mahalanobis"}],
    "fit": "{data}/fit.npz", "clean": "{data}/clean.npz", "held_out": 30, "reference": 24, "images": 5, "rate": 0.1,
    "sizes": [2, 6], "rings": [1, 2, 40], "taps": "everywhere", "steps": 12, "batch_size": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, images in {"fit": scenes(40, 1), "clean": scenes(54, 2)}.items():
        np.savez(folder / f"{name}.npz", images=(images * 255).round().byte().movedim(1, -1).numpy())
    return folder


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("patches") / "out"
    told = []
    results = from_keywords(Patches, SETTINGS, "toy").run(
        out, data=data, command="inlier evaluate toy.toml", progress=lambda phase, done, total: told.append(phase)
    )
    assert any("patches" in phase for phase in told)
    return out, json.loads(json.dumps(without_nan({"format": 1, "kind": "patches", **results})))


def rows(results, what, **wanted):
    return [row for row in results[what] if all(row[name] == value for name, value in wanted.items())]


def test_the_attack_does_most_harm_and_all_of_it_within_its_reach(ran):
    _, results = ran
    for side in (2, 6):
        harm = {row["kind"]: row for row in rows(results, "cells", network="toy", side=side)}
        assert set(harm) == set(KINDS)
        assert all(
            harm["attack"]["damage"]["mean"] > harm[kind]["damage"]["mean"] for kind in KINDS if kind != "attack"
        )
        # Two 3 x 3 convolutions reach two pixels, at 0.5 and 1.5.
        inside, first, second, beyond, nowhere = harm["attack"]["rings"]
        assert inside["mean"] > 0
        assert first["mean"] > 0
        assert second["mean"] >= beyond["mean"] == 0.0
        assert nowhere is None
        assert all(row["changed_outside"] == 0 for row in harm.values())
    assert all(gate["verdict"] == "PASS" for gate in results["gates"][:4])


def test_activations_feel_a_patch_as_far_as_they_see(ran):
    _, results = ran
    for row in rows(results, "felt", network="toy", kind="noise"):
        first, _, last = row["taps"]
        assert first["farthest"] == 0.5
        assert last["farthest"] == 1.5
        assert first["change"][0] > 0
        assert first["reached"][:2] == [1.0, 1.0]
        assert first["change"][2:] == [0.0, 0.0, None]
        assert last["change"][3] == 0.0
        side = row["side"]
        assert first["share"] == pytest.approx((side + 2) ** 2 / 144)


def test_who_looks_where_nothing_changed_notices_nothing(ran):
    _, results = ran
    for side in (2, 6):
        (clean,) = rows(results, "seen", network="toy", side=side, kind=CLEAN)
        (attack,) = rows(results, "seen", network="toy", side=side, kind="attack")
        assert attack["rings"][3]["auroc"] == clean["rings"][3]["auroc"]
        assert attack["beyond"][3] == clean["beyond"][3]
        assert attack["rings"][0]["auroc"] > clean["rings"][0]["auroc"]
        assert attack["rings"][0]["auroc_interval"][0] <= attack["rings"][0]["auroc"]
        (alarms,) = rows(results, "false_alarms", network="toy", side=side)
        assert alarms["beyond"][0]["images"] == 24


def test_a_classifier_is_asked_for_its_class_and_its_vectors_have_no_places(ran):
    _, results = ran
    signs = next(network for network in results["networks"] if network["name"] == "signs")
    assert [tap["tap"] for tap in signs["taps"]] == ["0", "1"]
    assert any("left out" in note for note in results["notes"])
    for row in rows(results, "cells", network="signs"):
        assert row["rings"] is None
        assert row["damage"]["mean"] * 5 == pytest.approx(round(row["damage"]["mean"] * 5))


def test_the_page_tells_everything_and_leaves_pictures_out_when_asked(ran, tmp_path):
    _, results = ran
    page = document_html(DOCUMENTS["patches"](results))
    checked = Checker(page)
    assert not checked.open
    assert set(checked.links) <= {f"#{name}" for name in checked.ids}
    for said in ("a piece of another image", "T0", "Mahalanobis", "farthest", "from 40", "Everything nearer hidden"):
        assert said in checked.text
    assert "data:image" in page
    assert "a toy" in document_text(DOCUMENTS["patches"](results))
    bare = without_images(results)
    assert "data:image" not in document_html(DOCUMENTS["patches"](bare))
    assert bare["cells"] == results["cells"]
    names = [path.name for path in write_report(tmp_path, bare)]
    assert {"report.html", "seen_toy.csv", "beyond_signs.csv", "felt_toy.tex", "harm_toy.csv"} <= set(names)


def test_what_is_done_is_not_done_again_and_gives_the_same(ran, data, monkeypatch):
    out, results = ran
    monkeypatch.setattr("inlier.evaluation.patches.Attack.__call__", None)
    monkeypatch.setattr("inlier.evaluation.patches.Eye.__call__", None)
    monkeypatch.setattr("inlier.evaluation.patches.scores_of", None)
    again = json.loads(json.dumps(without_nan(from_keywords(Patches, SETTINGS, "toy").run(out, data=data))))
    for told in ("cells", "felt", "seen", "false_alarms", "judged", "strips", "gates"):
        assert again[told] == results[told]


def test_in_a_ball_patches_keep_to_it_and_without_held_out_images_part_of_the_fit_is_left_aside(data, tmp_path):
    settings = {**SETTINGS, "networks": SETTINGS["networks"][:1], "eps": 4, "held_out": 0, "folds": 2, "block": 4,
                "sizes": [6], "steps": 3}  # fmt: skip
    results = from_keywords(Patches, settings, "toy").run(tmp_path / "out", data=data)
    assert (results["fitted_to"], results["held_out"]) == (20, 20)
    file = next((tmp_path / "out" / "work").glob("toy_6_patches*"))
    tensors, _ = read_tensors(file)
    clean = np.load(data / "clean.npz")["images"]
    for kind in KINDS:
        apart = [
            min(int(np.abs(image.movedim(0, -1).numpy().astype(int) - other.astype(int)).max()) for other in clean)
            for image in tensors[kind]
        ]
        assert max(apart) <= 4
        assert max(apart) > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sizes": []}, "sizes are pixels that rise"), ({"sizes": [4, 2]}, "sizes are pixels that rise"),
        ({"sizes": [2.5]}, "whole pixels"), ({"rings": [0, 2]}, "rings are pixels that rise"),
        ({"place": [0.5, 1.5]}, "from 0 to 1"), ({"place": [0.5]}, "from 0 to 1"),
        ({"sizes": [20], "size": [12, 12]}, "does not fit into images of 12 x 12"),
        ({"eps": 0}, "eps of a patch is above 0"), ({"step_size": -1}, "step_size of a patch"),
        ({"loss": "hinje"}, "Did you mean 'hinge'"), ({"steps": 0}, "at least 1"), ({"folds": 1}, "at least 2"),
        ({"reference": 1, "images": 1}, "2 reference images"), ({"tap": "0"}, "Did you mean 'taps'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(change, named):
    with pytest.raises((ValueError, LookupError), match=named):
        from_keywords(Patches, {**SETTINGS, **change}, "toy")


def test_a_patch_larger_than_the_images_and_too_few_to_calibrate_are_told(data, tmp_path):
    with pytest.raises(ValueError, match="does not fit into images of 12 x 12"):
        from_keywords(Patches, {**SETTINGS, "sizes": [13]}, "toy").run(tmp_path / "large", data=data)
    few = {**SETTINGS, "held_out": 5}
    with pytest.raises(ValueError, match=r"5 clean images are held out, .* needs at least 9"):
        from_keywords(Patches, few, "toy").run(tmp_path / "few", data=data)
    assert math.ceil(1 / few["rate"]) - 1 == 9
