"""`inlier demo`: a monitor for a small network on drawn street scenes: fitted, calibrated, tried and attacked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli import options

if TYPE_CHECKING:
    from inlier.evaluation.results import Results
    from inlier.evaluation.trial import Change, Panel
    from inlier.types import Progress

__all__ = ["demo", "run_demo"]

FALSE_ALARM_RATE = 0.05
FITTED = 60  # scenes of each known world
TESTED_KNOWN = 15  # of each known world
TESTED_UNSEEN = 20  # of each unseen world
ATTACKED = 24
ATTACKED_KNOWING = 12
SCENES_A_SEED = 1_000  # scene numbers that belong to one seed; the network's own begin at 10 million
COLOURS = (
    (112, 160, 214), (158, 120, 98), (92, 92, 100), (240, 236, 220), (178, 170, 158), (84, 140, 72), (200, 70, 64),
    (232, 160, 60), (150, 90, 190),
)  # fmt: skip


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("inlier-demo"),
    seed: Annotated[int, typer.Option(min=0, max=4_999, help="Which scenes are drawn.")] = 0,
    json: options.JsonOption = False,
) -> None:
    """Fit, calibrate, try and attack a monitor on drawn street scenes, and write a report; about a minute."""
    import json as text

    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say
    from inlier.files import write_bytes
    from inlier.report.page import write_page

    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be is told at once
    with progress_bars() as progress:
        results = run_demo(seed, progress)
    written = text.dumps(results.to_dict(), indent=1)
    write_bytes(out / "results.json", written.encode())
    write_page(out / "report.html", results)
    if json:
        print(written)
    else:
        show(results)
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in results.seconds.items())
    say(f"{took}; in all {sum(results.seconds.values()):.0f} s")
    say(f"The report is {out / 'report.html'}, its numbers are in {out / 'results.json'}")


def run_demo(seed: int, progress: Progress) -> Results:
    """Everything the demo finds out, from a seed."""
    import torch

    from inlier.backbones.street import street_espnet
    from inlier.datasets.scenes.scene import draw_many
    from inlier.datasets.scenes.worlds import TRAINING_WORLDS, UNSEEN_WORLDS, WORLDS
    from inlier.evaluation.cost import milliseconds
    from inlier.evaluation.results import Results
    from inlier.evaluation.trial import Panel, clean_rows, take, try_out
    from inlier.images import TensorImages
    from inlier.monitor import Monitor

    seconds: dict[str, float] = {}
    first = seed * SCENES_A_SEED
    worlds = (*TRAINING_WORLDS, *UNSEEN_WORLDS)
    with timed(seconds, "drawing"):
        fitted, images, labels, groups = [], [], [], []
        for done, world in enumerate(worlds):
            count = TESTED_UNSEEN
            if world in TRAINING_WORLDS:
                count = TESTED_KNOWN
                fitted.append(draw_many(WORLDS[world], FITTED, first)[0])
            drawn = draw_many(WORLDS[world], count, first + FITTED)
            images.append(drawn[0])
            labels.append(drawn[1])
            groups += [world] * count
            progress("drawing scenes", done + 1, len(worlds))
        clean = TensorImages(torch.cat(fitted), groups=[world for world in TRAINING_WORLDS for _ in range(FITTED)])
        scenes = torch.cat(images)

    backbone = street_espnet()
    monitor = Monitor(backbone, seed=seed)
    with timed(seconds, "fitting"):
        monitor.fit(clean, progress=progress)
    with timed(seconds, "calibrating"):
        monitor.calibrate(false_alarm_rate=FALSE_ALARM_RATE, progress=progress)
    panel = Panel(monitor)
    with timed(seconds, "clean scenes"):
        seen = take(panel, scenes, progress=progress, phase="clean scenes")
        rows = clean_rows(panel, seen, torch.cat(labels), groups, TRAINING_WORLDS)
    known = TESTED_KNOWN * len(TRAINING_WORLDS)
    reference = {name: scores[:known] for name, scores in seen.scores.items()}
    # World after world in turn, so that any first few are of all worlds.
    mixed = torch.arange(known).view(len(TRAINING_WORLDS), -1).T.flatten()
    trials = []
    for change, count in changes(panel, known, seed):
        with timed(seconds, change.label):
            some = mixed[:count]
            trials.append(try_out(panel, change, scenes[some], seen.subset(some), progress=progress))
    with timed(seconds, "timing"), torch.no_grad():
        cost = (milliseconds(lambda: backbone(scenes[:1])), milliseconds(lambda: monitor.score(scenes[:1])))
    assert monitor.clean is not None
    return Results(
        network="ESPNet for drawn street scenes",
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        classes=backbone.task.classes,
        size=(scenes.shape[-2], scenes.shape[-1]),
        colours=COLOURS,
        detectors=tuple(monitor.detectors),
        fitted=dict.fromkeys(TRAINING_WORLDS, FITTED),
        calibrated=monitor.clean.made,
        false_alarm_rate=FALSE_ALARM_RATE,
        thresholds=panel.thresholds(),
        clean=tuple(rows),
        trials=tuple(trial.row(panel, reference) for trial in trials),
        pictures={trial.change.name: trial.picture for trial in trials},
        milliseconds=cost,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        seed=seed,
        command=f"inlier demo --seed {seed}",
    )


def changes(panel: Panel, every: int, seed: int) -> list[tuple[Change, int]]:
    """What is tried on how many scenes, natural changes on `every` one: DAAIN's, then by who knows the monitor."""
    import torch

    from inlier.attacks.recipes import fgsm, ifgsm
    from inlier.evaluation.trial import Change, evasive
    from inlier.perturbations.geometric import VerticalFlip
    from inlier.perturbations.noise import GaussianNoise
    from inlier.perturbations.weather import Fog
    from inlier.probe import Probe

    generator = torch.Generator().manual_seed(seed)
    monitor = panel.monitor
    network = Probe(monitor.backbone)  # what an attacker sees who does not know of the monitor
    road = monitor.backbone.task.classes.index("road")
    step, iterated = fgsm(), ifgsm()
    return [
        (Change("fog", "fog", "perturbation", lambda images: Fog(1)(images, generator)), every),
        (
            Change("vertical_flip", "upside down", "perturbation", VerticalFlip(1), moves=lambda maps: maps.flip(-2)),
            every,
        ),
        (Change("gaussian_noise", "noise", "perturbation", lambda images: GaussianNoise(1)(images, generator)), every),
        (Change("fgsm", "FGSM", "attack", lambda images: step(network, images).images), ATTACKED),
        (Change("ifgsm", "iterated FGSM", "attack", lambda images: iterated(network, images).images), ATTACKED),
        (
            Change(
                "ifgsm_targeted",
                "iterated FGSM to road",
                "attack",
                lambda images: iterated(network, images, target=road).images,
            ),
            ATTACKED,
        ),
        (
            Change("evasion", "evasion, eps 0.01", "adaptive attack", evasive(monitor, 0.01)),
            ATTACKED_KNOWING,
        ),
        (
            Change("evasion_strong", "evasion, eps 0.02", "adaptive attack", evasive(monitor, 0.02)),
            ATTACKED_KNOWING,
        ),
    ]


def show(results: Results) -> None:
    """The tables, on stdout."""
    from rich.console import Console
    from rich.table import Table

    from inlier.report.page import label

    console = Console()
    console.print(f"Share flagged at a false-alarm rate of {results.false_alarm_rate:.0%}, and AUROC.")
    console.print("Evaded: 30 % or more of the pixels changed and no alarm, among scenes let pass before the change.")
    tried = Table(box=None, padding=(0, 1, 0, 0))
    tried.add_column("tried")
    headings = [label(name).replace("Mahalanobis", "Maha-\nlanobis") for name in results.thresholds]
    for heading in ("pixels\nchanged", *headings, "evaded"):
        tried.add_column(heading, justify="right")
    for row in results.trials:
        cells = [f"{row.caught[name]:.0%} {row.auroc[name]:.2f}".replace(" 0.", " .") for name in results.thresholds]
        tried.add_row(row.label, f"{row.changed:.0%}", *cells, f"{row.evaded} of {row.eligible}")
    console.print(tried)
    console.print("\nFalse alarms observed on fresh clean scenes, with 95 % intervals")
    alarms = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("world", "scenes", "pixels wrong", "flagged", "interval"):
        alarms.add_column(heading, justify="left" if heading == "world" else "right")
    for clean in results.clean:
        low, high = clean.interval()
        alarms.add_row(
            clean.group if clean.known else f"{clean.group} (never seen)",
            str(clean.images),
            f"{clean.wrong:.0%}",
            f"{clean.alarms['monitor'] / clean.images:.0%}",
            f"{low:.0%} to {high:.0%}",
        )
    console.print(alarms)


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Note how long a phase takes."""
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
