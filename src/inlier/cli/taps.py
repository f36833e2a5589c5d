"""`inlier taps`: where a network can be tapped, and where not and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, height_and_width, unpacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlier.anatomy import Anatomy
    from inlier.taps import Place

__all__ = ["taps"]


@unpacked
def taps(
    backbone: BackboneArguments,
    image_size: Annotated[str, typer.Option("--image-size", metavar="HxW", help="Size of the images.")],
    select: Annotated[
        str | None,
        typer.Option(
            metavar="TAPS",
            help="Show only these: everywhere, stage_ends, deepest, conv, batch_norm_inputs, names or patterns such as "
            "'level3.*', separated by commas. By default all, with the shares of everywhere.",
        ),
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """List the modules that can be tapped, with shapes and shares of the volume, and those that cannot, and why."""
    from json import dumps

    from inlier.anatomy import Anatomy

    size = height_and_width("--image-size", image_size)
    assert size is not None
    anatomy = Anatomy.of(backbone.load(), size)
    rows = table(anatomy, select)
    print(dumps(rows) if json else "\n".join(lines(rows, anatomy.size)))


def table(anatomy: Anatomy, select: str | None) -> list[dict[str, Any]]:
    """A row for each side of each module, or for what is selected.

    `share` is that of the volume that the selection spans when all of it is up-sampled to the image's size, so the
    share of a blue-noise key's points that is to be expected there; None where a row is no part of it.
    """
    chosen = anatomy.everywhere() if select is None else anatomy.select(select)
    total = sum(shape[0] for shape in chosen.values())

    def row(place: Place) -> dict[str, Any]:
        return {
            "tap": str(place.tap),
            "module": place.tap.module,
            "side": place.tap.side,
            "type": place.kind,
            "leaf": place.leaf,
            "shape": place.shape,
            "channels": None if place.shape is None else place.shape[0],
            "share": place.shape[0] / total if place.shape is not None and place.tap in chosen else None,
            "problem": place.problem,
        }

    return [row(place) for place in anatomy.places if select is None or place.tap in chosen]


def lines(rows: list[dict[str, Any]], size: tuple[int, int]) -> list[str]:
    """The rows for people: what can be tapped, the volume it spans, what cannot be tapped."""
    able = [row for row in rows if not row["problem"]]
    cells = [
        (
            row["tap"] or "(network)",
            row["type"],
            " x ".join(map(str, row["shape"])),
            "" if row["share"] is None else f"{row['share']:.1%}",
        )
        for row in able
    ]
    cells.insert(0, ("tap", "type", "channels x height x width", "share"))
    told = aligned(cells, right=3)
    inside = [row["channels"] for row in able if row["share"] is not None]
    told += ["", f"Volume: {len(inside)} taps, {sum(inside)} channels x {size[0]} x {size[1]}"]
    unable = [(row["tap"] or "(network)", row["type"], row["problem"]) for row in rows if row["problem"]]
    if unable:
        told += ["", "Cannot be tapped:", *aligned(unable)]
    return told


def aligned(cells: Sequence[tuple[str, ...]], right: int | None = None) -> list[str]:
    """Columns as wide as their widest cell; the one numbered `right` is flush right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column == right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
