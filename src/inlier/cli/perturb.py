"""`inlier perturb`: perturbed 8-bit copies of a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import ImageArguments, unpacked

__all__ = ["perturb"]


@unpacked
def perturb(
    perturbation: Annotated[
        str,
        typer.Argument(help='A name that `inlier perturbations` lists, with settings or not: "jpeg(quality=90)".'),
    ],
    images: ImageArguments,
    out: Annotated[Path, typer.Option(help="Folder for the copies (PNG, same names).")],
    severity: Annotated[int, typer.Option(min=0, max=5, help="0 changes nothing, 5 most.")] = 1,
    seed: Annotated[int, typer.Option(help="Fixes what is random.")] = 0,
    batch_size: options.BatchSizeOption = 8,
) -> None:
    """Write perturbed copies of images, rounded to 8 bit."""
    import torch

    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.config import from_table, read_call
    from inlier.perturbations.table import PERTURBATIONS

    name, settings = read_call(perturbation, "A perturbation")
    change = from_table(PERTURBATIONS, {"severity": severity, **settings, "name": name})
    folder = images.open()
    generator = torch.Generator().manual_seed(seed)
    done = 0
    with progress_bars() as progress:
        for batch in folder.batches(batch_size):
            write_pictures(out, batch.names, change(batch.images, generator))
            done += len(batch.names)
            progress(name, done, len(folder))
    say_skipped(folder)
    say(f"{done} images written to {out}")
