"""Sampling keys: equal seeds give equal keys, blue noise leaves no room, and a key stays secret."""

import json
import random
import re
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from inlier.anatomy import KeyRing
from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import Mismatch
from inlier.files import write_tensors
from inlier.monitor import Monitor
from inlier.readers import SampledActivations
from inlier.sampling import SamplingKey, balanced, blue_noise, spacing, uniform
from inlier.taps import Tap

SMALL = (24, 30, 36)
LAYERS = [(4, 30, 36), (12, 15, 18), (8, 4, 5)]
"""Of as many channels together."""

draws = pytest.mark.parametrize(
    "draw",
    [
        lambda seed=None: blue_noise(SMALL, 6, seed),
        lambda seed=None: balanced(LAYERS, SMALL[1:], 6, seed),
        lambda seed=None: uniform(SMALL, 50, seed),
    ],
    ids=["blue", "balanced", "uni"],
)


@draws
def test_equal_seeds_give_equal_keys(draw):
    assert draw(3) == draw(3)
    assert hash(draw(3)) == hash(draw(3))


@draws
def test_different_seeds_give_different_keys(draw):
    assert draw(3) != draw(4)


@draws
def test_without_a_seed_keys_differ_and_no_global_generator_is_read_or_moved(draw):
    keys = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        keys.append(draw())
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert keys[0] != keys[1]


def test_keys_of_one_seed_differ_with_volume_and_rule():
    key = blue_noise(SMALL, 6, 1)
    assert key != blue_noise((24, 30, 37), 6, 1)
    assert key != SamplingKey(key.points, key.volume, "blue_noise(7)")
    assert key != "SamplingKey"


@draws
def test_points_are_sorted_by_channel_then_row_then_column(draw):
    points = [tuple(point) for point in draw(0).points.tolist()]
    assert points == sorted(points)


def test_uniform_points_are_different_and_of_the_wanted_number():
    for count in (1, 7, 60):
        key = uniform((3, 4, 5), count, seed=0)
        assert len(key) == len(set(map(tuple, key.points.tolist()))) == count


def test_every_point_is_equally_likely_under_uniform():
    hits = torch.zeros(2, 3, 2)
    for seed in range(600):
        hits[tuple(uniform((2, 3, 2), 4, seed).points.T)] += 1
    # Each of the 12 points is drawn with probability 1/3: mean 200, standard deviation 11.5.
    assert 150 < hits.min() <= hits.max() < 250


@pytest.mark.parametrize("count", [0, 61])
def test_uniform_refuses_a_number_of_points_that_is_not_there(count):
    with pytest.raises(ValueError, match=f"Cannot draw {count} different points from 60"):
        uniform((3, 4, 5), count)


@pytest.mark.parametrize(("volume", "distance"), [(SMALL, 1.9), ((0, 5, 5), 8)])
def test_blue_noise_refuses_what_it_cannot_keep(volume, distance):
    with pytest.raises(ValueError, match=r"distance >= 2 and a volume of at least 1 x 1 x 1"):
        blue_noise(volume, distance)


@pytest.mark.parametrize("volume", [(1, 1, 1), (3, 4, 5), (1, 20, 1)])
def test_a_distance_larger_than_the_volume_gives_one_point(volume):
    for seed in range(20):
        assert len(blue_noise(volume, 64, seed)) == 1


def test_blue_noise_leaves_no_room_for_another_point():
    volume, distance = (40, 48, 56), 8.0
    points = blue_noise(volume, distance, seed=5).points.double() + 0.5  # the middle of the cell it was truncated to
    fresh = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(volume)
    nearest = torch.cdist(fresh, points).amin(1)
    assert (nearest < distance).double().mean() >= 0.99


def test_blue_noise_is_spread_evenly_over_the_volume():
    octants = torch.zeros(2, 2, 2)
    for seed in range(12):
        key = blue_noise((32, 32, 32), 5, seed)
        octants[tuple((key.points // 16).T)] += 1
        for octant in (key.points // 16).unique(dim=0):
            octants[tuple(octant)] += ((key.points // 16) == octant).all(1).sum()
    assert octants.max() / octants.min() < 1.15


# --- balanced ---------------------------------------------------------------------------------------------------------


def in_layers(key, shapes):
    """The key's points in each layer, by the layer's own channels."""
    start, found = 0, []
    for channels, *_ in shapes:
        inside = key.points[(key.points[:, 0] >= start) & (key.points[:, 0] < start + channels)]
        found.append(inside - torch.tensor([start, 0, 0]))
        start += channels
    return found


def test_a_balanced_key_has_the_points_of_blue_noise_dealt_out_evenly():
    shapes = [(2, 96, 128), (64, 24, 32), (256, 12, 16), (19, 48, 64)]
    key = balanced(shapes, (96, 128), 24, seed=0)
    blue = blue_noise((341, 96, 128), 24, seed=0)
    assert len(key) == len(blue)
    assert key.volume == blue.volume
    counts = [len(points) for points in in_layers(key, shapes)]
    assert max(counts) - min(counts) <= 1
    assert len(in_layers(blue, shapes)[2]) > 0.6 * len(blue)  # three quarters of the channels


def test_a_small_layer_is_read_whole_and_the_others_share_the_rest():
    shapes = [(5, 1, 1), (40, 24, 32), (60, 24, 32)]
    key = balanced(shapes, (48, 64), 12, seed=0)
    few, *many = in_layers(key, shapes)
    assert sorted(few[:, 0].tolist()) == [0, 1, 2, 3, 4]
    assert abs(len(many[0]) - len(many[1])) <= 1
    assert len(key) == len(blue_noise((105, 48, 64), 12, seed=0))


def test_more_layers_than_points_get_a_point_each_by_lot():
    shapes, with_points = [(1, 4, 4)] * 30, torch.zeros(30)
    for seed in range(200):  # about three points each
        counts = torch.tensor([len(points) for points in in_layers(balanced(shapes, (8, 8), 10, seed), shapes)])
        assert counts.max() == 1
        with_points += counts
    assert with_points.min() > 0


def test_a_volume_with_fewer_activations_than_points_is_read_whole():
    key = balanced([(3, 2, 2), (4, 1, 1)], (32, 32), 4, seed=0)
    assert len(key) == 3 * 2 * 2 + 4


def test_points_of_a_balanced_layer_are_as_far_apart_as_random_packing_allows():
    # Random packing of balls with a minimum distance d between centres: about 0.68 / d^3 centres a unit of volume.
    shapes, size = [(96, 45, 60)] * 6, (180, 240)
    key = balanced(shapes, size, 24, seed=0)
    for points in in_layers(key, shapes):
        packed = (0.68 * 96 * 180 * 240 / len(points)) ** (1 / 3)
        nearest = torch.pdist(points.double()).min()
        assert nearest > 0.85 * packed
        assert nearest > 1.5 * spacing(shapes[0], size, len(points))


def test_every_place_of_a_layer_is_equally_likely_in_a_balanced_key():
    ninths = torch.zeros(3, 3)
    for seed in range(250):
        points = balanced([(30, 12, 12)], (72, 72), 30, seed).points
        for y, x in (points[:, 1:] // 24).tolist():
            ninths[y, x] += 1
    # 1,000 points or more: a ninth has a relative standard deviation of 10 % at most. Blue noise crowds the corners.
    assert ninths.sum() > 1000
    assert 0.75 < ninths.min() / ninths.mean() <= ninths.max() / ninths.mean() < 1.25


def test_spacing_is_infinite_for_one_point_and_one_in_a_crowd():
    assert spacing((8, 10, 10), (40, 40), 1) == float("inf")
    assert spacing((2, 2, 2), (40, 40), 8) == 1
    assert spacing((8, 10, 10), (40, 40), 4) > spacing((8, 10, 10), (40, 40), 8) > 1


def test_balanced_refuses_what_it_cannot_spread_points_over():
    with pytest.raises(ValueError, match="at least one layer"):
        balanced([], (8, 8), 4)
    with pytest.raises(ValueError, match="distance >= 2"):
        balanced([(3, 8, 8)], (8, 8), 1)


def test_a_balanced_key_is_drawn_silently(capfd):
    balanced(LAYERS, SMALL[1:], 6)
    assert capfd.readouterr() == ("", "")


def test_a_key_file_holds_the_whole_key(tmp_path):
    key = blue_noise(SMALL, 6, 0)
    key.save(tmp_path / "a.key")
    assert SamplingKey.load(tmp_path / "a.key") == key


def test_a_key_file_is_its_owners_alone_also_over_an_open_file(tmp_path):
    path = tmp_path / "a.key"
    path.write_text("old")
    path.chmod(0o666)
    for seed in range(2):
        blue_noise(SMALL, 6, seed).save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    SamplingKey.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": torch.zeros(3)},
        {"points": torch.zeros(2, 3, dtype=torch.long), "volume": torch.tensor(5)},
        {"points": torch.zeros(2, 3), "volume": torch.tensor([4, 5, 6])},
        {"points": torch.zeros(2, 2, dtype=torch.long), "volume": torch.tensor([4, 5, 6])},
        {"points": torch.full((2, 3), 9), "volume": torch.tensor([4, 5, 6])},
    ],
    ids=["no key", "no volume", "real points", "flat points", "points outside"],
)
def test_a_file_that_holds_no_key_is_refused_by_its_name(tmp_path, tensors):
    write_tensors(tmp_path / "other.key", tensors, {"rule": "uniform(2)"})
    with pytest.raises(Mismatch, match=r"other\.key' holds no sampling key"):
        SamplingKey.load(tmp_path / "other.key")


def test_a_missing_key_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="No file"):
        SamplingKey.load(tmp_path / "none.key")


# --- secrecy: all coordinates of the key below have three digits of their own, so that a leak can be seen -------------

COLUMNS, ROWS = (317, 331, 347, 353, 367, 373, 379, 383), (211, 223, 227, 229, 233, 239, 241, 251)
IMAGE = (260, 400)


@pytest.fixture
def backbone():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Backbone(network, Segmentation(("a", "b")))


@pytest.fixture
def key():
    points = torch.tensor([(2 * i, y, x) for i, (y, x) in enumerate(zip(ROWS, COLUMNS, strict=True))])
    return SamplingKey(points, (18, *IMAGE), "blue_noise(64)")


def leaks(text):
    return set(re.findall(r"(?<![\w.])\d+(?![\w.])", text)) & {str(n) for n in (*ROWS, *COLUMNS)}


def test_the_leak_detector_detects(key):
    assert leaks(str(key.points.tolist())) == {str(n) for n in (*ROWS, *COLUMNS)}


def test_no_text_of_a_key_tells_its_points(key):
    for text in (repr(key), str(key), f"{key}", repr([key]), repr(KeyRing(key)), repr({"key": key})):
        assert not leaks(text)
        assert "8 points in 18 x 260 x 400" in text
    with pytest.raises(TypeError, match="not JSON serializable") as error:
        json.dumps(key)
    assert not leaks(str(error.value))


@pytest.mark.usefixtures("unchecked_shapes")
def test_no_error_about_a_key_tells_its_points(key, backbone, tmp_path):
    shapes = {Tap("0"): (8, *IMAGE), Tap("2"): (2, *IMAGE)}
    reader = SampledActivations(key, {**shapes, Tap("1"): (8, *IMAGE)})
    bad = key.points.clone()
    bad[0, 1] = 999
    write_tensors(tmp_path / "k", {"points": bad, "volume": torch.tensor(key.volume)}, {"rule": "r"})
    attempts = [
        lambda: SamplingKey(bad, key.volume, "r"),
        lambda: SamplingKey(key.points.float(), key.volume, "r"),
        lambda: SamplingKey.load(tmp_path / "k"),
        lambda: KeyRing(key).draw("blue_noise", shapes, IMAGE, 64),
        lambda: KeyRing(key).draw("blue_noise", {Tap("0"): key.volume}, IMAGE, 32),
        lambda: KeyRing(key).draw("balanced", {Tap("0"): key.volume}, IMAGE, 64),
        lambda: SampledActivations(key, shapes),
        lambda: reader.keep(0, torch.zeros(1, 8, 30, 40)),
        lambda: Monitor(backbone, "daain(blocks=1)", key=key).build((30, 40)),
    ]
    for attempt in attempts:
        with pytest.raises((ValueError, Mismatch)) as error:
            attempt()
        assert not leaks(str(error.value))
        assert "999" not in str(error.value)


def test_nothing_that_a_monitor_shows_or_writes_tells_its_key(key, backbone, tmp_path):
    images = torch.rand(24, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, *IMAGE)
    monitor = Monitor(backbone, "daain(blocks=1)", key=key, seed=0).fit(images, batch_size=4)
    monitor.calibrate(false_alarm_rate=0.2, folds=2)
    verdict = monitor(images[:2])
    monitor.save(tmp_path / "monitor.safetensors")
    shown = [repr(monitor), repr(monitor.keys), repr(monitor.anatomy), repr(verdict), verdict.to_json()]
    header, points = (tmp_path / "monitor.safetensors").read_bytes(), key.points
    assert not [text for text in (*shown, header.decode("latin-1")) if leaks(text)]
    tensors = {**load_file(tmp_path / "monitor.safetensors"), **monitor.state_dict()}
    for tensor in tensors.values():
        values = set(tensor.flatten().tolist())
        assert not values & set(points[:, 2].tolist())
        assert not values & set((points[:, 1] * IMAGE[1] + points[:, 2]).tolist())
    (key_file,) = tmp_path.glob("*.key")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert SamplingKey.load(key_file) == key
