"""Backbones by name: `street`, or `espnet:weights.safetensors`."""

from __future__ import annotations

from collections.abc import Callable

from inlier.backbones.base import Backbone
from inlier.registry import Entry, Registry

__all__ = ["BACKBONES", "load_backbone"]

BACKBONES: Registry[Callable[..., Backbone]] = Registry(
    "backbone",
    {
        "espnet": Entry(
            "inlier.backbones.espnet:espnet", "ESPNet or ESPNet-C from a safetensors file", "Mehta et al. 2018"
        ),
        "street": Entry("inlier.backbones.street:street_espnet", "ESPNet for the drawn street scenes, in the package"),
    },
)


def load_backbone(text: str) -> Backbone:
    """The backbone that `name` or `name:weights` stands for.

    Raises:
        LookupError: no such backbone.
        ValueError: the backbone needs weights and none are given, or the other way round.
        FileNotFoundError, Mismatch: the weights are not there, or not this backbone's.
    """
    name, _, weights = text.partition(":")
    factory = BACKBONES[name]
    if name == "street":
        if weights:
            raise ValueError(f"Backbone 'street' has its weights in the package and takes no '{weights}'")
        return factory()
    if not weights:
        raise ValueError(f"Backbone '{name}' needs weights: write {name}:FILE.safetensors")
    return factory(weights)
