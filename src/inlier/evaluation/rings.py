"""Rings of places around a square patch, and a detector that may look at the activations of one ring alone.

A place is the centre of a pixel, or of the cell of an activation map over the image; its distance from the patch is the
Chebyshev distance from the patch's edge in pixels, 0 inside. What is ordinary at a place is learnt from clean images,
so that a score speaks of a change only as far as it stands out of what clean images do there anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from inlier.attacks.constraints import MaskedPatch
from inlier.calibration import Calibration

__all__ = ["DistanceDetector", "Ordinary", "Square", "ring_names", "rings", "seen_by", "zones"]

CLIP = 5.0
"""Standard deviations beyond which an activation counts no more: else a few places with a long tail are the score."""
CONSTANT = 0.1
"""Share of a tap's median standard deviation that every deviation is at least, as of `mahalanobis`: a channel that is
nearly dead at a place has no scale of its own."""
TINY = 1e-12


@dataclass(frozen=True)
class Square:
    """A patch: the pixels of `side` rows from `top` on, and of as many columns from `left` on."""

    top: int
    left: int
    side: int

    @classmethod
    def at(cls, place: Sequence[float], side: int, size: tuple[int, int]) -> Self:
        """The patch at a relative place (y, x): (0.5, 0.5) is the middle, (0, 0) the upper left corner.

        Raises:
            ValueError: it is larger than images of this size (h, w), or the place is outside them.

        >>> Square.at((0.5, 1.0), 4, (12, 20))
        Square(top=4, left=16, side=4)
        """
        if side > min(size):
            raise ValueError(
                f"A patch of {side} pixels does not fit into images of {size[0]} x {size[1]}: make it less"
            )
        if len(place) != 2 or not all(0 <= share <= 1 for share in place):
            raise ValueError(f"The place of a patch is [y, x], each from 0 to 1, not {list(place)}")
        top, left = (round(share * (pixels - side)) for share, pixels in zip(place, size, strict=True))
        return cls(top, left, side)

    def mask(self, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
        """True in the patch, for images of `size` (h, w)."""
        return MaskedPatch.rectangle((self.side, self.side), size, (self.top, self.left)).mask

    def distance(self, grid: tuple[int, int], size: tuple[int, int]) -> Float64[Tensor, "h w"]:
        """From the patch's edge to the centre of each cell of a grid over images of `size`, in pixels; 0 inside.

        The larger one of the distances along rows and along columns.

        >>> Square(0, 0, 2).distance((1, 4), (1, 4)).tolist()
        [[0.0, 0.0, 0.5, 1.5]]
        """
        along = []
        for cells, pixels, start in zip(grid, size, (self.top, self.left), strict=True):
            centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * pixels / cells
            along.append(torch.maximum(start - centres, centres - (start + self.side)).clamp_min(0))
        return torch.maximum(along[0][:, None], along[1][None])


def rings(distance: Float64[Tensor, "h w"], edges: Sequence[float]) -> Int[Tensor, "h w"]:
    """The number of each place's ring: 0 inside the patch, then 1 up to the first edge, and one more from each on."""
    return (distance > 0).long() + (distance[..., None] >= torch.tensor(edges, dtype=torch.float64)).sum(-1)


def ring_names(edges: Sequence[float]) -> list[str]:
    """Of all rings, from the patch outwards.

    >>> ring_names([8, 16])
    ['inside', '0 to 8', '8 to 16', 'from 16']
    """
    between = [f"{low:g} to {high:g}" for low, high in pairwise([0, *edges])]
    return ["inside", *between, f"from {edges[-1]:g}"]


def zones(numbers: Int[Tensor, "h w"], count: int) -> Float64[Tensor, "zones hw"]:
    """1 where a place is in a zone, else 0: each of `count` rings, then each of them with all that lie farther."""
    flat, wanted = numbers.flatten(), torch.arange(count)[:, None]
    return torch.cat([flat == wanted, flat >= wanted]).double()


def seen_by(maps: Float[Tensor, "n h w"], inside: Float64[Tensor, "zones hw"]) -> Float64[Tensor, "n zones"]:
    """The mean of each map over each zone; nan where it has no place."""
    return maps.flatten(1).double().cpu() @ inside.T / inside.sum(1)


@dataclass(frozen=True, eq=False)
class Ordinary:
    """What activations of clean images are, tap by tap.

    Args:
        mean, std: of every channel at every place.
        unit: standard deviation of every channel over images and places.
    """

    mean: tuple[Float[Tensor, "c h w"], ...]
    std: tuple[Float[Tensor, "c h w"], ...]
    unit: tuple[Float[Tensor, "c 1 1"], ...]

    @classmethod
    def of(cls, batches: Iterable[Sequence[Float[Tensor, "n c h w"]]], shrinkage: float) -> Self:
        """Learn from batches of the maps of all taps, which are looked at once.

        A place is learnt from few images and its row from many times as many activations, so that the row's stand in
        for `shrinkage` further images of each place: of 0 only the place counts, of many only the row. A row, since the
        camera is upright: what is ordinary differs from sky to road far more than from left to right.
        """
        count = 0
        sums: list[Tensor] = []
        squares: list[Tensor] = []
        for batch in batches:
            now = [(maps.double().sum(0), maps.double().square().sum(0)) for maps in batch]
            count += len(batch[0])
            if sums:
                for total, square, (one, other) in zip(sums, squares, now, strict=True):
                    total += one
                    square += other
            else:
                sums, squares = [one for one, _ in now], [other for _, other in now]
        parts = [moments(a / count, b / count, count, shrinkage) for a, b in zip(sums, squares, strict=True)]
        return cls(*(tuple(part[n] for part in parts) for n in range(3)))

    def surprise(self, batch: Sequence[Float[Tensor, "n c h w"]]) -> list[Float[Tensor, "n h w"]]:
        """At every place of every tap, the mean over channels of the squared z-score, at most `CLIP` squared."""
        return [
            ((maps - mean) / std).square().clamp_max(CLIP**2).mean(1)
            for maps, mean, std in zip(batch, self.mean, self.std, strict=True)
        ]

    def change(
        self, before: Sequence[Float[Tensor, "n c h w"]], after: Sequence[Float[Tensor, "n c h w"]]
    ) -> list[Float[Tensor, "n h w"]]:
        """At every place of every tap, the mean over channels of the absolute change in units of the channel's own."""
        return [((b - a).abs() / unit).mean(1) for a, b, unit in zip(before, after, self.unit, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, for a file."""
        named = (("mean", self.mean), ("std", self.std), ("unit", self.unit))
        return {f"{name} {n}": value for name, values in named for n, value in enumerate(values)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Self:
        """What `tensors` gave."""
        taps = range(len(tensors) // 3)
        return cls(*(tuple(tensors[f"{name} {n}"].to(device) for n in taps) for name in ("mean", "std", "unit")))


def moments(
    first: Float64[Tensor, "c h w"], second: Float64[Tensor, "c h w"], count: int, shrinkage: float
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"], Float[Tensor, "c 1 1"]]:
    """Mean and deviation of each place with its row's stand-ins, and each channel's own deviation."""
    mean, square = (
        (count * value + shrinkage * value.mean(-1, keepdim=True)) / (count + shrinkage) for value in (first, second)
    )
    std = (square - mean.square()).clamp_min(0).sqrt()
    whole = (second.mean((1, 2), keepdim=True) - first.mean((1, 2), keepdim=True).square()).clamp_min(0).sqrt()
    std, whole = (value.clamp_min(max(CONSTANT * value.median().item(), TINY)) for value in (std, whole))
    return mean.float(), std.float(), whole.float()


@dataclass(frozen=True, eq=False)
class DistanceDetector:
    """A detector for every zone: it sees no activation elsewhere, and has a threshold of its own.

    The score is the mean over taps of the mean surprise at the places of the zone, in standard deviations of clean
    images that nothing was fitted to: a tap with many channels counts as much as one with few. A tap that has no place
    there is left out; where none has one, the score is nan.

    Args:
        centre, scale: mean and standard deviation of clean images.
        limits: the largest score that is not flagged; nan where there is no score.
    """

    centre: Float64[Tensor, "taps zones"]
    scale: Float64[Tensor, "taps zones"]
    limits: Float64[Tensor, " zones"]

    @classmethod
    def fit(cls, clean: Float64[Tensor, "m taps zones"], rate: float) -> Self:
        """Calibrate with clean images that nothing was fitted to.

        Raises:
            ValueError: too few images for the rate.
        """
        centre, scale = clean.mean(0), clean.std(0).clamp_min(TINY)
        made = cls(centre, scale, torch.full_like(centre[0], torch.nan))
        limits = [
            torch.nan if each.isnan().any() else Calibration().fit(each).threshold(rate)
            for each in made.scores(clean).unbind(1)
        ]
        return replace(made, limits=torch.tensor(limits, dtype=torch.float64))

    def scores(self, seen: Float64[Tensor, "n taps zones"]) -> Float64[Tensor, "n zones"]:
        """One score for each zone."""
        return ((seen - self.centre) / self.scale).nanmean(1)

    def flagged(self, scores: Float64[Tensor, "n zones"]) -> Bool[Tensor, "n zones"]:
        """Whether each score is above its threshold."""
        return scores > self.limits
