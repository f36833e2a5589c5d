"""Sampling keys: which activations are read, as points in the volume channel x height x width.

All tapped activations, up-sampled to the image's size and stacked along the channels, form one volume (DAAIN, section
3.1). A key is a set of points in it, drawn once and then fixed. It is a secret: it is never printed, and its file is
readable by its owner alone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import PRIVATE, read_tensors, write_tensors

__all__ = ["SamplingKey", "blue_noise", "uniform"]

CANDIDATES = 30
"""Tries around a point before it is given up (Bridson 2007 recommends 30)."""


@dataclass(frozen=True, repr=False, eq=False)
class SamplingKey:
    """Points (channel, y, x) in a volume, sorted by channel.

    Args:
        points: (k, 3) integers.
        volume: (channels, height, width) the points were drawn for.
        rule: how they were drawn, such as `blue_noise(64)`; tells nothing about where they are.
    """

    points: Int[Tensor, "k 3"]
    volume: tuple[int, int, int]
    rule: str

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.points.shape), self.points.dtype
        if len(shape) != 2 or shape[1] != 3 or shape[0] == 0 or dtype != torch.int64:
            raise ValueError(f"A key needs (k, 3) points of torch.int64 with k > 0, not {shape} of {dtype}")
        if (self.points < 0).any() or (self.points >= torch.tensor(self.volume)).any():
            raise ValueError(f"A key has points outside its volume {self.volume}")

    def __len__(self) -> int:
        return len(self.points)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SamplingKey):
            return NotImplemented
        return (self.volume, self.rule) == (other.volume, other.rule) and torch.equal(self.points, other.points)

    def __hash__(self) -> int:
        return hash((self.volume, self.rule, len(self)))

    def __repr__(self) -> str:
        channels, height, width = self.volume
        return f"SamplingKey({len(self)} points in {channels} x {height} x {width})"

    def save(self, path: Path) -> None:
        """Write the key to a file that only its owner can read (mode 0600)."""
        volume = torch.tensor(self.volume)
        write_tensors(path, {"points": self.points, "volume": volume}, {"rule": self.rule}, mode=PRIVATE)

    @classmethod
    def load(cls, path: Path) -> SamplingKey:
        """Read a key file.

        Raises:
            FileNotFoundError: there is none.
            Mismatch: the file holds no key.
        """
        tensors, metadata = read_tensors(path)
        try:
            channels, height, width = tensors["volume"].tolist()
            return cls(tensors["points"], (channels, height, width), metadata["rule"])
        except (KeyError, TypeError, ValueError) as error:
            raise Mismatch(f"'{path}' holds no sampling key: {error}") from error


def uniform(volume: tuple[int, int, int], count: int, seed: int | None = None) -> SamplingKey:
    """A key of `count` different points, each equally likely; from the system's randomness unless `seed` is given."""
    total = volume[0] * volume[1] * volume[2]
    if not 0 < count <= total:
        raise ValueError(f"Cannot draw {count} different points from {total}")
    generator = _generator(seed)
    chosen = np.zeros(0, dtype=np.int64)
    while len(chosen) < count:  # drawing with replacement never holds the volume, unlike a permutation
        chosen = np.unique(np.concatenate([chosen, generator.integers(total, size=count)]))
    chosen = generator.choice(chosen, count, replace=False)
    return _key(np.stack(np.unravel_index(chosen, volume), axis=1), volume, f"uniform({count})")


def blue_noise(volume: tuple[int, int, int], distance: float, seed: int | None = None) -> SamplingKey:
    """A key whose points keep at least `distance` from each other, the channel counted as a pixel (DAAIN, section 3.1).

    Bridson's algorithm (SIGGRAPH 2007) in three dimensions: a random active point gets up to 30 candidates in the shell
    between one and two distances around it; the first that keeps its distance becomes a point, and a point none of
    whose candidates does is no longer active. Distances are tested on real coordinates, which are then truncated to
    integers, so two points of the key may be up to sqrt(3) nearer than `distance`.

    Args:
        volume: (channels, height, width).
        distance: in pixels and channels; the paper uses 64 and 128.
        seed: fixes the key; by default it is drawn from the system's randomness.
    """
    if distance < 2 or min(volume) < 1:
        raise ValueError(f"blue_noise needs distance >= 2 and a volume of at least 1 x 1 x 1, not {distance}, {volume}")
    generator = _generator(seed)
    size = np.array(volume, dtype=np.float64)
    cell = distance / np.sqrt(3)  # a cell holds at most one point
    margin = 2  # cells that a point's distance reaches across; as a border it spares bounds checks
    shape = (size // cell).astype(np.int64) + 1 + 2 * margin
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    around = np.stack(np.meshgrid(*[np.arange(-margin, margin + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    around = around @ strides
    nearest = np.full((int(shape.prod()), 3), np.inf)  # the point in each cell, or nowhere

    def cells(points: np.ndarray) -> np.ndarray:
        indices: np.ndarray = ((points / cell).astype(np.int64) + margin) @ strides
        return indices

    points = [generator.random(3) * size]
    nearest[cells(points[0])] = points[0]
    active = [0]
    while active:
        place = int(generator.integers(len(active)))
        candidates = points[active[place]] + _shell(generator, distance)
        candidates = candidates[((candidates >= 0) & (candidates < size)).all(axis=1)]
        gaps = nearest[cells(candidates)[:, None] + around] - candidates[:, None]
        free = np.flatnonzero((np.einsum("ijk,ijk->ij", gaps, gaps) >= distance**2).all(axis=1))
        if len(free) == 0:
            active[place] = active[-1]
            active.pop()
            continue
        point = candidates[free[0]]
        nearest[cells(point)] = point
        active.append(len(points))
        points.append(point)
    return _key(np.array(points).astype(np.int64), volume, f"blue_noise({distance:g})")


def _shell(generator: np.random.Generator, distance: float) -> np.ndarray:
    """Candidates around the origin, uniform in direction and in distance between one and two distances."""
    direction = generator.standard_normal((CANDIDATES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    shell: np.ndarray = direction * distance * (1 + 7 * generator.random((CANDIDATES, 1))) ** (1 / 3)
    return shell


def _generator(seed: int | None) -> np.random.Generator:
    return np.random.default_rng(secrets.randbits(128) if seed is None else seed)


def _key(points: np.ndarray, volume: tuple[int, int, int], rule: str) -> SamplingKey:
    ordered = points[np.lexsort(points.T[::-1])]
    return SamplingKey(torch.from_numpy(ordered), volume, rule)
