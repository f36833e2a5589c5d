"""Chosen attackers on a monitor: what each came to at every eps, image by image.

Unlike a stress test this asks what an attack does, not whether a monitor holds. Those gates are run that these
attackers allow; what tells against one of them alone is told beside its row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.asking import QUERIES
from inlier.attacks.constraints import LowResolution, MaskedPatch, Parametrisation
from inlier.attacks.joint import DEAD, WAYS, limit_of
from inlier.attacks.recipes import RECIPES, recipe_named
from inlier.attacks.targets import TargetKind
from inlier.attacks.universal import UniversalDelta
from inlier.evaluation.assaults import (
    SHARES,
    SURFACE,
    UNIVERSAL,
    Assault,
    Assaults,
    Cell,
    Norm,
    digest,
    limits_of,
    median_smallest,
    norm_of,
    rate_of,
    recipe_attack,
    row_of,
)
from inlier.evaluation.gates import (
    CONTROL,
    TWICE,
    UNBOUNDED,
    Gate,
    black_box_gate,
    dead_gate,
    knowledge_gate,
    monitor_gates,
    not_here,
    rising_gate,
    rounding_gate,
    slope_gate,
)
from inlier.evaluation.pictures import class_picture, difference_picture, palette, photograph
from inlier.evaluation.subjects import Subjects
from inlier.evaluation.workplace import Workplace
from inlier.monitor import Monitor
from inlier.registry import nearest
from inlier.types import Images, Progress

__all__ = ["COLUMNS", "AttackRun", "attackers_of"]

STEPS, BUDGET = 50, 500
"""Steps of a way to attack network and monitor, and questions of an attack that only asks, where nothing is said."""
WEIGHTED = "weighted"
"""The way that has a weight."""
AFTER_SCORE = ("hide", "false_alarm")
"""Ways that want something of the score, whatever the network says: they are not after success."""
SHOWN = 2
"""Of so many images pictures are kept."""
STRIPS = 12
"""So many rows of pictures are shown at most."""
WIDTH = 240
"""Pixels of a picture."""
COLUMNS = (
    "name", "attack", "eps", "L0", "L1", "L2", "Linf", "damage", "score_before", "score_after", "flagged_before",
    "flagged_after", "evaded", "steps", "queries",
)  # fmt: skip
"""What is told of every image."""


def attackers_of(
    recipes: Sequence[str], ways: Sequence[str], *, steps: int | None = None, queries: int | None = None,
    weights: Sequence[float] = (), restarts: int = 1, target: int | TargetKind | None = None,
    deltas: Sequence[str] = (),
) -> tuple[list[Assault], Norm]:  # fmt: skip
    """Attackers by name, and the norm that their eps is in.

    Args:
        recipes: rows of `RECIPES` or of `QUERIES`, or aliases of such.
        ways: rows of `WAYS`.
        steps: of each, or the budget of questions; by default its own.
        queries: the budget of those who only ask, where it is not the number of steps.
        weights: of the monitor's score in the way `weighted`, each an attacker of its own; by default that of
            `attack_monitor`.
        restarts: random starts of each.
        target: the class that recipes want everywhere, or the kind of map that they want of each image.
        deltas: names of attackers who add one delta to every image, settled as it is.

    Raises:
        LookupError: no such row.
        ValueError: no attackers; several norms; a target, steps, queries or restarts that an attacker has no use for;
            a recipe that needs a target; too few questions for who asks them; weights and nobody to have them, or
            not above 0.
    """
    made = [Assault(name, UNIVERSAL, "", 0, tier="T0") for name in deltas]
    for given in recipes:
        name = given if given in QUERIES else recipe_named(given, QUERIES)
        if name in QUERIES:
            if target is not None or restarts > 1:
                raise ValueError(f"'{name}' only asks: it has neither target nor restarts")
            budget = queries or steps or BUDGET
            if budget < QUERIES[name].least:
                raise ValueError(
                    f"'{name}' needs at least {QUERIES[name].least} questions to do anything, not {budget}: give more "
                    "with --queries"
                )
            made.append(Assault(name, name, "", budget, tier="T2"))
            continue
        if RECIPES[name].needs_target and target is None:
            raise ValueError(f"Recipe '{name}' needs a target, a class of the network: give --target")
        attack = recipe_attack(name, 0.1, steps, restarts if restarts > 1 else None)
        made.append(Assault(name, name, "", attack.steps, restarts=attack.restarts, tier="T0", target=target))
    for way in ways:
        if way not in WAYS:
            raise LookupError(f"No way to attack a monitor is named '{way}'. {nearest(way, list(WAYS))}")
        if target is not None:
            raise ValueError(f"A target is for recipes; way '{way}' wants any other class")
        tier = "T3" if WAYS[way].knows else "T0"
        one = Assault(way, way, "hinge", steps or STEPS, restarts=restarts, tier=tier)  # type: ignore[arg-type]
        if way == WEIGHTED and weights:
            made += [replace(one, name=f"{way} {weight:g}", weight=weight) for weight in weights]
        else:
            made.append(one)
    if weights and (WEIGHTED not in ways or min(weights) <= 0):
        raise ValueError(f"Weights are above 0 and for the way '{WEIGHTED}'; got {list(weights)} for {list(ways)}")
    if queries is not None and not any(one.tier == "T2" for one in made):
        raise ValueError(f"Questions are for attackers who only ask: {', '.join(QUERIES)}; none of them is here")
    if not made:
        raise ValueError("No attacker was named: give a recipe, such as pgd, or a way, such as dual")
    if len({one.name for one in made}) < len(made):
        raise ValueError(f"An attacker is named twice: {', '.join(one.name for one in made)}")
    norms = {norm_of(one.way) for one in made} - {None}
    if len(norms) > 1:
        raise ValueError("Some of these recipes have eps in L2 and some in Linf: attack by one norm at a time")
    return made, next(iter(norms), None) or "linf"


class AttackRun:
    """Attackers on a monitor, in a folder; what was done there is not done again.

    Args:
        monitor: calibrated.
        subjects: what is attacked.
        out: the folder.
        attackers: with names of their own.
        deltas: what those of them add to every image who add one delta, by their names.
        epsilons: radii of the balls.
        norm: of the balls.
        rate: the nominal false-alarm rate; by default the monitor's own.
        keep: told of name, eps and attacked images, rounded to 8 bit.
        parametrisation: what is moved, such as a smaller image or the pixels of a patch; by default all pixels.
        batch_size: images at a time.
        seed: of random starts.

    Raises:
        Mismatch: the folder is of other settings, images or another monitor.
        ValueError: an eps that is not above 0; attackers who only ask, or add a delta, and something else to move than
            all pixels; a delta of another eps.
    """

    def __init__(
        self,
        monitor: Monitor,
        subjects: Subjects,
        out: str | Path,
        *,
        attackers: Sequence[Assault],
        epsilons: Sequence[float],
        norm: Norm = "linf",
        rate: float | None = None,
        keep: Callable[[str, float, Images], None] | None = None,
        parametrisation: Parametrisation | None = None,
        deltas: Mapping[str, UniversalDelta] | None = None,
        batch_size: int = 4,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        if not epsilons or min(epsilons) <= 0:
            raise ValueError(f"An attack needs epsilons above 0, not {list(epsilons)}")
        asking = [one.name for one in attackers if one.tier == "T2"]
        if asking and parametrisation is not None:
            raise ValueError(
                f"'{asking[0]}' only asks, and changes all pixels: it takes no patch and no low resolution"
            )
        for name, delta in (deltas or {}).items():
            if norm != "linf" or not all(math.isclose(eps, delta.eps, rel_tol=1e-4) for eps in epsilons):
                raise ValueError(
                    f"The delta '{name}' was made for eps {255 * delta.eps:g}/255 in Linf, and is added as it is: "
                    "attack at this eps, or make another one with `inlier uap`"
                )
            if parametrisation is not None:
                raise ValueError(f"The delta '{name}' is added as it is: it takes no patch and no low resolution")
        self.monitor, self.subjects, self.attackers = monitor, subjects, tuple(attackers)
        self.epsilons = tuple(sorted(epsilons))
        rate = monitor.false_alarm_rate if rate is None else rate
        self.limits, self.refused = limits_of(monitor, rate or 0.0)
        self.settings: dict[str, Any] = {
            "inlier": version("inlier"), "attackers": [asdict(one) for one in self.attackers],
            "epsilons": list(self.epsilons), "norm": norm, "rate": rate, "seed": seed, "images": len(subjects),
            "size": list(subjects.images.shape[1:]), "surface": surface_of(parametrisation),
            "pixels": digest(subjects.images), "network": monitor.backbone.fingerprint(),
        }  # fmt: skip
        if deltas:
            self.settings["deltas"] = {name: digest(delta.delta) for name, delta in deltas.items()}
        limit = limit_of(monitor, rate)  # a rate that cannot be is refused before anything is written
        place = Workplace(out, self.settings | {"limit": limit}, "an attack", "work/attack.json")
        self.at_work = Assaults(
            monitor, subjects, place, rate=rate, norm=norm, shown=SHOWN, keep=keep, parametrisation=parametrisation,
            deltas=deltas, batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip

    def run(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Every attacker at every eps: results as JSON values, and a row for each image, attacker and eps."""
        start = time.perf_counter()
        count = len(self.subjects)
        self.at_work.plan([(one, count) for one in self.attackers] * len(self.epsilons))
        cells = {(one.name, eps): self.at_work.cell(one, eps) for eps in self.epsilons for one in self.attackers}
        silent = next(iter(cells.values())).silent
        rows = [row_of(one, eps, cells[one.name, eps], self.limits) for eps in self.epsilons for one in self.attackers]
        results = {
            "settings": self.settings, "silent": int(silent.sum()), "rows": rows,
            "worst": [
                {"eps": eps} | {
                    f"success_{share:g}": rate_of(
                        torch.stack([cells[one.name, eps].evaded(share) for one in self.attackers]).any(0), silent
                    )
                    for share in SHARES
                }
                for eps in self.epsilons
            ],
            "smallest": {
                one.name: median_smallest({eps: [cells[one.name, eps]] for eps in self.epsilons})
                for one in self.attackers
            },
            "configs": {one.name: dict(cells[one.name, self.epsilons[0]].config) for one in self.attackers},
            "raised": [text for row in rows for text in doubts(row)],
            "gates": [gate.told() for gate in self.gates(cells)],
            "pictures": self.pictures(cells), "notes": self.notes(),
            "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        return results, [row for key, cell in cells.items() for row in self.image_rows(*key, cell)]

    def gates(self, cells: Mapping[tuple[str, float], Cell]) -> list[Gate]:
        """The checks of the protocol, as far as these attackers allow them."""
        after = [one for one in self.attackers if one.way not in AFTER_SCORE]
        tiers = {tier: some for tier in ("T0", "T2", "T3") if (some := [one for one in after if one.tier == tier])}
        knowing = [one for one in self.attackers if one.tier == "T3"]
        none = torch.zeros_like(next(iter(cells.values())).silent)
        largest, count = self.epsilons[-1], max(1, int(next(iter(cells.values())).silent.sum()))

        def evaded(attackers: Sequence[Assault], eps: float) -> Bool[Tensor, " n"]:
            return torch.stack([none, *(cells[one.name, eps].evaded(SHARES[0]) for one in attackers)]).any(0)

        def lost(eps: float) -> Bool[Tensor, " n"]:
            each = [gone for one in after if (gone := cells[one.name, eps].lost) is not None]
            return torch.stack([none, *each]).any(0) & ~evaded(after, eps)

        raw: dict[str, float] = {}
        if self.at_work.parametrisation is None:
            raw["noise"] = float(self.at_work.noise(largest).evaded(SHARES[0]).sum()) / count
        raw |= {tier: float(evaded(tiers[tier], largest).sum()) / count for tier in ("T0", "T3") if tier in tiers}
        both = [evaded(tiers[tier], largest) if tier in tiers else None for tier in ("T3", "T2")]
        gates = [knowledge_gate(raw, count), black_box_gate(*both)]
        if after:
            gates += [
                rising_gate([float(evaded(after, eps).sum()) / count for eps in self.epsilons], count),
                rounding_gate(max(float(lost(eps).sum()) for eps in self.epsilons) / count),
            ]
        if knowing:
            dead = [cells[one.name, eps].dead_gradients for one in knowing for eps in self.epsilons]
            gates += [dead_gate(dead, "who knows the monitor"), slope_gate(self.monitor, self.subjects.images)]
        gates += monitor_gates(self.monitor, self.subjects.images[: self.at_work.batch_size])
        return gates + not_here(UNBOUNDED, TWICE, CONTROL)

    def image_rows(self, name: str, eps: float, cell: Cell) -> list[dict[str, Any]]:
        """What became of every image, by the names of `COLUMNS`."""
        asks = next(one for one in self.attackers if one.name == name).tier == "T2"
        evaded, flagged = cell.evaded(SHARES[0]), cell.detected
        return [
            dict(zip(COLUMNS, (
                self.subjects.names[i], name, eps, *cell.norms[i].tolist(), cell.damage[i].item(),
                cell.before[i].item(), cell.after[i].item(), not bool(cell.silent[i]), bool(flagged[i]),
                bool(evaded[i]), None if asks else int(cell.spent[i]), int(cell.spent[i]) if asks else None,
            ), strict=True))
            for i in range(len(flagged))
        ]  # fmt: skip

    def pictures(self, cells: dict[tuple[str, float], Cell]) -> list[dict[str, Any]]:
        """Clean, attacked, their difference and both predictions of the first images, the largest eps first."""
        backbone = self.monitor.backbone
        task = backbone.task
        colours = palette(len(task.classes), task.void)
        strips: list[dict[str, Any]] = []
        wanted = sorted(cells.items(), key=lambda item: -item[0][1])
        for (name, eps), cell in wanted[: STRIPS // SHOWN]:
            if cell.shown is None:
                continue
            clean = self.subjects.images[: len(cell.shown)]
            with torch.no_grad():
                before, after = (torch.cat([backbone.predict(one) for one in torch.split(each, 1)]).cpu()
                                 for each in (clean, cell.shown.to(clean)))  # fmt: skip
            for i in range(len(clean)):
                strip: dict[str, Any] = {
                    "image": self.subjects.names[i], "attack": name, "eps": eps, "damage": cell.damage[i].item(),
                    "flagged_before": not bool(cell.silent[i]), "flagged_after": bool(cell.detected[i]),
                    "before": photograph(clean[i].cpu(), WIDTH), "after": photograph(cell.shown[i].cpu(), WIDTH),
                    "difference": difference_picture(clean[i].cpu(), cell.shown[i].cpu(), WIDTH),
                }  # fmt: skip
                if task.is_dense:
                    strip["predicted_before"] = class_picture(before[i], colours, WIDTH)
                    strip["predicted_after"] = class_picture(after[i], colours, WIDTH)
                else:
                    strip["classes"] = [task.classes[int(each)] for each in (before[i], after[i])]
                strips.append(strip)
        return strips

    def notes(self) -> list[str]:
        """What a reader must know besides."""
        told = [f"At the false-alarm rate {rate:g} nothing is told: {why}" for rate, why in self.refused.items()]
        if self.subjects.wrong:
            told.append(f"{self.subjects.wrong} images were left out: the network classifies them wrong as they are.")
        return told


def surface_of(parametrisation: Parametrisation | None) -> str:
    """What is attacked, in words; no two surfaces have the same.

    Raises:
        TypeError: one that has no words.
    """
    if parametrisation is None:
        return SURFACE
    if isinstance(parametrisation, LowResolution):
        height, width = parametrisation.size
        return f"{SURFACE}, through a copy of {height} x {width} whose change is up-sampled ({parametrisation.mode})"
    if isinstance(parametrisation, MaskedPatch):
        rows, columns = parametrisation.mask.nonzero(as_tuple=True)
        return (
            f"{SURFACE}, in a patch of {len(rows)} pixels alone, rows {rows.min()} to {rows.max()}, columns "
            f"{columns.min()} to {columns.max()} ({digest(parametrisation.mask)})"
        )
    told = type(parametrisation).__name__
    raise TypeError(f"An attack on a monitor moves pixels, those of a patch or of a smaller image, not {told}")


def doubts(row: dict[str, Any]) -> list[str]:
    """What makes an attacker a poor witness if it failed."""
    named = f"{row['attack']} at eps {row['eps']:.4g}"
    told = []
    if row["dead_gradients"] > DEAD:
        told.append(f"{named}: {row['dead_gradients']:.0%} of the gradients were zero or not finite.")
    if row["lost"]:
        told.append(f"{named}: {row['lost']} images evaded before they were rounded to 8 bit, and not after.")
    return told
