"""Changed copies stand beside their images, count as clean, and move what a monitor takes for normal."""

import pytest
import torch

from inlier.images import ImageSource, TensorImages
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.perturbations.noise import GaussianNoise
from inlier.perturbations.photometric import Brightness, Gamma, WhiteBalance
from inlier.perturbations.tolerance import Tolerating, tolerated
from inlier.testing.specimens import scenes, tiny_backbone


def clean(n=30):
    return TensorImages(scenes(n, (24, 24)), groups=[f"drive {i // 10}" for i in range(n)])


def test_each_image_is_followed_by_its_copies_in_8_bit_and_in_its_group():
    source = Tolerating(clean(), [WhiteBalance(1), Brightness(2)])
    assert isinstance(source, ImageSource)
    batches = list(source.batches(7))
    images = torch.cat([batch.images for batch in batches])
    names, groups = ([item for batch in batches for item in getattr(batch, part)] for part in ("names", "groups"))
    assert len(images) == len(source) == len(names) == 90
    assert torch.equal(images[::3], clean().images)
    assert torch.equal(images[1::3], to_8_bit(WhiteBalance(1)(clean().images)))
    assert names[3:6] == ["1", "1, WhiteBalance", "1, Brightness"]
    assert groups[::3] == groups[1::3] == groups[2::3] == list(clean().groups)
    assert max(len(batch.names) for batch in batches) == 6


def test_random_copies_depend_on_the_seed_and_the_image_and_not_on_the_batches():
    def copies(size, seed=0):
        source = Tolerating(clean(6), [GaussianNoise(1)], seed=seed)
        return torch.cat([batch.images for batch in source.batches(size)])[1::2]

    assert torch.equal(copies(2), copies(12))
    assert not torch.equal(copies(2), copies(2, seed=1))
    noise = copies(2) - clean(6).images
    assert not torch.allclose(noise[0], noise[1], atol=0.05)


def test_a_monitor_that_was_shown_a_change_no_longer_flags_it_and_still_flags_others():
    backbone, warm = tiny_backbone("segmentation"), WhiteBalance(4)
    fresh = scenes(40, (24, 24), seed=5)
    told = {}
    for name, source in (("strict", clean(90)), ("tolerant", Tolerating(clean(90), [warm]))):
        monitor = Monitor(backbone, "mahalanobis", seed=0).fit(source).calibrate(false_alarm_rate=0.1, blocks=6)
        shown = {"clean": fresh, "warm": warm(fresh), "turned": fresh.flip(2)}
        told[name] = {what: monitor(images).flagged.float().mean().item() for what, images in shown.items()}
    assert told["strict"]["warm"] > 0.3
    assert told["tolerant"]["warm"] < 0.1
    assert told["tolerant"]["turned"] > 0.9
    assert told["tolerant"]["clean"] < 0.2


def test_nothing_to_tolerate_is_refused():
    with pytest.raises(ValueError, match="nothing to tolerate"):
        Tolerating(clean(), [])


def test_changes_are_read_from_what_a_user_writes():
    first, second = tolerated(["gamma", "white_balance(severity=2)"])
    assert isinstance(first, Gamma)
    assert isinstance(second, WhiteBalance)
    assert second.severity == 2
    with pytest.raises(LookupError, match="Did you mean 'gamma'"):
        tolerated(["gama"])
