"""`inlier fit`: fit a monitor to clean images and calibrate it by cross-fitting."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

__all__ = ["fit"]


@unpacked
def fit(
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[Path, typer.Option(help="The monitor file to write.")] = Path("monitor.inlier"),
    detector: Annotated[
        list[str] | None,
        typer.Option(help='A detector, with settings if wanted: daain, "daain(blocks=8)"; may be given again.'),
    ] = None,
    fusion: Annotated[str, typer.Option(help="How several detectors become one score: max or sum.")] = "max",
    false_alarm_rate: options.RateOption = 0.01,
    rule: options.RuleOption = "order_statistic",
    confidence: options.ConfidenceOption = 0.95,
    blocks: options.BlocksOption = "auto",
    folds: options.FoldsOption = 5,
    batch_size: options.BatchSizeOption = 8,
    seed: Annotated[
        int | None, typer.Option(help="Fixes the sampling key, which is then no secret, and every fit.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Fit a monitor to clean images, and calibrate it by cross-fitting over blocks of neighbouring images."""
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped, tell
    from inlier.monitor import Monitor

    start = time.perf_counter()
    folder = images.open(labelled=False)
    monitor = Monitor(backbone.load(), detector or ["mahalanobis"], fusion=options.fusion_from(fusion), seed=seed)
    with progress_bars() as progress:
        monitor.fit(folder, batch_size=batch_size, progress=progress)
        say_skipped(folder)
        monitor.calibrate(
            false_alarm_rate=false_alarm_rate,
            rule=options.rule_from(rule),
            confidence=confidence,
            blocks=options.blocks_from(blocks),
            folds=folds,
            progress=progress,
        )
    monitor.save(out)
    tell(monitor, json, {"monitor": str(out), "seconds": round(time.perf_counter() - start, 1)})
