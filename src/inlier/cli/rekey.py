"""`inlier rekey`: another sampling key for a fitted monitor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

__all__ = ["rekey"]


@unpacked
def rekey(
    monitor: options.MonitorArgument,
    backbone: BackboneArguments,
    images: ImageArguments,
    blocks: options.BlocksOption = "auto",
    folds: options.FoldsOption = 5,
    batch_size: options.BatchSizeOption = 8,
    out: Annotated[Path | None, typer.Option(help="Write here; by default the monitor file is replaced.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Draw a new sampling key, read the clean images again, fit and calibrate as before."""
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import tell, telling_of_skipped
    from inlier.monitor import Monitor

    start = time.perf_counter()
    old = Monitor.load(monitor, backbone.load())
    folder = images.open()
    with progress_bars() as progress, telling_of_skipped(folder):
        fresh = old.rekey(
            folder, blocks=options.blocks_from(blocks), folds=folds, batch_size=batch_size, progress=progress
        )
    fresh.save(out or monitor)
    tell(fresh, json, {"monitor": str(out or monitor), "seconds": round(time.perf_counter() - start, 1)})
