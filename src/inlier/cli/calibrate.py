"""`inlier calibrate`: another false-alarm rate, rule or set of clean images for a fitted monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options

__all__ = ["calibrate"]


def calibrate(
    monitor: options.MonitorArgument,
    backbone: options.BackboneOption,
    false_alarm_rate: options.RateOption = 0.01,
    rule: options.RuleOption = "order_statistic",
    confidence: options.ConfidenceOption = 0.95,
    images: Annotated[
        Path | None,
        typer.Option(help="Held-out clean images; by default the cross-fitted scores in the monitor are used again."),
    ] = None,
    blocks: options.BlocksOption = "auto",
    folds: options.FoldsOption = 5,
    group_by: options.GroupByOption = None,
    batch_size: options.BatchSizeOption = 8,
    out: Annotated[Path | None, typer.Option(help="Write here; by default the monitor file is replaced.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Calibrate a fitted monitor again: another false-alarm rate, another rule, or held-out images."""
    from inlier.backbones.load import load_backbone
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped, tell
    from inlier.datasets.folder import ImageFolder
    from inlier.monitor import Monitor

    loaded = Monitor.load(monitor, load_backbone(backbone))
    folder = None if images is None else ImageFolder(images, group_by=group_by)
    with progress_bars() as progress:
        loaded.calibrate(
            folder,
            false_alarm_rate=false_alarm_rate,
            rule=options.rule_from(rule),
            confidence=confidence,
            blocks=options.blocks_from(blocks),
            folds=folds,
            batch_size=batch_size,
            progress=progress,
        )
    if folder is not None:
        say_skipped(folder)
    loaded.save(out or monitor)
    tell(loaded, json, {"monitor": str(out or monitor)})
