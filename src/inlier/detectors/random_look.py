"""A look that nobody can foresee: how far the prediction moves when the image is scaled, shifted or mirrored.

The image and a secret draw the look together. The same image is looked at in the same way every time, so that a verdict
can be told again; any change of it, by one grey level of one pixel, draws another look, which only who holds the secret
can work out. Whoever does not must do well on average over draws (expectation over transformations, Athalye et al.
2018, arXiv:1707.07397), and does not know of the image that he ends with whether it will pass. Who holds the secret, or
may ask about as many images as he likes, tries until one does: the secret is kept with the sampling key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.disagreement import Disagreement, precise
from inlier.looks import Copy
from inlier.observation import Observation
from inlier.types import Images, Logits

__all__ = ["Move", "Moved", "RandomLook", "random_look"]

SCALES = (0.85, 1.15)
SHIFT = 0.05
"""The largest, as a share of half a side."""
LONGEST = 64
"""Bytes of a key of BLAKE2b."""


class Move(NamedTuple):
    """How one image is moved.

    Args:
        scale: of what is seen: above 1 more than the image, which then is smaller.
        right, down: where the middle of what is seen lies, in half sides from the image's middle.
        mirrored: whether left is right.
    """

    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0
    mirrored: bool = False

    @property
    def across(self) -> float:
        """The scale from left to right."""
        return -self.scale if self.mirrored else self.scale

    @property
    def inverse(self) -> tuple[float, float, float, float]:
        """`across`, `scale`, `right` and `down` of the way back."""
        return 1 / self.across, 1 / self.scale, -self.right / self.across, -self.down / self.scale


@dataclass(frozen=True)
class Moved(Copy):
    """Each image enlarged about a point or made smaller, and perhaps mirrored; what is outside repeats the border.

    Args:
        moves: one an image.
    """

    moves: tuple[Move, ...]

    def images(self, images: Images, generator: torch.Generator | None = None) -> Images:
        return sampled(images, [(move.across, move.scale, move.right, move.down) for move in self.moves]).clamp(0, 1)

    def back(self, output: Logits) -> Logits:
        return output if output.ndim == 2 else sampled(output, [move.inverse for move in self.moves])


def sampled(
    planes: Float[Tensor, "n c h w"], ways: list[tuple[float, float, float, float]]
) -> Float[Tensor, "n c h w"]:
    """Bilinear samples at (across x + right, up y + down), x and y from -1 to 1 over the planes, image by image.

    Args:
        ways: (across, up, right, down) of each image.
    """
    count, _, height, width = planes.shape
    across, up, right, down = planes.new_tensor(ways).T[..., None]
    # Value by value, unlike F.affine_grid, whose products come out otherwise in a batch than alone.
    columns, rows = (across * middles(planes, width) + right, up * middles(planes, height) + down)
    grid = torch.stack(
        [columns[:, None].expand(count, height, width), rows[:, :, None].expand(count, height, width)], dim=-1
    )
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def middles(planes: Tensor, count: int) -> Float[Tensor, " count"]:
    """The middles of so many pixels, from -1 to 1 over their side."""
    return (2 * torch.arange(count, dtype=planes.dtype, device=planes.device) + 1) / count - 1


class RandomLook(Disagreement):
    """`Disagreement` under a look that the image, to 8 bit, and a secret draw together: scale, shift and mirror.

    Args:
        secret: 1 to 64 bytes.
        draws: how many looks are averaged, of a forward pass each. 1 in use; more for who does not know the secret,
            takes another and wants to do well on average. The first draws are the same for any number of them.

    Raises:
        ValueError: a secret of another length, or no draws.
    """

    name = "random_look"

    def __init__(self, secret: bytes, draws: int = 1) -> None:
        super().__init__(Moved(()))
        self.keep(secret, draws)

    def keep(self, secret: bytes, draws: int = 1) -> None:
        """Draw so many looks from this secret from now on."""
        if not 1 <= len(secret) <= LONGEST or draws < 1:
            raise ValueError(
                f"A random look has a secret of 1 to {LONGEST} bytes, and draws: not {len(secret)}, {draws}"
            )
        self._secret, self.draws, self.passes = secret, draws, 1 + draws
        told = hashlib.blake2b(b"which", key=secret, digest_size=4).hexdigest()
        self.reading = f"disagreement, {draws} random of {told}"  # another secret is another measure

    def drawn(self, image: Float[Tensor, "c h w"], draw: int = 0) -> Move:
        """The look at an image."""
        pixels = (image.detach() * 255).round().clamp(0, 255).byte().cpu().contiguous()
        digest = hashlib.blake2b(pixels.numpy().tobytes(), key=self._secret, salt=draw.to_bytes(8, "big"))
        scale, right, down, side = (
            int.from_bytes(digest.digest()[start : start + 8], "big") / 2**64 for start in (0, 8, 16, 24)
        )
        low, high = SCALES
        return Move(low + (high - low) * scale, SHIFT * (2 * right - 1), SHIFT * (2 * down - 1), side < 0.5)

    def apart(self, p: Tensor, observation: Observation) -> Float[Tensor, "n *hw"]:
        """sum_c |p_c - p'_c| of each prediction, averaged over the draws."""
        moved = []
        for draw in range(self.draws):
            look = Moved(tuple(self.drawn(image, draw) for image in observation.images))
            again = precise(look.back(observation.look(look).output)).softmax(1)
            moved.append((p - again).abs().sum(1))
        return torch.stack(moved).mean(0)

    def extra_repr(self) -> str:
        return f"draws={self.draws}"


def random_look(anatomy: Anatomy) -> RandomLook:
    """The detector for any backbone; its secret is kept with the monitor's sampling key."""
    return RandomLook(anatomy.keys.secret((anatomy.channels, *anatomy.size)))
