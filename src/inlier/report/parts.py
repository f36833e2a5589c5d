"""Parts of pages that templates draw: figures with captions, small pictures, and what a table's cell looks like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from inlier.report.figures import interval_bar
from inlier.report.markup import environment
from inlier.report.tables import Cell, Column, Rate

__all__ = ["Plot", "Thumbnails", "bar", "templates", "warmth"]


@dataclass(frozen=True)
class Plot:
    """A figure and what stands below it."""

    caption: str
    svg: Markup


@dataclass(frozen=True)
class Thumbnails:
    """Small pictures that belong together."""

    title: str
    note: str
    views: tuple[tuple[str, str, str], ...]


@cache
def templates() -> Environment:
    """Compiled once."""
    return environment()


def bar(column: Column, cell: Cell | None) -> Markup | None:
    """The drawing of a rate, in columns that have an axis."""
    if column.bar is None or not isinstance(cell, Rate):
        return None
    return interval_bar(cell.rate, cell.low, cell.high, column.bar, column.asked, cell.others)


def warmth(column: Column, cell: Cell | None) -> int | None:
    """How strongly a cell is coloured, in percent."""
    share = column.warmth(cell)
    return None if share is None else round(100 * share)
