"""Monitors are fitted, calibrated and tried on readings that were made earlier, as they are on the images."""

import copy
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.detectors.base import Detector
from inlier.detectors.mahalanobis import mahalanobis
from inlier.errors import Mismatch, NotFitted
from inlier.files import read_tensors, write_tensors
from inlier.images import TensorImages
from inlier.monitor import Monitor
from inlier.observation import Readings
from inlier.origin import AbsentBackbone, Origin, reader_digest
from inlier.sampling import SamplingKey

EVERY = ["mahalanobis", "daain(distance=6, blocks=1)", "entropy", "max_softmax(reduce='max')"]


def images(n, seed=0, size=16):
    """Flat images of different colours with noise: exchangeable, and each with something of its own."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    return (0.25 + 0.5 * colour + 0.2 * torch.rand(n, 3, size, size, generator=generator)).clamp(0, 1)


def source(n=60, seed=0):
    return TensorImages(images(n, seed), [f"{i}.png" for i in range(n)], ["a"] * (n // 2) + ["b"] * (n - n // 2))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(8, 3, 1),
        )  # fmt: skip
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return self.layers(x)


def make_backbone(seed=0):
    network = Network()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return Backbone(network, Segmentation(("a", "b", "void")))


@pytest.fixture
def backbone():
    return make_backbone()


@pytest.fixture
def saved(backbone, tmp_path):
    """Readings of clean images for every detector, through a file; and the monitor that read them."""
    reading = Monitor(backbone, EVERY, seed=0)
    reading.read(source()).save(tmp_path / "clean.readings")
    backbone.network.passes.clear()
    return reading, Readings.load(tmp_path / "clean.readings")


def same_state(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    names = [name for name in mine if not name.startswith(("backbone.", "_probe."))]
    return all(torch.equal(mine[name], theirs[name]) for name in names) and len(names) > 10


# --- the file --------------------------------------------------------------------------------------------------------


def test_readings_come_back_from_a_file_as_they_were(backbone, tmp_path):
    monitor = Monitor(backbone, EVERY, seed=0)
    made = monitor.read(source(), logits=True)
    made.save(tmp_path / "x.readings")
    loaded = Readings.load(tmp_path / "x.readings")
    assert list(loaded.values) == list(made.values)
    assert "logits" in loaded.values
    assert all(torch.equal(value, made.values[name]) for name, value in loaded.values.items())
    assert (loaded.names, loaded.groups, loaded.origin) == (made.names, made.groups, made.origin)
    labelled = Readings(made.values, made.names, made.groups, torch.arange(60), made.origin)
    labelled.save(tmp_path / "x.readings")
    assert torch.equal(Readings.load(tmp_path / "x.readings").labels, torch.arange(60))


def test_the_digest_is_of_what_the_file_holds(saved, tmp_path):
    _, readings = saved
    for name, other in (("same", readings), ("part", readings.subset(torch.arange(30)))):
        other.save(tmp_path / name)
    assert Readings.load(tmp_path / "same").digest == readings.digest
    assert Readings.load(tmp_path / "part").digest != readings.digest


def test_the_key_is_not_in_the_file_which_is_as_private_as_a_key(backbone, saved, tmp_path):
    reading, readings = saved
    tensors, metadata = read_tensors(tmp_path / "clean.readings")
    points = reading.keys.key.points
    assert all(tensor.shape[-1:] != points.shape[-1:] for tensor in tensors.values())
    assert json.loads(metadata["readings"])["origin"]["key"] == readings.origin.key
    assert stat.S_IMODE((tmp_path / "clean.readings").stat().st_mode) == 0o600
    os.umask(umask := os.umask(0))
    Monitor(backbone, "mahalanobis").read(source()).save(tmp_path / "keyless.readings")
    assert stat.S_IMODE((tmp_path / "keyless.readings").stat().st_mode) == 0o666 & ~umask


def test_readings_of_unknown_origin_are_neither_saved_nor_fitted_to(backbone, tmp_path):
    monitor = Monitor(backbone, "mahalanobis").fit(source())
    read = monitor.probe.read(images(4))
    with pytest.raises(Mismatch, match=r"do not say what they were read from.*Monitor\.read"):
        read.save(tmp_path / "x")
    with pytest.raises(Mismatch, match=r"make them with Monitor\.read"):
        monitor.fit(read)
    with pytest.raises(Mismatch, match=r"make them with Monitor\.read"):
        monitor.scores_of(read)
    with pytest.raises(Mismatch, match="give an origin"):
        monitor.probe.read(images(4), store=tmp_path / "x")


def test_a_damaged_or_foreign_file_is_refused(saved, tmp_path):
    path = tmp_path / "clean.readings"
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="No file"):
        Readings.load(tmp_path / "none")
    path.write_bytes(whole[:-100])
    with pytest.raises(Mismatch, match="not a whole safetensors file"):
        Readings.load(path)
    for place in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Mismatch, match="its digest does not fit"):
            Readings.load(path)
    path.write_bytes(whole[:-5000] + b"!" + whole[-4999:])
    assert len(Readings.load(path, verify=False)) == 60
    write_tensors(path, {"a": torch.zeros(2)})
    with pytest.raises(Mismatch, match="holds no readings"):
        Readings.load(path)
    write_tensors(path, {"a": torch.zeros(2)}, {"readings": json.dumps({"format_version": 2})})
    with pytest.raises(Mismatch, match="format version 2; this inlier reads version 1"):
        Readings.load(path)
    for text in ("{", "[]", json.dumps({"format_version": 1})):
        write_tensors(path, {"a": torch.zeros(2)}, {"readings": text})
        with pytest.raises(Mismatch, match=r"The header of .* is damaged"):
            Readings.load(path)


# --- instead of images -----------------------------------------------------------------------------------------------


def test_a_monitor_of_readings_is_the_monitor_of_the_images_bit_for_bit(backbone, saved):
    _, readings = saved
    passes = backbone.network.passes
    of_images = Monitor(backbone, EVERY, seed=0).fit(source()).calibrate(false_alarm_rate=0.1, folds=2)
    passes.clear()
    of_readings = Monitor(backbone, EVERY, seed=0).fit(readings)
    of_readings.calibrate(false_alarm_rate=0.1, folds=2)
    assert len(passes) == 1  # which finds the taps
    assert same_state(of_images, of_readings)
    assert of_images.clean.made == of_readings.clean.made
    fresh = images(5, seed=1)
    assert of_images(fresh).to_dict() == of_readings(fresh).to_dict()


def test_scores_of_readings_are_those_of_the_images(backbone, saved):
    _, readings = saved
    monitor = Monitor(backbone, EVERY, seed=0).fit(readings).calibrate(false_alarm_rate=0.1, folds=2)
    fresh = monitor.read(images(9, seed=1), logits=True, batch_size=9)
    backbone.network.passes.clear()
    recorded, verdict = monitor.scores_of(fresh), monitor.verdict_of(fresh)
    fused = monitor.score_of(fresh)
    assert backbone.network.passes == []
    with torch.no_grad():
        for name, scores in monitor.scores(images(9, seed=1)).items():
            assert torch.equal(recorded[name], scores)
        assert torch.equal(fused, monitor.score(images(9, seed=1)))
    assert verdict.to_dict() == monitor(images(9, seed=1)).to_dict()
    assert torch.equal(verdict.output, backbone(images(9, seed=1)))


def test_held_out_readings_calibrate_as_held_out_images(backbone, saved):
    _, readings = saved
    by_images, by_readings = (Monitor(backbone, EVERY[:3], seed=0).fit(readings) for _ in range(2))
    held_out = source(40, seed=2)
    by_images.calibrate(held_out, false_alarm_rate=0.1, batch_size=40)
    by_readings.calibrate(by_readings.read(held_out, batch_size=40), false_alarm_rate=0.1)
    assert same_state(by_images, by_readings)
    one_group = by_readings.read(images(30))
    with pytest.warns(UserWarning, match="All 30 held-out images are of one group"):
        by_readings.calibrate(one_group, false_alarm_rate=0.1)


def test_a_monitor_needs_only_what_its_own_detectors_read(backbone, saved):
    _, readings = saved
    part = Monitor(backbone, ["max_softmax(reduce='max')", "mahalanobis"]).fit(readings)
    whole = Monitor(backbone, ["max_softmax(reduce='max')", "mahalanobis"]).fit(source())
    fresh = images(4, seed=1)
    assert all(torch.equal(s, whole.scores(fresh)[name]) for name, s in part.scores(fresh).items())


def test_settings_that_equal_the_defaults_are_the_same_detector(backbone, saved):
    reading = Monitor(backbone, ["max_softmax(reduce='mean')", "mahalanobis(grid=(4, 1))"])
    readings = reading.read(source())
    assert len(Monitor(backbone, ["max_softmax", "mahalanobis"]).fit(readings).scores_of(readings)) == 2
    assert "score:max_softmax" in readings.values


def test_logits_stand_in_for_scores_that_were_not_kept(backbone, saved):
    _, without = saved
    with pytest.raises(Mismatch, match="neither the scores of energy nor logits"):
        Monitor(backbone, "energy").fit(without)
    with_logits = Monitor(backbone, "entropy").read(source(), logits=True, batch_size=60)
    monitor = Monitor(backbone, "energy").fit(with_logits).calibrate(false_alarm_rate=0.1)
    expected = Monitor(backbone, "energy").fit(source(), batch_size=60).calibrate(false_alarm_rate=0.1)
    assert torch.equal(monitor.calibration.scores, expected.calibration.scores)
    with pytest.raises(Mismatch, match="are without logits: read with logits=True, or use score_of"):
        Monitor(backbone, "mahalanobis").fit(without).calibrate(false_alarm_rate=0.1).verdict_of(without)


def test_what_is_not_fitted_says_so_before_readings(backbone, saved):
    _, readings = saved
    with pytest.raises(NotFitted, match="call fit"):
        Monitor(backbone, EVERY, seed=0).scores_of(readings)
    monitor = Monitor(backbone, EVERY, seed=0).fit(readings)
    with pytest.raises(NotFitted, match=r"call calibrate\(\) first"):
        monitor.score_of(readings)
    with pytest.raises(NotFitted, match="not calibrated"):
        monitor.verdict_of(readings)


def test_readings_from_elsewhere_are_refused(backbone, saved):
    reading, readings = saved
    with pytest.raises(Mismatch, match="of another backbone or preprocessing"):
        Monitor(make_backbone(1), "mahalanobis").fit(readings)
    with pytest.raises(Mismatch, match="'sampled' was read with another sampling key"):
        Monitor(backbone, EVERY, seed=1).fit(readings)
    with pytest.raises(Mismatch, match="'sampled' was read with another sampling key"):
        Monitor(backbone, EVERY).fit(readings)
    with pytest.raises(Mismatch, match=r"The readings have no 'mean in 1 x 1, normalise none', only \["):
        Monitor(backbone, "mahalanobis(grid=(1, 1))").fit(readings)
    fitted = Monitor(backbone, EVERY, key=reading.keys.key).fit(readings)
    other = Monitor(backbone, EVERY, seed=1).read(source())
    with pytest.raises(Mismatch, match="another sampling key"):
        fitted.scores_of(other)
    with pytest.raises(Mismatch, match="another sampling key"):
        fitted.calibrate(other, false_alarm_rate=0.1)


def test_a_fit_that_is_refused_leaves_the_monitor_as_it_was(backbone, saved):
    _, readings = saved
    monitor = Monitor(backbone, EVERY, seed=0).fit(readings).calibrate(false_alarm_rate=0.1, folds=2)
    before, fresh = copy.deepcopy(monitor), images(4, seed=1)
    for refused in (Monitor(backbone, EVERY, seed=1).read(source()), images(4) * float("nan"), images(2)):
        with pytest.raises((Mismatch, ValueError)):
            monitor.fit(refused)
        assert same_state(monitor, before)
        assert monitor(fresh).to_dict() == before(fresh).to_dict()
    monitor.calibrate(false_alarm_rate=0.2, folds=3)
    assert torch.equal(monitor.calibration.scores, before.calibrate(false_alarm_rate=0.2, folds=3).calibration.scores)


def test_a_reader_that_reads_otherwise_under_the_same_name_is_refused(backbone, saved):
    _, readings = saved

    anatomy = Monitor(backbone, "mahalanobis").build((16, 16)).anatomy
    other = mahalanobis(anatomy, grid=(2, 1))
    other.requires[0].name = other.reading = "mean in 4 x 1, normalise none"
    other.requires[0].size = mahalanobis(anatomy).requires[0].size
    with pytest.raises(Mismatch, match="read from other taps or with other settings"):
        Monitor(backbone, [other]).fit(readings)


def test_a_readers_digest_tells_apart_what_reads_differently_and_nothing_else(backbone):
    def reader(spec, seed=0, eval_mode=True):
        built = Monitor(backbone, spec, seed=seed).build((16, 16))
        return next(iter(built.detectors.values())).requires[0].train(not eval_mode)

    assert reader_digest(reader("mahalanobis")) == reader_digest(reader("mahalanobis", 1, False))
    assert reader_digest(reader("daain(distance=6)")) == reader_digest(reader("daain(distance=6)"))
    different = [reader("daain(distance=6)", 0), reader("daain(distance=6)", 1), reader("daain(distance=7)"),
                 reader("mahalanobis"), reader("mahalanobis(statistics=('std',))")]  # fmt: skip
    assert len({reader_digest(one) for one in different}) == 5


# --- without the network ---------------------------------------------------------------------------------------------


def test_a_monitor_works_on_readings_alone_and_goes_back_to_the_network(backbone, saved, tmp_path):
    reading, readings = saved
    fresh = reading.read(images(9, seed=1))
    absent = AbsentBackbone(readings.origin)
    monitor = Monitor(absent, EVERY, key=reading.keys.key).fit(readings).calibrate(false_alarm_rate=0.1, folds=2)
    scores = monitor.score_of(fresh)
    for look in (monitor.score, monitor, lambda x: monitor.fit(x), lambda x: monitor.read(x), absent):
        with pytest.raises(Mismatch, match="The network is not here"):
            look(images(2))
    monitor.save(tmp_path / "monitor")
    again = Monitor.load(tmp_path / "monitor", backbone)
    torch.testing.assert_close(again.score(images(9, seed=1)), scores, rtol=1e-4, atol=1e-4)
    assert torch.equal(Monitor.load(tmp_path / "monitor", absent).score_of(fresh), scores)


def test_taps_are_selected_without_the_network_as_with_it(backbone, tmp_path):
    specs = ["mahalanobis(taps='conv')", "daain(distance=6, blocks=1, taps='layers.[02]')"]
    reading = Monitor(backbone, specs, seed=0)
    reading.read(source()).save(tmp_path / "x")
    readings = Readings.load(tmp_path / "x")
    absent = Monitor(AbsentBackbone(readings.origin), specs, seed=0).fit(readings)
    present = Monitor(backbone, specs, seed=0).fit(source())
    assert absent.anatomy.places == present.anatomy.places
    assert same_state(absent, present)


def test_an_absent_backbone_knows_what_it_stands_for():
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
                        Classification(("cat", "dog")))  # fmt: skip
    monitor = Monitor(backbone, "mahalanobis")
    absent = AbsentBackbone(monitor.read(images(3)).origin)
    assert absent.task.classes == ("cat", "dog")
    assert isinstance(absent.task, Classification)
    assert absent.fingerprint() == backbone.fingerprint()
    assert absent.anatomy().shapes == monitor.anatomy.shapes
    assert Origin.of(absent, absent.anatomy(), monitor.detectors["mahalanobis"].requires) == absent.origin


# --- more than memory ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_a_monitor_of_mapped_readings_is_that_of_readings_in_memory(backbone, tmp_path, stored):
    monitor = Monitor(backbone, EVERY, seed=0)
    mapped = monitor.read(source(), memory_limit=0, store=tmp_path / "x" if stored else None)
    held = monitor.read(source())
    assert all(torch.equal(mapped.values[name], value) for name, value in held.values.items())
    one, other = (copy.deepcopy(monitor).fit(readings).calibrate(false_alarm_rate=0.1) for readings in (mapped, held))
    assert same_state(one, other)
    assert [path.name for path in tmp_path.iterdir()] == (["x"] if stored else [])


class Broken:
    """A source that fails after some batches, as a kill would end it."""

    def __init__(self, whole, batches):
        self.whole, self.left = whole, batches

    def __len__(self):
        return len(self.whole)

    def batches(self, size):
        for number, batch in enumerate(self.whole.batches(size)):
            if number == self.left:
                raise KeyboardInterrupt
            yield batch


def test_reading_goes_on_where_it_was_interrupted(backbone, tmp_path):
    passes = backbone.network.passes
    monitor = Monitor(backbone, EVERY, seed=0).build((16, 16))
    whole = monitor.read(source(), batch_size=10)
    with pytest.raises(KeyboardInterrupt):
        monitor.read(Broken(source(), 4), batch_size=10, store=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    passes.clear()
    again = monitor.read(source(), batch_size=10, store=tmp_path / "x")
    assert passes == [10, 10]
    assert again.names == whole.names
    assert all(torch.equal(again.values[name], value) for name, value in whole.values.items())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("change", ["images", "batch size", "key", "detectors"])
def test_what_was_begun_otherwise_is_read_again(backbone, tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        Monitor(backbone, EVERY, seed=0).read(Broken(source(), 4), batch_size=10, store=tmp_path / "x")
    monitor = Monitor(backbone, EVERY[:2] if change == "detectors" else EVERY, seed=change == "key")
    changed = source()
    if change == "images":
        changed = TensorImages(images(60, 5), [f"other {i}" for i in range(60)])
    size = 15 if change == "batch size" else 10
    stored = monitor.read(changed, batch_size=size, store=tmp_path / "x")
    plain = monitor.read(changed, batch_size=size)
    assert stored.names == plain.names
    assert stored.values.keys() == plain.values.keys()
    assert all(torch.equal(stored.values[name], value) for name, value in plain.values.items())


def test_a_damaged_batch_is_read_again(backbone, tmp_path):
    monitor = Monitor(backbone, EVERY, seed=0)
    with pytest.raises(KeyboardInterrupt):
        monitor.read(Broken(source(), 4), batch_size=10, store=tmp_path / "x")
    second = sorted((tmp_path / ".x.partial").glob("*.safetensors"))[1]
    second.write_bytes(second.read_bytes()[:-7])
    stored, plain = (monitor.read(source(), batch_size=10, store=store) for store in (tmp_path / "x", None))
    assert all(torch.equal(stored.values[name], value) for name, value in plain.values.items())


# --- labelled anomalies ----------------------------------------------------------------------------------------------


class Told(Detector):
    """Scores by the distance from the mean of the anomalies it was told of."""

    name = "told"
    learns_from_anomalies = True

    def __init__(self, anatomy):
        super().__init__()
        self.requires = mahalanobis(anatomy).requires
        self.reading = self.requires[0].name
        self.register_buffer("mean", torch.zeros(self.requires[0].size))
        self.fits = []

    def fit(self, readings, *, anomalies=None, seed=0, progress=None):
        if anomalies is None:
            raise ValueError("told needs anomalies")
        self.fits.append((readings.names, anomalies.names))
        self.mean.copy_(anomalies.values[self.reading].mean(0))
        return self

    def forward(self, observation):
        return -(observation.readings[self.reading] - self.mean).square().sum(1)


def test_anomalies_reach_the_detectors_that_learn_from_them_and_no_others(backbone):
    anatomy = Monitor(backbone, "mahalanobis").build((16, 16)).anatomy
    anomalies = TensorImages(1 - images(12, 7).round(), [f"odd {i}" for i in range(12)])
    monitor = Monitor(backbone, [Told(anatomy), "entropy"]).fit(source(), anomalies=anomalies)
    seen = monitor.detectors["told"].fits
    assert seen == [(source().names, anomalies.names)]
    monitor.calibrate(false_alarm_rate=0.1, folds=3)
    assert monitor.score(anomalies.images).median() > monitor.score(images(12, 8)).median()
    by_readings = Monitor(backbone, [Told(anatomy), "entropy"])
    read = by_readings.read(anomalies)
    by_readings.fit(by_readings.read(source()), anomalies=read).calibrate(false_alarm_rate=0.1, folds=3)
    assert torch.equal(by_readings.calibration_scores, monitor.calibration_scores)


def test_anomalies_that_nobody_learns_from_are_refused(backbone):
    with pytest.raises(Mismatch, match="none of mahalanobis, entropy learns from them"):
        Monitor(backbone, ["mahalanobis", "entropy"]).fit(source(), anomalies=images(4))


# --- keys from files -------------------------------------------------------------------------------------------------


def test_a_key_from_a_file_opens_the_readings_made_with_it(backbone, tmp_path):
    reading = Monitor(backbone, EVERY)
    reading.read(source()).save(tmp_path / "x")
    reading.keys.key.save(tmp_path / "x.key")
    monitor = Monitor(backbone, EVERY, key=SamplingKey.load(tmp_path / "x.key"))
    assert monitor.fit(Readings.load(tmp_path / "x")).clean_readings.names == source().names


# --- a kill ----------------------------------------------------------------------------------------------------------

READER = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_saved_readings as here
here.Network.forward = lambda self, x, then=here.Network.forward: (here.time.sleep(0.02), then(self, x))[1]
here.Monitor(here.make_backbone(), here.EVERY, seed=0).read(here.source(), batch_size=1, store=sys.argv[2])
"""


def test_reading_survives_a_kill(backbone, tmp_path):
    folder, store = os.path.dirname(__file__), tmp_path / "x"
    process = subprocess.Popen([sys.executable, "-c", READER, folder, str(store)], env=os.environ)
    unfinished = tmp_path / ".x.partial"
    deadline = time.monotonic() + 60
    while len(list(unfinished.glob("*.safetensors"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    here = len(list(unfinished.glob("*.safetensors")))
    assert 5 <= here < 60
    assert not store.exists()
    passes = backbone.network.passes
    monitor = Monitor(backbone, EVERY, seed=0).build((16, 16))
    passes.clear()
    again = monitor.read(source(), batch_size=1, store=store)
    assert 60 - here <= len(passes) <= 61 - here
    plain = monitor.read(source(), batch_size=1)
    assert all(torch.equal(again.values[name], value) for name, value in plain.values.items())
