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
    without_pictures: Annotated[
        bool,
        typer.Option("--without-pictures", help="Leave images out, for data that must not be passed on; needs --out."),
    ] = False,
) -> None:
    """Write report.html, sign_off.html and tables (CSV, LaTeX) of an evaluation anew; nothing is measured again."""
    from inlier.cli.summary import say
    from inlier.evaluation.results_file import write_results
    from inlier.report.folder import read_results, without_images, write_report

    if without_pictures and out is None:
        raise ValueError("--without-pictures writes results.json too, less the pictures: give it a folder with --out")
    found = read_results(results)
    folder = out or (results if results.is_dir() else results.parent)
    if without_pictures:
        found = without_images(found)
        write_results(folder, found)
    written = write_report(folder, found)
    print(written[0])
    pages = [path.name for path in written[1:] if path.suffix == ".html"]
    tables = f"{len(written) - 1 - len(pages)} files in {folder / 'tables'}"
    say(f"{' and '.join([*pages, tables])} were written beside it")
