"""`inlier rekey`: another sampling key for a fitted monitor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options

__all__ = ["rekey"]


def rekey(
    monitor: options.MonitorArgument,
    backbone: options.BackboneOption,
    images: options.ImagesOption,
    blocks: options.BlocksOption = "auto",
    folds: options.FoldsOption = 5,
    group_by: options.GroupByOption = None,
    batch_size: options.BatchSizeOption = 8,
    out: Annotated[Path | None, typer.Option(help="Write here; by default the monitor file is replaced.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Draw a new sampling key, read the clean images again, fit and calibrate as before."""
    from inlier.backbones.load import load_backbone
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped, tell
    from inlier.datasets.folder import ImageFolder
    from inlier.monitor import Monitor

    start = time.perf_counter()
    old = Monitor.load(monitor, load_backbone(backbone))
    folder = ImageFolder(images, group_by=group_by)
    with progress_bars() as progress:
        fresh = old.rekey(
            folder, blocks=options.blocks_from(blocks), folds=folds, batch_size=batch_size, progress=progress
        )
    say_skipped(folder)
    fresh.save(out or monitor)
    tell(fresh, json, {"monitor": str(out or monitor), "seconds": round(time.perf_counter() - start, 1)})
