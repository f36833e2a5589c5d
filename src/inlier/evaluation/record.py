"""The record of an evaluation: what every monitor said of every image, and what became of its prediction.

All numbers that are ever reported are worked out of a record; nothing in it is an average over images. It is one
safetensors file, whose metadata says what the tensors are of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from jaxtyping import Float64, Int64
from torch import Tensor

from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors

__all__ = ["FORMAT_VERSION", "Kind", "MonitorEntry", "Record", "SetEntry"]

FORMAT_VERSION = 1
RECORD = "record"
"""Of the metadata: what the tensors are of, as JSON."""

HEADLINE = 0.05

Kind: TypeAlias = Literal["clean", "perturbation", "attack", "universal", "joint", "control", "ood"]
"""What a set of images is. A control is a change that should alarm nobody."""


@dataclass(frozen=True)
class MonitorEntry:
    """A monitor that was evaluated, with all its seeds.

    Args:
        name, label: for machines and for people.
        family: monitors of one family are told of together, such as the rows of an ablation.
        detectors: with their settings.
        fusion: of several detectors.
        seeds: of keys and fits.
        rule: of calibration.
        rates: nominal false-alarm rates.
        thresholds: by seed and rate, the largest score that is not flagged; without those that the clean images cannot
            keep, and empty where none was asked for.
        clean_made: how the clean scores behind the thresholds were made, in words.
        cost: `parameters` and `flops` of the monitor alone, `milliseconds` of network and monitor for one image,
            `overhead` over the network's time, and `passes` through the network that a clean image costs on average;
            none of them where it was not measured.
    """

    name: str
    label: str
    family: str
    detectors: tuple[str, ...]
    fusion: str
    seeds: tuple[int, ...]
    rule: str
    rates: tuple[float, ...]
    thresholds: Mapping[int, Mapping[float, float]]
    clean_made: str
    cost: Mapping[str, float] | None = None

    def headline_rate(self, seed: int) -> float | None:
        """Of the rates at which there is a threshold under a seed, that nearest to 5 %."""
        return min(self.thresholds.get(seed, {}), key=lambda rate: abs(rate - HEADLINE), default=None)


@dataclass(frozen=True)
class SetEntry:
    """A set of images that the monitors were shown.

    Args:
        name, label: for machines and for people.
        kind: what it is.
        change: what was done to clean images, without its strength: sets of one change are told of together.
        severity: of a perturbation.
        settings: of the change, or what the images are.
        paper: whether it is one of the paper's own.
        of: the name of the clean set that it was made of, image by image in the same order; None where it was not.
        names, groups: of the images.
    """

    name: str
    label: str
    kind: Kind
    change: str = ""
    severity: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: bool = False
    of: str | None = None
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Record:
    """Values of single images, by set; larger scores are more anomalous.

    Args:
        monitors, sets: what there is.
        scores: (n,) by monitor, seed and set; a monitor need not have been shown every set.
        calibration: (m,) by monitor and seed: scores of the clean images of the fit, each by detectors that were fitted
            to others; fewer than names where a monitor learnt from fewer, more where it learnt from copies, too.
        calibration_names, calibration_groups: of these images.
        changed: (n,) share of pixels whose predicted class differs from that for the unchanged image; where the change
            moves pixels, from that prediction moved alike.
        iou: (n,) mean IoU of these two predictions over the classes in either.
        wrong: (n,) share of the labelled pixels that are predicted wrong.
        overlap: (n, 2, k) pixels of intersection and union of label and prediction, by class.
        confusion: (k, k) pixels by label and predicted class.
        content: (n, k) share of each class in the label map, or in the prediction where there is none.
        light: (n,) mean brightness in [0, 1].
        linf: (n,) largest change of a pixel value, in units of [0, 1].
        nested: (m,) by monitor, seed, group and rate: whether each clean image of this group of the fit was flagged by
            a monitor that was fitted and calibrated without the group. 1 is yes.
    """

    monitors: tuple[MonitorEntry, ...]
    sets: tuple[SetEntry, ...]
    scores: Mapping[tuple[str, int, str], Float64[Tensor, " n"]]
    calibration: Mapping[tuple[str, int], Float64[Tensor, " m"]] = field(default_factory=dict)
    calibration_names: tuple[str, ...] = ()
    calibration_groups: tuple[str, ...] = ()
    changed: Mapping[str, Float64[Tensor, " n"]] = field(default_factory=dict)
    iou: Mapping[str, Float64[Tensor, " n"]] = field(default_factory=dict)
    wrong: Mapping[str, Float64[Tensor, " n"]] = field(default_factory=dict)
    overlap: Mapping[str, Int64[Tensor, "n 2 k"]] = field(default_factory=dict)
    confusion: Mapping[str, Int64[Tensor, "k k"]] = field(default_factory=dict)
    content: Mapping[str, Float64[Tensor, "n k"]] = field(default_factory=dict)
    light: Mapping[str, Float64[Tensor, " n"]] = field(default_factory=dict)
    linf: Mapping[str, Float64[Tensor, " n"]] = field(default_factory=dict)
    nested: Mapping[tuple[str, int, str, float], Int64[Tensor, " m"]] = field(default_factory=dict)

    def monitor(self, name: str) -> MonitorEntry:
        """The monitor of this name.

        Raises:
            LookupError: there is none.
        """
        return _named("monitor", name, self.monitors)

    def set(self, name: str) -> SetEntry:
        """The set of this name.

        Raises:
            LookupError: there is none.
        """
        return _named("set", name, self.sets)

    @property
    def clean(self) -> SetEntry:
        """The set of clean images."""
        return next(entry for entry in self.sets if entry.kind == "clean")

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        places: list[list[Any]] = []
        for part in BY_PLACE:
            for key, value in getattr(self, part).items():
                places.append([part, list(key) if isinstance(key, tuple) else key])
                tensors[str(len(places) - 1)] = value
        told = {
            "format": FORMAT_VERSION,
            "monitors": [_plain(entry) for entry in self.monitors],
            "sets": [asdict(entry) for entry in self.sets],
            "calibration_names": self.calibration_names,
            "calibration_groups": self.calibration_groups,
            "places": places,
        }
        write_tensors(Path(path), tensors, {RECORD: json.dumps(told)})

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            Mismatch: it is no record, or one of another format.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            told = json.loads(metadata[RECORD])
            if told["format"] != FORMAT_VERSION:
                raise Mismatch(
                    f"'{path}' is a record of format {told['format']}, and this inlier reads {FORMAT_VERSION}: "
                    "run `inlier evaluate` again"
                )
            parts: dict[str, dict[Any, Tensor]] = {part: {} for part in BY_PLACE}
            for number, (part, key) in enumerate(told["places"]):
                parts[part][tuple(key) if isinstance(key, list) else key] = tensors[str(number)]
            return cls(
                monitors=tuple(_monitor_entry(entry) for entry in told["monitors"]),
                sets=tuple(
                    SetEntry(**{**entry, "names": tuple(entry["names"]), "groups": tuple(entry["groups"])})
                    for entry in told["sets"]
                ),
                calibration_names=tuple(told["calibration_names"]),
                calibration_groups=tuple(told["calibration_groups"]),
                **parts,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Mismatch(
                f"'{path}' is no record of an evaluation ({error!r}); expected what `inlier evaluate` leaves as "
                "scores.safetensors"
            ) from error


E = TypeVar("E", MonitorEntry, SetEntry)

BY_PLACE = tuple(f.name for f in fields(Record) if str(f.type).startswith("Mapping"))
"""The parts of a record that are tensors by monitor, seed or set."""


def _plain(entry: MonitorEntry) -> dict[str, Any]:
    """JSON values: keys of JSON are text, so that thresholds become a list."""
    listed = [[seed, sorted(rates.items())] for seed, rates in entry.thresholds.items()]
    return asdict(entry) | {"thresholds": listed}


def _monitor_entry(told: dict[str, Any]) -> MonitorEntry:
    listed = {name: tuple(told[name]) for name in ("detectors", "seeds", "rates")}
    thresholds = {seed: dict(rates) for seed, rates in told["thresholds"]}
    return MonitorEntry(**{**told, **listed, "thresholds": thresholds})


def _named(what: str, name: str, entries: tuple[E, ...]) -> E:
    for entry in entries:
        if entry.name == name:
            return entry
    raise LookupError(f"No {what} named '{name}' in this record. There are {', '.join(e.name for e in entries)}.")
