"""`inlier stress`: a monitor attacked by who knows it, and whether the attackers were strong enough to say anything."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, epsilons_from, unpacked
from inlier.cli.attack import pictures_folder, shown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["stress"]

GATE_FAILED = 3


@unpacked
def stress(
    monitor: options.MonitorArgument,
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and the work, which goes on there.")],
    eps: Annotated[
        str, typer.Option(help="Largest changes (Linf), pixels in [0, 1], such as 1/255,2/255.")
    ] = "1/255,2/255,4/255",
    budget: Annotated[str, typer.Option(help="smoke, standard or full.")] = "standard",
    count: Annotated[int | None, typer.Option(min=1, help="So many of the images, spread evenly.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of one-channel PNG label maps with the images' names: what attacks do to the mIoU."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--false-alarm-rate", help="By default that of the monitor.")] = None,
    control: Annotated[
        Path | None, typer.Option(help="A monitor of the same network that is known to break, such as max_softmax.")
    ] = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MONITOR",
            help="A monitor that the attacker made himself, under a key or with images of his own; repeatable.",
        ),
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

    The attackers know everything, the key too; with --surrogate there are also some who know all but the key. Success:
    30 % or more of the prediction changed and no alarm, on 8-bit images that raised none before. Exit code 3 if a gate
    fails: then the attackers' failure would mean nothing.
    """
    import shlex
    import sys

    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.datasets.labels import LabelFolder
    from inlier.evaluation.measure import without_nan
    from inlier.evaluation.results_file import FORMAT, shortened, write_results
    from inlier.evaluation.stress import BUDGETS, Stress
    from inlier.evaluation.subjects import Subjects
    from inlier.monitor import Monitor
    from inlier.registry import nearest
    from inlier.report.folder import write_report

    radii = epsilons_from(eps)
    if budget not in BUDGETS:
        raise ValueError(f"There is no budget '{budget}'. {nearest(budget, list(BUDGETS))}")
    network = backbone.load()
    loaded = Monitor.load(monitor, network)
    other = None if control is None else Monitor.load(control, network)
    surrogates = {f"{n} {file.name}": Monitor.load(file, network) for n, file in enumerate(surrogate or [], start=1)}
    folder = images.open(labels=None if labels is None else LabelFolder(labels, network.task.classes))
    subjects = Subjects.of(folder, network, count)
    say_skipped(folder)

    def keep(attack: str, radius: float, attacked: Tensor) -> None:
        write_pictures(pictures_folder(out, attack, radius, "linf"), subjects.names, attacked)

    with progress_bars() as progress:
        work = Stress(
            loaded, subjects, out, epsilons=radii, budget=budget, rate=rate, control=other,
            surrogates=surrogates, keep=keep if keep_images else None, batch_size=batch_size, seed=seed,
            progress=progress,
        )  # fmt: skip
        found = work.run()
    results = shortened(without_nan({
        "format": FORMAT, "kind": "stress", "title": f"Stress test of {monitor.name}",
        "command": shlex.join(["inlier", *shown(sys.argv[1:])]), "config": found["settings"], **found,
    }))  # fmt: skip
    write_results(out, results)
    write_report(out, results)
    print(json_.dumps(results) if json else told(results))
    say(f"The report is {out / 'report.html'}, its numbers are in {out / 'results.json'}")
    if any(gate["verdict"] == "FAIL" for gate in results["gates"]):
        raise typer.Exit(GATE_FAILED)


def told(results: Mapping[str, Any]) -> str:
    """Tables for people."""
    settings = results["settings"]
    radii = settings["epsilons"]
    head = "".join(f"{f'{255 * eps:.4g}/255':>10}" for eps in radii)
    width = max(34, *(len(f"{row['tier']}  {row['attack']}") for row in results["rows"]))

    def line(name: str, cells: list[str]) -> str:
        return f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells)

    lines = [
        f"{settings['images']} images, {results['silent']} silent when clean; false-alarm rate {settings['rate']:g}",
        "",
        "Success: 30 % or more of the prediction changed, and no alarm (% of the silent images)",
        f"{'':<{width}}{head}",
    ]
    for name in dict.fromkeys(row["attack"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["attack"] == name]
        lines.append(line(f"{rows[0]['tier']}  {name}", [f"{100 * row['success_0.3']['rate']:.0f}" for row in rows]))
    for share in ("0.3", "0.5"):
        rows = [row for row in results["worst"] if row["tier"] == "T3"]
        name = f"worst image by image, {100 * float(share):.0f} % changed"
        lines.append(line(name, [f"{100 * row[f'success_{share}']['rate']:.0f}" for row in rows]))
    for row in results["queries"]:
        if row["eps"] == radii[-1]:
            found = row["success_0.3"]
            lines.append(f"T2  {row['attack']}: {found['hits']} of {found['images']} at the largest eps")
    for row in results["false_alarms"][-1:]:
        found = row["flagged"]
        lines.append(f"False alarms made: {found['hits']} of {found['images']} at the largest eps")
    least = {row["share"]: row["T3"] for row in results["smallest"]}[0.3]
    half = "none of these" if least is None else f"{255 * least:.4g}/255"
    lines.append(f"Least eps at which half of the images evade: {half}")
    lines += ["", "Gates"]
    lines += [
        f"{gate['verdict']:>8}  {gate['name']}: {gate['observed']} (wanted: {gate['wanted']})"
        for gate in results["gates"]
    ]
    failed = [gate["name"] for gate in results["gates"] if gate["verdict"] == "FAIL"]
    doubt = f"; gates failed: {', '.join(failed)}" if failed else ""
    return "\n".join([*lines, "", f"Verdict: {results['verdict']}{doubt}"])
