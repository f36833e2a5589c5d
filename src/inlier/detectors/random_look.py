"""A random second look: how far the prediction moves when the network sees the image scaled, shifted or mirrored.

Nobody can know the draw beforehand, so that an attacker must do well on average over draws (expectation over
transformations, Athalye et al. 2018, arXiv:1707.07397); an attack against it averages over several of them. Scores of
one image differ from draw to draw: this is for experiments, and no row of the table of detectors.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from inlier.detectors.disagreement import Disagreement
from inlier.looks import Copy
from inlier.observation import Observation
from inlier.types import Images, Logits

__all__ = ["Moved", "RandomLook"]

SCALES = (0.85, 1.15)
SHIFT = 0.05
"""The largest, as a share of half a side."""


@dataclass(frozen=True)
class Moved(Copy):
    """The image enlarged about a point or made smaller, and perhaps mirrored; what is outside repeats the border.

    Args:
        scale: of what is seen: above 1 more than the image, which then is smaller.
        right, down: where the middle of what is seen lies, in half sides from the image's middle.
        mirrored: whether left is right.
    """

    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0
    mirrored: bool = False

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        across = -self.scale if self.mirrored else self.scale
        return sampled(images, across, self.scale, self.right, self.down).clamp(0, 1)

    def back(self, output: Logits) -> Logits:
        if output.ndim == 2:
            return output
        across = -self.scale if self.mirrored else self.scale
        return sampled(output, 1 / across, 1 / self.scale, -self.right / across, -self.down / self.scale)


def sampled(
    planes: Float[Tensor, "n c h w"], across: float, up: float, right: float, down: float
) -> Float[Tensor, "n c h w"]:
    """Bilinear samples at (across x + right, up y + down), x and y from -1 to 1 over the planes."""
    matrix = planes.new_tensor([[across, 0.0, right], [0.0, up, down]]).expand(len(planes), 2, 3)
    grid = F.affine_grid(matrix, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


class RandomLook(Disagreement):
    """`Disagreement` under a look that is drawn anew for every batch: scale, shift and mirror.

    Args:
        seed: of the draws; those after it are never the same again.
        draws: how many looks are averaged, of a forward pass each. 1 in use, more for an attacker.
    """

    name = "random_look"

    def __init__(self, seed: int = 0, draws: int = 1) -> None:
        super().__init__(Moved())
        self.reading = "disagreement, random look"
        self.dice = random.Random(seed)  # no secret: an attacker of this suite averages over draws of his own
        self.draws = draws

    def drawn(self) -> Moved:
        """The next look."""
        dice = self.dice
        right, down = (dice.uniform(-SHIFT, SHIFT) for _ in range(2))
        return Moved(dice.uniform(*SCALES), right, down, dice.random() < 0.5)

    def apart(self, p: Tensor, observation: Observation) -> Float[Tensor, "n *hw"]:
        """sum_c |p_c - p'_c| of each prediction, averaged over the draws."""
        moved = []
        for _ in range(self.draws):
            look = self.drawn()
            again = look.back(observation.look(look).output).to(p.dtype).softmax(1)
            moved.append((p - again).abs().sum(1))
        return torch.stack(moved).mean(0)

    def extra_repr(self) -> str:
        return f"draws={self.draws}"
