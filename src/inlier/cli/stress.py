"""`inlier stress`: a monitor attacked by who knows it, and whether the attackers were strong enough to say anything."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["epsilons_from", "stress"]

GATE_FAILED = 3


@unpacked
def stress(
    monitor: options.MonitorArgument,
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[Path, typer.Option(help="Folder for results.json and the work; what was ended goes on there.")],
    eps: Annotated[
        str, typer.Option(help="Largest changes (Linf), pixels in [0, 1], such as 1/255,2/255.")
    ] = "1/255,2/255,4/255",
    budget: Annotated[str, typer.Option(help="smoke, standard or full.")] = "standard",
    count: Annotated[int | None, typer.Option(min=1, help="So many of the images, spread evenly.")] = None,
    rate: Annotated[float | None, typer.Option("--false-alarm-rate", help="By default that of the monitor.")] = None,
    control: Annotated[
        Path | None, typer.Option(help="A monitor of the same network that is known to break, such as max_softmax.")
    ] = None,
    keep_images: Annotated[
        bool,
        typer.Option("--keep-images", help="Write the attacked images as PNG, a folder for each attacker and eps."),
    ] = False,
    batch_size: options.BatchSizeOption = 4,
    seed: Annotated[int, typer.Option(help="Fixes what is random.")] = 0,
    json: options.JsonOption = False,
) -> None:
    """Attack network and monitor together, print the success of the worst attacker, image by image, and every gate.

    The attackers know everything, the key too. Success: 30 % or more of the prediction changed and no alarm, on 8-bit
    images that raised none before. Exit code 3 if a gate fails: then the attackers' failure would mean nothing.
    """
    import torch

    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say_skipped
    from inlier.evaluation.stress import BUDGETS, Stress
    from inlier.files import write_bytes
    from inlier.monitor import Monitor
    from inlier.registry import nearest

    radii = epsilons_from(eps)
    if budget not in BUDGETS:
        raise ValueError(f"There is no budget '{budget}'. {nearest(budget, list(BUDGETS))}")
    network = backbone.load()
    loaded = Monitor.load(monitor, network)
    other = None if control is None else Monitor.load(control, network)
    folder = images.open()
    batches = list(folder.batches(1))
    say_skipped(folder)
    if count is not None and count < len(batches):
        batches = [batches[i * len(batches) // count] for i in range(count)]
    sizes = {tuple(batch.images.shape[1:]) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(f"The images are of several sizes, {sorted(sizes)[:3]}: give --resize HxW")
    names = [name for batch in batches for name in batch.names]

    def keep(attack: str, radius: float, attacked: Tensor) -> None:
        where = out / "images" / f"{attack.replace(', ', '_').replace(' ', '_')}_{255 * radius:g}"
        write_pictures(where, names, attacked)

    with progress_bars() as progress:
        work = Stress(
            loaded, torch.cat([batch.images for batch in batches]), out, epsilons=radii, budget=budget, rate=rate,
            control=other, keep=keep if keep_images else None, batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
        results = work.run()
    write_bytes(out / "results.json", json_.dumps(results, indent=1).encode())
    print(json_.dumps(results) if json else told(results))
    if any(gate["verdict"] == "FAIL" for gate in results["gates"]):
        raise typer.Exit(GATE_FAILED)


def epsilons_from(text: str) -> list[float]:
    """Numbers or fractions with commas between them.

    >>> epsilons_from("1/255, 0.02")
    [0.00392156862745098, 0.02]
    """
    found = []
    for part in text.split(","):
        above, slash, below = part.partition("/")
        try:
            value = float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            value = 0.0
        if not 0 < value <= 1:
            raise ValueError(f"--eps has numbers above 0 and up to 1, such as 1/255,2/255, not '{part.strip()}'")
        found.append(value)
    return found


def told(results: Mapping[str, Any]) -> str:
    """Tables for people."""
    settings = results["settings"]
    radii = settings["epsilons"]
    head = "".join(f"{f'{255 * eps:g}/255':>10}" for eps in radii)

    def line(name: str, cells: list[str]) -> str:
        return f"{name:<34}" + "".join(f"{cell:>10}" for cell in cells)

    lines = [
        f"{settings['images']} images, {results['silent']} silent when clean; false-alarm rate {settings['rate']:g}",
        "",
        "Success: 30 % or more of the prediction changed, and no alarm (% of the silent images)",
        f"{'':<34}{head}",
    ]
    for name in dict.fromkeys(row["attack"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["attack"] == name]
        lines.append(line(f"{rows[0]['tier']}  {name}", [f"{100 * row['success_0.3']['rate']:.0f}" for row in rows]))
    for share in ("0.3", "0.5"):
        rows = [row for row in results["worst"] if row["tier"] == "T3"]
        name = f"worst image by image, {100 * float(share):.0f} % changed"
        lines.append(line(name, [f"{100 * row[f'success_{share}']['rate']:.0f}" for row in rows]))
    lines += ["", "Gates"]
    lines += [
        f"{gate['verdict']:>8}  {gate['name']}: {gate['observed']} (wanted: {gate['wanted']})"
        for gate in results["gates"]
    ]
    return "\n".join([*lines, "", f"Verdict: {results['verdict']}"])
