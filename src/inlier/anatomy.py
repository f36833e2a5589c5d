"""The anatomy of a backbone: what a detector's factory may know of it, for images of one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.readers import Reader
from inlier.sampling import SamplingKey, blue_noise
from inlier.taps import Shape, Tap, find_taps

__all__ = ["Anatomy", "KeyRing"]


@dataclass
class KeyRing:
    """At most one sampling key: given, or drawn when it is first asked for.

    Args:
        key: an existing key, such as one from a file.
        seed: fixes the draw; by default it comes from the system's randomness.
    """

    key: SamplingKey | None = None
    seed: int | None = None

    def blue_noise(self, volume: tuple[int, int, int], distance: float) -> SamplingKey:
        """The key for this volume."""
        if self.key is None:
            self.key = blue_noise(volume, distance, self.seed)
        if self.key.volume != volume or self.key.rule != f"blue_noise({distance:g})":
            raise Mismatch(
                f"The monitor's key is {self.key.rule} for a volume of {self.key.volume}; asked for is "
                f"blue_noise({distance:g}) for {volume}. One monitor has one key: use one distance and image size."
            )
        return self.key


@dataclass(frozen=True)
class Anatomy:
    """Image size (h, w), image channels, every tap that runs once with its shape in running order, and the key.

    `readers` are those that detectors have asked for so far.
    """

    size: tuple[int, int]
    channels: int
    shapes: Mapping[Tap, Shape]
    keys: KeyRing = field(default_factory=KeyRing)
    readers: dict[str, Reader] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Backbone, size: tuple[int, int], channels: int = 3, keys: KeyRing | None = None) -> Anatomy:
        """Run the backbone once and look."""
        return cls(size, channels, find_taps(backbone, size, channels), keys or KeyRing())

    def shared(self, name: str, make: Callable[[], Reader]) -> Reader:
        """The reader of this name, made when it is first asked for: what several detectors read is read once."""
        if name not in self.readers:
            self.readers[name] = make()
        return self.readers[name]

    def everywhere(self) -> dict[Tap, Shape]:
        """The outputs of all leaf modules: the paper's best choice (DAAIN, Table 2, `EW`)."""
        return {tap: shape for tap, shape in self.shapes.items() if tap.side == "output"}

    def stage_ends(self) -> dict[Tap, Shape]:
        """One output a stage: the widest, the last of the widest, of each run of modules that share a resolution.

        Modules no wider than the image are passed over: they hold shrunken copies of it.
        """
        chosen: dict[Tap, Shape] = {}
        stage: tuple[Tap, Shape] | None = None
        for tap, shape in self.everywhere().items():
            if shape[0] <= self.channels:
                continue
            if stage is not None and shape[1:] != stage[1][1:]:
                chosen[stage[0]] = stage[1]
                stage = None
            if stage is None or shape[0] >= stage[1][0]:
                stage = (tap, shape)
        if stage is not None:
            chosen[stage[0]] = stage[1]
        if not chosen:
            raise Mismatch("The backbone has no leaf module that runs once and is wider than the image; name the taps")
        return chosen
