"""A table is made once, of cells that know their value, and written as HTML, CSV and LaTeX alike.

So the three cannot differ: people read the cell's text, machines its values at full precision. A rate is a cell of its
own kind and always carries how many images it was observed on and its interval.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

from inlier.files import write_bytes
from inlier.report.findings import Entry
from inlier.report.markup import PLACEHOLDER, count, decimals, fine_percent, percent

__all__ = ["Cell", "Column", "Rate", "Spread", "Table", "Value", "gates_table", "number", "quantity", "share", "to_csv",
           "to_latex", "whole", "words", "write_tables"]  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A value and how people read it.

    Args:
        value: for machines.
        text: for people.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("",)
    value: str | float
    text: str

    @property
    def note(self) -> str:
        """Nothing beside it."""
        return ""

    @property
    def heat(self) -> float | None:
        """A number can be coloured by."""
        return None if isinstance(self.value, str) else self.value

    def values(self) -> tuple[object, ...]:
        """For machines."""
        return (self.value,)


def words(text: str | None) -> Value | None:
    """Words; None without any."""
    return Value(text, text) if text else None


def number(value: float | None, digits: int = 3) -> Value | None:
    """A number with so many decimals."""
    return None if value is None else Value(value, decimals(value, digits))


def whole(value: int | None) -> Value | None:
    """A number of things, with commas: 1,234."""
    return None if value is None else Value(value, f"{value:,}")


def quantity(value: float | None) -> Value | None:
    """A large number that matters in three digits, with a prefix: 257 k."""
    return None if value is None else Value(value, count(value))


def share(value: float | None) -> Value | None:
    """A share that is no rate of images, such as that of changed pixels, in percent."""
    return None if value is None else Value(value, percent(value))


@dataclass(frozen=True)
class Rate:
    """How many of so many images were flagged, and the 95 % interval of that rate.

    Args:
        hits, images: counts; there is at least one image.
        low, high: the interval, in [0, 1].
        others: the rates that other keys (seeds) observed on the same images.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("", "flagged", "images", "low", "high")
    hits: int
    images: int
    low: float
    high: float
    others: tuple[float, ...] = ()

    @classmethod
    def of(cls, counts: Entry | None, others: Sequence[Entry | None] = ()) -> Rate | None:
        """The cell of counts as the results have them; None without images or without an interval."""
        if not counts or not counts["images"] or not counts.get("interval"):
            return None
        low, high = counts["interval"]
        more = tuple(o["hits"] / o["images"] for o in others if o and o["images"])
        return cls(counts["hits"], counts["images"], low, high, more)

    @property
    def rate(self) -> float:
        """The observed rate."""
        return self.hits / self.images

    @property
    def text(self) -> str:
        """The rate in percent."""
        return fine_percent(self.rate)

    @property
    def note(self) -> str:
        """Counts and interval, and from where to where other keys went."""
        told = f"{self.hits} of {self.images}, {fine_percent(self.low)} to {fine_percent(self.high)}"
        if not self.others:
            return told
        every = (self.rate, *self.others)
        return f"{told}; {len(every)} keys {fine_percent(min(every))} to {fine_percent(max(every))}"

    @property
    def heat(self) -> float | None:
        """What it is coloured by."""
        return self.rate

    def values(self) -> tuple[object, ...]:
        """Rate, counts and interval."""
        return (self.rate, self.hits, self.images, self.low, self.high)


@dataclass(frozen=True)
class Spread:
    """A number over several keys: mean and standard deviation; with one key its interval over images.

    Args:
        mean: over the keys.
        std: over the keys; None with one.
        seeds: how many keys.
        low, high: the 95 % interval over images, of the first key.
        images: how many images the number was observed on.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("", "std", "keys", "low", "high", "images")
    mean: float
    std: float | None = None
    seeds: int = 1
    low: float | None = None
    high: float | None = None
    images: int | None = None

    @classmethod
    def of(cls, summary: Entry | None, row: Entry | None, name: str, images: int | None = None) -> Spread | None:
        """The cell of a number by the name it has in the results; None if it has no value there.

        Args:
            summary: over the keys, if there are several.
            row: of the first key.
            name: such as auroc.
            images: how many the row was observed on.
        """
        over = (summary or {}).get(name) or {}
        mean = over.get("mean", (row or {}).get(name))
        if mean is None:
            return None
        low, high = (row or {}).get(f"{name}_interval") or (None, None)
        return cls(mean, over.get("std"), (summary or {}).get("seeds", 1), low, high, images)

    @property
    def text(self) -> str:
        """The mean, and the deviation if there are several keys."""
        several = self.std is not None and self.seeds > 1
        return f"{self.mean:.3f}" + (f" \N{PLUS-MINUS SIGN} {self.std:.3f}" if several else "")

    @property
    def note(self) -> str:
        """The interval and the number of images."""
        told = [] if self.low is None or self.high is None else [f"{self.low:.3f} to {self.high:.3f}"]
        return ", ".join(told + ([] if self.images is None else [f"n = {self.images}"]))

    @property
    def heat(self) -> float | None:
        """What it is coloured by."""
        return self.mean

    def values(self) -> tuple[object, ...]:
        """Mean, deviation, keys, interval and images."""
        return (self.mean, self.std, self.seeds, self.low, self.high, self.images)


Cell: TypeAlias = Value | Rate | Spread


@dataclass(frozen=True)
class Column:
    """A heading, and how its cells look on a page.

    Args:
        title: the heading.
        heat: the values that are coloured not at all and most; None colours nothing.
        bar: the upper end of the axis on which rates are also drawn; None draws nothing.
        asked: the nominal rate, drawn as a line on that axis.
    """

    title: str
    heat: tuple[float, float] | None = None
    bar: float | None = None
    asked: float | None = None

    def warmth(self, cell: Cell | None) -> float | None:
        """How strongly a cell is coloured, in [0, 1]."""
        if self.heat is None or cell is None or cell.heat is None:
            return None
        cold, hot = self.heat
        return min(max((cell.heat - cold) / (hot - cold), 0.0), 1.0)


@dataclass(frozen=True)
class Table:
    """A caption, columns and rows; the first column names the row.

    Args:
        name: of its files.
        caption: what it shows, in a sentence or two that stand on their own.
        columns: the headings.
        rows: cells, as many as columns; None where there is no value.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | None, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name

    @property
    def wide(self) -> bool:
        """Whether it has too many columns for a narrow screen, and is scrolled there."""
        return len(self.columns) > 6

    def kind(self, column: int) -> tuple[str, ...]:
        """The names of the values of a column's cells."""
        return next((cell.FIELDS for row in self.rows if (cell := row[column]) is not None), Value.FIELDS)

    def filled(self) -> Table | None:
        """Without rows that have nothing but their name, and without empty columns; None if nothing is left."""
        rows = [row for row in self.rows if any(cell is not None for cell in row[1:])]
        kept = [n for n in range(len(self.columns)) if n == 0 or any(row[n] is not None for row in rows)]
        if not rows:
            return None
        columns = tuple(self.columns[n] for n in kept)
        return Table(self.name, self.caption, columns, tuple(tuple(row[n] for n in kept) for row in rows))


def gates_table(gates: Sequence[Entry], caption: str = "") -> Table:
    """What was checked, and whether it held."""
    before = [name for name in ("network", "monitor") if gates and name in gates[0]]
    names = [*before, "name", "wanted", "observed", "verdict"]
    return Table(
        "gates", caption or "A check that fails is a reason to doubt the figures above.",
        tuple(Column("check" if name == "name" else name) for name in names),
        tuple(tuple(words(gate[name]) for name in names) for gate in gates),
    )  # fmt: skip


def to_csv(table: Table) -> str:
    """Values at full precision, a column for each part of a cell: `fog`, `fog flagged`, `fog images`, ..."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    kinds = [table.kind(n) for n in range(len(table.columns))]
    writer.writerow(
        f"{column.title} {field}".strip()
        for column, fields in zip(table.columns, kinds, strict=True)
        for field in fields
    )
    for row in table.rows:
        values: list[object] = []
        for cell, fields in zip(row, kinds, strict=True):
            values += [None] * len(fields) if cell is None else cell.values()
        writer.writerow("" if value is None else value for value in values)
    return file.getvalue()


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--", "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$", "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_latex(table: Table) -> str:
    """A table environment in the style of the package booktabs."""
    align = "".join("l" if is_words(table, n) else "r" for n in range(len(table.columns)))
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering\footnotesize",
        rf"  \caption{{{escaped(table.caption)}}}",
        rf"  \label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
        rf"  \begin{{tabular}}{{{align}}}",
        r"    \toprule",
        "    " + " & ".join(escaped(column.title) for column in table.columns) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(latex_cell(cell) for cell in row) + r" \\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def is_words(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows]
    return all(cell is None or (isinstance(cell, Value) and isinstance(cell.value, str)) for cell in cells)


def latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return escaped(PLACEHOLDER)
    return escaped(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def write_tables(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """Write every table once as CSV and once as LaTeX, whole files or nothing."""
    written = []
    for table in tables:
        for suffix, text in ((".csv", to_csv(table)), (".tex", to_latex(table))):
            write_bytes(folder / f"{table.name}{suffix}", text.encode())
            written.append(folder / f"{table.name}{suffix}")
    return written
