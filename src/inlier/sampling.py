"""Sampling keys: which activations are read, as points in the volume channel x height x width.

All tapped activations, up-sampled to the image's size and stacked along the channels, form one volume (DAAIN, section
3.1). A key is a set of points in it, drawn once and then fixed. It is a secret: it is never printed, and its file is
readable by its owner alone. Looks that nobody may foresee are drawn from a number that is kept with it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from scipy.spatial import cKDTree
from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import PRIVATE, read_tensors, write_tensors

__all__ = ["SamplingKey", "balanced", "blue_noise", "nearest_index", "spacing", "uniform"]

CANDIDATES = 30
"""Tries around a point before it is given up (Bridson 2007 recommends 30); `balanced` has as many for each point."""
PRECISION = 1.02
"""How near `balanced` comes to the largest distance that its candidates allow, as a ratio."""


@dataclass(frozen=True, repr=False, eq=False)
class SamplingKey:
    """Points (channel, y, x) in a volume, sorted by channel.

    Args:
        points: (k, 3) integers; none where nothing is sampled.
        volume: (channels, height, width) the points were drawn for.
        rule: how they were drawn, such as `blue_noise(64)`; tells nothing about where they are.
        secret: what looks are drawn from; none where there are no such looks.
    """

    points: Int[Tensor, "k 3"]
    volume: tuple[int, int, int]
    rule: str
    secret: bytes = b""

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.points.shape), self.points.dtype
        if len(shape) != 2 or shape[1] != 3 or dtype != torch.int64 or not (shape[0] or self.secret):
            raise ValueError(f"A key needs (k, 3) points of torch.int64 with k > 0, not {shape} of {dtype}")
        if (self.points < 0).any() or (self.points >= torch.tensor(self.volume)).any():
            raise ValueError(f"A key has points outside its volume {self.volume}")

    def __len__(self) -> int:
        return len(self.points)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SamplingKey):
            return NotImplemented
        mine, others = ((key.volume, key.rule, key.secret) for key in (self, other))
        return mine == others and torch.equal(self.points, other.points)

    def __hash__(self) -> int:
        return hash((self.volume, self.rule, len(self)))

    def __repr__(self) -> str:
        channels, height, width = self.volume
        return f"SamplingKey({len(self)} points in {channels} x {height} x {width})"

    def save(self, path: Path) -> None:
        """Write the key to a file that only its owner can read (mode 0600)."""
        tensors = {"points": self.points, "volume": torch.tensor(self.volume)}
        if self.secret:
            tensors["secret"] = torch.tensor(list(self.secret), dtype=torch.uint8)
        write_tensors(path, tensors, {"rule": self.rule}, mode=PRIVATE)

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
            secret = bytes(tensors["secret"].tolist()) if "secret" in tensors else b""
            return cls(tensors["points"], (channels, height, width), metadata["rule"], secret)
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


def balanced(
    shapes: Sequence[tuple[int, int, int]], size: tuple[int, int], distance: float, seed: int | None = None
) -> SamplingKey:
    """A key with as many points in every layer, and blue noise inside each.

    There are as many points as `blue_noise` has for the whole volume with this distance and seed. Every layer gets
    equally many, one more or less, unless it has fewer activations: then it gets all of them, and the others the rest.
    No activation is read twice: a point is the middle of the pixels that one activation covers when it is up-sampled.
    Of a layer's candidates, taken in random order, those become points that keep their distance from the ones before,
    the largest distance at which there are enough; it is at least `spacing` of the layer. Opposite ends of the layer
    count as neighbours, else the points would crowd along the borders.

    Differs from DAAIN, section 3.1, where the distance is kept across layers, so that a layer gets points by its
    number of channels, and most points fall into the deepest stage.

    Args:
        shapes: (channels, height, width) of the layers, in the order in which the volume stacks them.
        size: (h, w) of the images.
        distance: of the blue noise that tells how many points there are.
        seed: fixes the key; by default it is drawn from the system's randomness.
    """
    if not shapes:
        raise ValueError("balanced needs the shape of at least one layer")
    volume = (sum(shape[0] for shape in shapes), *size)
    budget = len(blue_noise(volume, distance, seed))
    generator = _generator(seed)
    places = [_places(shape, size) for shape in shapes]
    counts = _shares(budget, [math.prod(len(along) for along in layer) for layer in places], generator)
    start, points = 0, []
    for shape, layer, count in zip(shapes, places, counts, strict=True):
        if count > 0:
            least = spacing(shape, size, count)
            points.append(_spread(layer, (shape[0], *size), count, least, generator) + np.array([start, 0, 0]))
        start += shape[0]
    return _key(np.concatenate(points), volume, f"balanced({distance:g} over {len(shapes)} layers)")


def spacing(shape: tuple[int, int, int], size: tuple[int, int], count: int) -> float:
    """The distance that `count` points of a layer of this shape keep at least in a `balanced` key for images of `size`.

    At this distance, points taken one by one shut out at most half of the layer's activations, wherever they lie; so
    there is always a next one. It is 1, points differ, where the layer is crowded, and infinite for a single point.
    """
    if count < 2:
        return float("inf")
    places, sides = _places(shape, size), (shape[0], *size)
    room = np.prod([len(along) for along in places]) / 2 / (count - 1)
    low, high = 1.0, float(np.linalg.norm(sides))
    while high > 1.01 * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _shut_out(places, sides, middle) <= room else (low, middle)
    return low


def _shut_out(places: Sequence[np.ndarray], sides: Sequence[int], distance: float) -> int:
    """At most so many places are nearer than `distance` to one: those of a box around it, opposite ends joined."""
    reach = 1
    for along, side in zip(places, sides, strict=True):
        round_about = np.concatenate([along - side, along, along + side])
        below, above = (
            np.searchsorted(round_about, along - distance, "right"),
            np.searchsorted(round_about, along + distance),
        )
        reach *= min(len(along), int((above - below).max()))
    return reach


def _spread(
    places: Sequence[np.ndarray], sides: Sequence[int], count: int, least: float, generator: np.random.Generator
) -> np.ndarray:
    """(count, 3) points of the grid of `places` along each axis, at least `least` apart and as far as found."""
    grid = tuple(len(along) for along in places)
    total = int(np.prod(grid))
    points = None
    while points is None:  # so many candidates can lie so badly that too few keep the distance, but hardly ever do
        drawn = generator.choice(total, min(total, CANDIDATES * count), replace=False)
        index = np.unravel_index(drawn, grid)
        candidates = np.stack([along[i] for along, i in zip(places, index, strict=True)], axis=1)
        if count == 1:
            return candidates[:1]
        tree = cKDTree(candidates, boxsize=sides)
        points = _keeping(tree, least, count)
    distance, factor = least, 2.0
    while factor > PRECISION:
        further = _keeping(tree, distance * factor, count)
        if further is None:
            factor = factor**0.5
        else:
            points, distance = further, distance * factor
    return candidates[points]


def _keeping(candidates: cKDTree, distance: float, count: int) -> list[int] | None:
    """The first `count` candidates that keep the distance from those before them, if there are so many."""
    free = np.ones(candidates.n, dtype=bool)
    taken: list[int] = []
    nearer = distance * (1 - 1e-12)  # what is exactly at the distance keeps it
    for index, point in enumerate(candidates.data):
        if free[index]:
            taken.append(index)
            if len(taken) == count:
                return taken
            free[candidates.query_ball_point(point, nearer, return_sorted=False)] = False
    return None


def _shares(budget: int, room: Sequence[int], generator: np.random.Generator) -> list[int]:
    """The budget dealt out evenly, but to none more than there is room for; what is left over goes by lot."""
    rooms = np.array(room)
    counts = np.zeros_like(rooms)
    left = min(budget, int(rooms.sum()))
    while left > 0:
        free = np.flatnonzero(counts < rooms)
        if left < len(free):
            counts[generator.choice(free, left, replace=False)] += 1
            break
        given = np.minimum(left // len(free), rooms[free] - counts[free])
        counts[free] += given
        left -= int(given.sum())
    return [int(count) for count in counts]


def _places(shape: tuple[int, int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along each axis, where a layer's activations are in the volume: the middles of what each covers; sorted."""
    return np.arange(shape[0]), _middles(shape[1], size[0]), _middles(shape[2], size[1])


def _middles(length: int, target: int) -> np.ndarray:
    _, first, shown = np.unique(nearest_index(length, target).numpy(), return_index=True, return_counts=True)
    middles: np.ndarray = first + (shown - 1) // 2
    return middles


def nearest_index(length: int, target: int) -> Int[Tensor, " target"]:
    """Which of `length` elements nearest up-sampling shows at each of `target` places."""
    places = torch.arange(length, dtype=torch.float32).view(1, 1, length)
    return F.interpolate(places, size=target).view(-1).long()


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
