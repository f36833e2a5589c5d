"""ESPNet, the small segmentation network of the DAAIN paper (Mehta et al., ECCV 2018, arXiv:1803.06815).

An ESP block reduces its channels, applies five dilated convolutions to the reduced map in parallel and sums their
outputs hierarchically, which removes the gridding of large dilations. The encoder alone is *ESPNet-C* and answers at
1/8 of the image size; the decoder brings that answer back to full size. Attribute names equal the keys of the
published weight files, so that these load strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inlier.backbones.base import Backbone, Segmentation
from inlier.errors import Mismatch
from inlier.files import read_tensors

__all__ = [
    "CAMVID_CLASSES", "CITYSCAPES_CLASSES", "Conv", "ConvNormAct", "DownSampler", "ESPBlock", "ESPNet", "ESPNetC",
    "Shrink", "crop", "espnet",
]  # fmt: skip

BATCH_NORM_EPS = 1e-3
DILATIONS = (1, 2, 4, 8, 16)

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist", "void",
)  # fmt: skip
CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "void",
)  # fmt: skip


class Conv(nn.Module):
    """A convolution without bias that keeps the size at stride 1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2 * dilation
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class NormAct(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))  # type: ignore[no-any-return]


class ConvNormAct(NormAct):
    """A convolution without bias, batch normalisation, PReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_out)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, (kernel - 1) // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class Pyramid(nn.Module):
    """Reduce, then five dilated convolutions in parallel, fused hierarchically."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        branch = channels_out // len(DILATIONS)
        first = channels_out - branch * (len(DILATIONS) - 1)
        self.c1 = Conv(channels_in, branch, kernel, stride)
        for dilation in DILATIONS:
            self.add_module(f"d{dilation}", Conv(branch, first if dilation == 1 else branch, 3, dilation=dilation))

    def pyramid(self, x: Tensor) -> Tensor:
        reduced = self.c1(x)
        first, *branches = (self.get_submodule(f"d{dilation}")(reduced) for dilation in DILATIONS)
        sums = [branches[0]]
        for branch in branches[1:]:
            sums.append(sums[-1] + branch)
        return torch.cat([first, *sums], dim=1)


class DownSampler(Pyramid):
    """An ESP block with stride 2 and no residual connection."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPS)
        self.act = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.pyramid(x)))  # type: ignore[no-any-return]


class ESPBlock(Pyramid):
    """An ESP block (Fig. 1a of the paper): (n, channels_in, h, w) to (n, channels_out, h, w)."""

    def __init__(self, channels_in: int, channels_out: int, residual: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel=1, stride=1)
        self.bn = NormAct(channels_out)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        fused = self.pyramid(x)
        return self.bn(x + fused if self.residual else fused)  # type: ignore[no-any-return]


class Shrink(nn.Module):
    """The image itself at 1/2 (`times=1`) or 1/4 (`times=2`) size, fed to the deeper stages."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.pool = nn.ModuleList(nn.AvgPool2d(3, stride=2, padding=1) for _ in range(times))

    def forward(self, x: Tensor) -> Tensor:
        for pool in self.pool:
            x = pool(x)
        return x


class ESPNetC(nn.Module):
    """ESPNet-C: (n, 3, h, w) normalised images to (n, classes, h / 8, w / 8) logits.

    `p` and `q` are the numbers of ESP blocks at 1/4 and at 1/8 of the image size (paper: p=2, q=3, 5 or 8).
    """

    def __init__(self, classes: int, p: int = 2, q: int = 8) -> None:
        super().__init__()
        self.level1 = ConvNormAct(3, 16, 3, stride=2)
        self.sample1 = Shrink(1)
        self.sample2 = Shrink(2)
        self.b1 = NormAct(16 + 3)
        self.level2_0 = DownSampler(16 + 3, 64)
        self.level2 = nn.ModuleList(ESPBlock(64, 64) for _ in range(p))
        self.b2 = NormAct(128 + 3)
        self.level3_0 = DownSampler(128 + 3, 128)
        self.level3 = nn.ModuleList(ESPBlock(128, 128) for _ in range(q))
        self.b3 = NormAct(256)
        self.classifier = Conv(256, classes, 1)

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first convolution's maps and its concatenation with the image (1/2), the 1/4 maps, the logits (1/8)."""
        half = self.level1(x)
        half_and_image = self.b1(torch.cat([half, self.sample1(x)], dim=1))
        start = deep = self.level2_0(half_and_image)
        for block in self.level2:
            deep = block(deep)
        quarter = self.b2(torch.cat([deep, start, self.sample2(x)], dim=1))
        start = deep = self.level3_0(quarter)
        for block in self.level3:
            deep = block(deep)
        logits = self.classifier(self.b3(torch.cat([start, deep], dim=1)))
        return half, half_and_image, quarter, logits

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes h8 w8"]:
        return self.stages(x)[-1]


class ESPNet(nn.Module):
    """ESPNet with its light decoder: (n, 3, h, w) normalised images to (n, classes, h, w) logits, any h and w.

    `skip` is what the last convolution sees of the first stage: `"maps"` (16 maps; the Cityscapes weights) or
    `"maps+image"` (those and the half-size image; the CamVid weights).
    """

    def __init__(self, classes: int, p: int = 2, q: int = 8, skip: Literal["maps", "maps+image"] = "maps") -> None:
        super().__init__()
        if skip not in ("maps", "maps+image"):
            raise ValueError(f"skip must be 'maps' or 'maps+image', not {skip!r}")
        self.skip = skip
        self.encoder = ESPNetC(classes, p, q)
        self.level3_C = Conv(128 + 3, classes, 1)
        self.br = nn.BatchNorm2d(classes, eps=BATCH_NORM_EPS)
        self.up_l3 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False))
        self.combine_l2_l3 = nn.Sequential(NormAct(2 * classes), ESPBlock(2 * classes, classes, residual=False))
        self.up_l2 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False), NormAct(classes))
        self.conv = ConvNormAct(classes + (16 if skip == "maps" else 19), classes, 3)
        self.classifier = nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes h w"]:
        half, half_and_image, quarter, logits = self.encoder.stages(x)
        up = crop(self.up_l3(self.br(logits)), quarter)
        up = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(quarter), up], dim=1)))
        up = crop(up, half)
        up = self.conv(torch.cat([up, half if self.skip == "maps" else half_and_image], dim=1))
        return crop(self.classifier(up), x)


def crop(x: Tensor, like: Tensor) -> Tensor:
    """Cut the row and column that doubling adds to a map of odd size."""
    return x[..., : like.shape[-2], : like.shape[-1]]


# Mean and standard deviation on the 0-255 scale, in the network's BGR order. Cityscapes: the weights' origin.
# CamVid: pooled over the 367 training frames (the origin does not publish them); std is the mean of per-image stds.
STATISTICS = {
    "cityscapes": ((72.3923, 82.9089, 73.1584), (45.3192, 46.1529, 44.9148)),
    "camvid": ((110.331, 108.409, 105.033), (72.126, 72.691, 69.904)),
}


def espnet(
    weights: str | Path,
    *,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Backbone:
    """An ESPNet or ESPNet-C from a safetensors file; its form (p, q, classes, skip, decoder) is read off the shapes.

    Args:
        weights: safetensors file with the published key names.
        mean, std: of the *blue, green, red* channels on the 0-255 scale; by default those of Cityscapes for
            20 outputs, of CamVid for 12 outputs.
        classes: names of the outputs; a class named `void` is left out of every metric.

    Raises:
        Mismatch: the file does not hold an ESPNet, or holds one of a size whose statistics are not known.
    """
    state, _ = read_tensors(Path(weights))
    try:
        network = _network_for(state, Path(weights))
        network.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise Mismatch(f"'{weights}' is not a whole ESPNet: {error}") from error
    outputs = state[_HEAD[isinstance(network, ESPNet)]].shape[0]
    corpus = {20: "cityscapes", 12: "camvid"}.get(outputs)
    if corpus is None and (mean is None or std is None or classes is None):
        raise Mismatch(
            f"'{weights}' has {outputs} outputs; statistics are known for 20 (Cityscapes) and 12 (CamVid) only. "
            "Give mean and std (BGR, 0-255) and the class names."
        )
    if corpus is not None:
        default_mean, default_std = STATISTICS[corpus]
        mean, std = mean or default_mean, std or default_std
        classes = classes or (CITYSCAPES_CLASSES if corpus == "cityscapes" else CAMVID_CLASSES)
    assert mean is not None
    assert std is not None
    assert classes is not None
    # The origin computes (255 x - mean) / std / 255 in BGR; with x in [0, 1] that is (x - mean / 255) / std.
    return Backbone(
        network,
        Segmentation(classes),
        mean=tuple(m / 255 for m in mean),
        std=std,
        bgr=True,
    )


_HEAD = {True: "level3_C.conv.weight", False: "classifier.conv.weight"}


def _network_for(state: Mapping[str, Tensor], path: Path) -> ESPNet | ESPNetC:
    decoder = "level3_C.conv.weight" in state
    prefix = "encoder." if decoder else ""
    if f"{prefix}classifier.conv.weight" not in state or f"{prefix}level3_0.c1.conv.weight" not in state:
        raise Mismatch(
            f"'{path}' holds no ESPNet: no tensor named '{prefix}level3_0.c1.conv.weight' among {len(state)}"
        )
    p, q = (
        len({key.split(".")[position] for key in state if key.startswith(f"{prefix}{level}.")})
        for level, position in (("level2", 1 + decoder), ("level3", 1 + decoder))
    )
    classes = state[f"{prefix}classifier.conv.weight"].shape[0]
    if not decoder:
        return ESPNetC(classes, p, q)
    extra = state["conv.conv.weight"].shape[1] - classes
    return ESPNet(classes, p, q, skip="maps+image" if extra == 19 else "maps")
