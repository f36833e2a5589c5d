"""Observations: everything a detector or an attacker may look at.

An observation holds images, the backbone's output for them and what the readers kept, each computed at most once and
on first use; it can look again through a changed image or a changed network, and take a gradient. Readings are the
observations of a whole data set without its images and its network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.origin import Origin
from inlier.readings_file import load_readings, save_readings
from inlier.spool import MEMORY_LIMIT, Spool, chunk_rows, gather
from inlier.types import Images, LabelMaps, Logits

__all__ = ["Look", "Observation", "Readings", "Recorded"]


class Look:
    """How to look again: through changed images, a changed network, or both. The base class changes nothing.

    A look may return more images than came (patches, draws); whoever asks for it knows how to put them together.
    """

    def images(self, images: Images, generator: torch.Generator | None) -> Images:
        """The images to show instead; differentiable, or with a stand-in gradient of its own."""
        return images

    def network(self, backbone: Backbone, generator: torch.Generator | None) -> AbstractContextManager[None]:
        """A context in which the backbone is changed, such as one with dropout."""
        return nullcontext()


class Observation(ABC):
    """One batch of images as seen by a backbone and its readers."""

    @property
    @abstractmethod
    def images(self) -> Images:
        """(n, c, h, w) in [0, 1], before any resizing or normalisation."""

    @property
    @abstractmethod
    def output(self) -> Logits:
        """The backbone's logits."""

    @property
    @abstractmethod
    def readings(self) -> Mapping[str, Tensor]:
        """What each reader kept, by its name."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward passes spent on these images so far, further looks and gradients included."""

    @abstractmethod
    def look(self, look: Look, generator: torch.Generator | None = None) -> Observation:
        """Look again. Without a generator the same look is taken once and remembered."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Observation:
        """The observation of some of the images; what was seen of them is not looked at again."""

    @abstractmethod
    def gradient(self, of: Callable[[Observation], Tensor], *, create_graph: bool = False) -> Images:
        """The gradient of the sum of `of(observation)` with respect to the images: one backward pass."""

    def measured(self, name: str, of: Callable[[Observation], Tensor]) -> Tensor:
        """`of(observation)`, or what it was when the images were read, where that was kept under this name."""
        return of(self)


@dataclass(frozen=True)
class Readings:
    """What the readers kept of a data set, image by image in its order.

    Args:
        values: by reader name, the first axis over images; memory maps where they are more than memory should hold.
        names: one an image.
        groups: one an image.
        labels: classes or label maps, where known.
        origin: what they were read from; without it they cannot be saved, nor a monitor fitted to them.
        memory_limit: bytes that readings made of these may take in memory; what is more goes to temporary files.
        digest: of the file they were loaded from.
    """

    values: Mapping[str, Tensor]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: LabelMaps | None = None
    origin: Origin | None = None
    memory_limit: int = MEMORY_LIMIT
    digest: str | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in self.values.items()}
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        if set(lengths.values()) - {len(self.names)} or len(self.names) != len(self.groups):
            raise ValueError(f"{len(self.names)} names, {len(self.groups)} groups and readings of lengths {lengths}")

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Tensor) -> Readings:
        """The readings of some images."""
        chosen = indices.tolist()
        return Readings(
            gather(self.values, indices, self.memory_limit),
            tuple(self.names[i] for i in chosen),
            tuple(self.groups[i] for i in chosen),
            None if self.labels is None else self.labels[indices],
            self.origin,
            self.memory_limit,
        )

    def measured(self, name: str) -> Tensor:
        """What a detector's measure of this name came to, an image a row.

        Raises:
            Mismatch: the images were read without that detector's measures.
        """
        if name not in self.values:
            raise Mismatch(
                f"The readings hold no '{name}': read the images with also=detector.measures, or by a monitor"
            )
        return self.values[name]

    def rows(self, name: str) -> Sequence[Tensor]:
        """The values of one reader in pieces of about 64 MB, as often as asked; one piece where they are no more."""
        value = self.values[name]
        return torch.split(value, chunk_rows({name: value}))

    def observations(self, batch_size: int = 64) -> Iterator[Recorded]:
        """The readings as observations, batch after batch."""
        for start in range(0, len(self), batch_size):
            yield Recorded({name: value[start : start + batch_size] for name, value in self.values.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Readings]) -> Readings:
        """One after the other."""
        if not parts:
            raise ValueError("No readings to put together")
        spool = Spool(parts[0].memory_limit)
        for part in parts:
            spool.add(part.values)
        return cls(
            spool.tensors(),
            tuple(name for part in parts for name in part.names),
            tuple(group for part in parts for group in part.groups),
            None if parts[0].labels is None else torch.cat([part.labels for part in parts if part.labels is not None]),
            parts[0].origin if all(part.origin == parts[0].origin for part in parts) else None,
            parts[0].memory_limit,
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; with mode 0600 where a sampling key was used.

        The key is not in it, but whoever has the file, the images and the network can find it out.

        Raises:
            Mismatch: the readings do not say what they were read from.
        """
        if self.origin is None:
            raise Mismatch(
                "These readings do not say what they were read from, so that they could not be used again; "
                "read with Monitor.read, or give Probe.read an origin"
            )
        save_readings(Path(path), self.values, self.names, self.groups, self.labels, self.origin)

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = True, memory_limit: int = MEMORY_LIMIT) -> Readings:
        """Read a file of readings; the values are memory maps of it, so that it may be larger than memory.

        `verify` goes through the file once, to compare its digest.

        Raises:
            FileNotFoundError: there is no such file.
            Mismatch: the file holds no readings, or is damaged.
        """
        found = load_readings(Path(path), verify)
        return cls(
            found.values,
            found.names,
            found.groups,
            found.labels,
            found.contents.origin,
            memory_limit,
            found.contents.digest,
        )


class Recorded(Observation):
    """An observation read back: readings and, where they were kept, logits; images and further looks are gone."""

    def __init__(self, readings: Mapping[str, Tensor]) -> None:
        self._readings = readings

    @property
    def readings(self) -> Mapping[str, Tensor]:
        return self._readings

    @property
    def output(self) -> Logits:
        if "logits" not in self._readings:
            raise Mismatch("These readings were recorded without logits; read again with the reader readers.logits")
        return self._readings["logits"]

    @property
    def passes(self) -> int:
        return 0

    def measured(self, name: str, of: Callable[[Observation], Tensor]) -> Tensor:
        return self._readings[name] if name in self._readings else of(self)

    @property
    def images(self) -> Images:
        raise Mismatch("These readings were recorded without their images; a detector that needs them runs on a probe")

    def look(self, look: Look, generator: torch.Generator | None = None) -> Observation:
        raise Mismatch(
            f"{type(look).__name__} needs the network, and these readings were recorded without it: read the images "
            "again, with the detector that looks among those that are read for"
        )

    def subset(self, indices: Tensor) -> Observation:
        return Recorded({name: value[indices] for name, value in self._readings.items()})

    def gradient(self, of: Callable[[Observation], Tensor], *, create_graph: bool = False) -> Images:
        raise Mismatch("A gradient needs the network, and these readings were recorded without it")
