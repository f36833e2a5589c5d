"""What an experiment with patches tells: numbers with intervals, pictures, and checks against fooling ourselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float, Float64, Int
from torch import Tensor

from inlier.backbones.base import Backbone
from inlier.evaluation.gates import Gate, dead_gate
from inlier.evaluation.intervals import auroc_interval, aurocs, bootstrap_band, means
from inlier.evaluation.pictures import changed_mask, class_picture, enlarged, palette, photograph

__all__ = ["area_bands", "gates", "mean_bands", "strip"]

RESAMPLES = 500
SHOWN = 192
"""Pixels that a picture is at least wide."""
HARMLESS = ("noise", "grey")
"""Patches that an attack has to do more harm than."""


def mean_bands(values: Float64[Tensor, "n k"], seed: int) -> list[dict[str, float] | None]:
    """Each column's mean with its 95 % bootstrap interval over images; None where there is no value."""
    there = ~values.isnan().any(0)
    if not there.any():
        return [None] * values.shape[1]
    band = bootstrap_band(means, values[:, there], resamples=RESAMPLES, seed=seed)
    rows = iter(zip(band.value.tolist(), band.low.tolist(), band.high.tolist(), strict=True))
    return [dict(zip(("mean", "low", "high"), next(rows), strict=True)) if known else None for known in there.tolist()]


def area_bands(
    clean: Float64[Tensor, "m zones"], scores: Float64[Tensor, "n zones"], seed: int
) -> list[dict[str, Any] | None]:
    """The AUROC of each zone's detector against clean images, 95 % bootstrap interval; None where it saw nothing.

    Where the bootstrap has no width, at AUROC 0 and 1, the closed form stands in.
    """
    there = ~clean.isnan().any(0)
    if not there.any():
        return [None] * clean.shape[1]
    low_side, high_side = clean[:, there].contiguous(), scores[:, there].contiguous()
    band = bootstrap_band(aurocs, low_side, high_side, resamples=RESAMPLES, seed=seed)
    told: list[dict[str, Any]] = []
    for n, (value, low, high) in enumerate(
        zip(band.value.tolist(), band.low.tolist(), band.high.tolist(), strict=True)
    ):
        if low == high:
            _, low, high = auroc_interval(low_side[:, n], high_side[:, n])
        told.append({"auroc": value, "auroc_interval": [low, high]})
    rows = iter(told)
    return [next(rows) if known else None for known in there.tolist()]


def strip(
    backbone: Backbone, clean: Float[Tensor, "c h w"], patched: Float[Tensor, "c h w"], before: Int[Tensor, "*hw"],
    after: Int[Tensor, "*hw"],
) -> dict[str, Any]:  # fmt: skip
    """An image as it was and with the patch, and what the network makes of both: maps, or the names of classes."""
    views: list[dict[str, str]] = [
        {"title": title, "picture": photograph(enlarged(image, SHOWN), SHOWN)}
        for title, image in (("as it was", clean), ("attacked", patched))
    ]
    task = backbone.task
    if not task.is_dense:
        return {"views": views, "said": [task.classes[int(before)], task.classes[int(after)]]}
    colours = palette(len(task.classes), task.void)
    views += [
        {"title": f"prediction {title}", "picture": class_picture(classes.long(), colours, SHOWN)}
        for title, classes in (("before", before), ("after", after))
    ]
    views.append({"title": "changed", "picture": changed_mask(before, after, SHOWN)})
    return {"views": views, "said": []}


def gates(found: Mapping[str, Sequence[Mapping[str, Any]]], images: int, rate: float) -> list[dict[str, Any]]:
    """Checks against fooling ourselves, over all networks and patches."""
    cells = found["cells"]
    harm = {(cell["network"], cell["side"], cell["kind"]): cell["damage"]["mean"] for cell in cells}
    attacks = [cell for cell in cells if cell["kind"] == "attack"]
    weak = sum(
        harm[cell["network"], cell["side"], "attack"] < harm[cell["network"], cell["side"], kind]
        for cell in attacks for kind in HARMLESS
    )  # fmt: skip
    outside = max(cell["changed_outside"] for cell in cells)
    pairs = [
        (harm[one["network"], one["side"], "attack"], harm[other["network"], other["side"], "attack"])
        for one, other in pairwise(attacks) if one["network"] == other["network"]
    ]  # fmt: skip
    falls = sum(larger < smaller - 1 / images for smaller, larger in pairs)
    alarms = list(false_alarms(found["false_alarms"]))
    held = sum(low <= rate <= high for low, high in alarms)
    checked = [
        Gate("the attack does as much harm as noise and grey", "mean damage, every network and patch",
             f"{2 * len(attacks) - weak} of {2 * len(attacks)}", weak == 0),
        Gate("nothing changed outside the patch", "largest change of a value 0", f"{outside:g}", outside == 0),
        Gate("a larger patch does as much harm", "no fall by more than one image's",
             f"{len(pairs) - falls} of {len(pairs)}", falls == 0),
        dead_gate([cell["dead"] for cell in attacks], "any attack's"),
        Gate("distance detectors keep the nominal rate on clean images", f"every interval holds {rate:.1%}",
             f"{held} of {len(alarms)}", held == len(alarms)),
    ]  # fmt: skip
    return [gate.told() for gate in checked]


def false_alarms(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    """The interval of every detector; the outermost ring is what lies beyond it too, and counts once."""
    for row in rows:
        for counted in [*row["rings"], *row["beyond"][:-1]]:
            if counted is not None:
                low, high = counted["interval"]
                yield low, high
