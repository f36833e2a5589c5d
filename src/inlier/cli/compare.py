"""`inlier compare`: two monitors or two networks on the same images, and one monitor by slices of images."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from inlier.cli import options
from inlier.cli.rows import csv_text

if TYPE_CHECKING:
    from inlier.evaluation.compare import Comparison, Difference, Row
    from inlier.evaluation.record import Record
    from inlier.evaluation.slices import Side, SliceRate, SliceTable

__all__ = ["compare"]


def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A folder from `inlier evaluate`, or a file from `inlier score`.")
    ],
    b: Annotated[
        Path | None,
        typer.Argument(metavar="B", help="Another one; without it, two monitors of A, or one by slices."),
    ] = None,
    monitors: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]", help="Of A and of B; by default the main monitor of each."),
    ] = None,
    clean: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="What both said of clean images, where A and B are files from `inlier score`."
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Nominal false-alarm rate to compare alarms at; repeatable, by default that nearest to 0.05."
        ),
    ] = None,
    slices: Annotated[bool, typer.Option("--slices", help="Also by drive, light, content and damage.")] = False,
    per: Annotated[str, typer.Option(help="What slices tell of together: kind, change or set.")] = "kind",
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the pixels from which an image counts as one with a class.")
    ] = 0.005,
    block_length: Annotated[
        int | None,
        typer.Option(min=1, help="Neighbouring images drawn as one; by default as many as have similar scores."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="How often to draw the images.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For comparison and slices, as .csv and .tex.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Say which of two monitors or networks is better on the same images, with intervals for the difference.

    Two monitors of one evaluation (OUT --monitors a,b), two evaluations (OUT_A OUT_B), or what two monitors said of the
    same images (a.jsonl b.jsonl). One monitor (OUT --monitors a) is told of by slices of the images.
    """
    from inlier.cli.summary import say
    from inlier.evaluation.compare import compare as compared
    from inlier.evaluation.slices import nearest_rate, slices_of
    from inlier.files import write_bytes

    if per not in ("kind", "change", "set"):
        raise ValueError(f"--per is kind, change or set, not {per!r}")
    chosen = sides(a, b, monitors, clean)
    wanted = None if rate is None else [f"{each:g}" for each in rate]
    comparison = None
    if len(chosen) == 2:
        one, other = (each.side for each in chosen)
        if wanted is None:
            wanted = common_rate(one, other)
        comparison = compared(one, other, rates=wanted, block_length=block_length, resamples=resamples, seed=seed)
    tables = []
    if slices or len(chosen) == 1:
        for each in chosen:
            at = wanted or [nearest_rate(rates_of(each.side))]
            tables += [
                slices_of(
                    each.side, rate=text, classes=each.classes, per=per, least=least,  # type: ignore[arg-type]
                    block_length=block_length, seed=seed,
                )
                for text in at
            ]  # fmt: skip
    if out is not None:
        if comparison is not None:
            about = f". A: {comparison.a}. B: {comparison.b}."
            write_bytes(out / "comparison.csv", csv_text(list(comparison.flat())).encode())
            write_bytes(out / "comparison.tex", latex_of("comparison", list(by_metric(comparison)), about))
        if tables:
            write_bytes(out / "slices.csv", csv_text([row for table in tables for row in table.flat()]).encode())
            write_bytes(out / "slices.tex", latex_of("slices", [by_slice(table) for table in tables]))
    if json:
        told = {
            "comparison": None if comparison is None else comparison.as_json(),
            "slices": [table.as_json() for table in tables],
        }
        print(json_.dumps(told, allow_nan=False))
        return
    if comparison is not None:
        print(f"A: {comparison.a}\nB: {comparison.b}")
        for shown in by_metric(comparison):
            print_table(*shown)
        for note in comparison.notes:
            say(note)
    for table in tables:
        print_table(*by_slice(table))
    for note in dict.fromkeys(note for table in tables for note in table.notes):
        say(note)


class Chosen(NamedTuple):
    """A monitor, and the names of its network's classes where they are known."""

    side: Side
    classes: tuple[str, ...]


def sides(a: Path, b: Path | None, monitors: str | None, clean: tuple[Path, Path] | None) -> list[Chosen]:
    """The two monitors that are meant, or the one.

    Raises:
        ValueError: the arguments do not say which.
        LookupError, FileNotFoundError, Mismatch: what they say is not there, or is something else.
    """
    from inlier.evaluation.slices import side_of_scores

    evaluations = [path for path in (a, b) if path is not None and is_evaluation(path)]
    if evaluations and clean is not None:
        raise ValueError("--clean goes with files from `inlier score`; an evaluation has its clean images in it")
    if not evaluations:
        if b is None:
            raise ValueError(f"'{a}' is one file of scores; give another to compare it with")
        if monitors is not None:
            raise ValueError("--monitors goes with a folder from `inlier evaluate`; a file of scores is of one monitor")
        of = clean or (None, None)
        labels = [path.as_posix() for path in (a, b)]
        return [
            Chosen(side_of_scores(path, beside, label), ())
            for path, beside, label in zip((a, b), of, labels, strict=True)
        ]
    if b is not None and len(evaluations) == 1:
        raise ValueError(f"'{a}' and '{b}' are an evaluation and a file of scores; give two of a kind")
    names = [] if monitors is None else [name.strip() for name in monitors.split(",")]
    if len(names) > 2 or not all(names):
        raise ValueError(f"--monitors is one name, or two with a comma between them, not {monitors!r}")
    if b is None:
        record, classes, main = evaluation(a)
        there = [entry.name for entry in record.monitors]
        if not names and len(there) > 2:
            raise ValueError(f"Say with --monitors which two to compare, or which one to slice: {', '.join(there)}")
        return [labelled(record, name, None, classes) for name in names or there]
    found = []
    for place, path in enumerate((a, b)):
        record, classes, main = evaluation(path)
        name = names[min(place, len(names) - 1)] if names else main
        found.append(labelled(record, name, path, classes))
    return found


def is_evaluation(path: Path) -> bool:
    return path.is_dir() or path.name.endswith((".safetensors", "results.json"))


def evaluation(path: Path) -> tuple[Record, tuple[str, ...], str]:
    """A record, the names of its network's classes, and its main monitor."""
    from inlier.evaluation.evaluate import SCORES
    from inlier.evaluation.record import Record
    from inlier.report.folder import read_results

    folder = path if path.is_dir() else path.parent
    if not (folder / SCORES).is_file():
        raise FileNotFoundError(f"No '{folder / SCORES}'; name a folder that `inlier evaluate` wrote")
    record = Record.load(folder / SCORES)
    results: Mapping[str, Any] = read_results(folder)
    return record, tuple(results["network"]["classes"]), results.get("main") or record.monitors[0].name


def labelled(record: Record, monitor: str, path: Path | None, classes: tuple[str, ...]) -> Chosen:
    """A monitor, told apart from others of its name by where it is from."""
    from inlier.evaluation.slices import side_of

    label = record.monitor(monitor).label
    return Chosen(side_of(record, monitor, label=label if path is None else f"{label} ({path.as_posix()})"), classes)


def rates_of(side: Side) -> tuple[str, ...]:
    """The rates that a monitor has thresholds for."""
    return tuple(next(iter(side.sets.values())).flagged)


def common_rate(a: Side, b: Side) -> list[str]:
    """The rate nearest to 5 % of those that both have; none if they have none."""
    from inlier.evaluation.slices import nearest_rate

    both = [text for text in rates_of(a) if text in rates_of(b)]
    return [nearest_rate(both)] if both else []


# --- tables on a terminal --------------------------------------------------------------------------------------------

WIDE = 300
"""Columns of what is no terminal: a line that is broken there is no use to anybody."""
HEADINGS = {"auroc": "AUROC", "flagged": "flagged", "wrong": "pixels predicted wrong", "miou": "mIoU"}


class Told(NamedTuple):
    """A table of words."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def by_metric(comparison: Comparison) -> Iterator[Told]:
    """A table for each metric."""
    interval = f"[{comparison.confidence:.0%} interval]"
    for metric in dict.fromkeys(metric for row in comparison.rows for metric in row.differences):
        name, _, rate = metric.partition("@")
        title = HEADINGS[name] + (
            f" at a nominal false-alarm rate of {rate}, each at its own threshold" if rate else ""
        )
        rows = [
            (row.label, str(row.images), *cells(row.differences[metric], metric), verdict(row, metric))
            for row in comparison.rows
            if metric in row.differences
        ]
        yield Told(title, ("images", "n", "A", "B", "B - A", interval, ""), rows)


def cells(found: Difference, metric: str) -> tuple[str, str, str, str]:
    """Shares in per cent, areas as they are."""
    if metric in ("auroc", "miou"):
        interval = f"[{found.low:+.3f}, {found.high:+.3f}]"
        return f"{found.a:.3f}", f"{found.b:.3f}", f"{found.difference:+.3f}", interval
    interval = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{found.a:.1%}", f"{found.b:.1%}", f"{100 * found.difference:+.1f}", interval


def verdict(row: Row, metric: str) -> str:
    """Who is better, in a word or two."""
    found = row.differences[metric]
    if row.too_few:
        return "too few"
    if found.better:
        return f"{found.better.upper()} better"
    return f"{found.seems.upper()} better?" if found.seems else ""


def by_slice(table: SliceTable) -> Told:
    """A row for each slice, a column for each kind of change."""
    at = "" if table.rate == "own" else f" at a nominal false-alarm rate of {table.rate}"
    errors = any(row.wrong is not None for row in table.rows)
    rows = [
        (
            f"{row.label}{' (too few)' if row.too_few else ''}", str(row.images),
            *(share(row.rates.get(column)) for column in table.columns),
            *([""] if row.wrong is None else [f"{row.wrong:.1%}"])[: int(errors)],
        )
        for row in table.rows
    ]  # fmt: skip
    headings = ("slice", "n", *table.columns, *(["pixels wrong"] if errors else []))
    return Told(f"{table.monitor}: share flagged{at}, by slice", headings, rows)


def share(rate: SliceRate | None) -> str:
    """With its interval, and a mark where it differs from the rest."""
    if rate is None:
        return ""
    told = f"{rate.rate:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    return f"{told} {rate.differs}" if rate.differs else told


def latex_of(name: str, tables: Sequence[Told], about: str = "") -> bytes:
    """Table environments, one after the other; what all of them are about is added to their captions."""
    from inlier.report.tables import Column, Table, to_latex, words

    return "\n".join(
        to_latex(
            Table(
                f"{name} {number}" if number else name, f"{told.title}{about}", tuple(map(Column, told.headings)),
                tuple(tuple(map(words, row)) for row in told.rows),
            )
        )
        for number, told in enumerate(tables)
    ).encode()  # fmt: skip


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """On stdout; the first column and the last one without a heading are words."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if place and heading else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # labels are people's, and no markup
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print()
    console.print(Text(title))
    console.print(table)
