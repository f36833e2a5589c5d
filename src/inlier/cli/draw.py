"""`inlier draw`: street scenes and their labels as files, to try things on without any data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["draw"]


def draw(
    worlds: Annotated[list[str], typer.Argument(metavar="WORLD...", help="Worlds such as summer and coast.")],
    out: Annotated[Path, typer.Option(help="Folder for images/ and labels/.")],
    count: Annotated[int, typer.Option(min=1, help="Scenes of each world.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Number of the first scene; the others follow.")] = 0,
) -> None:
    """Draw street scenes of one or more worlds: images and label maps, as PNG files."""
    import io

    from PIL import Image

    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say
    from inlier.datasets.scenes.scene import draw as draw_scene
    from inlier.datasets.scenes.worlds import WORLDS
    from inlier.files import write_bytes
    from inlier.registry import nearest

    for world in worlds:
        if world not in WORLDS:
            raise LookupError(f"No world named '{world}'. {nearest(world, list(WORLDS))}")
    done = 0
    with progress_bars() as progress:
        for world in worlds:
            for number in range(seed, seed + count):
                scene = draw_scene(WORLDS[world], number)
                for kind, pixels in (("images", scene.image), ("labels", scene.labels)):
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, "PNG")
                    write_bytes(out / kind / f"{world}_{number:05d}.png", file.getvalue())
                done += 1
                progress("drawing", done, count * len(worlds))
    say(f"{done} scenes written to {out / 'images'}, their labels to {out / 'labels'}")
