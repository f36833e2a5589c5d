"""`inlier attack`: a monitor or a network attacked, adversarial 8-bit copies of the images, what became of them."""

from __future__ import annotations

import inspect
import json as json_
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, epsilons_from, parametrisation_of, unpacked
from inlier.cli.rows import csv_text

if TYPE_CHECKING:
    from torch import Tensor

    from inlier.backbones.base import Backbone
    from inlier.datasets.base import Dataset
    from inlier.evaluation.assaults import Norm
    from inlier.evaluation.network_attack import Attacked, Made

__all__ = ["attack", "pictures_folder", "shown"]

PAPER = "Liang, An algorithm to attack neural network encoder-based out-of-distribution sample detector"
UNIVERSAL_PAPER = "GD-UAP, Mopuri et al. 2018, arXiv:1801.08092"
MONITOR, DELTA, COLLISION = ".inlier", ".safetensors", "collision"


@unpacked
def attack(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MONITOR | RECIPE | DELTA.safetensors",
            help="A monitor file from inlier fit; or, to attack the network alone, a name that `inlier recipes` lists, "
            "collision, or the perturbation for all images that `inlier uap` made.",
        ),
    ],
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the adversarial copies (PNG, same names), a folder for each eps if there are several, and "
            "for images.csv, results.json, report.html and the work, which goes on there."
        ),
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="On a monitor: a recipe or a file of `inlier uap`, which know nothing of it, or square, spsa and "
            "rays, which only ask it."
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
    towards: Annotated[
        str | None,
        typer.Option(
            metavar="[LAYOUT:]PATH",
            help="Of collision: images whose features those of --images are to take, one after another.",
        ),
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option(help="Of collision: where features are to be the same, as `inlier taps` names it, or everywhere."),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Of collision: what eps is in, linf (as usual) or l2.")] = None,
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
    was made on. A collision gives images the features of others.
    """
    if "gd_uap" in (what, *(recipe or [])):
        raise ValueError(
            "GD-UAP is made once for all images: `inlier uap` writes it to a file, which is named here then"
        )
    aims = {"--towards": towards, "--taps": taps, "--norm": norm}
    if what != COLLISION and any(aims.values()):
        raise ValueError(f"{next(name for name, value in aims.items() if value)} is for collision, not for '{what}'")
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
    changes = {"--target": target, "--low-resolution": low_resolution, "--patch": patch}
    refused = [name for name, value in changes.items() if value]
    if what.endswith(DELTA):
        settled = {"--eps": eps, "--steps": steps, "--restarts": restarts if restarts > 1 else None}
        refused = [*(name for name, value in settled.items() if value is not None), *refused]
        prepared = prepared_delta(what, backbone, refused)
    elif what == COLLISION:
        size = size_of(images.open())
        prepared = prepared_collision(backbone, images, towards, taps, norm, eps, steps, restarts, size, seed, refused)
    else:
        size = size_of(images.open())
        prepared = prepared_recipe(what, backbone, eps, steps, restarts, target, (low_resolution, patch), size, seed)
    on_network(prepared, images.open(), out, batch_size, json)


def size_of(folder: Dataset) -> tuple[int, int]:
    """(h, w) of the first image.

    Raises:
        ValueError: there is none.
    """
    first = next(iter(folder.batches(1)), None)
    if first is None:
        raise ValueError("There are no images to attack")
    height, width = first.images.shape[-2:]
    return int(height), int(width)


def on_monitor(
    file: Path, backbone: BackboneArguments, images: ImageArguments, out: Path, recipes: list[str], ways: list[str],
    eps: str | None, steps: int | None, queries: int | None, weights: Sequence[float], restarts: int,
    target: str | None, moved: tuple[str | None, str | None], rate: float | None, count: int | None, seed: int,
    batch_size: int, json: bool,
) -> None:  # fmt: skip
    """Attackers on a monitor: files, a report and the table."""
    from inlier.attacks.recipes import RECIPES
    from inlier.attacks.targets import target_named
    from inlier.attacks.universal import UniversalDelta
    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.evaluation.attacking import COLUMNS, AttackRun, attackers_of
    from inlier.evaluation.subjects import Subjects
    from inlier.files import write_bytes
    from inlier.monitor import Monitor
    from inlier.report.attack_page import attack_document
    from inlier.report.document import document_text

    if COLLISION in recipes:
        raise ValueError(
            "A collision is of a network alone: `inlier attack collision`, then `inlier score` says of the copies what "
            "the monitor makes of them"
        )
    network = backbone.load()
    wanted = None if target is None else target_named(target, network.task)
    files = [Path(name) for name in recipes if name.endswith(DELTA)]
    attackers, norm = attackers_of(
        [name for name in recipes if not name.endswith(DELTA)], ways, steps=steps, queries=queries, weights=weights,
        restarts=restarts, target=wanted, deltas=[path.stem for path in files],
    )  # fmt: skip
    deltas = {path.stem: UniversalDelta.load(path) for path in files}
    if norm == "l2" and eps is None:
        raise ValueError("These recipes have eps in L2, over all values of an image: give --eps, such as 0.5,1,2")
    radii = epsilons_from(eps or ("1" if moved[1] else "1/255,2/255,4/255"), 1.0 if norm == "linf" else 1e6)
    if deltas and eps is None:
        radii = sorted({delta.eps for delta in deltas.values()})
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
            parametrisation=parametrisation_of(*moved, size), deltas=deltas, batch_size=batch_size, seed=seed,
            progress=progress,
        )  # fmt: skip
        found, rows = work.run()
    write_bytes(out / "images.csv", csv_text(rows, COLUMNS).encode())
    papers = {one.name: RECIPES[one.way].paper for one in attackers if one.way in RECIPES}
    papers |= dict.fromkeys(deltas, UNIVERSAL_PAPER)
    results = finished(out, "attack", f"Attacks on {file.name}", found, papers=papers)
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


class Prepared(NamedTuple):
    """An attack on a network alone, ready to run.

    Args:
        name: for people and for folders.
        norm: that eps is in.
        attacks: by eps; None where there is none to choose.
        settings: all that they depend on besides the network.
        papers: where they are from.
    """

    name: str
    network: Backbone
    norm: Norm
    attacks: Mapping[float | None, Attacked]
    settings: Mapping[str, Any]
    papers: Mapping[str, str]


def on_network(prepared: Prepared, folder: Dataset, out: Path, batch_size: int, json: bool) -> None:
    """An attack on a network alone: files, a report and a summary."""
    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.evaluation.network_attack import attack_network
    from inlier.files import write_bytes

    def place(eps: float | None) -> Path:
        return out if len(prepared.attacks) == 1 else out / folder_name(prepared.name, eps or 0.0, prepared.norm)

    with progress_bars() as progress:
        found, rows = attack_network(
            prepared.network, folder, out, prepared.attacks, settings=prepared.settings,
            keep=lambda eps, names, attacked: write_pictures(place(eps), names, attacked), batch_size=batch_size,
            progress=progress,
        )  # fmt: skip
    say_skipped(folder)
    write_bytes(out / "images.csv", csv_text(rows).encode())
    results = finished(out, "network", f"{prepared.name} on a network alone", found, papers=prepared.papers)
    if json:
        print(json_.dumps(results))
        return
    for row in found["rows"]:
        say(f"{row['images']} adversarial images written to {place(row['eps'])}")
        say(
            f"pixels changed   {100 * row['damage']:.1f} % on average; >= 30 % in "
            f"{100 * row['changed_0.3']['rate']:.1f} % of the images"
        )
        say(f"largest change   {row['largest']:.4f} (Linf, after rounding to 8 bit)")
        if row["beside"]:
            before, after, same = (row["beside"][name] for name in ("mape_before", "mape", "same"))
            say(f"features         MAPE {before:.4f}, now {after:.4f}; {100 * same:.1f} % predicted alike (medians)")
    say(f"The report is {out / 'report.html'}, every image is in {out / 'images.csv'}")


def prepared_delta(path: str, backbone: BackboneArguments, refused: Sequence[str]) -> Prepared:
    """A perturbation for all images.

    Raises:
        ValueError: something was said of it that is settled.
    """
    import hashlib

    import torch

    from inlier.attacks.universal import UniversalDelta
    from inlier.evaluation.network_attack import Made

    if refused:
        raise ValueError(f"'{path}' is made already: {' and '.join(refused)} can be said of a recipe alone")
    delta, network = UniversalDelta.load(path), backbone.load()
    config = delta.made.model_dump(mode="json") | {"transferred": delta.made.backbone != network.fingerprint()}

    def attacked(images: Tensor, _: int, __: Tensor | None) -> Made:
        with torch.no_grad():
            return Made(delta(images), network.predict(images), config)

    told = f"{Path(path).name} ({hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]})"
    return Prepared(Path(path).name, network, "linf", {None: attacked}, {"attack": told, "norm": "linf"}, {})


def prepared_collision(
    backbone: BackboneArguments, images: ImageArguments, towards: str | None, taps: str | None, norm: str | None,
    eps: str | None, steps: int | None, restarts: int, size: tuple[int, int], seed: int, refused: Sequence[str],
) -> Prepared:  # fmt: skip
    """Images that take the features of others.

    Raises:
        ValueError: what it needs is missing or cannot be, or what it has no use for was given.
    """
    import torch

    from inlier.evaluation.assaults import digest
    from inlier.evaluation.collisions import colliding
    from inlier.evaluation.network_attack import Made

    if towards is None or taps is None:
        raise ValueError(
            "A collision needs --towards, images whose features others are to take, and --taps, where: such as "
            "--towards clean/images --taps encoder.b3.act; `inlier taps` lists taps, and everywhere is all of them"
        )
    if refused:
        raise ValueError(f"A collision moves all pixels towards features: it has no {' or '.join(refused)}")
    if norm not in (None, "linf", "l2"):
        raise ValueError(f"--norm is linf or l2, not '{norm}'")
    ball: Norm = "l2" if norm == "l2" else "linf"
    if eps is None and ball == "l2":
        raise ValueError("eps in L2 is over all values of an image: give --eps, such as 1,5")
    wanted = [batch.images for batch in replace(images, images=[towards], split=None, groups=None).open().batches(1)]
    sizes = sorted({tuple(image.shape[-2:]) for image in wanted} | {size})
    if len(sizes) > 1:
        told = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise ValueError(f"Features are those of images of one size, and these have {told}: give --resize HxW")
    goals, network = torch.cat(wanted), backbone.load()

    def attack(radius: float) -> Attacked:
        more = {} if steps is None else {"steps": steps}
        collided = colliding(network, taps, goals, radius, norm=ball, restarts=restarts, seed=seed, **more)

        def attacked(batch: Tensor, first: int, _: Tensor | None) -> Made:
            result, beside = collided(batch, first)
            return Made(result.images, result.before, result.config, beside)

        return attacked

    radii = sorted(epsilons_from(eps or "8/255", 1e6 if ball == "l2" else 1.0))
    settings = {
        "attack": COLLISION, "norm": ball, "epsilons": radii, "steps": steps, "restarts": restarts, "seed": seed,
        "taps": taps, "towards": digest(goals),
    }  # fmt: skip
    return Prepared(
        COLLISION, network, ball, {radius: attack(radius) for radius in radii}, settings, {COLLISION: PAPER}
    )


def prepared_recipe(
    recipe: str, backbone: BackboneArguments, eps: str | None, steps: int | None, restarts: int, target: str | None,
    moved: tuple[str | None, str | None], size: tuple[int, int], seed: int,
) -> Prepared:  # fmt: skip
    """A recipe.

    Raises:
        LookupError: there is none of this name.
        ValueError: settings that it cannot have.
    """
    from inlier.attacks.recipes import RECIPES, recipe_named
    from inlier.evaluation.assaults import norm_of

    recipe = recipe_named(recipe, (COLLISION,))
    norm, network = norm_of(recipe) or "linf", backbone.load()
    if eps is None and moved[1] is not None and norm == "linf":
        eps = "1"
    usual = inspect.signature(RECIPES[recipe].factory).parameters["eps"].default
    radii = [usual] if eps is None else sorted(epsilons_from(eps, 1e6 if norm == "l2" else 1.0))
    parametrisation_of(*moved, size)  # what cannot be is refused before anything is written
    given = {"steps": steps, "restarts": restarts if restarts > 1 else None}
    more = {name: value for name, value in given.items() if value is not None}
    attacks = {radius: by_recipe(recipe, network, {"eps": radius, **more}, target, moved, seed) for radius in radii}
    settings = {
        "attack": recipe, "norm": norm, "epsilons": radii, "steps": steps, "restarts": restarts, "target": target,
        "low_resolution": moved[0], "patch": moved[1], "seed": seed,
    }  # fmt: skip
    return Prepared(recipe, network, norm, attacks, settings, {recipe: RECIPES[recipe].paper})


def finished(out: Path, kind: str, title: str, found: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Results as they are written, with their report."""
    import shlex
    import sys

    from inlier.evaluation.measure import without_nan
    from inlier.evaluation.results_file import FORMAT, shortened, write_results
    from inlier.report.folder import write_report

    results: dict[str, Any] = shortened(without_nan({
        "format": FORMAT, "kind": kind, "title": title, "command": shlex.join(["inlier", *shown(sys.argv[1:])]),
        "config": found["settings"], **more, **found,
    }))  # fmt: skip
    write_results(out, results)
    write_report(out, results)
    return results


def by_recipe(
    recipe: str, network: Backbone, settings: Mapping[str, Any], target: str | None,
    moved: tuple[str | None, str | None], seed: int,
) -> Attacked:  # fmt: skip
    """How a recipe attacks a network.

    Raises:
        ValueError: it needs a target, or settings that it has not.
    """
    import torch

    from inlier.attacks.constraints import Pixels
    from inlier.attacks.recipes import RECIPES
    from inlier.attacks.targets import target_maps, target_named
    from inlier.evaluation.assaults import recipe_attack
    from inlier.evaluation.network_attack import Made
    from inlier.probe import Probe

    row = RECIPES[recipe]
    made = recipe_attack(recipe, **settings)
    if row.needs_target and target is None:
        raise ValueError(f"Recipe '{recipe}' needs --target, one of {', '.join(network.task.classes)}")
    wanted = None if target is None else target_named(target, network.task)
    probe = Probe(network)

    def attacked(images: Tensor, _: int, before: Tensor | None) -> Made:
        height, width = images.shape[-2:]
        attack = replace(made, parametrisation=parametrisation_of(*moved, (height, width)) or Pixels())
        goal: int | Tensor | None = None
        if isinstance(wanted, str):
            seen = images if before is None else torch.cat([before, images])  # whose map the first one may want
            with torch.no_grad():
                maps = network.predict(seen)
            goal = target_maps(wanted, maps, network.task, seed=seed)[len(seen) - len(images) :]
        else:
            goal = wanted
        result = attack(probe, images, row.objective, better=row.better, target=goal, seed=seed)
        return Made(result.images, result.before, result.config)

    return attacked
