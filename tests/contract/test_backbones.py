"""Every registered backbone keeps what backbones promise."""

import pytest

from inlier.backbones.load import BACKBONES
from inlier.testing.backbones import check_backbone

WEIGHTS = {
    "street": ("", (48, 96)),
    "street_hardened": ("", (48, 96)),
    "espnet": ("espnet_encoder_cityscapes_p2_q3", (48, 96)),
    "espnetv2": ("espnetv2_s0.5_cityscapes_1024x512", (64, 128)),
    "resnet_cifar": ("cifar10_resnet20", (32, 32)),
    "twinlitenet": ("twinlitenet_bdd100k", (64, 96)),
}
"""What is loaded, and the size (h, w) of the images that are shown."""


LARGE = {"espnetv2", "twinlitenet"}
"""Bring every image to a size of their own, which takes time."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in WEIGHTS])
def test_a_registered_backbone_keeps_its_promises(name, request):
    weights, size = WEIGHTS[name]
    if weights:
        name = f"{name}:{request.getfixturevalue('data') / 'weights' / weights}.safetensors"
    check_backbone(name, size=size)


def test_no_backbone_is_left_out():
    assert set(WEIGHTS) == {name for name in BACKBONES if BACKBONES.entry(name).provider == "inlier"}
