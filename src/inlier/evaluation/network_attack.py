"""A network alone attacked, batch by batch: 8-bit copies of images, and what the network makes of them.

What was finished lies in a folder and is not made again. Of a monitor nothing is said here; see `attacking`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from inlier.attacks.joint import change_norms
from inlier.backbones.base import Backbone
from inlier.errors import Mismatch
from inlier.evaluation.assaults import SHARES, digest, rate_of
from inlier.evaluation.workplace import Workplace
from inlier.images import ImageSource
from inlier.perturbations.base import to_8_bit
from inlier.types import Images, LabelMaps, Progress

__all__ = ["Attacked", "Made", "attack_network"]


class Made(NamedTuple):
    """What an attack made of a batch.

    Args:
        images: in [0, 1].
        predicted: of the images before.
        config: what was run.
        beside: what else is told of images in their place, a number each; asked before the attack and after.
    """

    images: Images
    predicted: LabelMaps
    config: Mapping[str, Any]
    beside: Callable[[Images], Mapping[str, Tensor]] = lambda images: {}


Attacked: TypeAlias = Callable[[Images, int, Images | None], Made]
"""From images, the number of the first, and the image before it, to what was made of them."""
NORMS = ("L0", "L1", "L2", "Linf")


def attack_network(
    network: Backbone,
    source: ImageSource,
    out: str | Path,
    attacks: Mapping[float | None, Attacked],
    *,
    settings: Mapping[str, Any],
    keep: Callable[[float | None, tuple[str, ...], Images], None],
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Attack every image at every eps, or go on with it.

    Args:
        network: which is to err.
        source: images in [0, 1].
        out: the folder of the work.
        attacks: by eps, in the units of its norm; None where the attack has none to choose.
        settings: all that the attacks depend on besides the network, as JSON values.
        keep: told of eps, names and attacked images of every batch, made now or before, rounded to 8 bit.
        batch_size: images at a time.

    Returns:
        Results as JSON values, and a row for each image and eps: its name, eps, the norms of its change, `damage`, the
        share of its prediction that changed, and what is told beside.

    Raises:
        Mismatch: the folder is of other settings, of another network or of other images.
        ValueError: there are no images.
    """
    start = time.perf_counter()
    known = {"inlier": version("inlier"), "network": network.fingerprint(), **settings, "batch_size": batch_size}
    place = Workplace(out, known, "an attack", "work/attack.json")
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    done, total = 0, len(source) * len(attacks)
    for eps, attacked in attacks.items():
        first = 0
        parts: list[dict[str, Tensor]] = []
        config: Mapping[str, Any] = {}
        before: Images | None = None
        for number, batch in enumerate(source.batches(batch_size)):

            def make(
                given: Images = batch.images, at: int = first, previous: Images | None = before,
                attacked: Attacked = attacked,
            ) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
                made = attacked(given, at, previous)
                return measured(network, given, made), {"pixels": digest(given), "config": dict(made.config)}

            tensors, told = place.part(f"eps {'given' if eps is None else f'{eps:.6g}'} batch {number}", make)
            if told["pixels"] != digest(batch.images):
                raise Mismatch(
                    f"'{out}' holds an attack on other images than these from '{batch.names[0]}' on: give this one "
                    "another folder"
                )
            keep(eps, batch.names, tensors.pop("pictures").float() / 255)  # and then there may be very many of them
            parts.append(tensors)
            before, config = batch.images[-1:], told["config"]
            for i, name in enumerate(batch.names):
                norms = dict(zip(NORMS, tensors["norms"][i].tolist(), strict=True))
                told_beside = {key: tensors[key][i].item() for key in beside_of(tensors)}
                images.append({"name": name, "eps": eps, **norms, "damage": tensors["damage"][i].item(), **told_beside})
            done += len(batch.names)
            first += len(batch.names)
            if progress is not None:
                progress("attacking", done, max(done, total))
        if not parts:
            raise ValueError("There are no images to attack")
        rows.append(row_of(eps, parts, config))
    return {"settings": known, "rows": rows, "notes": [], "seconds": round(time.perf_counter() - start, 1)}, images


@torch.no_grad()
def measured(network: Backbone, images: Images, made: Made) -> dict[str, Tensor]:
    """What an 8-bit file of the attacked images holds, how far it is from the clean ones, and what it changes."""
    stored = to_8_bit(made.images)
    differ = (network.predict(stored) != made.predicted).reshape(len(stored), -1).double().mean(1)
    return {
        "pictures": (stored * 255).round().byte(), "damage": differ,
        "norms": torch.stack(list(change_norms(images, stored).values()), 1).double(),
        **{f"{name}_before": value for name, value in made.beside(images).items()}, **made.beside(stored),
    }  # fmt: skip


def beside_of(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in tensors if name not in ("damage", "norms")]


def row_of(eps: float | None, parts: list[dict[str, Tensor]], config: Mapping[str, Any]) -> dict[str, Any]:
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    damage, norms = whole["damage"], whole["norms"]
    every = torch.ones_like(damage, dtype=torch.bool)
    return {
        "eps": eps, "images": len(damage), "damage": damage.mean().item(),
        **{f"changed_{share:g}": rate_of(damage >= share, every) for share in SHARES},
        "norms": dict(zip(NORMS, norms.mean(0).tolist(), strict=True)), "largest": norms[:, 3].max().item(),
        "beside": {name: whole[name].median().item() for name in beside_of(whole)}, "config": dict(config),
    }  # fmt: skip
