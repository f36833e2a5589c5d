"""`inlier fit`: fit a monitor to clean images and calibrate it by cross-fitting."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, network, unpacked

if TYPE_CHECKING:
    from inlier.calibration import Rule
    from inlier.images import ImageSource
    from inlier.observation import Readings

__all__ = ["fit"]


@unpacked
def fit(
    images: ImageArguments,
    backbone: BackboneArguments | None = None,
    out: Annotated[Path, typer.Option(help="The monitor file to write.")] = Path("monitor.inlier"),
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help='A detector, with settings if wanted: daain, "daain(blocks=8)"; may be given again. By default a few '
            "that were chosen for you, of which one looks at doubtful images again."
        ),
    ] = None,
    escalate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of clean images on which detectors that need further passes are asked; .5 by default, and 1 "
            "where detectors are given. 0 never looks again.",
        ),
    ] = None,
    anomalies: Annotated[
        str | None,
        typer.Option(
            metavar="[LAYOUT:]PATH",
            help="Images of what is to be found, for detectors that learn from them: \"daain(head='logistic')\".",
        ),
    ] = None,
    tolerate: Annotated[
        list[str] | None,
        typer.Option(
            help='A perturbation that shall count as clean: gamma, "white_balance(severity=2)"; may be given again. '
            "The monitor then sees less of what is like it."
        ),
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
    """Fit a monitor to clean images, and calibrate it by cross-fitting over blocks of neighbouring images.

    With readings in place of images (`inlier read`) the network is not run, and --backbone not needed.
    """
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import tell, telling_of_skipped
    from inlier.monitor import Monitor
    from inlier.observation import Readings
    from inlier.perturbations.tolerance import Tolerating, tolerated
    from inlier.sampling import SamplingKey

    start = time.perf_counter()
    readings = images.saved()
    clean = images.open() if readings is None else readings
    shown: ImageSource | Readings = clean
    if tolerate:
        if isinstance(clean, Readings):
            raise ValueError("--tolerate changes images, and readings were made of them: give the images")
        shown = Tolerating(clean, tolerated(tolerate), seed=seed or 0)
    odd = None if anomalies is None else replace(images, images=[anomalies], split=None, groups=None, group_by=None)
    known = None if odd is None else odd.saved() or odd.open()
    file = Path(f"{images.images[0]}.key")
    monitor = Monitor(
        network(backbone, readings),
        detector or None,
        fusion=options.fusion_from(fusion),
        escalate=escalate,
        key=SamplingKey.load(file) if readings is not None and file.is_file() else None,
        seed=seed,
    )
    kept_together = options.blocks_from(blocks)
    refuse_too_few(len(shown), false_alarm_rate, options.rule_from(rule), confidence)
    with progress_bars() as progress:
        with telling_of_skipped(clean):
            monitor.fit(shown, anomalies=known, batch_size=batch_size, progress=progress)
        monitor.calibrate(
            false_alarm_rate=false_alarm_rate,
            rule=options.rule_from(rule),
            confidence=confidence,
            blocks=kept_together,
            folds=folds,
            progress=progress,
        )
    monitor.save(out)
    tell(monitor, json, {"monitor": str(out), "seconds": round(time.perf_counter() - start, 1)})


def refuse_too_few(count: int, false_alarm_rate: float, rule: Rule, confidence: float) -> None:
    """Before anything is read: that so many images cannot keep the rate, even if every one of them can be read."""
    from inlier.calibration import images_needed, least_rate

    needed = images_needed(false_alarm_rate, rule, confidence)
    if count >= needed:
        return
    least = least_rate(count, rule, confidence)
    raise ValueError(
        f"Calibration would have {count} image{'' if count == 1 else 's'}; a false-alarm rate of {false_alarm_rate:g} "
        f"needs at least {needed}: give more images"
        + ("" if least is None else f", or --false-alarm-rate {least:g} or more")
    )
