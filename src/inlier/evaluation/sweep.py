"""Sweeps: every detector with every seed and calibration rule, tried on every set of images.

A cell is one of each. Its result is a file of its own, written whole under a name made of the cell's settings, so that
a sweep that was killed goes on where it was and ends with the same results. Images are read once and their readings
kept; a sweep over readings alone needs no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.calibration import Rule
from inlier.config import from_keywords, used
from inlier.cross_fitting import Blocks
from inlier.datasets.load import open_images
from inlier.detectors.spec import DetectorSpec
from inlier.detectors.table import DETECTORS
from inlier.errors import Mismatch
from inlier.evaluation.metrics import aupr, auroc, fpr_at_tpr, rate_interval
from inlier.evaluation.workplace import Workplace
from inlier.files import write_bytes
from inlier.images import ImageSource
from inlier.monitor import Fusion, Monitor
from inlier.observation import Readings
from inlier.origin import AbsentBackbone
from inlier.readings_file import READINGS
from inlier.sampling import SamplingKey
from inlier.types import Progress, Scores

__all__ = ["Sweep", "run_sweep", "table"]

Source: TypeAlias = str | Mapping[str, Any]
"""A file of readings (`name.readings`), what `open_images` takes, or a table of its keyword arguments. In the text,
`{seed}` stands for the seed."""
Named: TypeAlias = str | Mapping[str, Any]
"""A detector: `name(setting=value)`, or a table of `name` and settings."""


@dataclass(frozen=True)
class Sweep:
    """What is tried on what; the keyword arguments of its TOML file.

    Args:
        fit: clean images to fit to, and to calibrate with by cross-fitting.
        anomalous: by name, images that ought to be flagged.
        clean: clean images that nothing is fitted to; by default their part is played by those of `fit`, each scored
            by detectors fitted to others.
        detectors: each is a monitor of its own; several in brackets are one, fused.
        seeds: of keys and fits.
        rules: of calibration.
        false_alarm_rate, confidence, blocks, folds: of calibration.
        fusion: of several detectors.
        backbone: what `load_backbone` takes, or a table of its keyword arguments; for images, not for readings.
        key: a file with the sampling key of the readings, if it was not drawn from the seed.
        batch_size: images a forward pass.
    """

    fit: Source
    anomalous: Mapping[str, Source]
    clean: Source | None = None
    detectors: Sequence[Named | Sequence[Named]] = ("mahalanobis",)
    seeds: Sequence[int] = (0,)
    rules: Sequence[Rule] = ("order_statistic",)
    false_alarm_rate: float = 0.05
    confidence: float = 0.95
    blocks: Blocks = "auto"
    folds: int = 5
    fusion: Fusion = "max"
    backbone: str | Mapping[str, Any] | None = None
    key: str | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.anomalous, Mapping) or not self.anomalous:
            raise ValueError("A sweep needs anomalous images by name: a table [anomalous] with name = images")
        for name in ("detectors", "seeds", "rules"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise ValueError(f"{name} of a sweep is a list with something in it, not {value!r}")

    @cached_property
    def monitors(self) -> list[list[DetectorSpec]]:
        """The detectors of each monitor."""
        single = (str, Mapping)
        return [[spec_of(one) for one in ([item] if isinstance(item, single) else item)] for item in self.detectors]

    def needs_network(self) -> bool:
        """Whether any images are still to be looked at."""
        sources = [self.fit, self.clean, *self.anomalous.values()]
        return any(source is not None and not is_readings(source) for source in sources)


class Cell(NamedTuple):
    """One entry of a sweep."""

    detector: str
    seed: int
    rule: Rule
    name: str
    """Of the anomalous images."""

    @property
    def file(self) -> str:
        return digest(list(self))[:20] + ".json"


def run_sweep(sweep: Sweep, out: str | Path, *, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Work out what is missing in the folder `out`, and return the rows of all cells.

    The folder holds `sweep.json` (all settings, and what the inputs were), `cells/`, `readings/` of images, and in the
    end `results.jsonl`, a row a line.

    Raises:
        Mismatch: the folder is of another sweep, or of other readings or another backbone; readings and detectors do
            not belong together.
        ValueError: images without a backbone; too few clean images for the rate.
    """
    return Run(sweep, Path(out), progress).rows()


class Run:
    """A sweep at work in a folder."""

    def __init__(self, sweep: Sweep, out: Path, progress: Progress | None) -> None:
        self.sweep = sweep
        self.out = out
        self.progress = progress
        self._loaded: dict[str, Readings] = {}
        self._backbone: Backbone | None = None
        if sweep.backbone is not None and sweep.needs_network():
            text = sweep.backbone
            self._backbone = (
                load_backbone(text) if isinstance(text, str) else from_keywords(load_backbone, text, "backbone")
            )
        elif sweep.needs_network():
            raise ValueError("There are images to look at and no network: give the sweep a backbone, or readings only")
        self.check_settings()

    def check_settings(self) -> None:
        """Write down what this sweep is, or compare with what the folder is of."""
        sweep = self.sweep
        told: dict[str, Any] = asdict(sweep) | {
            "detectors": [[used(DETECTORS, {"name": s.name, **s.settings}, 1) for s in m] for m in sweep.monitors],
            "inlier": version("inlier"),
            "network": self._backbone and self._backbone.fingerprint(),
            "inputs": {
                text: self.load(text).digest
                for source in (sweep.fit, sweep.clean, *sweep.anomalous.values())
                if isinstance(source, str) and is_readings(source)
                for text in sorted({source.replace("{seed}", str(seed)) for seed in sweep.seeds})
            },
        }
        Workplace(self.out, told, "a sweep", "sweep.json")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all cells, in the order of the settings."""
        cells = self.sweep.rules, tuple(self.sweep.anomalous)
        jobs = [(specs, seed) for specs in self.sweep.monitors for seed in self.sweep.seeds]
        rows = []
        for number, (specs, seed) in enumerate(jobs):
            detector = " + ".join(map(str, specs))
            wanted = [Cell(detector, seed, rule, name) for rule in cells[0] for name in cells[1]]
            if any(self.row(cell) is None for cell in wanted):
                for cell, row in self.worked_out(specs, wanted):
                    write_bytes(self.out / "cells" / cell.file, (json.dumps(row) + "\n").encode())
            rows += [done for cell in wanted if (done := self.row(cell)) is not None]
            if self.progress is not None:
                self.progress("sweep", number + 1, len(jobs))
        write_bytes(self.out / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        return rows

    def row(self, cell: Cell) -> dict[str, Any] | None:
        """What a cell came to, if it was worked out."""
        file = self.out / "cells" / cell.file
        if not file.is_file():
            return None
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return row

    def worked_out(self, specs: list[DetectorSpec], wanted: Sequence[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Fit once; calibrate by each rule; compare with each set. Cells that are there already are passed over."""
        sweep, seed = self.sweep, wanted[0].seed
        clean_readings = self.readings(sweep.fit, specs, seed)
        monitor = self.monitor(specs, seed, clean_readings).fit(clean_readings, progress=self.progress)
        held_out = None if sweep.clean is None else self.readings(sweep.clean, specs, seed)
        for rule in sweep.rules:
            missing = [cell for cell in wanted if cell.rule == rule and self.row(cell) is None]
            if not missing:
                continue
            monitor.calibrate(
                false_alarm_rate=sweep.false_alarm_rate,
                rule=rule,
                confidence=sweep.confidence,
                blocks=sweep.blocks,
                folds=sweep.folds,
                progress=self.progress,
            )
            assert monitor.clean is not None
            clean = monitor.calibration_scores if held_out is None else monitor.score_of(held_out)
            common = {
                "detectors": [used(DETECTORS, {"name": spec.name, **spec.settings}, 1) for spec in specs],
                "fusion": sweep.fusion if len(specs) > 1 else None,
                "false_alarm_rate": sweep.false_alarm_rate,
                "confidence": sweep.confidence if rule == "high_probability" else None,
                "fitted_to": len(clean_readings),
                "clean_scores": monitor.clean.made,
                "threshold": monitor.calibration.threshold(sweep.false_alarm_rate),
                "held_out": held_out is not None,
            }
            for cell in missing:
                anomalous = monitor.score_of(self.readings(sweep.anomalous[cell.name], specs, seed))
                told = {"detector": cell.detector, "seed": seed, "rule": rule, "anomalous": cell.name}
                yield cell, told | compared(monitor, clean, anomalous) | common

    def readings(self, source: Source, specs: list[DetectorSpec], seed: int) -> Readings:
        """Readings from their file, or of images, which are read now if they were not before."""
        if is_readings(source):
            assert isinstance(source, str)
            return self.load(source.replace("{seed}", str(seed)))
        group, has_key = self.read_together(specs)
        told = [source, [str(spec) for spec in group], seed if has_key else None]
        store = self.out / "readings" / f"{digest(told)[:20]}{READINGS}"
        if not store.is_file():
            assert self._backbone is not None
            monitor = Monitor(self._backbone, group, key=self.key(seed), seed=seed).build(*self.size)
            images = self.open(source, seed)
            assert not isinstance(images, Readings)
            monitor.read(images, store=store, batch_size=self.sweep.batch_size, progress=self.progress)
        return self.load(str(store))

    def read_together(self, specs: list[DetectorSpec]) -> tuple[list[DetectorSpec], bool]:
        """The group of detectors, read for in one pass, that these are in; and whether a key has to do with it."""
        return next((group, key) for group, key in self.groups if all(spec in group for spec in specs))

    @cached_property
    def groups(self) -> list[tuple[list[DetectorSpec], bool]]:
        """Detectors that can be read for together: those that need different keys cannot."""
        groups: list[tuple[list[DetectorSpec], bool]] = []
        assert self._backbone is not None
        for specs in self.sweep.monitors:
            for number, (group, _) in enumerate([*groups, ([], False)]):
                wider = group + [spec for spec in specs if spec not in group]
                seed = self.sweep.seeds[0]
                monitor = Monitor(self._backbone, wider, key=self.key(seed), seed=seed)
                try:
                    monitor.build(*self.size)
                except Mismatch:
                    if not group:
                        raise
                    continue
                groups[number : number + 1] = [(wider, monitor.keys.key is not None)]
                break
        return groups

    @cached_property
    def size(self) -> tuple[tuple[int, int], int]:
        """Of the clean images: (h, w), and channels."""
        opened = self.open(self.sweep.fit, self.sweep.seeds[0])
        if isinstance(opened, Readings):
            assert opened.origin is not None
            return opened.origin.size, opened.origin.channels
        first = next(iter(opened.batches(1))).images
        return (first.shape[-2], first.shape[-1]), first.shape[1]

    def monitor(self, specs: list[DetectorSpec], seed: int, readings: Readings) -> Monitor:
        """An unfitted monitor that needs no network."""
        assert readings.origin is not None
        backbone = AbsentBackbone(readings.origin)
        return Monitor(backbone, specs, fusion=self.sweep.fusion, key=self.key(seed), seed=seed)

    def key(self, seed: int) -> SamplingKey | None:
        """The key from its file, if there is one."""
        text = self.sweep.key
        return None if text is None else SamplingKey.load(Path(text.replace("{seed}", str(seed))))

    def load(self, text: str) -> Readings:
        """Readings from a file; it is verified once."""
        if text not in self._loaded:
            self._loaded[text] = Readings.load(text)
        return self._loaded[text]

    def open(self, source: Source, seed: int) -> Readings | ImageSource:
        """Readings or images."""
        if isinstance(source, Mapping):
            return from_keywords(open_images, {"labelled": False, **source}, "a set of images")
        text = source.replace("{seed}", str(seed))
        return self.load(text) if is_readings(source) else open_images(text, labelled=False)


def compared(monitor: Monitor, clean: Scores, anomalous: Float[Tensor, " m"]) -> dict[str, Any]:
    """How well scores tell anomalous images from clean ones, and how many of each are flagged, with 95 % intervals."""
    told: dict[str, Any] = {
        "images": len(anomalous),
        "clean_images": len(clean),
        "auroc": auroc(clean, anomalous),
        "aupr": aupr(clean, anomalous),
        "fpr95": fpr_at_tpr(clean, anomalous),
    }
    assert monitor.false_alarm_rate is not None
    for name, scores in (("flagged", anomalous), ("clean_flagged", clean)):
        flagged = int(monitor.calibration.flagged(scores, monitor.false_alarm_rate).sum())
        told |= {name: flagged, f"{name}_interval": list(rate_interval(flagged, len(scores)))}
    return told


COLUMNS = ("detector", "seed", "rule", "anomalous", "AUROC", "AUPR", "FPR95", "flagged %", "clean flagged %")
WORDS = 4
"""Columns of text, which begin on the left."""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a sweep as text, a line a cell; rates in percent with their 95 % intervals."""
    lines = [COLUMNS]
    for row in rows:
        rates = []
        for name, count in (("flagged", "images"), ("clean_flagged", "clean_images")):
            low, high = row[f"{name}_interval"]
            rates.append(f"{100 * row[name] / row[count]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        numbers = (f"{row[name]:.3f}" for name in ("auroc", "aupr", "fpr95"))
        lines.append((row["detector"], str(row["seed"]), row["rule"], row["anomalous"], *numbers, *rates))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if number < WORDS else '>'}{width}}"
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def is_readings(source: Source) -> bool:
    return isinstance(source, str) and source.endswith(READINGS)


def spec_of(item: Named) -> DetectorSpec:
    """The detector that a text or a table says."""
    if isinstance(item, str):
        return DetectorSpec.parse(item)
    used(DETECTORS, item, 1)  # refuses what the factory does not take
    return DetectorSpec(item["name"], {name: value for name, value in item.items() if name != "name"})


def digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
