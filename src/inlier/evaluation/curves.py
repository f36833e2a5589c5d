"""Robustness curves: what is left of a detector as somebody pushes its score, over the size of the change.

The attack on the score of Fort's paper (`Adversarial vulnerability of powerful near out-of-distribution detection`,
2022): small steps along the sign of the score's gradient, with no ball. Each image's score between two steps is
interpolated linearly over the norm of its change, and the AUROC at a norm is that of the scores there against images
that nobody attacked. Anomalies are pushed down, to hide them, and clean images up, to raise false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inlier.attacks.constraints import Unbounded
from inlier.attacks.engine import Attack
from inlier.attacks.joint import attack_monitor
from inlier.attacks.objectives import alarm, evasion
from inlier.attacks.steppers import SignStep
from inlier.config import from_keywords
from inlier.evaluation.gates import Gate, dead_gate
from inlier.evaluation.gathered import Source, gather_images
from inlier.evaluation.guarded import Guarded, GuardedWork
from inlier.evaluation.guards import Guard, NetworkPlan, Pictures, scores_of
from inlier.evaluation.intervals import median_interval
from inlier.evaluation.measure import share
from inlier.evaluation.pictures import difference_picture, enlarged, photograph
from inlier.evaluation.walks import Direction, Walk, area, bands, loss, passed
from inlier.images import evenly
from inlier.perturbations.base import to_8_bit
from inlier.types import Images, Progress, Scores

__all__ = ["Curves"]

CLEAN = "clean"
"""The name of the set of clean images."""
GREY = 1 / 255
"""The Linf norm that the paper's tables are about."""
POINTS = 25
"""Of a curve."""
LINES = 12
"""So many images are drawn one by one."""
SHOWN = 128
"""Pixels that a picture is at least wide."""
SLACK = 0.02
"""Of AUROC: what a few images do by chance."""


@dataclass(frozen=True)
class AnomalyPlan:
    """Images that a monitor ought to flag; the keyword arguments of a table `[[anomalies]]`.

    Args:
        name, label: for machines and for people; the label is the name by default.
        images: where they are.
    """

    name: str
    images: Source
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Curves(Guarded):
    """The settings of an experiment of the kind `curves`: those of `Guarded`, and these.

    Args:
        anomalies: tables, see `AnomalyPlan`.
        step_size, steps: of the attack; the paper's by default.
        epsilons: in grey levels of 255: radii of Linf balls in which the attack is run again, each starting where the
            last one ended, on images rounded to 8 bit.
        warm_steps: of each of these.

    Raises:
        ValueError, LookupError: settings that cannot be.
    """

    anomalies: Sequence[Mapping[str, Any]]
    title: str = "Robustness curves"
    reference: int = 200
    images: int = 32
    step_size: float = 3e-4
    steps: int = 30
    epsilons: Sequence[float] = (1.0, 2.0, 4.0)
    warm_steps: int = 8
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [plan.name for plan in self.sets()]
        if not names or CLEAN in names or len(set(names)) < len(names):
            raise ValueError(f"Anomalies need names of their own, none of them '{CLEAN}'; got {names}")
        if min(self.steps, self.warm_steps) < 1 or self.step_size <= 0:
            raise ValueError("steps, warm_steps and step_size of the curves are above 0")
        if not self.epsilons or list(self.epsilons) != sorted(set(self.epsilons)) or self.epsilons[0] <= 0:
            raise ValueError(f"epsilons are grey levels that rise, such as [1, 2, 4], not {list(self.epsilons)}")

    def sets(self) -> list[AnomalyPlan]:
        """The sets of anomalies."""
        return [from_keywords(AnomalyPlan, one, f"anomalies '{one.get('name', '?')}'") for one in self.anomalies]

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Attack every monitor of every network on every set, and tell; see `Experiment`."""
        return Work(self, out, data, progress).results(command)


class Work(GuardedWork[Curves]):
    """An experiment at work, in its folder."""

    def __init__(self, told: Curves, out: Path, data: Path | None, progress: Progress | None) -> None:
        super().__init__(told, out, data, "an experiment with curves", progress)
        self.sets = {
            plan.name: Pictures.of(gather_images(plan.images, data, most=told.images, size=self.size))
            for plan in told.sets()
        }
        reference = self.pool.reference
        self.attacked = {**self.sets, CLEAN: reference.some(evenly(len(reference), told.images))}
        shapes = sorted({tuple(each.images.shape[1:]) for each in [reference, *self.sets.values()]})
        if len(shapes) > 1:
            raise ValueError(f"All images of the curves are of one size, and these are {shapes}: give size = [h, w]")
        self.values = math.prod(shapes[0])
        self.grids = {
            "Linf": np.linspace(0, told.steps * told.step_size, POINTS),
            "L2": np.linspace(0, told.steps * told.step_size * math.sqrt(self.values), POINTS),
        }

    def results(self, command: str) -> dict[str, Any]:
        """All that the page tells."""
        told = self.told
        found: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("networks", "monitors", "rows", "curves", "balls", "images", "strips")
        }
        for plan, backbone in self.networks:
            guards = self.guards(plan, backbone)
            found["networks"].append({
                "name": plan.name, "label": plan.label or plan.name, "fingerprint": backbone.fingerprint(),
                "right": self.right(guards[0]),
            })  # fmt: skip
            for guard in guards:
                self.guarded(plan, guard, found)
        all_told = self.told_of_all(command)
        _, height, width = all_told["size"]
        return {
            **all_told,
            "surface": f"the native 8-bit image, {height} x {width} pixels, before the network's own resizing and "
            "normalisation",
            "sets": [
                {"name": one.name, "label": one.label or one.name, "images": len(self.sets[one.name])}
                for one in told.sets()
            ] + [{"name": CLEAN, "label": "clean images", "images": len(self.attacked[CLEAN])}],
            "reach": told.steps * told.step_size, **found, "gates": gates(found),
        }  # fmt: skip

    def right(self, guard: Guard) -> dict[str, Any] | None:
        """How many of the clean images the network classifies right, where they have labels that it knows."""
        backbone, pictures = guard.monitor.backbone, self.pool.reference
        if backbone.task.is_dense or pictures.labels is None or pictures.classes != backbone.task.classes:
            return None
        with torch.no_grad():
            parts = torch.split(pictures.images, self.told.batch_size)
            predicted = torch.cat([backbone.predict(part.to(backbone.mean.device)).cpu() for part in parts])
        return share(predicted == pictures.labels)

    def guarded(self, plan: NetworkPlan, guard: Guard, found: Mapping[str, list[dict[str, Any]]]) -> None:
        """Everything about one monitor of one network."""
        who = {"network": plan.name, "monitor": guard.name}
        clean = self.clean_scores(plan, guard)
        found["monitors"].append(who | {
            "label": guard.label, "limit": guard.limit, "passes": guard.monitor.passes,
            "false_alarms": share(clean > guard.limit),
        })  # fmt: skip
        walks = {name: self.walk(plan, guard, name) for name in self.attacked}
        unattacked = torch.cat([walks[name].scores[0] for name in self.sets])
        for name, walk in walks.items():
            told = who | {"set": name, "direction": walk.way}
            scores, pictures = self.in_balls(plan, guard, name)
            others = unattacked if name == CLEAN else clean
            found["balls"] += [told | row for row in beside(walk, scores, others, guard.limit, self.told.epsilons)]
            found["strips"].append(told | self.strip(name, scores[:, 0], pictures, guard.limit))
            found["images"] += [
                told | {"norm": norm, "at": grid.tolist(), "scores": walk.at(norm, grid)[:, :LINES].T.tolist()}
                for norm, grid in self.grids.items()
            ]
        for name in self.sets:
            for walk, others in ((walks[name], clean), (walks[CLEAN], walks[name].scores[0])):
                told = who | {"set": name, "direction": walk.way}
                found["rows"].append(told | row_of(walk, others, guard.limit, self.told.seed))
                found["curves"] += [
                    told | {"norm": norm} | curve_of(walk, others, guard.limit, norm, grid, self.told.seed)
                    for norm, grid in self.grids.items()
                ]

    def walk(self, plan: NetworkPlan, guard: Guard, name: str) -> Walk:
        """The attack on one set; from its file, if it was done."""
        part = f"{plan.name} {guard.name} {name} path"
        tensors, numbers = self.place.part(part, lambda: self.walked(part, guard, name))
        norms = {norm: tensors[norm] for norm in self.grids}
        return Walk(direction(name), tensors["scores"], norms, tensors["noise"], numbers["dead"])

    def walked(self, phase: str, guard: Guard, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The attack itself."""
        told, down = self.told, direction(name) == "hide"
        attack = Attack(Unbounded(), SignStep(told.step_size), told.steps)
        objective = (evasion if down else alarm)(guard.monitor.objective)
        parts: list[tuple[Tensor, Tensor, Tensor, float]] = []
        for images in self.batches(name, phase):
            result = attack(guard.monitor.probe, images, objective)
            scores = -result.trace[0] if down else result.trace[0]
            parts.append((scores, result.path["L2"], result.path["Linf"], result.dead_gradients))
        scores, l2, linf = (torch.cat(list(each), 1).double() for each in list(zip(*parts, strict=True))[:3])
        noise = scores_of(guard, noisy(self.attacked[name].images, told.seed), told.batch_size)
        dead = float(np.mean([part[3] for part in parts]))
        return {"scores": scores, "L2": l2, "Linf": linf, "noise": noise}, {"dead": dead}

    def in_balls(
        self, plan: NetworkPlan, guard: Guard, name: str
    ) -> tuple[Float[Tensor, "views n"], Float[Tensor, "views c h w"]]:
        """Scores before and at each radius, (radii + 1, n), on 8-bit images; and the first image of each, likewise."""
        part = f"{plan.name} {guard.name} {name} balls"
        tensors, _ = self.place.part(part, lambda: self.warm_started(part, guard, name))
        return tensors["scores"], tensors["pictures"].float() / 255

    def warm_started(self, phase: str, guard: Guard, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Ball by ball, each run starting where the last one ended."""
        told = self.told
        parts: list[Tensor] = []
        pictures: list[Tensor] = []
        for images in self.batches(name, phase):
            rows: list[Tensor] = []
            initial = None
            for eps in told.epsilons:
                made = attack_monitor(
                    guard.monitor, images, eps / 255, way=direction(name), steps=told.warm_steps, rate=told.rate,
                    initial=initial, seed=told.seed,
                )  # fmt: skip
                initial = made.result.parameters
                rows += [made.after] if rows else [made.before, made.after]
                if not parts:
                    pictures += [made.images[0].cpu()] if pictures else [images[0], made.images[0].cpu()]
            parts.append(torch.stack([row.double().cpu() for row in rows]))
        small = torch.stack(pictures).mul(255).round().to(torch.uint8)
        return {"scores": torch.cat(parts, 1), "pictures": small}, {}

    def batches(self, name: str, phase: str) -> Iterator[Images]:
        """The images of a set, and word of each batch that is done."""
        images, done = self.attacked[name].images, 0
        for part in torch.split(images, self.told.batch_size):
            yield part
            done += len(part)
            if self.progress is not None:
                self.progress(phase, done, len(images))

    def strip(self, name: str, scores: Scores, pictures: Images, limit: float) -> dict[str, Any]:
        """The first image of a set, before and under growing changes, with its scores."""
        views = [
            {
                "eps": eps, "score": score, "flagged": score > limit,
                "picture": photograph(enlarged(picture, SHOWN), SHOWN),
            }
            for eps, score, picture in zip([0.0, *self.told.epsilons], scores.tolist(), pictures, strict=True)
        ]  # fmt: skip
        difference = difference_picture(enlarged(pictures[0], SHOWN), enlarged(pictures[-1], SHOWN), SHOWN)
        return {"image": self.attacked[name].names[0], "views": views, "difference": difference}


def direction(name: str) -> Direction:
    """Clean images are pushed up, all others down."""
    return "false_alarm" if name == CLEAN else "hide"


def noisy(images: Images, seed: int) -> Images:
    """Every value a grey level up or down, by chance; as 8-bit files hold it."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
    return to_8_bit((images + GREY * signs).clamp(0, 1))


def row_of(walk: Walk, others: Scores, limit: float, seed: int) -> dict[str, Any]:
    """A line of the paper's Table 1, and how large a change it takes."""
    before, after = walk.scores[0], walk.at("Linf", [GREY])[0]
    band = bands(torch.stack([before, after]), others, walk.way, seed)
    lost, low, high = loss(before, after, others, walk.way, seed)
    begun = walk.begun(limit)
    return {
        "images": walk.scores.shape[1],
        "auroc": band.value[0].item(), "auroc_interval": [band.low[0].item(), band.high[0].item()],
        "auroc_at": band.value[1].item(), "auroc_at_interval": [band.low[1].item(), band.high[1].item()],
        "loss": lost, "loss_interval": [low, high], "auroc_noise": area(walk.noise, others, walk.way),
        "flagged": share(before > limit), "flagged_at": share(after > limit),
        "through_at": share(passed(after, limit, walk.way)[begun]),
        "smallest": {norm: median_of(walk.smallest(norm, limit)[begun]) for norm in walk.norms},
        "dead": walk.dead,
    }  # fmt: skip


def median_of(norms: Scores) -> dict[str, Any]:
    """The median of the smallest norms, None where half of the images never get through; and how many never do."""
    never = int(norms.isinf().sum())
    if len(norms) == 0:
        return {"median": None, "low": None, "high": None, "images": 0, "never": 0}
    found = median_interval(norms)
    ends = {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}
    return {"median": ends["value"], "low": ends["low"], "high": ends["high"], "images": len(norms), "never": never}


def curve_of(
    walk: Walk, others: Scores, limit: float, norm: str, grid: NDArray[np.float64], seed: int
) -> dict[str, Any]:
    """AUROC over a norm with its band, and the share of images that got through, of those that had a way to go."""
    band = bands(walk.at(norm, grid), others, walk.way, seed)
    smallest = walk.smallest(norm, limit)[walk.begun(limit)]
    through = [float((smallest <= at).double().mean()) if len(smallest) else None for at in grid]
    return {
        "at": grid.tolist(), "auroc": band.value.tolist(), "low": band.low.tolist(), "high": band.high.tolist(),
        "through": through, "images": len(smallest),
    }  # fmt: skip


def beside(
    walk: Walk, balls: Float[Tensor, "radii n"], others: Float[Tensor, " m"], limit: float, epsilons: Sequence[float]
) -> list[dict[str, Any]]:
    """What runs in balls came to on 8-bit images, beside what the one path has at the same norm."""
    rows, begun = [], ~passed(balls[0], limit, walk.way)
    for eps, after in zip(epsilons, balls[1:], strict=True):
        path = walk.at("Linf", [eps / 255])[0] if eps / 255 <= walk.norms["Linf"].max() else None
        rows.append({
            "eps": eps, "auroc_balls": area(after, others, walk.way),
            "auroc_path": None if path is None else area(path, others, walk.way),
            "through_path": None if path is None else share(passed(path, limit, walk.way)[begun]),
            "through_balls": share(passed(after, limit, walk.way)[begun]),
            "tied": (after[:, None] == others[None]).double().mean().item(),
        })  # fmt: skip
    return rows


def gates(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Checks against fooling ourselves, over all monitors and sets."""
    rows, balls = found["rows"], found["balls"]
    weak = [row for row in rows if row["auroc_at"] > row["auroc_noise"] + SLACK]
    radii = [sorted(group, key=lambda row: row["eps"]) for group in grouped(balls)]
    falls = [
        later["eps"] for group in radii for earlier, later in pairwise(group)
        if later["through_balls"]["hits"] < earlier["through_balls"]["hits"] - 1
    ]  # fmt: skip
    paired = [row for row in balls if row["auroc_path"] is not None]
    missed = [row for row in paired if row["auroc_path"] < row["auroc_balls"] - 5 * SLACK]
    checked = [
        Gate("the attack does more than random signs of a grey level", "at every monitor and set",
             f"{len(rows) - len(weak)} of {len(rows)}", not weak),
        dead_gate([row["dead"] for row in rows], "any attack's"),
        Gate("more room helps the attacker", "no fall by more than an image", f"{len(falls)} falls", not falls),
        Gate("runs in balls are no weaker than the one path", f"AUROC at most {5 * SLACK:g} above it, on 8-bit images",
             f"{len(paired) - len(missed)} of {len(paired)}", not missed),
    ]  # fmt: skip
    return [gate.told() for gate in checked]


def grouped(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """By network, monitor and set."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["monitor"], row["set"]), []).append(row)
    return list(groups.values())
