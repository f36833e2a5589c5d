"""A page of sections: sentences, figures, tables and pictures; what every kind of experiment is reported as.

One HTML file that needs nothing else, legible at any width, light and dark. Tables are written as CSV and LaTeX beside
it, and as text for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inlier.report.markup import SPACE
from inlier.report.parts import Plot, Thumbnails, bar, templates, warmth
from inlier.report.tables import Table

__all__ = ["Document", "Section", "document_html", "document_text"]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        name: of the anchor.
        title: the heading.
        text: paragraphs.
        legend: (label, style) of the lines in the figures, style as `s0`.
        plots, tables, pictures: in this order below the text.
        folded: whether it is closed at first.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Thumbnails] = ()
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """A page.

    Args:
        title: the heading.
        lead: what the page is about, for somebody who was not there.
        verdict: what came out, in a few sentences.
        facts: (name, value) of what was tried.
        sections: in their order.
        limits: what is not covered, a sentence each.
        results: those that it is made of; its command, settings, seconds and notes are told at the end.
    """

    title: str
    lead: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    limits: Sequence[str]
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> Iterator[Table]:
        """All of them, in order."""
        for section in self.sections:
            yield from section.tables


def document_html(document: Document) -> str:
    """The page as HTML."""
    config = json.dumps(document.results.get("config") or {}, indent=2, ensure_ascii=False)
    return (
        templates()
        .get_template("document.html.j2")
        .render(document=document, config=config, bar=bar, warmth=warmth, results=document.results)
    )


def document_text(document: Document) -> str:
    """Verdict and tables for a terminal, columns as wide as their cells."""
    parts = [document.verdict]
    for table in document.tables:
        heads = [column.title for column in table.columns]
        rows = [[cell.text if cell is not None else "-" for cell in row] for row in table.rows]
        widths = [max(len(row[n]) for row in [heads, *rows]) for n in range(len(heads))]
        lines = [
            "  ".join(text.ljust(width) if n == 0 else text.rjust(width)
                      for n, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in [heads, *rows]
        ]  # fmt: skip
        parts.append("\n".join([table.caption, *lines]))
    return "\n\n".join(parts).replace(SPACE, " ")
