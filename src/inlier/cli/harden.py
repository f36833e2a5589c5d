"""`inlier harden`: an adversarial fine-tune of a network beside a clean one, with what it costs and what it brings."""

from __future__ import annotations

import inspect
import json as json_
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, epsilons_from, height_and_width, typed, unpacked

if TYPE_CHECKING:
    from inlier.backbones.base import Backbone
    from inlier.monitor import Monitor
    from inlier.types import Images

__all__ = ["harden"]

MEASURES = {"miou": "mIoU", "accuracy": "accuracy", "agreement": "agreement with the original"}


@unpacked
def harden(
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For weights, harden.json and the work; what was ended goes on.")
    ],
    eps: Annotated[str, typer.Option(help="Largest change (Linf) to withstand, pixels in [0, 1].")] = "2.5/255",
    recipe: Annotated[
        str,
        typer.Option(
            help="Of the attacker, from a random start: any that `inlier recipes` lists and that needs no target, such "
            "as pgd_linf with --attack-steps."
        ),
    ] = "fgsm",
    attack_steps: Annotated[int | None, typer.Option(min=1, help="Of the recipe; by default its own.")] = None,
    clean_share: Annotated[float, typer.Option(help="Of each batch that nobody attacks.")] = 0.5,
    consistency: Annotated[
        str | None,
        typer.Option(help="kl or jensen_shannon: also keep clean and attacked predictions together. Costs twice."),
    ] = None,
    consistency_weight: Annotated[float, typer.Option(help="Of that term.")] = 1.0,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Train only parameters of such a name, as level3.*; repeatable."),
    ] = None,
    way: Annotated[
        float, typer.Option(help="How far the result's weights lie from the original's (0) to the hardened ones (1).")
    ] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Of Adam.")] = 700,
    tune_batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 6,
    lr: Annotated[float, typer.Option(help="Adam's learning rate, at its highest.")] = 5e-4,
    schedule: Annotated[str, typer.Option(help="Of the learning rate: cosine or constant.")] = "cosine",
    crop: Annotated[
        str | None, typer.Option(metavar="HxW", help="Train on random parts of this size; for segmentation.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror half of the images.")] = True,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh rare classes up.")] = False,
    even_groups: Annotated[
        bool, typer.Option("--even-groups", help="Show images of every group (drive, site) equally often.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of one-channel PNG label maps with the images' names; by default the layout's."),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="[LAYOUT:]PATH", help="Images to measure on; by default those that are trained on."),
    ] = None,
    check_labels: Annotated[Path | None, typer.Option(help="Label maps of those images.")] = None,
    check_eps: Annotated[str, typer.Option(help="Attackers to measure with.")] = "1/255,2.5/255,4/255",
    check_count: Annotated[int, typer.Option(min=1, help="So many of them are attacked, spread evenly.")] = 8,
    monitor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A monitor of the original: the command that fits one anew then has its detectors and its "
            "false-alarm rate.",
        ),
    ] = None,
    batch_size: options.BatchSizeOption = 4,
    seed: Annotated[int, typer.Option(help="Fixes all that is drawn.")] = 0,
    json: options.JsonOption = False,
) -> None:
    """Fine-tune a copy of the network against an attacker, and another one as long without, and compare all three.

    Without labels what is kept is the network's own predictions. The cost is told against the better of the original
    and the clean fine-tune. A monitor of the original does not fit the hardened network: the command to fit one anew
    is printed.
    """
    import torch

    from inlier.attacks.hardening import Hardening, Pool, blended, weights_of
    from inlier.attacks.hardening import harden as hardened
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.datasets.folder import ImageFolder
    from inlier.datasets.labels import LabelFolder
    from inlier.datasets.load import open_images
    from inlier.evaluation.hardening import cost, quality, spread, translated
    from inlier.files import write_bytes, write_tensors
    from inlier.monitor import Monitor

    (radius, *more), radii = epsilons_from(eps), epsilons_from(check_eps)
    if more:
        raise ValueError(f"--eps is one number, such as 2.5/255, not '{eps}'; --check-eps takes several")
    if check_labels is not None and check is None:
        raise ValueError("--check-labels belong to the images of --check")
    if not 0 < way <= 1:
        raise ValueError(f"--way is above 0 and up to 1, not {way}")
    settings = Hardening(
        eps=radius, recipe=recipe, attack_steps=attack_steps, clean_share=clean_share,
        consistency=consistency,  # type: ignore[arg-type]
        consistency_weight=consistency_weight, layers=tuple(layers or ()), steps=steps, batch_size=tune_batch, lr=lr,
        schedule=schedule,  # type: ignore[arg-type]
        crop=height_and_width("--crop", crop), flip=flip, balanced=balanced, even_groups=even_groups,
        seed=seed,
    )  # fmt: skip
    original = backbone.load()
    kind = [] if monitor is None else kind_of(Monitor.load(monitor, original))
    classes = original.task.classes
    folder = images.open(labels=None if labels is None else LabelFolder(labels, classes), labelled=True)
    checked, size = folder, height_and_width("--resize", images.resize)
    if check is not None and check_labels is not None:
        checked = ImageFolder(check, labels=LabelFolder(check_labels, classes), size=size)
    elif check is not None:
        checked = open_images(check, size=size)
    with progress_bars() as progress:
        pool = Pool.of(original, folder, translate=translated(folder, original), progress=progress)
        say_skipped(folder)
        made = hardened(original, pool, settings, folder=out / "work", progress=progress)
        kept = made.hardened if way == 1 else blended(original, made.hardened, way)
        networks = {"original": original, "control": made.control, "hardened": kept}
        for name in ("control", "hardened"):
            write_tensors(out / f"{name}.safetensors", weights_of(networks[name]))
        found = quality(networks, checked, batch_size=batch_size, progress=progress)
        attacked = under_attack(networks, spread(checked, check_count), radii, batch_size, progress)
    arguments = arguments_for(backbone, out / "hardened.safetensors")
    loaded = arguments.load()
    same = all(
        torch.equal(tensor, loaded.network.state_dict()[name]) for name, tensor in kept.network.state_dict().items()
    )
    assert same, "the written weights are not those that were made"
    lost = cost(found.by_image, "control", "hardened", found.groups)
    told = {
        "settings": dict(made.settings) | {"way": way},
        "checked_on": {"images": found.images, "attacked": min(check_count, found.images),
                       "seen_in_training": check is None},
        "measure": found.measure, "values": found.values,
        "cost": lost.value, "cost_interval": [lost.low, lost.high],
        "attacked": attacked,
        "gain": [
            {"eps": before["eps"], "damage": before["damage"] - after["damage"]}
            for before, after in zip(attacked["original"], attacked["hardened"], strict=True)
        ],
        "loss": {name: [part.mean().item() for part in losses.chunk(10)] for name, losses in made.losses.items()},
        "weights": "hardened.safetensors", "control": "control.safetensors",
        "refit": shlex.join(["inlier", "fit", *typed(arguments), *typed(images), *kind,
                             "--out", (out / "monitor.inlier").as_posix()]),
    }  # fmt: skip
    write_bytes(out / "harden.json", json_.dumps(told, indent=1).encode())
    if json:
        print(json_.dumps(told))
        return
    print(text_of(told, original.task.is_dense))
    say(f"Weights are in {out / 'hardened.safetensors'}, all numbers in {out / 'harden.json'}")


def under_attack(
    networks: Mapping[str, Backbone], images: Images, radii: Sequence[float], batch_size: int, progress: Any
) -> dict[str, list[dict[str, float]]]:
    """What PGD changes of each network's predictions, by eps."""
    from inlier.evaluation.hardening import changed

    done, parts = 0, -(-len(images) // batch_size) * len(radii) * len(networks)

    def step() -> None:
        nonlocal done
        done += 1
        progress("attacks", done, parts)

    return {
        name: changed(network, images, radii, batch_size=batch_size, progress=step)
        for name, network in networks.items()
    }


def arguments_for(backbone: BackboneArguments, weights: Path) -> BackboneArguments:
    """How the network with other weights is named on the command line."""
    from inlier.backbones.load import BACKBONES

    name = backbone.backbone.partition(":")[0]
    file = weights.as_posix()
    if name not in BACKBONES:
        return replace(backbone, weights=file)
    if "weights" in inspect.signature(BACKBONES[name]).parameters:
        return replace(backbone, backbone=f"{name}:{file}", weights=None)
    return replace(backbone, backbone=BACKBONES.entry(name).target, weights=file)  # its own weights are built in


def kind_of(monitor: Monitor) -> list[str]:
    """The options of `inlier fit` for a monitor of the same kind."""
    given = [word for spec in monitor.specs for word in ("--detector", str(spec))]
    if monitor.escalate is not None:
        given += ["--escalate", str(monitor.escalate)]
    if monitor.fusion != "max":
        given += ["--fusion", monitor.fusion]
    given += ["--false-alarm-rate", str(monitor.false_alarm_rate)]
    if monitor.calibration.rule != "order_statistic":
        given += ["--rule", monitor.calibration.rule]
    if monitor.calibration.rule == "high_probability":
        given += ["--confidence", str(monitor.calibration.confidence)]
    return given


def gain_or_loss(gains: Sequence[Mapping[str, float]], what: str) -> list[str]:
    """A line for the eps at which fewer predictions change than before, and one for those at which more do."""
    found: dict[str, list[str]] = {"Gain": [], "Loss": []}
    for row in gains:
        points = round(100 * row["damage"], 1)
        word, than = ("Gain", "fewer") if points >= 0 else ("Loss", "more")
        found[word].append(f"{abs(points):.1f} points {than} {what} at eps {255 * row['eps']:g}/255")
    return [f"{word}: {', '.join(told)}" for word, told in found.items() if told]


def text_of(told: Mapping[str, Any], dense: bool) -> str:
    """Tables for people."""
    values, on = told["values"], told["checked_on"]
    names = list(values)
    where = "the images that were trained on: give --check for others" if on["seen_in_training"] else "--check"

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:<34}" + "".join(f"{cell:>12}" for cell in cells)

    def percents(numbers: Sequence[float]) -> list[str]:
        return [f"{100 * number:.1f} %" for number in numbers]

    lines = [
        f"{on['images']} clean images, {on['attacked']} of them attacked ({where})", "",
        line("", names), line(MEASURES[told["measure"]], percents([values[name] for name in names])),
    ]  # fmt: skip
    what = "pixels changed" if dense else "predictions changed"
    for number, row in enumerate(told["attacked"]["original"]):
        rows = [told["attacked"][name][number] for name in names]
        lines.append(line(f"{what} at {255 * row['eps']:g}/255", percents([each["damage"] for each in rows])))
        if dense:
            lines.append(line("  images with 30 % or more", percents([each["changed_0.3"] for each in rows])))
    best = "the original" if values["original"] >= values["control"] else "the control"
    low, high = (f"{100 * end:+.1f}" for end in told["cost_interval"])
    return "\n".join([
        *lines, "",
        f"Cost: {100 * told['cost']:+.1f} points of {MEASURES[told['measure']]} ({low} to {high}) against {best}, the "
        "better of the two",
        *gain_or_loss(told["gain"], what),
        "The monitor must be fitted anew, since the network is another one:",
        f"  {told['refit']}",
    ])  # fmt: skip
