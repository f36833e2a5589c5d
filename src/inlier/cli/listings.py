"""`inlier detectors` and the like: what there is by name, who provides it, and the paper it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from inlier.cli.options import JsonOption

if TYPE_CHECKING:
    from inlier.registry import Line

__all__ = ["backbones", "datasets", "detectors", "perturbations", "recipes"]


def detectors(json: JsonOption = False) -> None:
    """List the detectors, plugins included, with their papers."""
    from inlier.detectors.table import DETECTORS

    show(DETECTORS.lines(), json)


def backbones(json: JsonOption = False) -> None:
    """List the backbones, plugins included, with their papers."""
    from inlier.backbones.load import BACKBONES

    show(BACKBONES.lines(), json)


def datasets(json: JsonOption = False) -> None:
    """List the layouts of data sets, plugins included, with their papers."""
    from inlier.datasets.table import DATASETS

    show(DATASETS.lines(), json)


def perturbations(json: JsonOption = False) -> None:
    """List the perturbations, plugins included, with their papers."""
    from inlier.perturbations.table import PERTURBATIONS

    show(PERTURBATIONS.lines(), json)


def recipes(json: JsonOption = False) -> None:
    """List the attacks, their other names and their papers."""
    from inlier.attacks.recipes import ALIASES, RECIPES
    from inlier.registry import Line

    others = {row: f"or {alias}" for alias, row in ALIASES.items()}
    told = {name: "needs a target" if row.needs_target else others.get(name, "") for name, row in RECIPES.items()}
    show((Line(name, told[name], "inlier", row.paper) for name, row in RECIPES.items()), json)


def show(lines: Iterable[Line], as_json: bool) -> None:
    """A row each: name, summary, provider, and the paper or what is broken."""
    from json import dumps

    told = list(lines)
    if as_json:
        print(dumps([asdict(line) for line in told]))
        return
    rows = [
        (line.name, line.summary, line.provider, f"BROKEN: {line.problem}" if line.problem else line.paper)
        for line in told
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for *cells, last in rows:
        padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        print("  ".join([*padded, last]).rstrip())
