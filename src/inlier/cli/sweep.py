"""`inlier sweep`: detectors, seeds and rules from a file, tried on sets of images or their readings."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options

__all__ = ["sweep"]


def sweep(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What is tried on what.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For results; a sweep that was ended goes on there.")],
    json: options.JsonOption = False,
) -> None:
    """Try every detector with every seed and rule on every set of images; print a table of how well they do.

    A cell that was worked out is not worked out again, whatever ended the sweep.
    """
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say
    from inlier.config import from_keywords, read_toml
    from inlier.evaluation.sweep import Sweep, run_sweep, table

    wanted = from_keywords(Sweep, read_toml(config), f"'{config}'")
    with progress_bars() as progress:
        rows = run_sweep(wanted, out, progress=progress)
    print(json_.dumps(rows) if json else table(rows))
    say(f"{len(rows)} cells in {out / 'results.jsonl'}")
