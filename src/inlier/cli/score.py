"""`inlier score`: a verdict for every image of a folder."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, network, unpacked
from inlier.cli.rows import csv_text

if TYPE_CHECKING:
    from inlier.datasets.base import Dataset
    from inlier.monitor import Monitor
    from inlier.verdict import Verdict

__all__ = ["score"]

GATE_FAILED = 3
COLUMNS = ("image", "group", "score", "p_value", "flagged")


@unpacked
def score(
    monitor: options.MonitorArgument,
    images: ImageArguments,
    backbone: BackboneArguments | None = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows here instead of to stdout.")] = None,
    format: Annotated[str, typer.Option(help="jsonl (a JSON object a line) or csv.")] = "jsonl",
    why: Annotated[
        bool,
        typer.Option("--why", help="Add taps and nearest clean image (jsonl). Tells about the key too."),
    ] = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Folder for the images with their heat map and verdict drawn in.")
    ] = None,
    fail_on_flag: Annotated[bool, typer.Option("--fail-on-flag", help="Exit with 3 if any image is flagged.")] = False,
    batch_size: options.BatchSizeOption = 8,
) -> None:
    """Give a verdict on every image: a row each on stdout, observed alarms by group on stderr.

    With readings in place of images (`inlier read`) the network is not run, and --backbone not needed.
    """
    if format not in ("jsonl", "csv"):
        raise ValueError(f"--format is jsonl or csv, not {format!r}")
    if why and format == "csv":
        raise ValueError("--why has lists in it, which CSV has no place for: use --format jsonl")
    from inlier.cli.summary import alarms, say, say_alarms
    from inlier.files import write_bytes
    from inlier.monitor import Monitor

    readings = images.saved()
    if readings is not None and (why or overlay is not None):
        raise ValueError("--why and --overlay look at the images again: give these, not their readings")
    loaded = Monitor.load(monitor, network(backbone, readings))
    if readings is None:
        rows = _looked_at(loaded, images.open(), batch_size, why, overlay)
    else:
        scores = loaded.score_of(readings)
        assert loaded.false_alarm_rate is not None
        flagged = loaded.calibration.flagged(scores, loaded.false_alarm_rate)
        columns = (readings.names, readings.groups, scores, loaded.calibration.p_value(scores), flagged)
        listed = [column if isinstance(column, tuple) else column.tolist() for column in columns]
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*listed, strict=True)]
    text = _jsonl(rows) if format == "jsonl" else csv_text(rows, COLUMNS)
    if out is None:
        sys.stdout.write(text)
    else:
        write_bytes(out, text.encode())
    say(f"flagged at a false-alarm rate of {loaded.false_alarm_rate:g} (observed, 95 % interval):")
    say_alarms(alarms([row["group"] for row in rows], [row["flagged"] for row in rows]))
    if fail_on_flag and any(row["flagged"] for row in rows):
        raise typer.Exit(GATE_FAILED)


def _looked_at(
    monitor: Monitor, folder: Dataset, batch_size: int, why: bool, overlay: Path | None
) -> list[dict[str, Any]]:
    """A row an image, and where they are wanted the pictures."""
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped
    from inlier.files import write_bytes

    rows: list[dict[str, Any]] = []
    with progress_bars() as progress:
        for batch in folder.batches(batch_size):
            verdict = monitor(batch.images, batch.names, why=why or overlay is not None)
            for one, group, row in zip(verdict, batch.groups, verdict.rows(), strict=True):
                rows.append({"image": row.pop("image"), "group": group} | row)
                if not why:
                    rows[-1] = {column: rows[-1][column] for column in COLUMNS}
                if overlay is not None:
                    picture = batch.images[batch.names.index(one.names[0])]
                    write_bytes((overlay / one.names[0]).with_suffix(".png"), _overlay(picture, one))
            progress("scoring", len(rows), len(folder))
    say_skipped(folder)
    return rows


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _overlay(picture: Any, verdict: Verdict) -> bytes:
    """The image dimmed, what moved the score in red, a frame in the verdict's colour; as a PNG file's bytes."""
    import numpy as np
    from PIL import Image

    assert verdict.why is not None
    base = picture.permute(1, 2, 0).numpy()
    heat = verdict.why.heat[0].numpy()[..., None]
    mixed = base * (1 - 0.75 * heat) + np.array([1.0, 0.1, 0.05]) * 0.75 * heat
    colour = np.array([0.85, 0.1, 0.1]) if bool(verdict.flagged[0]) else np.array([0.1, 0.6, 0.25])
    edge = max(2, min(base.shape[:2]) // 60)
    framed = np.broadcast_to(colour, base.shape).copy()
    framed[edge:-edge, edge:-edge] = mixed[edge:-edge, edge:-edge]
    file = io.BytesIO()
    Image.fromarray((framed.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
