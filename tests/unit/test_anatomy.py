"""Anatomy: what a backbone has everywhere and at the ends of its stages; one key a monitor."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet, ESPNetC
from inlier.errors import Mismatch
from inlier.sampling import blue_noise
from inlier.taps import Tap


def espnet(network):
    return Anatomy.of(Backbone(network, Segmentation(CAMVID_CLASSES)), (64, 96))


def named(shapes):
    return {str(tap): shape for tap, shape in shapes.items()}


def test_espnets_stages_end_where_its_resolution_changes():
    assert named(espnet(ESPNet(12, p=2, q=8, skip="maps+image")).stage_ends()) == {
        "encoder.b1.act": (19, 32, 48),
        "encoder.b2.act": (131, 16, 24),
        "encoder.b3.act": (256, 8, 12),
        "combine_l2_l3.0.act": (24, 16, 24),
        "conv.act": (12, 32, 48),
        "classifier": (12, 64, 96),
    }


def test_espnet_cs_too():
    assert named(espnet(ESPNetC(12, p=2, q=3)).stage_ends()) == {
        "b1.act": (19, 32, 48),
        "b2.act": (131, 16, 24),
        "b3.act": (256, 8, 12),
    }


def test_copies_of_the_image_are_no_stage():
    anatomy = espnet(ESPNetC(12))
    assert Tap("sample2.pool.0") in anatomy.everywhere()
    assert not any("sample" in tap.module for tap in anatomy.stage_ends())


def test_everywhere_is_every_output_in_running_order():
    anatomy = espnet(ESPNetC(12))
    assert all(tap.side == "output" for tap in anatomy.everywhere())
    assert len(anatomy.everywhere()) == len(anatomy.shapes) / 2
    assert list(anatomy.everywhere()) == [tap for tap in anatomy.shapes if tap.side == "output"]


class Functional(nn.Module):
    """A classifier without activation modules; the last of the widest of a stage is its end."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 3, padding=1)
        self.wide_again = nn.Conv2d(16, 16, 3, padding=1)
        self.narrow = nn.Conv2d(16, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = F.relu(self.narrow(F.relu(self.wide_again(F.relu(self.wide(x))))))
        return self.head(F.relu(self.down(x)).mean(dim=(2, 3)))


def test_a_net_of_functional_relus_has_stages():
    anatomy = Anatomy.of(Backbone(Functional(), Classification(tuple("abcde"))), (12, 20))
    assert named(anatomy.stage_ends()) == {"wide_again": (16, 12, 20), "down": (32, 6, 10), "head": (5, 1, 1)}


def test_a_net_without_a_stage_says_what_to_do():
    backbone = Backbone(nn.Conv2d(3, 2, 1), Segmentation(("a", "b")))
    with pytest.raises(Mismatch, match="no leaf module that runs once and is wider than the image; name the taps"):
        Anatomy.of(backbone, (8, 8)).stage_ends()


def test_grey_images_are_looked_at_with_one_channel():
    backbone = Backbone(nn.Conv2d(1, 2, 1), Segmentation(("a", "b")))
    anatomy = Anatomy.of(backbone, (8, 8), channels=1)
    assert named(anatomy.shapes) == {":input": (1, 8, 8), "": (2, 8, 8)}
    assert named(anatomy.stage_ends()) == {"": (2, 8, 8)}


def test_a_key_ring_draws_one_key_and_keeps_it():
    ring = KeyRing(seed=3)
    key = ring.blue_noise((10, 20, 20), 5)
    assert key == blue_noise((10, 20, 20), 5, 3)
    assert ring.blue_noise((10, 20, 20), 5.0) is key
    assert KeyRing(key).blue_noise((10, 20, 20), 5) is key


@pytest.mark.parametrize(("volume", "distance"), [((10, 20, 21), 5), ((10, 20, 20), 6)])
def test_a_key_ring_refuses_a_second_key_and_names_both(volume, distance):
    ring = KeyRing(blue_noise((10, 20, 20), 5, 0))
    with pytest.raises(Mismatch) as error:
        ring.blue_noise(volume, distance)
    for part in ("blue_noise(5)", "(10, 20, 20)", f"blue_noise({distance})", str(volume)):
        assert part in str(error.value)


def test_looking_at_a_backbone_does_not_change_it():
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), Segmentation(tuple("abcd")))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    Anatomy.of(backbone, (6, 6))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
