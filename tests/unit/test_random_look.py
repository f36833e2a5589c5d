"""The random look: drawn by image and secret together, and the secret is kept as keys are."""

import stat

import pytest
import torch
from toy_segmentation import scenes, segmenter

from inlier.anatomy import KeyRing
from inlier.detectors.random_look import SCALES, SHIFT, Move, Moved, RandomLook
from inlier.errors import Mismatch
from inlier.evaluation.hardening import under
from inlier.files import read_tensors, write_tensors
from inlier.monitor import Monitor
from inlier.sampling import SamplingKey

VOLUME = (3, 12, 12)
DAAIN = "daain(distance=6, blocks=1)"


def calibrated(detectors, **more):
    return Monitor(segmenter(), detectors, **more).fit(scenes(20, 1)).calibrate(false_alarm_rate=0.1)


@pytest.mark.parametrize("move", [Move(), Move(mirrored=True), Move(0.9, 0.05, -0.04, True), Move(1.1, 0.02, 0.03)])
def test_a_moved_image_is_moved_back(move):
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 60), indexing="ij")
    smooth = torch.stack([rows, columns, (rows + columns) / 2])[None]
    look = Moved((move,))
    back = look.back(look.images(smooth))
    inside = (..., slice(6, -6), slice(8, -8))
    assert torch.allclose(back[inside], smooth[inside], atol=0.01)
    if move == Move():
        assert torch.allclose(look.images(smooth), smooth, atol=1e-5)
    else:
        assert (look.images(smooth) - smooth).abs().max() > 0.02
    assert look.back(torch.ones(2, 3)).equal(torch.ones(2, 3))


def test_every_image_of_a_batch_is_moved_in_its_own_way():
    images, moves = torch.rand(2, 3, 12, 16), (Move(mirrored=True), Move(0.9, 0.05))
    both = Moved(moves).images(images)
    torch.testing.assert_close(both[0], images[0].flip(-1), atol=1e-5, rtol=0)
    for image, move, moved in zip(images, moves, both, strict=True):
        torch.testing.assert_close(Moved((move,)).images(image[None])[0], moved)


def test_one_grey_level_of_one_pixel_draws_another_look_and_less_than_that_does_not():
    look, images = RandomLook(b"secret"), (scenes(3, 1) * 255).round() / 255
    for image, laid_out in zip(images, images.to(memory_format=torch.channels_last), strict=True):
        assert not laid_out.is_contiguous()
        assert look.drawn(image) == look.drawn(laid_out)
        other, same = image.clone(), image + 0.3 / 255
        other[2, 5, 7] += -1 / 255 if other[2, 5, 7] > 0.5 else 1 / 255
        assert look.drawn(image) == look.drawn(same)
        assert look.drawn(image) == look.drawn(image.double())
        assert look.drawn(image) != look.drawn(other)
        assert look.drawn(image) != RandomLook(b"another").drawn(image)
        assert look.drawn(image) != look.drawn(image, draw=1)


def test_a_draw_is_the_same_in_every_version():
    image = torch.arange(3 * 4 * 5).reshape(3, 4, 5) / 255
    known = (1.097075738518652, -0.016746890664727104, -0.038272989139509876, False)
    assert RandomLook(b"secret").drawn(image) == pytest.approx(known)


def test_draws_are_passes_and_another_measure():
    once, often = RandomLook(b"secret"), RandomLook(b"secret", 3)
    assert (once.passes, often.passes) == (2, 4)
    assert once.reading != often.reading


def test_looks_are_spread_evenly_over_their_range():
    look = RandomLook(b"secret")
    moves = [look.drawn(image) for image in torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))]
    for values, low, high in (
        ([move.scale for move in moves], *SCALES),
        ([move.right for move in moves], -SHIFT, SHIFT),
        ([move.down for move in moves], -SHIFT, SHIFT),
    ):
        share = (torch.tensor(values) - low) / (high - low)
        assert share.min() >= 0
        assert share.max() <= 1
        # Of 400 even draws the largest gap between their distribution and the even one exceeds .082 once in a hundred.
        assert (share.sort().values - torch.linspace(0, 1, 400)).abs().max() < 0.082
    assert 160 < sum(move.mirrored for move in moves) < 240


def test_other_secrets_give_other_scores_and_more_draws_differ_less():
    monitor, images = calibrated(["mahalanobis", "random_look"], seed=0), scenes(4, 5)

    def spread(draws):
        asked = [under(monitor, f"{number}", draws) for number in range(8)]
        with torch.no_grad():
            return torch.stack([one.scores(images)["random_look"] for one in asked]).std(0).mean()

    once, often = spread(1), spread(8)
    assert once > 0
    assert often < 0.7 * once
    assert under(calibrated("mahalanobis", seed=0), "x").detectors.keys() == {"mahalanobis"}


def test_who_takes_another_secret_changes_nothing_of_the_monitor():
    monitor, images = calibrated("random_look", seed=0), scenes(4, 5)
    before = monitor.score(images)
    assert not torch.equal(under(monitor, "another", 2).score(images), before)
    assert torch.equal(monitor.score(images), before)


def test_the_secret_is_in_the_key_file_alone_and_comes_back(tmp_path):
    monitor, path, images = calibrated("random_look"), tmp_path / "m.inlier", scenes(4, 5)
    monitor.save(path)
    secret = monitor.keys.key.secret
    (key,) = tmp_path.glob("*.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(secret) == 32
    assert secret in key.read_bytes()
    assert secret not in path.read_bytes()
    assert str(secret) not in repr(monitor)
    assert torch.equal(Monitor.load(path, segmenter()).score(images), monitor.score(images))
    key.rename(tmp_path / "elsewhere")
    with pytest.raises(Mismatch, match="inlier rekey"):
        Monitor.load(path, segmenter())


def test_another_secret_is_drawn_for_every_monitor_and_by_rekey_unless_a_seed_fixes_it():
    first, second = (calibrated("random_look").keys.key.secret for _ in range(2))
    assert first != second
    monitor = calibrated("random_look", seed=3)
    assert monitor.keys.key.secret == calibrated("random_look", seed=3).keys.key.secret
    assert monitor.rekey(scenes(20, 1)).keys.key.secret != monitor.keys.key.secret


@pytest.mark.parametrize("detectors", [[DAAIN, "random_look"], ["random_look", DAAIN]])
def test_one_key_has_points_and_secret_in_any_order(detectors, tmp_path):
    monitor = calibrated(detectors, seed=0)
    alone = calibrated(DAAIN, seed=0)
    assert monitor.keys.key.secret == calibrated("random_look", seed=0).keys.key.secret
    assert torch.equal(monitor.keys.key.points, alone.keys.key.points)
    monitor.save(tmp_path / "m.inlier")
    images = scenes(3, 9)
    assert torch.equal(Monitor.load(tmp_path / "m.inlier", segmenter()).score(images), monitor.score(images))


def test_a_key_without_a_secret_gets_one_and_keeps_its_points(tmp_path):
    points = calibrated(DAAIN, seed=0).keys.key
    assert points.secret == b""
    points.save(tmp_path / "a.key")
    assert "secret" not in read_tensors(tmp_path / "a.key")[0]  # as older files are
    ring = KeyRing(SamplingKey.load(tmp_path / "a.key"))
    assert len(ring.secret(VOLUME)) == 32
    assert torch.equal(ring.key.points, points.points)
    assert ring.key != points


def test_a_key_needs_points_or_a_secret(tmp_path):
    none = torch.zeros(0, 3, dtype=torch.int64)
    assert len(SamplingKey(none, VOLUME, "looks alone", b"s")) == 0
    with pytest.raises(ValueError, match="k > 0"):
        SamplingKey(none, VOLUME, "looks alone")
    write_tensors(tmp_path / "a.key", {"points": none, "volume": torch.tensor(VOLUME)}, {"rule": "r"})
    with pytest.raises(Mismatch, match="holds no sampling key"):
        SamplingKey.load(tmp_path / "a.key")


@pytest.mark.parametrize(("secret", "draws"), [(b"", 1), (b"x" * 65, 1), (b"x", 0)])
def test_secrets_and_draws_that_cannot_be_are_refused(secret, draws):
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        RandomLook(secret, draws)


def test_readings_under_another_secret_are_not_taken():
    monitor = Monitor(segmenter(), "random_look", seed=1)
    readings = monitor.read(scenes(20, 1))
    with pytest.raises(Mismatch):
        Monitor(segmenter(), "random_look", seed=2).fit(readings)
    assert Monitor(segmenter(), "random_look", seed=1).fit(readings).detectors
