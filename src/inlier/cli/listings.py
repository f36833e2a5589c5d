"""`inlier detectors` and the like: what there is by name."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["backbones", "detectors", "perturbations", "recipes"]


def detectors() -> None:
    """List the detectors with their papers."""
    from inlier.detectors.table import DETECTORS

    _print((name, DETECTORS.entry(name).summary, DETECTORS.entry(name).paper) for name in DETECTORS)


def backbones() -> None:
    """List the backbones with their papers."""
    from inlier.backbones.load import BACKBONES

    _print((name, BACKBONES.entry(name).summary, BACKBONES.entry(name).paper) for name in BACKBONES)


def perturbations() -> None:
    """List the perturbations with their papers."""
    from inlier.perturbations.table import PERTURBATIONS

    _print((name, PERTURBATIONS.entry(name).summary, PERTURBATIONS.entry(name).paper) for name in PERTURBATIONS)


def recipes() -> None:
    """List the attacks with their papers."""
    from inlier.attacks.recipes import RECIPES

    _print((name, "needs a target" if row.needs_target else "", row.paper) for name, row in RECIPES.items())


def _print(rows: Iterable[tuple[str, str, str]]) -> None:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    for name, summary, paper in table:
        print(f"{name:{widths[0]}}  {summary:{widths[1]}}  {paper}".rstrip())
