"""The networks that come with the package: a small ESPNet trained on drawn street scenes, and the same one hardened.

`experiments/demo_backbone/train.py` draws its training scenes, trains it and writes the weights, and `harden.py` there
fine-tunes it against an attacker; results.json and harden.json beside them hold what was measured. The first is what
the demo and the tests put a monitor into, without any download.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import ESPNet
from inlier.files import read_tensors

__all__ = ["STREET_CLASSES", "street_espnet", "street_hardened"]

STREET_CLASSES = ("sky", "building", "road", "lane marking", "pavement", "tree", "car", "person", "sign")


def street_espnet() -> Backbone:
    """The packaged ESPNet (p=2, q=3) for the scenes of `inlier.datasets.scenes`: RGB of any size, 9 classes, no void.

    Raises:
        Mismatch: the package's weight file is damaged.
    """
    return packaged("street_espnet.safetensors")


def street_hardened() -> Backbone:
    """`street_espnet` after a short adversarial fine-tune (random-start FGSM, Wong et al. 2020; `inlier harden`).

    Raises:
        Mismatch: the package's weight file is damaged.
    """
    return packaged("street_hardened.safetensors")


def packaged(file: str) -> Backbone:
    with as_file(files("inlier.backbones") / "weights" / file) as path:
        state, _ = read_tensors(path)
    mean, std = state.pop("mean"), state.pop("std")
    network = ESPNet(len(STREET_CLASSES), p=2, q=3)
    network.load_state_dict(state)  # half precision in the file, single in the network
    return Backbone(network, Segmentation(STREET_CLASSES, void=""), mean=mean.tolist(), std=std.tolist())
