"""`inlier uap`: one perturbation for all images, made from a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, height_and_width, unpacked

if TYPE_CHECKING:
    from inlier.attacks.universal import UniversalDelta

__all__ = ["uap"]


@unpacked
def uap(
    backbone: BackboneArguments,
    image_size: Annotated[
        str, typer.Option("--image-size", metavar="HxW", help="Size of the images that will be attacked.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Where the best so far is always written.")],
    images: ImageArguments | None = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="What is known of the data: none, gaussian (its mean and range) or data (clean images). By default "
            "data with --images, gaussian without."
        ),
    ] = None,
    substitutes: Annotated[
        str | None,
        typer.Option(
            metavar="[LAYOUT:]PATH",
            help="Images to validate on, never those to be attacked; by default held-out --images, or drawn noise.",
        ),
    ] = None,
    select: Annotated[
        str, typer.Option("--select", metavar="TAPS", help="Whose activations are raised; see inlier taps.")
    ] = "conv",
    eps: Annotated[float, typer.Option(help="Largest change, pixels in [0, 1].")] = 10 / 255,
    iterations: Annotated[int, typer.Option(min=1, help="At most so many steps.")] = 10_000,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 400,
    patience: Annotated[int, typer.Option(min=1, help="Stop after so many validations without a better one.")] = 10,
    seed: Annotated[int, typer.Option(help="Fixes what is random.")] = 0,
    batch_size: options.BatchSizeOption = 1,
    json: options.JsonOption = False,
) -> None:
    """Make one perturbation that fools the network on most images (GD-UAP); `inlier attack FILE` applies it.

    Made on one network and applied to the images of another, it is a transferred attack. Ctrl-C keeps the best so far.
    """
    from inlier.attacks.universal import gd_uap
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.datasets.load import open_images

    size = height_and_width("--image-size", image_size)
    assert size is not None
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is the name of a safetensors file, such as delta.safetensors, not '{out}'")
    if images is not None and height_and_width("--resize", images.resize) not in (None, size):
        raise ValueError(f"--resize {images.resize} is not --image-size {image_size}; the former follows the latter")
    shown = None if images is None else replace(images, resize=image_size).open()
    tried = None if substitutes is None else open_images(substitutes, labelled=False, size=size)

    def tell(best: UniversalDelta) -> None:
        last = best.made.validations[-1]
        if best.made.kept == last.iteration:
            best.save(out)
        assert last.objective is not None
        say(
            f"step {last.iteration}: sum of log norms {last.objective:.2f}, {100 * last.fooled:.1f} % of the "
            f"predictions changed, {100 * last.saturated:.0f} % of the delta at eps"
        )

    with progress_bars() as progress:
        made = gd_uap(
            backbone.load(),
            size,
            prior=prior or ("gaussian" if shown is None else "data"),  # type: ignore[arg-type]  # gd_uap refuses others
            images=shown,
            substitutes=tried,
            taps=select,
            eps=eps,
            iterations=iterations,
            batch_size=batch_size,
            validate_every=validate_every,
            patience=patience,
            seed=seed,
            progress=progress,
            told=tell,
        )
    made.save(out)
    for source in (shown, tried):
        if source is not None:
            say_skipped(source)
    if json:
        print(made.made.model_dump_json())
        return
    rows = made.made.validations
    fooled = next(row.fooled for row in rows if row.iteration == made.made.kept)
    say(f"written to {out}: step {made.made.kept} of {rows[-1].iteration} (stopped by {made.made.stopped})")
    say(
        f"predictions changed on {made.made.validated_on}: {100 * fooled:.1f} %; by random noise of the same eps "
        f"{100 * rows[0].fooled:.1f} %"
    )
