"""`inlier evaluate`: monitors of a network, tried on everything that a file names; numbers, intervals and pictures."""

from __future__ import annotations

import json as json_
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli import options

__all__ = ["evaluate"]

BESIDE = Path("..") / "shared" / "data"
"""Where the data are looked for if nothing says where they are, seen from the current folder."""
MOST_COLUMNS = 8
"""Monitors side by side on a terminal."""


def evaluate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Which monitors are tried on which images.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For results; what was ended goes on there.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What {data} in the file stands for; by default INLIER_DATA says."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of those named, only this monitor or set; repeatable.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Carry out what a file describes: write results and a report, print the main tables.

    By default monitors are tried on changed, attacked and foreign images; with `kind` at its top the file describes
    another experiment. What is finished is not worked out again, whatever ended the evaluation.
    """
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say
    from inlier.config import from_keywords, read_toml
    from inlier.evaluation.evaluate import evaluate as carried_out
    from inlier.evaluation.study import Study
    from inlier.report.folder import write_report

    table = read_toml(config)
    kind = table.pop("kind", None)
    if kind is not None:
        if only:
            raise ValueError(f"--only chooses of a study's monitors and sets, and '{config}' describes {kind}")
        carry_out(str(kind), table, config, out, data_folder(data), json)
        return
    study = from_keywords(Study, table, f"'{config}'")
    named = [part for name in only or [] for part in ("--only", name)]
    command = shlex.join(["inlier", "evaluate", config.as_posix(), "--out", out.name, *named])
    with progress_bars() as progress:
        results = carried_out(study, out, data=data_folder(data), only=only or (), command=command, progress=progress)
    write_report(out, results)
    if json:
        print(json_.dumps(results, allow_nan=False))
    else:
        show(results)
    for note in results["notes"]:
        say(note)
    say(f"{sum(results['seconds'].values()):.0f} s in all")
    say(f"The report is {out / 'report.html'}, its numbers are in {out / 'results.json'}")


def carry_out(kind: str, table: Mapping[str, Any], config: Path, out: Path, data: Path | None, json: bool) -> None:
    """An experiment of a kind of its own."""
    import torch

    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say
    from inlier.config import from_keywords
    from inlier.evaluation.experiments import EXPERIMENTS
    from inlier.evaluation.measure import without_nan
    from inlier.evaluation.results_file import FORMAT, shortened, write_results
    from inlier.report.document import document_text
    from inlier.report.documents import DOCUMENTS
    from inlier.report.folder import write_report

    experiment = from_keywords(EXPERIMENTS[kind], table, f"'{config}'")
    command = shlex.join(["inlier", "evaluate", config.as_posix(), "--out", out.name])
    with progress_bars() as progress:
        found = experiment.run(out, data=data, command=command, progress=progress)
    results = shortened(without_nan({"format": FORMAT, "kind": kind, "threads": torch.get_num_threads(), **found}))
    write_results(out, results)
    write_report(out, results)
    print(json_.dumps(results, allow_nan=False) if json else document_text(DOCUMENTS[kind](results)))
    say(f"The report is {out / 'report.html'}, its numbers are in {out / 'results.json'}")


def data_folder(given: Path | None) -> Path | None:
    """The folder of data: as given, as INLIER_DATA says, or `../shared/data` if it is there.

    Raises:
        FileNotFoundError: what was said is no folder.
    """
    told = given or (Path(os.environ["INLIER_DATA"]) if os.environ.get("INLIER_DATA") else None)
    if told is None:
        return BESIDE if BESIDE.is_dir() else None
    if not told.is_dir():
        raise FileNotFoundError(f"'{told}' is no folder; --data or INLIER_DATA names the folder of data")
    return told


def show(results: Mapping[str, Any]) -> None:
    """The main tables, on stdout: the paper's sets by monitor, then one monitor on everything."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    summary = {(line["monitor"], line["set"]): line for line in results["summary"]}
    paper = [entry for entry in results["sets"] if entry["paper"]]
    shown = [m for m in results["monitors"] if any((m["name"], entry["name"]) in summary for entry in paper)]
    for start in range(0, len(shown) if paper else 0, MOST_COLUMNS):
        some = shown[start : start + MOST_COLUMNS]
        console.print("AUROC of clean against changed images, the paper's changes; mean and spread over keys")
        table = Table(box=None, padding=(0, 1, 0, 0))
        for heading in ("change", "pixels changed", *(monitor["label"] for monitor in some)):
            table.add_column(heading, justify="left" if heading == "change" else "right")
        for entry in paper:
            cells = [about(summary.get((monitor["name"], entry["name"]), {}).get("auroc")) for monitor in some]
            table.add_row(entry["label"], percent(entry["changed"]), *cells)
        console.print(table)
        console.print()
    main = results["main"]
    keys = [f"{rate:g}" for rate in next(m for m in results["monitors"] if m["name"] == main)["rates"]]
    console.print(f"{main}: share flagged at nominal false-alarm rates; one threshold from clean images, for all")
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("images", "n", "pixels changed", "AUROC", *(f"at {key}" for key in keys)):
        table.add_column(heading, justify="left" if heading == "images" else "right")
    for row in alarm_rows(results, main, keys):
        table.add_row(*row)
    console.print(table)
    if results["targets"]:
        console.print()
        for target in results["targets"]:
            value = "nothing measured" if target["value"] is None else f"{target['value']:.3f}"
            console.print(f"{'met   ' if target['met'] else 'MISSED'} {target['text']}: {value}, {target['wanted']}")


def alarm_rows(results: Mapping[str, Any], main: str, keys: Sequence[str]) -> list[list[str]]:
    """A line for each group of clean images and for each set; under the monitor's first seed, with intervals."""
    entries = {entry["name"]: entry for entry in results["sets"]}
    rows = [row for row in results["rows"] if row["monitor"] == main]
    lines = []
    for row in [row for row in rows if row["seed"] == rows[0]["seed"]]:
        entry = entries[row["set"]]
        if entry["kind"] == "clean":
            for group, flagged in row.get("by_group", {}).items():
                lines.append([f"clean, {group}", str(entry["groups"][group]), "", "", *alarms(flagged, keys)])
            continue
        lines.append([
            entry["label"], str(entry["images"]), percent(entry["changed"]), f"{row['auroc']:.3f}",
            *alarms(row.get("flagged", {}), keys),
        ])  # fmt: skip
    for line in results["held_out"]:
        if line["monitor"] == main:
            told = f"clean, {line['group']}, held out of the fit"
            lines.append([told, str(line["images"]), "", "", *alarms(line["flagged"], keys)])
    return lines


def alarms(flagged: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    told = []
    for key in keys:
        found = flagged.get(key)
        if found is None or not found["images"]:
            told.append("-")
            continue
        low, high = found["interval"]
        told.append(f"{found['hits'] / found['images']:.1%} [{low:.1%}, {high:.1%}]")
    return told


def about(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "-"
    return f"{spread['mean']:.3f}" + (f" ± {spread['std']:.3f}" if spread["std"] else "")


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
