"""What a key is worth: who knows more succeeds more often, and what the test for a leaking key can and cannot find."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.config import from_keywords
from inlier.errors import Mismatch
from inlier.evaluation.experiments import EXPERIMENTS
from inlier.evaluation.gathered import gather_images
from inlier.evaluation.intervals import auroc_interval
from inlier.evaluation.key_extraction import ORACLES, Candidates, beyond, extraction, sampled
from inlier.evaluation.keys import over_keys
from inlier.evaluation.measure import without_nan
from inlier.evaluation.results_file import FORMAT, shortened
from inlier.evaluation.together import Scale
from inlier.files import read_tensors
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.report.document import document_html, document_text
from inlier.report.documents import DOCUMENTS

SIZE = (16, 20)
CLASSES = ("road", "sky", "car")
DETECTOR = "daain(distance=6, blocks=1, head='euclidean')"


def make_backbone():
    """A user's factory; the text `MODULE:make_backbone` finds it."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
    return Backbone(network, Segmentation(CLASSES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two drives of noisy pictures of one scene to fit to, and other frames of them."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    scene = rng.random((*SIZE, 3))
    for part, count in (("train", 32), ("test", 6)):
        for drive in ("a", "b"):
            (root / part / drive).mkdir(parents=True)
            for number in range(count):
                picture = 0.8 * scene + 0.2 * rng.random((*SIZE, 3))
                Image.fromarray((255 * picture).astype(np.uint8)).save(root / part / drive / f"{number:03}.png")
    return root


def settings(folder, **more):
    return {
        "title": "Keys of a toy", "backbone": f"{__name__}:make_backbone", "fit": "folder:{data}/train",
        "clean": "folder:{data}/test", "images": 4, "detector": DETECTOR, "keys": 2, "surrogates": [1, 3],
        "grey_levels": [12, 30], "steps": 10, "points": 200, "candidates": 4, "asked_images": 1, "strength": 16,
        "false_alarm_rate": 0.15, "block": 4, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("keys") / "out"
    phases = []
    experiment = from_keywords(EXPERIMENTS["keys"], settings(folder), "a test")
    found = experiment.run(out, data=folder, progress=lambda phase, done, total: phases.append(phase))
    return out, found, phases


def summary_of(found, attacker, level, what="success_0.3"):
    return next(
        line[what] for line in found["summary"] if line["attacker"] == attacker and line["grey_levels"] == level
    )


def test_who_knows_more_succeeds_more_often(ran):
    _, found, _ = ran
    assert [one["name"] for one in found["attackers"]] == [
        "oblivious", "1 surrogate", "3 surrogates", "all features", "key known", "key rotated",
    ]  # fmt: skip
    assert summary_of(found, "key known", 30)["mean"] >= summary_of(found, "oblivious", 30)["mean"] + 0.3
    assert summary_of(found, "key known", 30)["mean"] >= summary_of(found, "key rotated", 30)["mean"]
    assert {gate["verdict"] for gate in found["gates"] if "dead" in gate["name"]} == {"PASS"}


def test_a_gate_asks_whether_surrogates_pass_what_is_attacked(ran, folder):
    out, found, _ = ran
    clean_frames = from_keywords(EXPERIMENTS["keys"], settings(folder), "a test").clean
    frames = torch.cat([batch.images for batch in gather_images(clean_frames, folder).batches(1)])
    images = frames[[0, 3, 6, 9]]
    own = [Monitor.load(out / "work" / "monitors" / f"surrogate_{n}.inlier", make_backbone()) for n in range(3)]
    passed = int((~torch.stack([monitor(images).flagged for monitor in own]).any(0)).sum())
    gate = next(gate for gate in found["gates"] if "own monitors" in gate["name"])
    assert gate["observed"] == f"{passed} of 4"
    assert gate["verdict"] == ("PASS" if passed >= 2 else "FAIL")


def test_summaries_are_means_of_the_rows(ran):
    _, found, _ = ran
    for name in ("oblivious", "3 surrogates", "key known", "key rotated"):
        rows = [row for row in found["rows"] if row["attacker"] == name and row["grey_levels"] == 30
                and row["victim"].startswith("victim")]  # fmt: skip
        assert len(rows) == 2
        rates = [row["success_0.5"]["hits"] / row["success_0.5"]["images"] for row in rows]
        cell = summary_of(found, name, 30, "success_0.5")
        assert cell["mean"] == pytest.approx(sum(rates) / 2)
        assert cell["least"] == pytest.approx(min(rates))
        low, high = cell["interval"]
        assert low <= cell["mean"] <= high


def test_images_stay_in_their_ball_and_one_set_serves_all_victims(ran):
    out, _, _ = ran
    names = sorted(path.name for path in (out / "work").glob("images_*.safetensors"))
    # Two surrogate attackers and the one on all features with two margins each; the key is known of two victims, and of
    # the monitor without one.
    assert len(names) == 2 * (1 + 2 * (2 + 1) + 3)
    clean = read_tensors(out / "work" / "images_oblivious__12.safetensors")[0]["images"].int()
    for name in names:
        if name.endswith("_12.safetensors"):
            assert (read_tensors(out / "work" / name)[0]["images"].int() - clean).abs().max() <= 24


def test_of_the_margins_the_one_that_succeeds_most_is_told(ran):
    out, found, _ = ran
    work = out / "work"
    victims = [row["victim"] for row in found["victims"]]
    before = read_tensors(work / "clean.safetensors")[0]["scores"][:, [0, 3, 6, 9]]
    for name, attacker in (("1_surrogate", "1 surrogate"), ("all_features", "all features")):
        came_to = {}
        for margin in (0.3, 1.0):
            after = read_tensors(work / f"scores_{name}__30_margin_{margin:g}.safetensors")[0]
            evaded = (before <= 0) & (after["scores"] <= 0) & (after["damage"] >= 0.3)
            keyed = [n for n, victim in enumerate(victims) if victim != "default" and (before[n] <= 0).any()]
            came_to[margin] = sum(float(evaded[n].sum() / (before[n] <= 0).sum()) for n in keyed) / len(keyed)
        line = next(s for s in found["summary"] if s["attacker"] == attacker and s["grey_levels"] == 30)
        assert line["success_0.3"]["mean"] == pytest.approx(max(came_to.values()))
        assert came_to[line["margin"]] == max(came_to.values())
        assert line["margins"] == {f"{margin:g}": pytest.approx(value) for margin, value in came_to.items()}
    assert {line["margin"] for line in found["summary"] if line["tier"] != "T1"} == {None}


def test_surrogates_and_victims_share_no_image_and_no_key(ran, folder):
    out, found, _ = ran
    backbone = make_backbone()
    victims, surrogates = (
        [Monitor.load(path, backbone) for path in sorted((out / "work" / "monitors").glob(f"{kind}_*.inlier"))]
        for kind in ("victim", "surrogate")
    )
    assert (len(victims), len(surrogates)) == (2, 3)
    for victim in victims:
        for surrogate in surrogates:
            assert not set(victim.clean_readings.names) & set(surrogate.clean_readings.names)
            assert not set(victim.clean_readings.names) & set(surrogate.clean.names)
            assert victim.keys.key != surrogate.keys.key
    assert found["images"] == {"victims": 32, "attacker": 32, "clean": 12, "attacked": 4}


def test_it_goes_on_where_it_was_and_gives_the_same(ran, folder, monkeypatch):
    out, found, _ = ran
    monkeypatch.setattr("inlier.evaluation.keys.attack", None)
    monkeypatch.setattr("inlier.evaluation.keys.extraction", None)
    again = from_keywords(EXPERIMENTS["keys"], settings(folder), "a test").run(out, data=folder)
    assert json.dumps({**again, "seconds": 0}) == json.dumps({**found, "seconds": 0})
    with pytest.raises(Mismatch, match="steps"):
        from_keywords(EXPERIMENTS["keys"], settings(folder, steps=13), "a test").run(out, data=folder)


def test_the_page_tells_it_and_the_results_do_not_tell_the_keys(ran):
    out, found, _ = ran
    results = shortened(without_nan({"format": FORMAT, "kind": "keys", **found}))
    document = DOCUMENTS["keys"](json.loads(json.dumps(results, allow_nan=False)))
    text, html = document_text(document), document_html(document)
    assert "key is rotated" in text
    assert html.count('<svg class="plot"') == 2
    key = Monitor.load(out / "work" / "monitors" / "victim_0.inlier", make_backbone()).keys.key
    told = json.dumps(results)
    for channel, y, x in key.points.tolist():
        assert f"[{channel}, {y}, {x}]" not in told


def test_what_cannot_be_compared_is_refused(folder):
    with pytest.raises(ValueError, match="2 keys"):
        from_keywords(EXPERIMENTS["keys"], settings(folder, keys=1), "a test")
    with pytest.raises(ValueError, match="pool"):
        from_keywords(EXPERIMENTS["keys"], settings(folder, pool="sum"), "a test")
    with pytest.raises(ValueError, match="margin"):
        from_keywords(EXPERIMENTS["keys"], settings(folder, margins=[]), "a test")


def test_mean_over_keys_leaves_out_a_key_without_images():
    hits = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 1]], dtype=torch.bool)
    among = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    cell = over_keys(hits, among)
    assert (cell["keys"], cell["mean"], cell["least"], cell["most"]) == (2, 0.75, 0.5, 1.0)
    pooled = over_keys(hits[:, [0, 2]], among[:, [0, 2]], per_key=2)
    assert pooled["keys"] == 1
    assert pooled["mean"] == pytest.approx(4 / 5)
    assert over_keys(hits[:, 1:2], among[:, 1:2])["mean"] is None


# --- extraction -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:All 30 held-out images")
def test_what_can_be_found_is_found():
    """A positive control: few points of a small net hide little, and every oracle tells the key by them."""
    dice = torch.Generator().manual_seed(0)
    scene = torch.rand(1, 3, *SIZE, generator=dice)
    clean = to_8_bit(0.8 * scene + 0.2 * torch.rand(70, 3, *SIZE, generator=dice))
    backbone, made = make_backbone(), {}
    for number in range(5):
        monitor = Monitor(backbone, "daain(distance=5, blocks=1, head='euclidean')", seed=number).fit(clean[:40])
        made[str(number)] = monitor.calibrate(clean[40:], false_alarm_rate=0.05)
    scales = {
        name: Scale(monitor.calibration.threshold(0.05), monitor.calibration_scores.std().item())
        for name, monitor in made.items()
    }
    victims, others = ({name: made[name] for name in names} for names in ("01", "234"))
    candidates = Candidates.drawn(list(victims.values()), 10, seed=0)
    assert candidates.truth.sum(1).tolist() == [10, 10]
    found = extraction(backbone, victims, others, scales, clean[:2], candidates, strength=0.1)
    assert set(found) == set(ORACLES)
    for oracle, values in found.items():
        for own, inside in zip(values, candidates.truth, strict=True):
            told = auroc_interval(own[~inside].double(), own[inside].double()).value
            assert told > 0.65, oracle


def test_candidates_are_in_the_keys_that_they_are_said_to_be_in():
    backbone = make_backbone()
    monitors = [Monitor(backbone, DETECTOR, seed=number).build(SIZE) for number in range(2)]
    candidates = Candidates.drawn(monitors, 5, seed=1)
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    read = Probe(backbone, [candidates.reader])(image).readings[candidates.reader.name][0]
    for monitor, inside in zip(monitors, candidates.truth, strict=True):
        kept = monitor.probe(image).readings[sampled(monitor).name][0]
        assert torch.equal(torch.isin(read, kept), inside)


def test_what_is_beyond_the_surrogates_is_counted_in_their_deviations():
    values = torch.tensor([[[5.0], [1.0], [3.0]]])  # one image, one asked and two surrogates
    assert beyond(values, 1).item() == pytest.approx(3 / 2**0.5)


def test_candidates_need_keys(folder):
    monitor = Monitor(make_backbone(), "mahalanobis").build(SIZE)
    with pytest.raises(ValueError, match="keys of at least 4"):
        Candidates.drawn([monitor], 4, seed=0)
