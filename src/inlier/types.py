"""Names for what crosses module borders. Shapes are checked while the tests run, not in use."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Images", "LabelMaps", "Logits", "Maps", "Progress", "Scores"]

Images: TypeAlias = Float[Tensor, "n c h w"]
"""Images in [0, 1], RGB or grey, before any resizing or normalisation."""

Logits: TypeAlias = Float[Tensor, "n classes *hw"]
"""(n, classes) for a classifier, (n, classes, h, w) for a segmentation network."""

LabelMaps: TypeAlias = Int[Tensor, "n *hw"]
"""Class indices: (n,) or (n, h, w)."""

Maps: TypeAlias = Float[Tensor, "n h w"]
"""One value a pixel."""

Scores: TypeAlias = Float[Tensor, " n"]
"""One value an image; larger = more anomalous."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told (phase, steps done, steps in all) while something long runs."""
