"""`inlier report`: the report, sign-off sheet and tables of an evaluation, written anew from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    results: Annotated[
        Path, typer.Argument(metavar="FOLDER | results.json", help="What `inlier evaluate` left.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write; by default where the results are.")
    ] = None,
) -> None:
    """Write report.html, sign_off.html and tables (CSV, LaTeX) of an evaluation anew; nothing is measured again."""
    from inlier.cli.summary import say
    from inlier.report.folder import read_results, write_report

    found = read_results(results)
    folder = out or (results if results.is_dir() else results.parent)
    written = write_report(folder, found)
    print(written[0])
    say(f"{written[1].name} and {len(written) - 2} files in {folder / 'tables'} were written beside it")
