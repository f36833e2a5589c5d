"""Specimens: small networks with drawn weights and small drawn images, enough to try a claim on in a blink."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.types import Images

__all__ = ["noise", "scenes", "tiny_backbone"]


def tiny_backbone(kind: Literal["classifier", "segmentation"] = "classifier", seed: int = 0) -> Backbone:
    """Two convolutions with an in-place ReLU between them and three classes; weights are drawn, nothing is trained."""
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()]
    if kind == "segmentation":
        layers += [nn.Conv2d(8, 3, 1)]
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    network = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return Backbone(network, (Segmentation if kind == "segmentation" else Classification)(("a", "b", "c")))


def scenes(n: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> Images:
    """(n, 3, h, w): a bright sky above a dark ground, a thing on it, and a little noise; no two alike."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    sky, ground, thing = (
        base + 0.1 * torch.randn(n, 3, 1, 1, generator=generator)
        for base in (torch.tensor([0.6, 0.7, 0.8]), torch.tensor([0.35, 0.3, 0.25]), torch.tensor([0.7, 0.3, 0.2]))
        for base in (base.view(1, 3, 1, 1),)
    )
    down = torch.linspace(0, 1, height).view(1, 1, height, 1)
    horizon = 0.5 + 0.05 * torch.randn(n, 1, 1, 1, generator=generator)
    below = torch.sigmoid(12 * (down - horizon))
    picture = (1 - below) * sky + below * ground
    across = torch.linspace(0, 1, width).view(1, 1, 1, width)
    centre, reach = torch.rand(2, n, 1, 1, 1, generator=generator)
    covers = ((across - centre).abs() < 0.1 + 0.1 * reach) & ((down - horizon - 0.1).abs() < 0.15)
    picture = torch.where(covers, thing, picture) + 0.02 * torch.randn(n, 3, height, width, generator=generator)
    return picture.clamp(0, 1)


def noise(n: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> Images:
    """(n, 3, h, w): every value 0 or 1 by the toss of a coin, which is like no scene."""
    return torch.randint(2, (n, 3, *size), generator=torch.Generator().manual_seed(seed)).float()
