"""`inlier attack`: a monitor or a network attacked, adversarial 8-bit copies of the images, what became of them."""

from __future__ import annotations

import inspect
import json as json_
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, epsilons_from, parametrisation_of, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from inlier.backbones.base import Backbone
    from inlier.datasets.base import Dataset

__all__ = ["attack", "pictures_folder", "shown"]

MONITOR, DELTA = ".inlier", ".safetensors"

Attacked: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor, Mapping[str, Any]]]"
"""From images to the attacked ones, the prediction before, and what was run."""


@unpacked
def attack(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MONITOR | RECIPE | DELTA.safetensors",
            help="A monitor file from inlier fit; or, to attack the network alone, a name that `inlier recipes` lists "
            "or the perturbation for all images that `inlier uap` made.",
        ),
    ],
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the adversarial copies (PNG, same names), a folder for each eps if there are several; of "
            "a monitor also for images.csv, results.json, report.html and the work, which goes on there."
        ),
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="On a monitor: a recipe, which knows nothing of it, or square, spsa and rays, which only ask it."
        ),
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="On a monitor: how to attack it and its network at once, with everything known: dual, weighted, "
            "selective, orthogonal, n_plus_one; or one alone: hide, false_alarm, oblivious."
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help="Largest changes, pixels in [0, 1], such as 1/255,2/255; by default the recipe's, on a monitor "
            "1/255,2/255,4/255, and in a patch 1, which is any change."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="By default the recipe's, and 50 of a way; also questions, without --queries."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Questions about an image of square, spsa and rays; by default 500.")
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(help="Of the monitor in the way weighted; several, such as 0.1,1,10, are several attackers."),
    ] = None,
    restarts: Annotated[int, typer.Option(min=1, help="Random starts, of which the best counts.")] = 1,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to turn every pixel or image into; of label maps also stripes, shape, text, one_class, "
            "other_scene or remapped."
        ),
    ] = None,
    low_resolution: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Change a copy of this size, whose change is up-sampled to the image."),
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option(metavar="HxW[+ROW+COLUMN]", help="Change a patch of this size alone, by default in the middle."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--false-alarm-rate", help="Of the monitor; by default the one it was given.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="On a monitor: so many of the images, spread evenly.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is random.")] = 0,
    batch_size: options.BatchSizeOption = 4,
    json: options.JsonOption = False,
) -> None:
    """Attack a monitor, or a network alone, on every image; write 8-bit copies and tell what became of them.

    On a monitor success is that 30 % of the prediction changed without an alarm, among images that raised none before.
    The surface is the image as the file has it. A perturbation for all images is added as it is, whatever network it
    was made on.
    """
    if what.endswith(MONITOR) or (Path(what).is_file() and not what.endswith(DELTA)):
        on_monitor(
            Path(what), backbone, images, out, recipe or [], way or [], eps, steps, queries, weights_from(weight),
            restarts, target, (low_resolution, patch), rate, count, seed, batch_size, json,
        )  # fmt: skip
        return
    for option, value in (
        ("--recipe", recipe), ("--way", way), ("--queries", queries), ("--weight", weight),
        ("--false-alarm-rate", rate), ("--count", count),
    ):  # fmt: skip
        if value:
            raise ValueError(f"{option} is for attacks on a monitor; name a file ending in {MONITOR}, not '{what}'")
    on_network(
        what, backbone, images, out, eps, steps, restarts, target, (low_resolution, patch), seed, batch_size, json
    )


def on_monitor(
    file: Path, backbone: BackboneArguments, images: ImageArguments, out: Path, recipes: list[str], ways: list[str],
    eps: str | None, steps: int | None, queries: int | None, weights: Sequence[float], restarts: int,
    target: str | None, moved: tuple[str | None, str | None], rate: float | None, count: int | None, seed: int,
    batch_size: int, json: bool,
) -> None:  # fmt: skip
    """Attackers on a monitor: files, a report and the table."""
    import csv
    import io
    import shlex
    import sys

    from inlier.attacks.recipes import RECIPES
    from inlier.attacks.targets import target_named
    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.evaluation.attacking import COLUMNS, AttackRun, attackers_of
    from inlier.evaluation.measure import without_nan
    from inlier.evaluation.results_file import FORMAT, shortened, write_results
    from inlier.evaluation.subjects import Subjects
    from inlier.files import write_bytes
    from inlier.monitor import Monitor
    from inlier.report.attack_page import attack_document
    from inlier.report.document import document_text
    from inlier.report.folder import write_report

    network = backbone.load()
    wanted = None if target is None else target_named(target, network.task)
    attackers, norm = attackers_of(
        recipes, ways, steps=steps, queries=queries, weights=weights, restarts=restarts, target=wanted
    )
    if norm == "l2" and eps is None:
        raise ValueError("These recipes have eps in L2, over all values of an image: give --eps, such as 0.5,1,2")
    radii = epsilons_from(eps or ("1" if moved[1] else "1/255,2/255,4/255"), 1.0 if norm == "linf" else 1e6)
    loaded = Monitor.load(file, network)
    folder = images.open()
    subjects = Subjects.of(folder, network, count)
    say_skipped(folder)
    height, width = subjects.images.shape[-2:]
    size = int(height), int(width)

    def keep(attack: str, radius: float, attacked: Tensor) -> None:
        write_pictures(pictures_folder(out, attack, radius, norm), subjects.names, attacked)

    with progress_bars() as progress:
        work = AttackRun(
            loaded, subjects, out, attackers=attackers, epsilons=radii, norm=norm, rate=rate, keep=keep,
            parametrisation=parametrisation_of(*moved, size), batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
        found, rows = work.run()
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(out / "images.csv", table.getvalue().encode())
    papers = {one.name: RECIPES[one.way].paper for one in attackers if one.way in RECIPES}
    results = shortened(without_nan({
        "format": FORMAT, "kind": "attack", "title": f"Attacks on {file.name}",
        "command": shlex.join(["inlier", *shown(sys.argv[1:])]), "config": found["settings"], "papers": papers, **found,
    }))  # fmt: skip
    write_results(out, results)
    write_report(out, results)
    print(json_.dumps(results) if json else document_text(attack_document(results)))
    say(f"The report is {out / 'report.html'}, every image is in {out / 'images.csv'}")


def weights_from(text: str | None) -> list[float]:
    """What `--weight` says.

    Raises:
        ValueError: it is no list of numbers.
    """
    try:
        return [] if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--weight is a number or several with commas, such as 0.1,1,10, not '{text}'") from error


def pictures_folder(out: Path, attack: str, eps: float, norm: str) -> Path:
    """Where the attacked images of an attacker at an eps are."""
    return out / "images" / folder_name(attack, eps, norm)


def folder_name(attack: str, eps: float, norm: str) -> str:
    """What the folder of an attacker at an eps is called, eps in 1/255 unless the norm is L2.

    >>> folder_name("fgsm", 4 / 255, "linf"), folder_name("pgd_l2", 0.5, "l2"), folder_name("dual", 0.5, "l2")
    ('fgsm_4', 'pgd_l2_0.5', 'dual_l2_0.5')
    """
    name = attack.replace(", ", "_").replace(" ", "_")
    return f"{name}_{255 * eps:g}" if norm == "linf" else f"{name.removesuffix('_l2')}_l2_{eps:g}"


def shown(arguments: list[str]) -> list[str]:
    """A command's arguments; of files outside the folder it ran in the names alone: where these are is nobody's
    business."""
    told = []
    for text in arguments:
        before, mark, path = re.fullmatch(r"(.*?)([:=]?)([^:=]*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        outside = Path(path).is_absolute() or ".." in Path(path).parts
        told.append(f"{before}{mark}{Path(path).name}" if outside else text)
    return told


def on_network(
    recipe: str, backbone: BackboneArguments, images: ImageArguments, out: Path, eps: str | None, steps: int | None,
    restarts: int, target: str | None, moved: tuple[str | None, str | None], seed: int, batch_size: int, json: bool,
) -> None:  # fmt: skip
    """A recipe or a perturbation for all images on the network alone."""
    from inlier.attacks.recipes import recipe_named
    from inlier.cli.summary import say, say_skipped
    from inlier.evaluation.assaults import norm_of

    if not recipe.endswith(DELTA):
        recipe = recipe_named(recipe)
    norm = norm_of(recipe) or "linf"
    if eps is None and moved[1] is not None and norm == "linf" and not recipe.endswith(DELTA):
        eps = "1"
    radii: list[float | None] = [None] if eps is None else list(epsilons_from(eps, 1e6 if norm == "l2" else 1.0))
    told = []
    for radius in radii:
        given = (("eps", radius), ("steps", steps), ("restarts", restarts if restarts > 1 else None))
        settings: dict[str, Any] = {name: value for name, value in given if value is not None}
        if recipe.endswith(DELTA):
            others = {"target": target, "low-resolution": moved[0], "patch": moved[1]}
            refused = [f"--{name}" for name in (*settings, *(name for name, value in others.items() if value))]
            if refused:
                raise ValueError(f"'{recipe}' is made already: {' and '.join(refused)} can be said of a recipe alone")
            network, attacked = by_delta(recipe, backbone)
        else:
            network, attacked = by_recipe(recipe, settings, target, moved, seed, backbone)
        folder = images.open()
        where = out if len(radii) == 1 else out / folder_name(recipe, radius or 0.0, norm)
        told.append(copies(recipe, network, attacked, folder, where, batch_size))
        say_skipped(folder)
    if json:
        print(json_.dumps(told[0] if len(told) == 1 else told))
        return
    for row in told:
        say(f"{row['images']} adversarial images written to {row['out']}")
        say(
            f"pixels changed   {100 * row['mean_damage']:.1f} % on average; >= 30 % in "
            f"{100 * row['share_damaged_by_30_percent']:.1f} % of the images"
        )
        say(f"largest change   {row['largest_linf_norm_after_8_bit_rounding']:.4f} (Linf, after rounding to 8 bit)")


def copies(
    recipe: str, network: Backbone, attacked: Attacked, folder: Dataset, out: Path, batch_size: int
) -> dict[str, Any]:
    """Adversarial copies of a folder's images, and what became of these."""
    import torch

    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.perturbations.base import to_8_bit

    damage: list[torch.Tensor] = []
    norms: list[torch.Tensor] = []
    done = 0
    with progress_bars() as progress:
        for batch in folder.batches(batch_size):
            adversarial, before, config = attacked(batch.images)
            stored = to_8_bit(adversarial)
            write_pictures(out, batch.names, stored)
            with torch.no_grad():
                after = network.predict(stored)
            changed = (after != before).reshape(len(stored), -1).float().mean(1)
            damage.append(changed)
            norms.append((stored - batch.images).abs().flatten(1).amax(1))
            done += len(batch.names)
            progress(recipe, done, len(folder))
    changed = torch.cat(damage)
    return {
        "recipe": recipe,
        "images": done,
        "out": str(out),
        "mean_damage": changed.mean().item(),
        "share_damaged_by_30_percent": (changed >= 0.3).float().mean().item(),
        "largest_linf_norm_after_8_bit_rounding": torch.cat(norms).amax().item(),
        "config": dict(config),
    }


def by_recipe(
    recipe: str,
    settings: dict[str, Any],
    target: str | None,
    moved: tuple[str | None, str | None],
    seed: int,
    backbone: BackboneArguments,
) -> tuple[Backbone, Attacked]:
    """The network, and how a recipe attacks it."""
    import torch

    from inlier.attacks.constraints import Pixels
    from inlier.attacks.recipes import RECIPES
    from inlier.attacks.targets import target_maps, target_named
    from inlier.evaluation.assaults import recipe_attack
    from inlier.probe import Probe

    row = RECIPES[recipe]
    usual = {"eps": inspect.signature(row.factory).parameters["eps"].default}
    made = recipe_attack(recipe, **(usual | settings))
    network = backbone.load()
    if row.needs_target and target is None:
        raise ValueError(f"Recipe '{recipe}' needs --target, one of {', '.join(network.task.classes)}")
    wanted = None if target is None else target_named(target, network.task)
    probe = Probe(network)
    earlier: list[Tensor] = []  # what is predicted of the image before this batch, whose map its first one may want

    def attacked(images: Tensor) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        height, width = images.shape[-2:]
        attack = replace(made, parametrisation=parametrisation_of(*moved, (height, width)) or Pixels())
        goal: int | Tensor | None = None
        if isinstance(wanted, str):
            with torch.no_grad():
                maps = torch.cat([*earlier, network.predict(images)])
            goal = target_maps(wanted, maps, network.task, seed=seed)[len(earlier) :]
            earlier[:] = [maps[-1:]]
        else:
            goal = wanted
        result = attack(probe, images, row.objective, better=row.better, target=goal, seed=seed)
        return result.images, result.before, result.config

    return network, attacked


def by_delta(path: str, backbone: BackboneArguments) -> tuple[Backbone, Attacked]:
    """The network, and how a perturbation for all images changes what it sees."""
    import torch

    from inlier.attacks.universal import UniversalDelta

    delta = UniversalDelta.load(path)
    network = backbone.load()
    config = delta.made.model_dump(mode="json") | {"transferred": delta.made.backbone != network.fingerprint()}

    def attacked(images: Tensor) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        changed = delta(images)
        with torch.no_grad():
            return changed, network.predict(images), config

    return network, attacked
