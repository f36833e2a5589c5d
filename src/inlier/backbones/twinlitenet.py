"""TwinLiteNet, two small segmentation networks in one (Che et al., MAPR 2023, doi 10.1109/MAPR59823.2023.10288646).

An ESPNet-C encoder with position and channel attention at 1/8 of the image feeds two decoders of transposed
convolutions: one marks the drivable area, the other the lane markings. Attribute names equal the keys of the published
weight file, so that it loads strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import ConvNormAct, DownSampler, ESPBlock, Shrink, crop
from inlier.backbones.outputs import Output
from inlier.backbones.weights import load_weights, read_weights
from inlier.errors import Mismatch
from inlier.registry import nearest

__all__ = ["JOINT_CLASSES", "TwinLiteNet", "joint_logits", "twinlitenet"]

JOINT_CLASSES = ("neither", "lane", "drivable", "lane on drivable")
"""What a pixel is to both heads together."""

HEADS = {"drivable": ("not drivable", "drivable"), "lane": ("no lane", "lane")}
SIZE = (360, 640)


class PositionAttention(nn.Module):
    """Every place attends to every place; `gamma` weighs what comes of it.

    The matrix of attention is (n, hw, hw); it is no module's output, and so is not among the taps. In the published
    weights `gamma` is 0 to 19 digits: this attention costs time and memory there, and changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        attention = torch.softmax(query.mT @ key, dim=-1)
        attended: Tensor = (value @ attention.mT).view_as(x)
        return x + self.gamma * attended


class ChannelAttention(nn.Module):
    """Every channel attends to the channels least like it; `gamma` weighs what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        # The origin subtracts the products from each row's largest; softmax is the same without that shift.
        attention = torch.softmax(-(flat @ flat.mT), dim=-1)
        return x + self.gamma * (attention @ flat).view_as(x)


class Encoder(nn.Module):
    """(n, 3, h, w) normalised images to (n, 32, h / 8, w / 8) maps."""

    def __init__(self, p: int, q: int) -> None:
        super().__init__()
        self.level1 = ConvNormAct(3, 16, 3, stride=2)
        self.sample1 = Shrink(1)
        self.sample2 = Shrink(2)
        self.b1 = ConvNormAct(16 + 3, 16 + 3, 3)
        self.level2_0 = DownSampler(16 + 3, 64)
        self.level2 = nn.ModuleList(ESPBlock(64, 64) for _ in range(p))
        self.b2 = ConvNormAct(128 + 3, 128 + 3, 3)
        self.level3_0 = DownSampler(128 + 3, 128)
        self.level3 = nn.ModuleList(ESPBlock(128, 128) for _ in range(q))
        self.b3 = ConvNormAct(256, 32, 3)
        self.sa = PositionAttention(32)
        self.sc = ChannelAttention()
        self.conv_sa = ConvNormAct(32, 32, 3)
        self.conv_sc = ConvNormAct(32, 32, 3)
        self.classifier = ConvNormAct(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        start = deep = self.level2_0(self.b1(torch.cat([self.level1(x), self.sample1(x)], dim=1)))
        for block in self.level2:
            deep = block(deep)
        start = deep = self.level3_0(self.b2(torch.cat([deep, start, self.sample2(x)], dim=1)))
        for block in self.level3:
            deep = block(deep)
        fused = self.b3(torch.cat([start, deep], dim=1))
        return self.classifier(self.conv_sa(self.sa(fused)) + self.conv_sc(self.sc(fused)))  # type: ignore[no-any-return]


class Double(nn.Module):
    """A transposed convolution to twice the size, batch normalisation, PReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.act = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.deconv(x)))  # type: ignore[no-any-return]


class TwinLiteNet(nn.Module):
    """(n, 3, h, w) images in [0, 1] to logits (n, 2, h, w) of `drivable` and of `lane`, any h and w.

    `p` and `q` are the numbers of ESP blocks at 1/4 and at 1/8 of the image size (published: 2 and 3). Memory grows
    with the square of h w / 64, the number of places that attend to each other.
    """

    def __init__(self, p: int = 2, q: int = 3) -> None:
        super().__init__()
        self.encoder = Encoder(p, q)
        self.up_1_1 = Double(32, 16)
        self.up_2_1 = Double(16, 8)
        self.up_1_2 = Double(32, 16)
        self.up_2_2 = Double(16, 8)
        self.classifier_1 = Double(8, 2)
        self.classifier_2 = Double(8, 2)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        encoded = self.encoder(x)
        drivable = self.classifier_1(self.up_2_1(self.up_1_1(encoded)))
        lane = self.classifier_2(self.up_2_2(self.up_1_2(encoded)))
        return {"drivable": crop(drivable, x), "lane": crop(lane, x)}


def joint_logits(raw: Mapping[str, Tensor]) -> Float[Tensor, "n 4 h w"]:
    """Logits of the four classes that a pixel can be to two heads: the sum of one logit from each.

    Softmax of them is the product of the heads' own probabilities, so that the most likely joint class is each head's
    most likely one, and entropy, energy and max-logit are sums over the heads. Order as in `JOINT_CLASSES`.
    """
    return (raw["drivable"].unsqueeze(2) + raw["lane"].unsqueeze(1)).flatten(1, 2)


def twinlitenet(weights: str | Path, *, output: str = "both") -> Backbone:
    """TwinLiteNet from a safetensors file: RGB in [0, 1] without normalisation, resized to 360 x 640.

    Args:
        weights: safetensors file with the published key names, with or without `module.` before them.
        output: what is predicted and scored: `both` heads as four joint classes, or one of them, `drivable` or
            `lane`, with two. The whole network runs in each case.

    Raises:
        LookupError: no such output.
        Mismatch: the file does not hold a TwinLiteNet.
    """
    if output != "both" and output not in HEADS:
        raise LookupError(f"TwinLiteNet has no output '{output}'. {nearest(output, ['both', *HEADS])}")
    state = read_weights(weights)
    if "encoder.sa.gamma" not in state or "classifier_2.deconv.weight" not in state:
        raise Mismatch(f"'{weights}' holds no TwinLiteNet: no 'encoder.sa.gamma' or 'classifier_2.deconv.weight' in it")
    p, q = (
        len({name.split(".")[2] for name in state if name.startswith(f"encoder.{level}.")})
        for level in ("level2", "level3")
    )
    network = TwinLiteNet(p, q)
    load_weights(network, weights)
    task = Segmentation(JOINT_CLASSES, select=joint_logits) if output == "both" else _head(output)
    return Backbone(network, task, size=SIZE)


def _head(name: str) -> Segmentation:
    return Segmentation(HEADS[name], select=Output(name))
