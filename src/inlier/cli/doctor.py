"""`inlier doctor`: whether a network and a folder of clean images are fit for a monitor, and what to do."""

from __future__ import annotations

import dataclasses
import json as json_
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, typed, unpacked

if TYPE_CHECKING:
    from inlier.evaluation.checkup import Finding, Plan

__all__ = ["doctor"]

PROBLEMS = 1


@unpacked
def doctor(
    backbone: BackboneArguments,
    images: ImageArguments,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of one-channel PNG label maps with the images' names; by default the layout's."),
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Look at a network and clean images: what would go wrong with a monitor, what to do, which command comes next."""
    from inlier.cli.progress import progress_bars
    from inlier.datasets.labels import LabelFolder
    from inlier.evaluation.checkup import check_up

    network = backbone.load()
    folder = images.open(labelled=labels is None)
    maps = None if labels is None else LabelFolder(labels, network.task.classes)
    with progress_bars() as progress:
        checkup = check_up(network, folder, labels=maps, progress=progress)
    command = next_command(backbone, images, labels, checkup.plan)
    if json:
        print(json_.dumps(checkup.to_dict() | {"next": command}))
    else:
        width = max(len(finding.name) for finding in checkup.findings)
        for finding in checkup.findings:
            print(line(finding, width))
        print(f"\n{'next' if checkup.plan else 'next, when that is done'}: {command}")
    if checkup.problems:
        raise typer.Exit(PROBLEMS)


def line(finding: Finding, width: int) -> str:
    """Name, state, what was found, what to do."""
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{finding.name:{width}}  {finding.state:7}  {finding.found}{advice}"


def next_command(backbone: BackboneArguments, images: ImageArguments, labels: Path | None, plan: Plan | None) -> str:
    """Fit a monitor as planned, or look again when what is amiss has been seen to."""
    if plan is None:
        labelled = [] if labels is None else ["--labels", str(labels)]
        return shlex.join(["inlier", "doctor", *typed(backbone), *typed(images), *labelled])
    from inlier.evaluation.checkup import FOLDS

    if plan.size is not None:
        images = dataclasses.replace(images, resize=f"{plan.size[0]}x{plan.size[1]}")
    words = [] if plan.detector is None else ["--detector", plan.detector]
    words += ["--false-alarm-rate", f"{plan.false_alarm_rate:g}"]
    if plan.folds != FOLDS:
        words += ["--folds", str(plan.folds)]
    if plan.blocks is not None:
        words += ["--blocks", str(plan.blocks)]
    return shlex.join(["inlier", "fit", *typed(backbone), *typed(images), *words, "--out", "monitor.inlier"])
