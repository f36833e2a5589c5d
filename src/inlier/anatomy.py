"""The anatomy of a backbone: what a detector's factory may know of it, for images of one size."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch

from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.readers import Reader
from inlier.registry import nearest
from inlier.sampling import SamplingKey, balanced, blue_noise, uniform
from inlier.taps import Place, Shape, Tap, list_taps

__all__ = ["Anatomy", "KeyKind", "KeyRing"]

KeyKind = Literal["blue_noise", "balanced", "uniform"]
"""How a key's points are spread: a distance apart in the whole volume (DAAIN, section 3.1), as many in every layer, or
anyhow. All have as many points as the first."""

SECRET = 32
"""Bytes of a secret."""
SELECTIONS = ("everywhere", "stage_ends", "deepest", "conv", "batch_norm_inputs")


@dataclass
class KeyRing:
    """At most one sampling key: given, or drawn when points or the secret of it are first asked for.

    Args:
        key: an existing key, such as one from a file.
        seed: fixes the draw; by default it comes from the system's randomness.
    """

    key: SamplingKey | None = None
    seed: int | None = None

    def draw(self, kind: KeyKind, shapes: Mapping[Tap, Shape], size: tuple[int, int], distance: float) -> SamplingKey:
        """The key for the volume that these taps span in images of `size` (h, w).

        Args:
            distance: that `blue_noise` keeps; the other kinds have as many points as it gives `blue_noise`.

        Raises:
            ValueError: there is no such kind.
            Mismatch: there is a key already, and it is of another kind, volume or distance.
        """
        layers = list(shapes.values())
        volume = (sum(shape[0] for shape in layers), *size)
        rules = {
            "blue_noise": f"blue_noise({distance:g})",
            "balanced": f"balanced({distance:g} over {len(layers)} layers)",
            "uniform": f"uniform(as many as blue_noise({distance:g}))",
        }
        if kind not in rules:
            raise ValueError(f"There is no key of kind {kind!r}. {nearest(str(kind), list(rules))}")
        if self.key is None or not len(self.key):
            if kind == "balanced":
                key = balanced(layers, size, distance, self.seed)
            else:
                key = blue_noise(volume, distance, self.seed)
                if kind == "uniform":
                    key = uniform(volume, len(key), self.seed)
            self.key = replace(key, rule=rules[kind], secret=b"" if self.key is None else self.key.secret)
        if (self.key.volume, self.key.rule) != (volume, rules[kind]):
            raise Mismatch(
                f"The monitor's key is {self.key.rule} for a volume of {self.key.volume}; asked for is {rules[kind]} "
                f"for {volume}. One monitor has one key: use one kind, one distance, the same taps and one image size."
            )
        return self.key

    def secret(self, volume: tuple[int, int, int]) -> bytes:
        """What looks are drawn from that nobody may foresee: 32 bytes, kept with the key.

        Args:
            volume: (channels, h, w) of the images, for a key that has no points.
        """
        if self.key is None:
            self.key = SamplingKey(torch.zeros(0, 3, dtype=torch.int64), volume, "looks alone", self._bytes())
        elif not self.key.secret:
            self.key = replace(self.key, secret=self._bytes())
        return self.key.secret

    def _bytes(self) -> bytes:
        if self.seed is None:
            return secrets.token_bytes(SECRET)
        return hashlib.blake2b(f"looks {self.seed}".encode(), digest_size=SECRET).digest()


@dataclass(frozen=True)
class Anatomy:
    """Image size (h, w), image channels, every leaf module's taps with their shapes in running order, and the key.

    `readers` are those that detectors have asked for so far. `places` are both sides of all modules, also of those that
    cannot be tapped, with reasons; there are none where the network is not at hand, only `shapes` of it.
    """

    size: tuple[int, int]
    channels: int
    shapes: Mapping[Tap, Shape]
    keys: KeyRing = field(default_factory=KeyRing)
    readers: dict[str, Reader] = field(default_factory=dict)
    places: tuple[Place, ...] = ()

    @classmethod
    def of(cls, backbone: Backbone, size: tuple[int, int], channels: int = 3, keys: KeyRing | None = None) -> Anatomy:
        """Run the backbone once and look."""
        places = list_taps(backbone, size, channels)
        leaves = {place.tap: place.shape for place in places if place.leaf and place.shape is not None}
        return cls(size, channels, leaves, keys or KeyRing(), places=places)

    def shared(self, name: str, make: Callable[[], Reader]) -> Reader:
        """The reader of this name, made when it is first asked for: what several detectors read is read once."""
        if name not in self.readers:
            self.readers[name] = make()
        return self.readers[name]

    def select(self, selection: str | Sequence[str]) -> dict[Tap, Shape]:
        """The taps that a text names, in running order.

        Args:
            selection: one or several, in a list or separated by commas, of

                * `everywhere`: the outputs of all leaf modules, `stage_ends`: one output a stage, `deepest`: those of
                  the stage of the lowest resolution, `conv`: the outputs of convolutions, transposed ones too,
                  `batch_norm_inputs`: what batch norms get;
                * the name of a module, leaf or not, for its output, or `name:input`. A module that is called like one
                  of the above is `conv:output`;
                * a pattern with `*`, `?` or `[...]`, such as `level3.*` or `*.bn:input`: the leaf modules it fits, or,
                  if it fits none, the others, such as the blocks `layer.[0-9]`. Modules that cannot be tapped are
                  passed over.

        Raises:
            ValueError: a name that no module has, with the nearest, or a pattern that fits none.
            Mismatch: what is named cannot be tapped, with the reason.
        """
        pieces = selection.split(",") if isinstance(selection, str) else list(selection)
        places = self.places or tuple(
            Place(tap, kind="", role="", leaf=True, shape=shape) for tap, shape in self.shapes.items()
        )
        chosen = {place.tap for piece in pieces or [""] for place in self._named(piece.strip(), places)}
        return {place.tap: place.shape for place in places if place.tap in chosen and place.shape is not None}

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
            raise Mismatch(
                "The backbone has no leaf module that runs once and is wider than the image; name the taps"
                + reasons(self.places)
            )
        return chosen

    def deepest(self) -> dict[Tap, Shape]:
        """Of the stage ends the map of fewest pixels, the last of such, and all that have a single pixel, as vectors
        have, but the network's output."""
        ends = self.inner_stage_ends()
        pixels = {tap: height * width for tap, (_, height, width) in ends.items()}
        fewest = min((count for count in pixels.values() if count > 1), default=1)
        last = [tap for tap, count in pixels.items() if count == fewest][-1]
        return {tap: shape for tap, shape in ends.items() if tap == last or pixels[tap] == 1}

    def inner_stage_ends(self) -> dict[Tap, Shape]:
        """The stage ends without what the last leaf module gives, which is the prediction, if there are others."""
        ends = self.stage_ends()
        last = next(reversed(self.everywhere()))
        return {tap: shape for tap, shape in ends.items() if tap != last} or ends

    def _named(self, piece: str, places: Sequence[Place]) -> list[Place]:
        if piece in SELECTIONS:
            found = self._selected(piece, places)
        elif any(character in piece for character in "*?["):
            found = fitting(piece, places)
        else:
            found = [exact(piece, places)]
        able = [place for place in found if not place.problem]
        if not able:
            raise Mismatch(f"Nothing of '{piece}' can be tapped" + reasons(found or self.places))
        return able

    def _selected(self, name: str, places: Sequence[Place]) -> list[Place]:
        if name == "everywhere":
            return [place for place in places if place.leaf and place.tap.side == "output"]
        if name in ("stage_ends", "deepest"):
            ends = self.stage_ends() if name == "stage_ends" else self.deepest()
            return [place for place in places if place.tap in ends]
        if not self.places:
            raise Mismatch(
                f"'{name}' goes by the modules' types, which are not known without the network: load the backbone, or "
                "name the taps"
            )
        role, side = ("convolution", "output") if name == "conv" else ("batch_norm", "input")
        return [place for place in places if place.role == role and place.tap.side == side]


def exact(name: str, places: Iterable[Place]) -> Place:
    """The place of this name."""
    known = {place.tap: place for place in places}
    tap = Tap.parse(name)
    if not name or tap not in known:
        options = [str(tap) for tap in known if tap.module and tap.side == "output"]
        raise ValueError(f"No taps are named '{name}'. {nearest(tap.module, [*options, *SELECTIONS])}")
    return known[tap]


def fitting(pattern: str, places: Sequence[Place]) -> list[Place]:
    """The places of the leaf modules that the pattern fits, or of the others if it fits none."""
    wanted = Tap.parse(pattern)
    fit = [place for place in places if place.tap.side == wanted.side and fnmatchcase(place.tap.module, wanted.module)]
    if not fit:
        raise ValueError(f"No module's name fits '{pattern}'. {nearest(wanted.module, [p.tap.module for p in places])}")
    return [place for place in fit if place.leaf] or fit


def reasons(places: Iterable[Place]) -> str:
    """Why places cannot be tapped, the commonest reasons first; to follow a message."""
    problems = [place.problem for place in places if place.problem]
    told = sorted(set(problems), key=problems.count, reverse=True)
    return ": " + "; ".join(told[:3]) if told else ""
