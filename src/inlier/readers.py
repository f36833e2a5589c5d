"""Readers: what is kept of a tapped activation, decided inside the forward hook.

A reader sees each activation once, at its own resolution, and keeps a few numbers of it. What it keeps is
differentiable, and its memory is that of what is kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import is_
from threading import local
from typing import Literal, Self
from weakref import ref

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from inlier.errors import Mismatch
from inlier.sampling import SamplingKey, nearest_index
from inlier.taps import OUTPUT, Shape, Tap

__all__ = [
    "ActivationNorms", "ChannelStatistics", "FeatureMap", "Reader", "SampledActivations", "Statistic", "logits",
]  # fmt: skip


class Reader(nn.Module, ABC):
    """Keeps `size` numbers an image of the activations at `taps`.

    `name` is the key under which an observation holds them; readers used together need different names.
    """

    name: str
    taps: tuple[Tap, ...]
    size: int
    image_size: tuple[int, int] | None = None
    """(h, w) that images must have; None where any will do."""

    @abstractmethod
    def keep(self, position: int, activation: Tensor) -> Tensor:
        """What is kept of the activation (n, c, h, w) at `taps[position]`; called while the network runs."""

    def keeper(self, position: int) -> Callable[[Tensor], Tensor]:
        """`keep` for one position, called at every pass; a reader may have something faster to the same end."""
        return partial(self.keep, position)

    def combine(self, kept: Sequence[Tensor]) -> Tensor:
        """One tensor of all that was kept, in the order of `taps`."""
        return torch.cat(list(kept), dim=1)

    @abstractmethod
    def origins(self) -> Int[Tensor, " size"]:
        """For each number kept, the position in `taps` of the tap it comes from."""

    def extra_repr(self) -> str:
        return f"{self.name}: {self.size} numbers of {len(self.taps)} taps"


class SampledActivations(Reader):
    """The activations under the points of a key: (n, len(key)), in the key's order (DAAIN, section 3.1).

    Nearest up-sampling to the image's size followed by indexing is a fixed map of indices, so the values are gathered
    from the activation as it is; the stacked volume is never built.

    Args:
        key: drawn for the volume that the taps' channels and the image's size span.
        shapes: of the taps, in the order in which the key stacks their channels, for images of the key's size.
    """

    def __init__(self, key: SamplingKey, shapes: Mapping[Tap, Shape], name: str = "sampled") -> None:
        super().__init__()
        channels = sum(shape[0] for shape in shapes.values())
        if channels != key.volume[0]:
            raise Mismatch(
                f"The key was drawn for {key.volume[0]} channels, the taps have {channels}. "
                "Draw a key for this backbone and these taps."
            )
        self.name = name
        self.size = len(key)
        self.volume = key.volume
        self.image_size = key.volume[1:]
        used: dict[Tap, Shape] = {}
        start = 0
        for tap, shape in shapes.items():
            inside = key.points[(key.points[:, 0] >= start) & (key.points[:, 0] < start + shape[0])]
            if len(inside) > 0:
                # Not persistent: an artefact must not tell the key.
                index = _native_index(inside, start, shape, key.volume)
                self.register_buffer(f"index_{len(used)}", index[None], persistent=False)
                used[tap] = shape
            start += shape[0]
        self.taps = tuple(used)
        self.shapes = tuple(used.values())
        self._row: Tensor | None = None  # of the activations' type: made when the first ones come
        self._places: list[Tensor] = []
        # A vector comes as (n, c) or as (n, c, 1, 1).
        self.accepted = tuple((shape, shape[:1]) if shape[1:] == (1, 1) else (shape,) for shape in self.shapes)
        self.index_names = tuple(f"index_{position}" for position in range(len(used)))

    def keep(self, position: int, activation: Tensor) -> Tensor:
        if activation.shape[1:] not in self.accepted[position]:
            _, height, width = self.volume
            raise Mismatch(
                f"The key was drawn for images of {height} x {width} (h x w); at '{self.taps[position]}' it expects "
                f"{self.shapes[position]}, and {tuple(activation.shape[1:])} came. Resize the images, or draw a key "
                "for their size."
            )
        return activation.flatten(1).index_select(1, self.get_buffer(self.index_names[position])[0])

    def keeper(self, position: int) -> Callable[[Tensor], Tensor]:
        # One image at run time: into places that stay, since a hundred little blocks between the network's large ones
        # keep the allocator from using these again. (And `take` is faster, but has no backward pass to speak of.)
        places, buffers, name = self._places, self._buffers, self.index_names[position]
        expected = tuple((1, *shape) for shape in self.accepted[position])
        is_compiling = torch.compiler.is_compiling

        def keep(activation: Tensor) -> Tensor:
            if places and activation.shape in expected and not activation.requires_grad and not is_compiling():
                index, place = buffers[name], places[position]
                if index is not None and place.dtype is activation.dtype:
                    return torch.take(activation, index, out=place)
            return self.keep(position, activation)

        return keep

    def combine(self, kept: Sequence[Tensor]) -> Tensor:
        if self._row is not None and all(map(is_, kept, self._places)):
            return self._row.clone()
        combined = super().combine(kept)
        if (
            self._row is None
            and len(combined) == 1
            and not combined.requires_grad
            and not torch.compiler.is_compiling()
        ):
            self._row = torch.empty_like(combined)
            self._places += torch.split(self._row, [piece.shape[1] for piece in kept], dim=1)
        return combined

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._row = None
        self._places.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def origins(self) -> Int[Tensor, " size"]:
        counts = torch.tensor([self.get_buffer(name).shape[1] for name in self.index_names])
        return torch.arange(len(self.taps)).repeat_interleave(counts)


def _native_index(points: Tensor, start: int, shape: Shape, volume: tuple[int, int, int]) -> Tensor:
    """Where up-sampled points lie in a flattened (c, h, w) activation, by up-sampling the coordinates themselves."""
    _, height, width = shape
    row, column = nearest_index(height, volume[1]), nearest_index(width, volume[2])
    channel, y, x = points.unbind(1)
    return ((channel - start) * height + row[y]) * width + column[x]


Statistic = Literal["mean", "std", "energy"]


class ChannelStatistics(Reader):
    """Statistics of every channel over a grid of regions: (n, channels * statistics * rows * columns).

    Args:
        shapes: of the taps.
        grid: (rows, columns) of regions; (4, 1) are four horizontal bands, (1, 1) the whole image. A map of
            fewer rows or columns, such as a vector of features, has as many regions as it has.
        statistics: any of `mean`, `std` and `energy`, the high-frequency energy: the mean square of the activation
            less its 3 x 3 mean.
        normalise: `rms` divides each tap's activation by its root mean square in the image at hand, so that
            an overall gain does not matter.
    """

    def __init__(
        self,
        shapes: Mapping[Tap, Shape],
        *,
        grid: tuple[int, int] = (4, 1),
        statistics: Sequence[Statistic] = ("mean",),
        normalise: Literal["none", "rms"] = "none",
        name: str = "statistics",
    ) -> None:
        super().__init__()
        unknown = set(statistics) - {"mean", "std", "energy"}
        if unknown or not statistics or normalise not in ("none", "rms") or min(grid) < 1 or not shapes:
            raise ValueError(
                "ChannelStatistics needs taps, a grid of at least (1, 1), statistics out of mean, std, energy and "
                f"normalise 'none' or 'rms'; got {len(shapes)} taps, {grid}, {tuple(statistics)}, {normalise!r}"
            )
        self.name = name
        self.taps = tuple(shapes)
        self.grids = tuple((min(grid[0], height), min(grid[1], width)) for _, height, width in shapes.values())
        self.statistics = tuple(statistics)
        self.normalise = normalise
        self.sizes = tuple(
            shape[0] * len(self.statistics) * rows * columns
            for shape, (rows, columns) in zip(shapes.values(), self.grids, strict=True)
        )
        self.size = sum(self.sizes)

    def keep(self, position: int, activation: Tensor) -> Tensor:
        if activation.ndim == 2:
            activation = activation[..., None, None]
        if activation.requires_grad:
            activation = activation.clone()  # the backward pass needs it as it is now, before any in-place change
        grid = self.grids[position]
        if self.normalise == "none":
            return self.measured(activation, grid)
        rms = root_mean_square(activation)
        if self.statistics == ("mean",):
            means: Tensor = region_mean(activation, grid).flatten(1) / rms  # so much smaller than the activation
            return means
        return self.measured(activation / rms[..., None, None], grid)

    def measured(self, activation: Float[Tensor, "n c h w"], grid: tuple[int, int]) -> Float[Tensor, "n k"]:
        return torch.cat([STATISTICS[statistic](activation, grid).flatten(1) for statistic in self.statistics], dim=1)

    def origins(self) -> Int[Tensor, " size"]:
        return torch.arange(len(self.taps)).repeat_interleave(torch.tensor(self.sizes))


def region_mean(activation: Tensor, grid: tuple[int, int]) -> Tensor:
    if grid[1] == 1:  # adaptive pooling is slow on a CPU: give it one column, the mean of all
        activation = activation.mean(-1, keepdim=True)
    return F.adaptive_avg_pool2d(activation, grid)


def region_std(activation: Tensor, grid: tuple[int, int]) -> Tensor:
    activation = activation - activation.mean(dim=(2, 3), keepdim=True)  # else a large mean cancels what is left
    variance = region_mean(activation.square(), grid) - region_mean(activation, grid).square()
    return variance.clamp_min(1e-12).sqrt()


def region_energy(activation: Tensor, grid: tuple[int, int]) -> Tensor:
    smooth = F.avg_pool2d(activation, 3, stride=1, padding=1, count_include_pad=False)
    return region_mean((activation - smooth).square(), grid)


def root_mean_square(activation: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1"]:
    """Of each image's activation, all channels together."""
    return (norm_of(activation) / math.sqrt(math.prod(activation.shape[1:]))).clamp_min(1e-10)


class _Latest(local):
    """The activation whose norm was asked for last: readers at one tap follow each other, and one norm serves all."""

    activation: ref[Tensor] = ref(torch.empty(0))
    version = -1
    norm = torch.empty(0)


_latest = _Latest()


def norm_of(activation: Float[Tensor, "n *chw"]) -> Float[Tensor, "n 1"]:
    """The L2 norm of each image's activation."""
    if activation.requires_grad or activation.is_inference() or torch.compiler.is_compiling():
        return _norm(activation)
    if _latest.activation() is not activation or _latest.version != activation._version:
        _latest.norm = _norm(activation)
        _latest.activation, _latest.version = ref(activation), activation._version
    return _latest.norm


def _norm(activation: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(activation.flatten(1), dim=1, keepdim=True)
    return norm


STATISTICS = {"mean": region_mean, "std": region_std, "energy": region_energy}


class ActivationNorms(Reader):
    """The L2 norm of all that passes each tap: (n, taps)."""

    def __init__(self, taps: Sequence[Tap], name: str = "activation_norms") -> None:
        super().__init__()
        if not taps:
            raise ValueError("ActivationNorms needs at least one tap")
        self.name = name
        self.taps = tuple(taps)
        self.size = len(self.taps)

    def keep(self, position: int, activation: Tensor) -> Float[Tensor, "n 1"]:
        if activation.requires_grad:
            activation = activation.clone()  # the backward pass needs it as it is now, before any in-place change
        return norm_of(activation)

    def origins(self) -> Int[Tensor, " size"]:
        return torch.arange(self.size)


class FeatureMap(Reader):
    """The whole activation at one tap, as it is: (n, c, h, w) or (n, c)."""

    def __init__(self, tap: Tap, shape: Shape, name: str) -> None:
        super().__init__()
        self.name = name
        self.taps = (tap,)
        self.size = shape[0] * shape[1] * shape[2]

    def keep(self, position: int, activation: Tensor) -> Float[Tensor, "n c *hw"]:
        return activation.clone()  # a later in-place activation must not reach what was read

    def combine(self, kept: Sequence[Tensor]) -> Tensor:
        return kept[0]

    def origins(self) -> Int[Tensor, " size"]:
        return torch.zeros(self.size, dtype=torch.long)


def logits(shape: Shape) -> FeatureMap:
    """A reader of the backbone's logits, for readings of a data set that outlive the network."""
    return FeatureMap(OUTPUT, shape, "logits")
