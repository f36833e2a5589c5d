"""`inlier read`: readings of images, to fit, score and evaluate with later, without the network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

__all__ = ["read"]


@unpacked
def read(
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[Path, typer.Option(metavar="NAME.readings", help="The file to write.")],
    detector: Annotated[
        list[str] | None,
        typer.Option(help='Read what this detector needs: daain, "daain(blocks=8)"; may be given again.'),
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="Keep the network's output too; for dense networks that is a lot.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The sampling key of other readings or of a monitor, to go with them."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the sampling key, which is then no secret.")] = None,
    batch_size: options.BatchSizeOption = 8,
    json: options.JsonOption = False,
) -> None:
    """Write what detectors need of images to a file; reading that was ended goes on where it was.

    Without --key or --seed a sampling key is drawn, if a detector has one, and written to NAME.readings.key.
    """
    import json as json_

    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.monitor import Monitor
    from inlier.readings_file import READINGS
    from inlier.sampling import SamplingKey

    if out.suffix != READINGS:
        raise ValueError(f"--out is a name that ends in {READINGS}, not '{out}'")
    start = time.perf_counter()
    source = images.open()
    drawn = out.with_name(f"{out.name}.key")
    if key is None and seed is None and drawn.is_file():
        key = drawn  # of the readings that were begun, or are made again
    given = None if key is None else SamplingKey.load(key)
    monitor = Monitor(backbone.load(), detector or None, key=given, seed=seed)
    monitor.build_for(source)
    if monitor.keys.key is not None and key is None and seed is None:
        monitor.keys.key.save(drawn)
    with progress_bars() as progress:
        readings = monitor.read(source, logits=logits, store=out, batch_size=batch_size, progress=progress)
    say_skipped(source)
    numbers = {name: value[:1].numel() for name, value in readings.values.items()}
    told = {
        "readings": str(out),
        "images": len(readings),
        "numbers_an_image": numbers,
        "megabytes": round(out.stat().st_size / 1e6, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if json:
        print(json_.dumps(told))
        return
    say(f"{len(readings)} images, {sum(numbers.values())} numbers each, {told['megabytes']} MB in {out}")
    if readings.origin is not None and readings.origin.key is not None:
        say("whoever has this file, the images and the network can find out the sampling key: keep it as private")
