"""The network that comes with the package: a small ESPNet trained on drawn street scenes.

`experiments/demo_backbone/train.py` draws its training scenes, trains it and writes the weights; results.json beside
it holds what was measured. It is what the demo and the tests put a monitor into, without any download.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import ESPNet
from inlier.files import read_tensors

__all__ = ["STREET_CLASSES", "street_espnet"]

STREET_CLASSES = ("sky", "building", "road", "lane marking", "pavement", "tree", "car", "person", "sign")
WEIGHTS = "street_espnet.safetensors"


def street_espnet() -> Backbone:
    """The packaged ESPNet (p=2, q=3) for the scenes of `inlier.datasets.scenes`: RGB of any size, 9 classes, no void.

    Raises:
        Mismatch: the package's weight file is damaged.
    """
    with as_file(files("inlier.backbones") / "weights" / WEIGHTS) as path:
        state, _ = read_tensors(path)
    mean, std = state.pop("mean"), state.pop("std")
    network = ESPNet(len(STREET_CLASSES), p=2, q=3)
    network.load_state_dict(state)  # half precision in the file, single in the network
    return Backbone(network, Segmentation(STREET_CLASSES, void=""), mean=mean.tolist(), std=std.tolist())
