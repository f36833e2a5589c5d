"""`inlier calibrate`: another false-alarm rate, rule or set of clean images for a fitted monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

__all__ = ["calibrate"]


@unpacked
def calibrate(
    monitor: options.MonitorArgument,
    backbone: BackboneArguments,
    false_alarm_rate: options.RateOption = 0.01,
    rule: options.RuleOption = "order_statistic",
    confidence: options.ConfidenceOption = 0.95,
    images: ImageArguments | None = None,
    blocks: options.BlocksOption = "auto",
    folds: options.FoldsOption = 5,
    batch_size: options.BatchSizeOption = 8,
    out: Annotated[Path | None, typer.Option(help="Write here; by default the monitor file is replaced.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Calibrate a fitted monitor again: another false-alarm rate, another rule, or held-out images.

    Without --images the cross-fitted clean scores in the monitor are used again.
    """
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import tell, telling_of_skipped
    from inlier.monitor import Monitor

    loaded = Monitor.load(monitor, backbone.load())
    readings = None if images is None else images.saved()
    folder = None if images is None or readings is not None else images.open()
    with progress_bars() as progress, telling_of_skipped(folder):
        loaded.calibrate(
            readings if readings is not None else folder,
            false_alarm_rate=false_alarm_rate,
            rule=options.rule_from(rule),
            confidence=confidence,
            blocks=options.blocks_from(blocks),
            folds=folds,
            batch_size=batch_size,
            progress=progress,
        )
    loaded.save(out or monitor)
    tell(loaded, json, {"monitor": str(out or monitor)})
