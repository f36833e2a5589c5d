"""The residual networks for 32x32 images (He et al., CVPR 2016, arXiv:1512.03385, section 4.2).

Three stages of n blocks with 16, 32 and 64 channels make a network of 6n + 2 layers. Where a stage halves the map and
doubles the channels, the shortcut has no weights: it takes every second pixel and pads with zero channels (the
paper's option A). Attribute names equal the keys of the published weight files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inlier.backbones.base import Backbone, Classification
from inlier.backbones.weights import load_weights, read_weights
from inlier.errors import Mismatch

__all__ = ["CIFAR10_CLASSES", "ResNetCIFAR", "resnet_cifar"]

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# The published weights were trained on ImageNet's statistics, not on CIFAR's own.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new, half of them on either side."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.padding = (0, 0, 0, 0, new_channels // 2, new_channels - new_channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., ::2, ::2], self.padding)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut. Each ReLU is a module of its own, so that each can be tapped."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        widens = channels_out != channels_in
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 2 if widens else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = PaddedShortcut(channels_out - channels_in) if widens else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))  # type: ignore[no-any-return]


class ResNetCIFAR(nn.Module):
    """A ResNet of `depth` = 6n + 2 layers: (n, 3, h, w) normalised images to (n, classes) logits, trained for 32x32.

    Raises:
        ValueError: `depth` is not 6n + 2 for an n of at least 1.
    """

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth is 6n + 2: 8, 14, 20, 32, 44, 56 and so on, not {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(*(Block(channels_out if i else channels_in, channels_out) for i in range(blocks)))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet_cifar(weights: str | Path, *, classes: Sequence[str] | None = None) -> Backbone:
    """A CIFAR ResNet from a safetensors file; its depth and its number of classes are read off the tensors.

    Images of another size are resized to 32x32.

    Args:
        weights: safetensors file with the published key names, with or without `module.` before them.
        classes: names of the outputs; by default CIFAR-10's for 10 outputs, else "0", "1" and so on.

    Raises:
        Mismatch: the file does not hold such a network, or has another number of outputs than there are names.
    """
    state = read_weights(weights)
    blocks = sum(name.startswith("layer1.") and name.endswith(".conv1.weight") for name in state)
    if not blocks or "linear.weight" not in state:
        raise Mismatch(f"'{weights}' holds no CIFAR ResNet: it lacks 'layer1.0.conv1.weight' or 'linear.weight'")
    outputs = state["linear.weight"].shape[0]
    if classes is None:
        classes = CIFAR10_CLASSES if outputs == len(CIFAR10_CLASSES) else tuple(map(str, range(outputs)))
    if len(classes) != outputs:
        raise Mismatch(f"'{weights}' has {outputs} outputs, and there are {len(classes)} class names: {classes}")
    network = ResNetCIFAR(6 * blocks + 2, outputs)
    load_weights(network, weights)
    return Backbone(network, Classification(classes), mean=MEAN, std=STD, size=(32, 32))
