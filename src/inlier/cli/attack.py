"""`inlier attack`: adversarial 8-bit copies of a folder of images, and what became of them."""

from __future__ import annotations

import inspect
import json as json_
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from inlier.cli import options
from inlier.cli.arguments import BackboneArguments, ImageArguments, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from inlier.backbones.base import Backbone

__all__ = ["attack"]

Attacked: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor, Mapping[str, Any]]]"
"""From images to the attacked ones, the prediction before, and what was run."""


@unpacked
def attack(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE | DELTA.safetensors",
            help="A name that `inlier recipes` lists, or the perturbation for all images that `inlier uap` made.",
        ),
    ],
    backbone: BackboneArguments,
    images: ImageArguments,
    out: Annotated[Path, typer.Option(help="Folder for the adversarial copies (PNG, same names).")],
    eps: Annotated[
        float | None, typer.Option(help="Largest change, pixels in [0, 1]; by default the recipe's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="By default the recipe's.")] = None,
    target: Annotated[str | None, typer.Option(help="Class to turn every pixel or image into.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is random.")] = 0,
    batch_size: options.BatchSizeOption = 4,
    json: options.JsonOption = False,
) -> None:
    """Attack the network on every image; write 8-bit copies and print the damage and the norms.

    The attacker knows the network and not the monitor. The surface is the image as the file has it. A perturbation for
    all images is added as it is, whatever network it was made on.
    """
    import torch

    from inlier.cli.pictures import write_pictures
    from inlier.cli.progress import progress_bars
    from inlier.cli.summary import say, say_skipped
    from inlier.perturbations.base import to_8_bit

    settings: dict[str, Any] = {name: value for name, value in (("eps", eps), ("steps", steps)) if value is not None}
    if recipe.endswith(".safetensors"):
        refused = [f"--{name}" for name in (*settings, *(["target"] if target is not None else []))]
        if refused:
            raise ValueError(f"'{recipe}' is made already: {' and '.join(refused)} can be said of a recipe alone")
        network, attacked = by_delta(recipe, backbone)
    else:
        network, attacked = by_recipe(recipe, settings, target, seed, backbone)
    folder = images.open()
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
    say_skipped(folder)
    changed = torch.cat(damage)
    told: dict[str, Any] = {
        "recipe": recipe,
        "images": done,
        "out": str(out),
        "mean_damage": changed.mean().item(),
        "share_damaged_by_30_percent": (changed >= 0.3).float().mean().item(),
        "largest_linf_norm_after_8_bit_rounding": torch.cat(norms).amax().item(),
        "config": dict(config),
    }
    if json:
        print(json_.dumps(told))
    else:
        say(f"{done} adversarial images written to {out}")
        say(
            f"pixels changed   {100 * told['mean_damage']:.1f} % on average; >= 30 % in "
            f"{100 * told['share_damaged_by_30_percent']:.1f} % of the images"
        )
        say(f"largest change   {told['largest_linf_norm_after_8_bit_rounding']:.4f} (Linf, after rounding to 8 bit)")


def by_recipe(
    recipe: str, settings: dict[str, Any], target: str | None, seed: int, backbone: BackboneArguments
) -> tuple[Backbone, Attacked]:
    """The network, and how a recipe attacks it."""
    from inlier.attacks.recipes import RECIPES
    from inlier.probe import Probe
    from inlier.registry import nearest

    if recipe not in RECIPES:
        raise LookupError(f"No recipe named '{recipe}'. {nearest(recipe, list(RECIPES))}")
    row = RECIPES[recipe]
    unknown = set(settings) - set(inspect.signature(row.factory).parameters)
    if unknown:
        raise ValueError(f"Recipe '{recipe}' has no {' or '.join(sorted(unknown))}")
    network = backbone.load()
    if row.needs_target and target is None:
        raise ValueError(f"Recipe '{recipe}' needs --target, one of {', '.join(network.task.classes)}")
    if target is not None and target not in network.task.classes:
        raise LookupError(f"No class named '{target}'. {nearest(target, list(network.task.classes))}")
    number = None if target is None else network.task.classes.index(target)
    probe, made = Probe(network), row.factory(**settings)

    def attacked(images: Tensor) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
        result = made(probe, images, row.objective, better=row.better, target=number, seed=seed)
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
