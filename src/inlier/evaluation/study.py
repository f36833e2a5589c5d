"""A study: which monitors of which network are tried on which images; the settings of `inlier evaluate`.

A study is the keyword arguments of a TOML file. Monitors and changes are tables of their own, whose keyword arguments
are those of `MonitorPlan` and of what `changes` makes of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from inlier.calibration import Rule
from inlier.config import from_keywords
from inlier.cross_fitting import Blocks
from inlier.detectors.spec import DetectorSpec
from inlier.evaluation.defects import DEFECTS
from inlier.evaluation.gathered import Source
from inlier.monitor import Fusion
from inlier.perturbations.tolerance import tolerated
from inlier.registry import nearest

__all__ = ["PAPER", "Goal", "Metric", "MonitorPlan", "Published", "Study"]

PAPER = "paper"
"""In `on` and `over`: the sets that are the paper's own."""

Metric = Literal["auroc", "aupr", "fpr95", "flagged", "flagged_changed", "false_alarms"]
RATES = ("flagged", "flagged_changed", "false_alarms")
"""Metrics that are shares of images at a nominal false-alarm rate."""


@dataclass(frozen=True)
class MonitorPlan:
    """A monitor to be tried; the keyword arguments of a table `[[monitors]]`.

    Args:
        name, label: for machines and for people; the label is the name by default.
        detectors: with or without settings, such as `daain(blocks=8)`; several are one monitor, fused.
        family: monitors of one family are told of together.
        fusion, escalate: of several detectors, see `Monitor`.
        seeds: of key, images of the fit, and fit. By default those of the study where a key or images are drawn, and
            else the first of them.
        on: what it is shown besides clean images: `all`, or any of `paper`, names of sets, changes or kinds.
        backbone: another network than the study's, with the same classes; it is a pass of its own over all images.
            Where its file is not there, the monitor is left out, and a note says so.
        defects: what is wrong with the network on purpose, see `DEFECTS`.
        rule: of calibration, if not the study's.
        threshold: whether to calibrate; without, there are no rates, fits for cross-fitting are saved, and a detector
            that learns nothing is not shown the images of the fit.
        fit_images: how many of the study's images of the fit it learns from; all by default. Of as many parts of
            them, equally long, the seed draws one image each.
        tolerate: perturbations that shall count as clean, such as `sign_noise(eps=0.01)`: it learns from copies of the
            images of the fit, too, see `Tolerating`, and is calibrated with them.
        nested: whether to observe false alarms on each group of the fit's images by a monitor fitted to the others.
    """

    name: str
    detectors: str | Sequence[str]
    label: str = ""
    family: str = ""
    fusion: Fusion = "max"
    escalate: float | None = None
    seeds: Sequence[int] | None = None
    on: str | Sequence[str] = "all"
    backbone: str | None = None
    defects: Sequence[str] = ()
    rule: Rule | None = None
    threshold: bool = True
    fit_images: int | None = None
    tolerate: str | Sequence[str] = ()
    nested: bool = False

    def __post_init__(self) -> None:
        for defect in self.defects:
            if defect not in DEFECTS:
                raise ValueError(f"There is no defect {defect!r}. {nearest(str(defect), list(DEFECTS))}")
        if not self.specs:
            raise ValueError(f"Monitor '{self.name}' needs detectors")
        if not self.threshold and (len(self.specs) > 1 or self.nested):
            raise ValueError(
                f"Monitor '{self.name}' has threshold = false: detectors are fused by their calibrations, and nested "
                "false alarms need a threshold"
            )
        if self.tolerated and self.fit_images is not None:
            raise ValueError(f"Monitor '{self.name}' has fit_images, which draws images, and tolerate: leave one out")
        tolerated(self.tolerated)
        if self.seeds is not None and not self.seeds:
            raise ValueError(f"Monitor '{self.name}' needs seeds, or none said")

    @cached_property
    def specs(self) -> tuple[DetectorSpec, ...]:
        """The detectors."""
        texts = [self.detectors] if isinstance(self.detectors, str) else self.detectors
        return tuple(DetectorSpec.parse(text) for text in texts)

    @property
    def tolerated(self) -> tuple[str, ...]:
        """What it shall tolerate, as a list."""
        return (self.tolerate,) if isinstance(self.tolerate, str) else tuple(self.tolerate)

    @property
    def shown(self) -> tuple[str, ...]:
        """What it is shown, as a list."""
        return (self.on,) if isinstance(self.on, str) else tuple(self.on)


@dataclass(frozen=True)
class Goal:
    """Something that the monitors ought to reach, decided before; the keyword arguments of a table `[[targets]]`.

    Args:
        text: what it is, in words.
        monitor: the name of one.
        metric: `auroc`, `aupr`, `fpr95`; `flagged`, the share of images flagged, `flagged_changed`, the same of those
            with a tenth or more of their pixels changed, or `false_alarms`, the share of clean images flagged in the
            group where it is largest; means over seeds.
        over: a set, a change, a kind or `paper`: the worst of these sets counts.
        pooled: of the scores of all these sets together instead; for `over = "paper"` and metrics without a rate.
        rate: the nominal false-alarm rate, for metrics that have one.
        at_least, at_most: what is wanted, one of them.
    """

    text: str
    monitor: str
    metric: Metric
    over: str
    pooled: bool = False
    rate: float = 0.05
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise ValueError(f"There is no metric {self.metric!r} for a target. {nearest(self.metric, METRICS)}")
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"The target '{self.text}' wants at_least or at_most, one of them")
        if self.pooled and (self.over != PAPER or self.metric in RATES):
            raise ValueError(f"The target '{self.text}' is pooled: expected over = \"paper\" and no rate")


@dataclass(frozen=True)
class Published:
    """What a paper reports of a change, to stand beside what came out; the keyword arguments of `[[published]]`.

    Args:
        of: the change, or the set.
        aacc, aiou: of its success, from 0 to 1.
        auroc, aupr, fpr95: by what the paper calls its detectors.
    """

    of: str
    aacc: float | None = None
    aiou: float | None = None
    auroc: Mapping[str, float] = field(default_factory=dict)
    aupr: Mapping[str, float] = field(default_factory=dict)
    fpr95: Mapping[str, float] = field(default_factory=dict)


METRICS = [str(metric) for metric in get_args(Metric)]


@dataclass(frozen=True)
class Study:
    """What is tried on what; the keyword arguments of its TOML file.

    Args:
        backbone: what `load_backbone` takes. In all texts `{data}` stands for the folder of data.
        fit: clean images to fit to and, cross-fitted, to calibrate with; several folders are one set.
        clean: clean images that nothing is fitted to, which are changed; with labels if their layout has them.
        labels: a folder of label maps of these images, where their layout has none: one-channel PNGs with the images'
            names, whose values are the network's classes.
        monitors: tables, see `MonitorPlan`; one with a table `grid` is as many monitors, see `each_of`.
        changes: tables, see `inlier.evaluation.changes.plans_of`.
        title: of the report.
        rates: nominal false-alarm rates.
        seeds: of keys and fits; what is drawn to change images comes from the first.
        rule, confidence, blocks, folds: of calibration.
        batch_size: images a forward pass.
        device: where the networks run, such as `cuda`; monitors are fitted on the CPU.
        images, fit_images: how many clean images to use at most of those to be changed and of those of the fit; fewer
            are for trying out.
        main: the monitor whose worst misses are shown; the first by default.
        varied: the monitor that ablations differ from in one setting; it begins each of their tables.
        curves: monitors whose ROC and precision-recall curves are kept, of their first seeds, for the paper's sets.
        likelihood: a monitor whose scores are kept as histograms, such as one with `head="likelihood"`.
        coactivation: whether to compare coactivations of the first image's activations, changed and not.
        worst: how many misses to show.
        classes: names of the network's classes instead of its own.
        targets: tables, see `Goal`.
        published: tables, see `Published`.

    Raises:
        ValueError, LookupError: an unknown setting, detector or name.
    """

    backbone: str
    fit: Source
    clean: Source
    monitors: Sequence[Mapping[str, Any]]
    labels: str | None = None
    changes: Sequence[Mapping[str, Any]] = ()
    title: str = "Evaluation of monitors"
    rates: Sequence[float] = (0.01, 0.05, 0.1)
    seeds: Sequence[int] = (0,)
    rule: Rule = "order_statistic"
    confidence: float = 0.95
    blocks: Blocks = "auto"
    folds: int = 5
    batch_size: int = 8
    device: str = "cpu"
    images: int | None = None
    fit_images: int | None = None
    main: str | None = None
    varied: str | None = None
    curves: Sequence[str] = ()
    likelihood: str | None = None
    coactivation: bool = False
    worst: int = 12
    classes: Sequence[str] | None = None
    targets: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    published: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for name in ("monitors", "rates", "seeds"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise ValueError(f"{name} of a study is a list with something in it, not {value!r}")
        for table in self.published:
            from_keywords(Published, table, f"published numbers of '{table.get('of', '?')}'")
        names = [plan.name for plan in self.plans]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Two monitors are named '{twice[0]}'; give each a name of its own")
        wanted = [self.main, self.varied, self.likelihood, *self.curves, *(goal.monitor for goal in self.goals)]
        for one in wanted:
            if one is not None and one not in names:
                raise ValueError(f"There is no monitor '{one}' in this study. {nearest(one, names)}")
        for rate in self.rates:
            if not 0 < rate < 1:
                raise ValueError(f"Rates are false-alarm rates above 0 and below 1, not {rate!r}")
        for goal in self.goals:
            if goal.metric == "flagged" and goal.rate not in self.rates:
                raise ValueError(f"The target '{goal.text}' is about the rate {goal.rate}, which is none of `rates`")

    @cached_property
    def plans(self) -> tuple[MonitorPlan, ...]:
        """The monitors."""
        return tuple(
            from_keywords(MonitorPlan, table, f"monitor '{table.get('name', '?')}'")
            for every in self.monitors
            for table in each_of(every)
        )

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        """The targets."""
        return tuple(from_keywords(Goal, table, f"target '{table.get('text', '?')}'") for table in self.targets)

    def plan(self, name: str) -> MonitorPlan:
        """The monitor of this name."""
        return next(plan for plan in self.plans if plan.name == name)


def each_of(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The monitors that one table stands for: those of its `grid`, every value of each name with every other's.

    In all texts of the table `{name}` stands for the value.

    Raises:
        ValueError: a grid that is no table of lists, or a name of it that the monitor's name does not tell.

    >>> [one["detectors"] for one in each_of({"name": "{n} blocks", "detectors": "daain(blocks={n})",
    ...                                       "grid": {"n": [4, 8]}})]
    ['daain(blocks=4)', 'daain(blocks=8)']
    """
    grid = table.get("grid", {})
    if not isinstance(grid, Mapping) or not all(isinstance(v, list | tuple) and v for v in grid.values()):
        raise ValueError(f"The grid of a monitor is a table of lists, such as {{blocks = [4, 8]}}, not {grid!r}")
    rest = {key: value for key, value in table.items() if key != "grid"}
    for name in grid:
        if f"{{{name}}}" not in str(table.get("name", "")):
            raise ValueError(f"The grid has '{name}', and the name {table.get('name')!r} no {{{name}}} in it")

    def filled(value: Any, chosen: Mapping[str, Any]) -> Any:
        if isinstance(value, str):
            for name, one in chosen.items():
                value = value.replace(f"{{{name}}}", str(one))
        elif isinstance(value, list | tuple):
            return [filled(item, chosen) for item in value]
        return value

    return [
        {key: filled(value, dict(zip(grid, values, strict=True))) for key, value in rest.items()}
        for values in itertools.product(*grid.values())
    ]
