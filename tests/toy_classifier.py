"""Tiny classifiers: one with a bottleneck much smaller than its images, which are 12 x 12, and one with maps."""

import torch
from torch import nn

from inlier.backbones.base import Backbone, Classification


def classifier():
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return Backbone(network, Classification(("cat", "dog", "ship")))


def convolutional():
    """Maps, and then vectors."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Backbone(network, Classification(("cat", "dog", "ship")))
