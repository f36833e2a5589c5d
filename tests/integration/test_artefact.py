"""A saved monitor comes back bit for bit or not at all, and its key lies in a file of its own."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import inlier.artefact
from inlier.anatomy import Anatomy
from inlier.backbones.base import Backbone, Segmentation
from inlier.detectors.mahalanobis import mahalanobis
from inlier.detectors.table import DETECTORS
from inlier.errors import Mismatch, NotFitted
from inlier.files import read_tensors
from inlier.images import TensorImages
from inlier.monitor import Monitor

EVERY = [name if name != "daain" else "daain(distance=6, blocks=1)" for name in DETECTORS]


def images(n, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


FRESH = images(6, seed=1)


def make_backbone(seed=0, mean=(0.0,), classes=("a", "b", "c")):
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, stride=2, padding=1))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(network, Segmentation(classes), mean=mean, std=(1.0,) * len(mean))


@pytest.fixture(scope="module")
def backbone():
    return make_backbone()


@pytest.fixture(scope="module")
def monitor(backbone):
    source = TensorImages(images(40), [f"{i}.png" for i in range(40)], ["left"] * 20 + ["right"] * 20)
    return Monitor(backbone, EVERY, seed=0).fit(source).calibrate(false_alarm_rate=0.1, folds=2)


@pytest.fixture
def saved(monitor, tmp_path):
    monitor.save(tmp_path / "m.inlier")
    return tmp_path / "m.inlier"


def key_of(path):
    (key,) = path.parent.glob(f"{path.name}.*.key")
    return key


def rewrite(path, change):
    """Change the manifest of an artefact, and make its checksum fit again."""
    tensors, metadata = read_tensors(path)
    manifest = json.loads(metadata["manifest"])
    change(manifest, tensors)
    text = json.dumps(manifest)
    checksum = inlier.artefact._checksum(text, tensors)
    safetensors.torch.save_file(tensors, path, {"manifest": text, "sha256": checksum})


# --- what comes back -------------------------------------------------------------------------------------------------


def test_a_loaded_monitor_gives_the_same_verdicts_bit_for_bit(monitor, saved):
    loaded = Monitor.load(saved, make_backbone())
    one, other = monitor(FRESH, why=True), loaded(FRESH, why=True)
    assert other.to_dict() == one.to_dict()
    assert torch.equal(other.score, one.score)
    assert torch.equal(other.why.heat, one.why.heat)
    assert all(torch.equal(a, b) for a, b in zip(*(m.scores(FRESH).values() for m in (monitor, loaded)), strict=True))


@pytest.mark.parametrize("detector", EVERY)
@pytest.mark.parametrize("rule", ["order_statistic", "robust"])
def test_every_detector_comes_back_alone(backbone, tmp_path, detector, rule):
    monitor = Monitor(backbone, detector, seed=0).fit(images(30)).calibrate(false_alarm_rate=0.1, rule=rule, folds=2)
    monitor.save(str(tmp_path / "new" / "m.inlier"))
    loaded = Monitor.load(str(tmp_path / "new" / "m.inlier"), backbone)
    assert loaded(FRESH).to_dict() == monitor(FRESH).to_dict()


def test_a_loaded_monitor_is_calibrated_again_with_the_clean_scores_it_brought(monitor, saved, backbone):
    loaded = Monitor.load(saved, backbone).calibrate(false_alarm_rate=0.2, rule="high_probability", confidence=0.8)
    again = Monitor(backbone, EVERY, seed=0).fit(images(40))
    again.calibrate(false_alarm_rate=0.2, rule="high_probability", confidence=0.8, folds=2)
    assert torch.equal(loaded.calibration_scores, again.calibration_scores)
    assert torch.equal(loaded(FRESH).p_value, again(FRESH).p_value)
    assert loaded.clean.made == monitor.clean.made
    assert loaded.clean.groups == monitor.clean.groups
    assert loaded.clean.names == monitor.clean.names


def test_a_loaded_monitor_saves_the_same_artefact(saved, backbone, tmp_path):
    Monitor.load(saved, backbone).save(tmp_path / "again" / "m.inlier")
    again = tmp_path / "again" / "m.inlier"
    for one, other in ((again, saved), (key_of(again), key_of(saved))):
        (tensors, metadata), (expected, told) = read_tensors(one), read_tensors(other)
        assert metadata == told
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in tensors)


def test_the_manifest_says_what_the_monitor_is(saved, backbone):
    told = json.loads(read_tensors(saved)[1]["manifest"])
    assert told["format_version"] == 1
    assert told["backbone"] == backbone.fingerprint()
    assert told["size"] == [16, 16]
    assert told["taps"]["0"] == [6, 16, 16]
    assert [detector["name"] for detector in told["detectors"]] == list(DETECTORS)
    assert told["detectors"][0] == {"name": "daain", "settings": {"distance": 6, "blocks": 1}}
    assert (told["rule"], told["false_alarm_rate"], told["fusion"]) == ("order_statistic", 0.1, "max")
    assert told["groups"] == ["left"] * 20 + ["right"] * 20


def test_only_what_is_calibrated_and_named_can_be_saved(backbone, tmp_path):
    monitor = Monitor(backbone, "entropy").fit(images(30))
    with pytest.raises(NotFitted, match="not calibrated"):
        monitor.save(tmp_path / "m.inlier")
    given = Monitor(backbone, mahalanobis(Anatomy.of(backbone, (16, 16)))).fit(images(30))
    with pytest.raises(Mismatch, match="'mahalanobis' was given as an object"):
        given.calibrate(false_alarm_rate=0.1).save(tmp_path / "m.inlier")
    assert list(tmp_path.iterdir()) == []


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_lies_beside_the_artefact_readable_by_its_owner_alone(saved):
    assert sorted(path.name for path in saved.parent.iterdir()) == sorted([saved.name, key_of(saved).name])
    assert key_of(saved).stat().st_mode & 0o777 == 0o600


def test_the_artefact_does_not_hold_the_key(monitor, saved):
    content = saved.read_bytes()
    points = monitor.keys.key.points.numpy()
    readers = [reader for reader in monitor.probe.readers.values() if reader.name == "sampled"]
    indices = [buffer.numpy() for reader in readers for _, buffer in reader.named_buffers()]
    secrets = [points, *points.T, *points, *indices]
    assert len(indices) >= 2
    for secret in secrets:
        for kind in (np.int64, np.int32, np.int16, np.float32, np.float64):
            if len(set(secret.flatten().tolist())) >= 3:  # a lone zero is everywhere
                assert secret.astype(kind).tobytes() not in content
    for listing in (points, *indices):
        assert json.dumps(listing.tolist()).encode() not in content
        assert json.dumps(listing.tolist(), separators=(",", ":")).encode() not in content


def test_without_its_key_file_a_monitor_does_not_load(saved, backbone):
    key = key_of(saved)
    key.unlink()
    with pytest.raises(Mismatch, match=rf"key '{key.name}' is not beside .*rekey"):
        Monitor.load(saved, backbone)


def test_another_monitors_key_is_told_apart(saved, backbone, tmp_path):
    other = Monitor(backbone, EVERY, seed=9).fit(images(40)).calibrate(false_alarm_rate=0.1, folds=2)
    other.save(tmp_path / "other.inlier")
    shutil.copy(key_of(tmp_path / "other.inlier"), key_of(saved))
    with pytest.raises(Mismatch, match=r"is not the key that .* was fitted with"):
        Monitor.load(saved, backbone)


def test_a_damaged_key_is_refused(saved, backbone):
    key, generator = key_of(saved), np.random.default_rng(0)
    whole = key.read_bytes()
    for position in [*range(8, 200), *generator.integers(len(whole), size=60)]:  # the header, and anywhere
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        key.write_bytes(damaged)
        same_or_refused(saved, backbone)
    for kind in (b"U64", b"F64", b"C64"):
        key.write_bytes(whole.replace(b"I64", kind))
        same_or_refused(saved, backbone)
    key.write_bytes(b"")
    with pytest.raises(Mismatch, match="not a whole safetensors file"):
        Monitor.load(saved, backbone)


def test_a_manifest_cannot_point_out_of_its_folder(saved, backbone, tmp_path):
    shutil.copy(key_of(saved), tmp_path / "k.key")
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(saved, inner)
    rewrite(inner / saved.name, lambda manifest, _: manifest.update(key_file="../k.key"))
    with pytest.raises(Mismatch, match=r"manifest of .* is damaged.*key_file"):
        Monitor.load(inner / saved.name, backbone)


def test_saving_a_rekeyed_monitor_replaces_the_old_key_file(saved, backbone):
    old = key_of(saved)
    fresh = Monitor.load(saved, backbone).rekey(images(40), folds=2)
    fresh.save(saved)
    assert key_of(saved) != old
    assert not old.exists()
    assert Monitor.load(saved, backbone)(FRESH).to_dict() == fresh(FRESH).to_dict()


def test_saving_over_a_copy_leaves_the_originals_key_alone(saved, backbone, tmp_path):
    twin = tmp_path / "twin.inlier"
    shutil.copy(saved, twin)
    Monitor.load(twin, backbone).calibrate(false_alarm_rate=0.2).save(twin)
    assert Monitor.load(saved, backbone).false_alarm_rate == 0.1
    assert Monitor.load(twin, backbone).false_alarm_rate == 0.2


def test_a_monitor_without_a_key_leaves_none_behind(saved, backbone):
    Monitor(backbone, "entropy").fit(images(30)).calibrate(false_alarm_rate=0.1).save(saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    Monitor.load(saved, backbone)


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"seed": 1}, {"mean": (0.5,)}, {"classes": ("a", "b", "d")}])
def test_other_weights_preprocessing_or_classes_are_refused(saved, other):
    with pytest.raises(Mismatch, match="other weights or preprocessing"):
        Monitor.load(saved, make_backbone(**other))


def test_equal_weights_in_other_modules_are_refused(backbone, saved):
    Monitor(backbone, "energy").fit(images(30)).calibrate(false_alarm_rate=0.1).save(saved)
    longer = nn.Sequential(*make_backbone().network, nn.Identity())
    with pytest.raises(Mismatch, match="modules are not those"):
        Monitor.load(saved, Backbone(longer, Segmentation(("a", "b", "c"))))


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_an_unknown_format_version_is_refused(saved, backbone, version):
    rewrite(saved, lambda manifest, _: manifest.update(format_version=version))
    with pytest.raises(Mismatch, match=f"has format version {version!r}; this inlier reads version 1"):
        Monitor.load(saved, backbone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest, _: manifest.update(rule="median"), "manifest of .* is damaged.*rule"),
        (lambda manifest, _: manifest.update(extra=1), "manifest of .* is damaged.*extra"),
        (lambda manifest, _: manifest.pop("taps"), "manifest of .* is damaged.*taps"),
        (lambda _, tensors: tensors.pop("calibration.scores"), "'calibration.scores' is missing or too much"),
        (lambda _, tensors: tensors.update(more=torch.ones(1)), "'more' is missing or too much"),
        (lambda _, tensors: tensors.pop("clean.folds"), "'clean.folds' is missing or too much"),
        (lambda _, tensors: tensors.pop("clean.scores.daain"), "'clean.scores.daain' is missing or too much"),
        (lambda _, t: t.update({"clean_readings.mean_0": torch.ones(3)}), "are not those of its detectors"),
        (lambda _, t: t.update({"detectors.daain.flow.count": torch.ones(3)}), "are not those of its detectors"),
        (lambda manifest, _: manifest["detectors"][0].update(name="mahalonobis"), "mahalanobis"),
        (lambda manifest, _: manifest["detectors"][0]["settings"].update(zzz=1), "zzz"),
        (lambda manifest, _: manifest["detectors"][0]["settings"].update(distance=7), "One monitor has one key"),
        (lambda manifest, _: manifest.update(size=[20, 20]), "was drawn for images of 16 x 16 .* images of 20 x 20"),
    ],
)
def test_a_manifest_and_tensors_that_do_not_belong_together_are_refused(saved, backbone, change, message):
    rewrite(saved, change)
    with pytest.raises(Mismatch, match=message):
        Monitor.load(saved, backbone)


def test_other_files_are_refused_for_what_they_are(backbone, tmp_path):
    path = tmp_path / "m.inlier"
    with pytest.raises(FileNotFoundError, match=r"No file .*m\.inlier"):
        Monitor.load(path, backbone)
    safetensors.torch.save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(Mismatch, match="a safetensors file but no inlier monitor"):
        Monitor.load(path, backbone)
    for text in ("[]", "3", "not json", '{"format_version": 1}', ""):
        safetensors.torch.save_file({"weight": torch.ones(3)}, path, {"manifest": text})
        with pytest.raises(Mismatch, match=r"m\.inlier"):
            Monitor.load(path, backbone)
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(Mismatch, match="not a whole safetensors file"):
        Monitor.load(path, backbone)


# --- damage ----------------------------------------------------------------------------------------------------------


def same_or_refused(path, backbone, expected=None):
    try:
        loaded = Monitor.load(path, backbone)
    except Mismatch:
        return False
    assert expected is None or torch.equal(loaded.score(FRESH), expected)
    return True


def test_a_file_cut_short_is_refused(saved, backbone):
    whole = saved.read_bytes()
    for length in [0, 1, 8, len(whole) - 1, *np.random.default_rng(0).integers(len(whole), size=50)]:
        saved.write_bytes(whole[:length])
        with pytest.raises(Mismatch):
            Monitor.load(saved, backbone)


@pytest.mark.slow
def test_a_changed_byte_is_an_error_or_changes_nothing(monitor, saved, backbone):
    whole, generator = saved.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    positions = [*generator.integers(header, size=150), *generator.integers(len(whole), size=150)]
    accepted = 0
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] = (damaged[position] + int(generator.integers(1, 256))) % 256
        saved.write_bytes(damaged)
        accepted += same_or_refused(saved, backbone, monitor.score(FRESH).detach())
    assert accepted <= 3  # only padding and the order of what has no order may differ
