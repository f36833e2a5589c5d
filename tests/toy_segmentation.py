"""A tiny segmentation network, and images of one scene for it."""

import torch
from torch import nn

from inlier.backbones.base import Backbone, Segmentation

NAMES = ("road", "tree", "sky", "void")


def segmenter():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.1)
    return Backbone(network, Segmentation(NAMES))


def scenes(count, seed):
    """Images of one scene: alike, as those of a fixed camera are."""
    dice = torch.Generator().manual_seed(99)
    scene = torch.rand(1, 3, 12, 12, generator=dice)
    return (0.8 * scene + 0.2 * torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)
