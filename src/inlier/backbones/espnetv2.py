"""ESPNetv2 for segmentation (Mehta et al., CVPR 2019, arXiv:1811.11431).

An EESP block reduces its channels in groups, applies dilated *depth-wise* convolutions in parallel, sums their outputs
hierarchically and expands them again in groups; down-sampling blocks also see the shrunken image. The decoder pools
its maps at five scales before each doubling. Attribute names equal the keys of the published weight files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.backbones.espnet import CITYSCAPES_CLASSES, Conv
from inlier.backbones.weights import load_weights, read_weights
from inlier.errors import Mismatch

__all__ = ["ESPNetv2", "espnetv2"]

BRANCHES = 4
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
FEWEST = 5
"""No map of the pooling pyramid has a side shorter than this."""

# Dilations of the four branches by the largest kernel allowed at a stage: 3 + 2i pixels, or 3 where that is too large.
WIDE, NARROW = (1, 2, 3, 4), (1, 1, 2, 3)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (512, 1024)


class ConvNorm(nn.Module):
    """A grouped convolution without bias, and batch normalisation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


class ConvNormAct(ConvNorm):
    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups)
        self.act = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


class NormAct(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))  # type: ignore[no-any-return]


class DepthWise(Conv):
    """A depth-wise dilated convolution."""

    def __init__(self, channels: int, stride: int, dilation: int) -> None:
        super().__init__(channels, channels, 3, stride, dilation)
        self.conv = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False)


class EESP(nn.Module):
    """Reduce, dilated depth-wise convolutions in parallel, hierarchical sums, expand (Fig. 1c of the paper).

    With stride 2 there is no residual connection, and the activation is left to the block around it.
    """

    def __init__(self, channels_in: int, channels_out: int, dilations: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        branch = channels_out // BRANCHES
        self.stride = stride
        self.proj_1x1 = ConvNormAct(channels_in, branch, 1, groups=BRANCHES)
        self.spp_dw = nn.ModuleList(DepthWise(branch, stride, dilation) for dilation in dilations)
        self.br_after_cat = NormAct(channels_out)
        self.conv_1x1_exp = ConvNorm(channels_out, channels_out, 1, groups=BRANCHES)
        self.module_act = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.proj_1x1(x)
        sums = [self.spp_dw[0](reduced)]
        for branch in list(self.spp_dw)[1:]:
            sums.append(sums[-1] + branch(reduced))
        expanded: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(sums, dim=1)))
        return expanded if self.stride == 2 else self.module_act(expanded + x)


class DownSampler(nn.Module):
    """Half the size: average pooling and an EESP block side by side, plus the shrunken image."""

    def __init__(self, channels_in: int, channels_out: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.eesp = EESP(channels_in, channels_out - channels_in, dilations, stride=2)
        self.avg = nn.AvgPool2d(3, stride=2, padding=1)
        self.inp_reinf = nn.Sequential(ConvNormAct(3, 3, 3), ConvNorm(3, channels_out, 1))
        self.act = nn.PReLU(channels_out)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return self.act(torch.cat([self.avg(x), self.eesp(x)], dim=1) + self.inp_reinf(image))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The maps at 1/2, 1/4, 1/8 and 1/16 of the image's size."""

    def __init__(self, widths: Sequence[int], repeats: tuple[int, int]) -> None:
        super().__init__()
        self.shrink = nn.ModuleList(nn.AvgPool2d(3, stride=2, padding=1) for _ in widths)
        self.level1 = ConvNormAct(3, widths[0], 3, stride=2)
        self.level2_0 = DownSampler(widths[0], widths[1], WIDE)
        self.level3_0 = DownSampler(widths[1], widths[2], WIDE)
        self.level3 = nn.ModuleList(EESP(widths[2], widths[2], WIDE) for _ in range(repeats[0]))
        self.level4_0 = DownSampler(widths[2], widths[3], WIDE)
        self.level4 = nn.ModuleList(EESP(widths[3], widths[3], NARROW) for _ in range(repeats[1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images = [x]
        for shrink in self.shrink:
            images.append(shrink(images[-1]))
        half = self.level1(x)
        quarter = self.level2_0(half, images[2])
        eighth = self.level3_0(quarter, images[3])
        for block in self.level3:
            eighth = block(eighth)
        sixteenth = self.level4_0(eighth, images[4])
        for block in self.level4:
            sixteenth = block(sixteenth)
        return half, quarter, eighth, sixteenth


class Named(nn.Module):
    """Modules in a row under one name, as the weight files have them."""

    def __init__(self, name: str, *modules: nn.Module) -> None:
        super().__init__()
        self.row = name
        self.add_module(name, nn.Sequential(*modules))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.row)(x)  # type: ignore[no-any-return]


def _norm_act(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.PReLU(channels)


def _conv_norm_act(channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> Named:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return Named("cbr", conv, *_norm_act(channels_out))


class PyramidPool(nn.Module):
    """Depth-wise convolutions at five scales of the projected map, merged by channel-wise groups.

    With `last`, the merged maps are logits: with bias, without normalisation.
    """

    def __init__(self, channels_in: int, projected: int, channels_out: int, last: bool = False) -> None:
        super().__init__()
        everything = projected * len(SCALES)
        self.projection_layer = _conv_norm_act(channels_in, projected, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(projected, projected, 3, padding=1, groups=projected, bias=False) for _ in SCALES
        )
        self.merge_layer = nn.Sequential(
            Named("br", *_norm_act(everything)),
            nn.ChannelShuffle(len(SCALES)),
            _conv_norm_act(everything, projected, 3, groups=projected),
            nn.Conv2d(projected, channels_out, 1, bias=last),
        )
        if not last:
            self.br = Named("br", *_norm_act(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)
        size = (x.shape[-2], x.shape[-1])
        maps = []
        for scale, stage in zip(SCALES, self.stages, strict=True):
            height, width = (max(math.ceil(side * scale), FEWEST) for side in size)
            other = (height, width)
            if scale < 1:
                maps.append(resized(stage(F.adaptive_avg_pool2d(x, other)), size))
            elif scale > 1:
                maps.append(F.adaptive_avg_pool2d(stage(resized(x, other)), size))
            else:
                maps.append(stage(x))
        merged: Tensor = self.merge_layer(torch.cat(maps, dim=1))
        return self.br(merged) if hasattr(self, "br") else merged


class Weighted(nn.Module):
    """A grouped convolution whose maps are weighted by what the pooled input says of each."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.Sigmoid()
        )
        self.expansion_layer = _conv_norm_act(channels_in, channels_out, 3, groups=math.gcd(channels_in, channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.expansion_layer(x) * self.wt_layer(x)  # type: ignore[no-any-return]


class ESPNetv2(nn.Module):
    """ESPNetv2 with its decoder: (n, 3, h, w) normalised images to (n, classes, h, w) logits, any h and w.

    Args:
        classes: number of outputs.
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the size (published: 16, 32, 64, 128 and twice that).
        repeats: EESP blocks at 1/8 and at 1/16.
        decoder: channels of the decoder are 4, 3 and 2 times this.
    """

    def __init__(
        self,
        classes: int,
        widths: tuple[int, int, int, int] = (32, 64, 128, 256),
        repeats: tuple[int, int] = (3, 7),
        decoder: int = 16,
    ) -> None:
        super().__init__()
        first, second, third = 4 * decoder, 3 * decoder, 2 * decoder
        projected = min(classes // 2, decoder)
        self.base_net = Encoder(widths, repeats)
        self.bu_dec_l1 = PyramidPool(widths[3], projected, first)
        self.bu_dec_l2 = PyramidPool(first, projected, second)
        self.bu_dec_l3 = PyramidPool(second, projected, third)
        self.bu_dec_l4 = PyramidPool(third, projected, classes, last=True)
        self.merge_enc_dec_l2 = Weighted(widths[2], first)
        self.merge_enc_dec_l3 = Weighted(widths[1], second)
        self.merge_enc_dec_l4 = Weighted(widths[0], third)
        self.bu_br_l2 = nn.Sequential(*_norm_act(first))
        self.bu_br_l3 = nn.Sequential(*_norm_act(second))
        self.bu_br_l4 = nn.Sequential(*_norm_act(third))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes h w"]:
        half, quarter, eighth, sixteenth = self.base_net(x)
        up = self.bu_dec_l1(sixteenth)
        for merge, norm, decode, skip in (
            (self.merge_enc_dec_l2, self.bu_br_l2, self.bu_dec_l2, eighth),
            (self.merge_enc_dec_l3, self.bu_br_l3, self.bu_dec_l3, quarter),
            (self.merge_enc_dec_l4, self.bu_br_l4, self.bu_dec_l4, half),
        ):
            up = decode(norm(merge(skip) + resized(up, skip.shape[-2:])))
        return resized(up, x.shape[-2:])


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with the corners aligned, as the weights were trained."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def espnetv2(weights: str | Path, *, classes: Sequence[str] | None = None) -> Backbone:
    """ESPNetv2 from a safetensors file; its widths, repeats and outputs are read off the tensors.

    Images are RGB with ImageNet's statistics, resized to 512 x 1024, the size that the published weights were trained
    and tested at.

    Args:
        weights: safetensors file with the published key names.
        classes: names of the outputs, one named `void` being none; by default those of Cityscapes for 20 outputs,
            else "0", "1" and so on.

    Raises:
        Mismatch: the file does not hold an ESPNetv2, or has another number of outputs than there are names.
    """
    state = read_weights(weights)
    try:
        outputs = state["bu_dec_l4.merge_layer.3.bias"].shape[0]
        first, second, third, fourth = (
            state[f"base_net.{name}.act.weight"].shape[0] for name in ("level1", "level2_0", "level3_0", "level4_0")
        )
        decoder = state["bu_br_l4.0.weight"].shape[0] // 2
    except KeyError as error:
        raise Mismatch(f"'{weights}' holds no ESPNetv2 for segmentation: no tensor named {error}") from None
    shallow, deep = (
        len({name.split(".")[2] for name in state if name.startswith(f"base_net.{level}.")})
        for level in ("level3", "level4")
    )
    if classes is None:
        classes = CITYSCAPES_CLASSES if outputs == len(CITYSCAPES_CLASSES) else tuple(map(str, range(outputs)))
    if len(classes) != outputs:
        raise Mismatch(f"'{weights}' has {outputs} outputs, and there are {len(classes)} class names: {classes}")
    network = ESPNetv2(outputs, (first, second, third, fourth), (shallow, deep), decoder)
    load_weights(network, weights)
    return Backbone(network, Segmentation(classes), mean=MEAN, std=STD, size=SIZE)
