"""Attackers at work on a monitor, one after another at each eps; what is finished lies in a folder and is not redone.

An attacker is a recipe, which knows nothing of the monitor (T0), a way to attack network and monitor at once, through
monitors of his own (T1) or with everything known (T3), or questions to the running system (T2). What became of the
images is a cell, and cells of all attackers are counted alike.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from inlier.attacks.asking import QUERIES, MonitorQueries, ask_monitor
from inlier.attacks.constraints import L2Ball, Parametrisation, Pixels
from inlier.attacks.engine import Attack
from inlier.attacks.joint import WAYS, MonitorAttack, Outcome, Watched, attack_monitor, change_norms, judged, limit_of
from inlier.attacks.objectives import Objective, cross_entropy
from inlier.attacks.recipes import RECIPES
from inlier.attacks.surrogates import correct_cross_entropy, hinge, segpgd, smooth_count
from inlier.attacks.targets import TargetKind, target_maps
from inlier.attacks.universal import UniversalDelta
from inlier.backbones.base import Backbone
from inlier.evaluation.metrics import auroc, overlaps, rate_interval
from inlier.evaluation.subjects import Subjects
from inlier.evaluation.together import pooled
from inlier.evaluation.workplace import Workplace
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.types import Images, LabelMaps, Progress

__all__ = [
    "LOSSES", "SHARES", "SURFACE", "UNIVERSAL", "Assault", "Assaults", "Cell", "Norm", "Tier", "area", "digest",
    "limits_of", "median_smallest", "norm_of", "rate_of", "recipe_attack", "row_of", "smallest",
]  # fmt: skip

Tier: TypeAlias = Literal["T0", "T1", "T2", "T3"]
Norm: TypeAlias = Literal["linf", "l2"]
SHARES = (0.3, 0.5)
"""Of the prediction that an attacker must change."""
SURFACE = "8-bit images at this size, before the network resizes and normalises them"
LOSSES: Mapping[str, Objective] = {
    "hinge": hinge(), "cross_entropy": cross_entropy, "count": smooth_count(), "segpgd": segpgd,
    "masked": correct_cross_entropy,
}  # fmt: skip
RATES = (0.001, 0.01, 0.05)
"""False-alarm rates at which everything is counted, as far as the calibration allows."""
UNIVERSAL = "universal"
"""The way of an attacker who adds one delta to every image."""
A_QUERY = 3
"""So many questions cost about as much as a step, which goes forward and backward with gradients."""


@dataclass(frozen=True)
class Assault:
    """An attacker.

    Args:
        name: for tables and files.
        way: of `attacks.joint.WAYS`, of `attacks.asking.QUERIES`, a recipe, or `UNIVERSAL`.
        loss: of `LOSSES`; a recipe and questions have their own.
        steps: of a restart, or the budget of questions.
        weight, restarts: of `attack_monitor`.
        tier: T0 does not know of the monitor, T1 has monitors like it, T2 may ask it, T3 knows everything.
        target: the class that a recipe wants everywhere, or the kind of map that it wants of each image.
        margin: how far below the limit of his own monitors one of tier T1 aims, in standard deviations of their clean
            scores.
    """

    name: str
    way: str
    loss: str
    steps: int
    weight: float = 0.1
    restarts: int = 1
    tier: Tier = "T3"
    target: int | TargetKind | None = None
    margin: float = 1.0

    @property
    def cost(self) -> int:
        """Steps for one image, about."""
        return self.steps // A_QUERY if self.tier == "T2" else self.steps * self.restarts


@dataclass(frozen=True, eq=False)
class Cell(Outcome):
    """What one attacker made of the images at one eps, all on the CPU.

    Args:
        norms: (n, 4) L0, L1, L2, Linf of the change, on 8-bit images.
        spent: (n,) steps made for each image, over all restarts, or questions asked.
        dead_gradients: as in `AttackResult`; 0 where none were asked for.
        lost: (n,) whose success was lost in rounding, bool.
        trace: the mean over images of what was raised first, at every evaluation.
        right: (n,) the share of pixels classified as labelled, where there are labels.
        overlap: (n, 2, classes) pixels of intersection with the labels and of union.
        shown: the first few attacked images.
        pictures: (n, c, h, w) all attacked images as 8-bit values, where they are kept.
        config: what was run.
    """

    norms: Float[Tensor, "n 4"]
    spent: Int[Tensor, " n"]
    dead_gradients: float = 0.0
    lost: Bool[Tensor, " n"] | None = None
    trace: Sequence[float] = ()
    right: Float[Tensor, " n"] | None = None
    overlap: Int[Tensor, "n 2 classes"] | None = None
    shown: Images | None = None
    pictures: UInt8[Tensor, "n c h w"] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


class Assaults:
    """Attackers at work.

    Args:
        monitor: calibrated.
        subjects: what is attacked.
        place: where finished cells are kept.
        rate: the nominal false-alarm rate that attackers aim at; by default the monitor's own.
        norm: of the balls.
        shown: of how many images the attacked ones are kept in a cell.
        keep: told of name, eps and attacked images of every cell, made now or before, rounded to 8 bit.
        parametrisation: what is moved; by default all pixels. Questions always move these.
        surrogates: by name, calibrated monitors of the same network, which attackers of tier T1 have.
        deltas: by the name of the attacker who adds one to every image.
        batch_size: images at a time.
        seed: of random starts, and of target maps.
        progress: told of steps, each of an image, over all that `plan` was told of.
    """

    def __init__(
        self,
        monitor: Monitor,
        subjects: Subjects,
        place: Workplace,
        *,
        rate: float | None = None,
        norm: Norm = "linf",
        shown: int = 0,
        keep: Callable[[str, float, Images], None] | None = None,
        parametrisation: Parametrisation | None = None,
        surrogates: Mapping[str, Monitor] | None = None,
        deltas: Mapping[str, UniversalDelta] | None = None,
        batch_size: int = 4,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.monitor, self.subjects, self.place = monitor, subjects, place
        self.deltas = dict(deltas or {})
        self.surrogates = dict(surrogates or {})
        self.owned: dict[float, Watched] = {}
        self.parametrisation = parametrisation
        self.rate = monitor.false_alarm_rate if rate is None else rate
        self.limit = limit_of(monitor, self.rate)
        self.norm, self.shown, self.keep = norm, shown, keep
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        self.done = self.planned = 0

    def plan(self, jobs: Iterable[tuple[Assault, int]]) -> None:
        """Which attackers will come, each with its number of images: what progress is measured against."""
        self.planned = sum(one.cost * count for one, count in jobs)

    def cell(
        self,
        one: Assault,
        eps: float,
        *,
        monitor: Monitor | None = None,
        told: str = "",
        count: int | None = None,
        initial: Images | None = None,
        starts: Sequence[Images] = (),
    ) -> Cell:
        """One attacker at one eps; from its file, if it is there.

        Args:
            monitor: another one, at its own rate.
            told: the name of the cell, if not the attacker's.
            count: so many of the images alone, the first ones.
            initial: where to start instead of the clean images.
            starts: what others made of these images without asking, which who asks asks about first.
        """
        count = len(self.subjects) if count is None else min(count, len(self.subjects))
        made = False

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            nonlocal made
            made = True
            return self.attacked(one, eps, monitor or self.monitor, told, count, initial, starts)

        keep = None if told else self.keep
        wanted = [name for name, asked in (("pictures", keep), ("shown", self.shown)) if asked and not told]
        tensors, numbers = self.place.part(f"{told or one.name} {self.in_name(eps)}", make, wanted=wanted)
        if not made:
            self.planned -= one.cost * count  # the time left is that of what is to be done
        if keep is not None:
            keep(one.name, eps, tensors["pictures"].float() / 255)
        kept: dict[str, Any] = {**tensors, **numbers}
        return Cell(**kept)

    def in_name(self, eps: float) -> str:
        """An eps as files have it."""
        return f"{255 * eps:g}" if self.norm == "linf" else f"l2_{eps:g}"

    def attacked(
        self, one: Assault, eps: float, monitor: Monitor, told: str, count: int, initial: Images | None,
        starts: Sequence[Images],
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
        """The attacker at work."""
        rate = self.rate if monitor is self.monitor else monitor.false_alarm_rate
        labels, backbone = self.subjects.labels, monitor.backbone
        wanted = self.wanted(one, backbone)
        rows: list[dict[str, Tensor]] = []
        parts: list[MonitorAttack | MonitorQueries] = []
        for start in range(0, count, self.batch_size):
            at = slice(start, min(start + self.batch_size, count))
            images = self.subjects.images[at]
            # A classifier is fooled where the class is not the label; these images it has right.
            truth = labels[at] if labels is not None and not backbone.task.is_dense else None
            part = assault(
                one, monitor, images, eps, norm=self.norm, rate=rate, seed=self.seed + start, labels=truth,
                target=wanted[at] if isinstance(wanted, Tensor) else wanted, parametrisation=self.parametrisation,
                own=self.own(one), initial=None if initial is None else initial[at],
                starts=[each[at] for each in starts],
                delta=self.deltas.get(one.name), progress=partial(self.tell, len(images), one),
            )  # fmt: skip
            row = told_of(part)
            if labels is not None:
                valid = self.subjects.valid(backbone)
                assert valid is not None
                row |= compared(part.prediction.cpu(), labels[at], valid[at], len(backbone.task.classes))
            rows.append(row)
            parts.append(part)
            self.done += one.cost * len(images)
        made = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        if self.shown and not told:
            made["shown"] = torch.cat([part.images for part in parts])[: self.shown].float()
        if self.keep is not None and not told:
            made["pictures"] = (torch.cat([part.images for part in parts]) * 255).round().byte()
        engine = [part.result for part in parts if isinstance(part, MonitorAttack)]
        numbers: dict[str, Any] = {"limit": parts[0].limit}
        if engine:
            made["lost"] = torch.cat([part.lost(SHARES[0]) for part in parts if isinstance(part, MonitorAttack)])
            traces = torch.cat([result.trace[0] for result in engine], 1).double()
            numbers |= {
                "dead_gradients": sum(result.dead_gradients for result in engine) / len(engine),
                "trace": traces.nanmean(1).tolist(), "config": dict(engine[0].config),
            }  # fmt: skip
        else:
            numbers["config"] = next(dict(part.config) for part in parts if isinstance(part, MonitorQueries))
        return made, numbers

    def own(self, one: Assault) -> Watched | None:
        """What one of tier T1 has instead of the monitor."""
        if one.tier != "T1" or not self.surrogates:
            return None
        if one.margin not in self.owned:
            self.owned[one.margin] = pooled(self.monitor.backbone, self.surrogates, one.margin)
        return self.owned[one.margin]

    @torch.no_grad()
    def wanted(self, one: Assault, backbone: Backbone) -> int | LabelMaps | None:
        """What an attacker wants of every image: nothing, a class, or a map of each."""
        if not isinstance(one.target, str):
            return one.target
        prediction = torch.cat([backbone.predict(part) for part in torch.split(self.subjects.images, self.batch_size)])
        return target_maps(one.target, prediction, backbone.task, seed=self.seed)

    def tell(self, images: int, one: Assault, _: str, done: int, of: int) -> None:
        """How far an attacker is with a batch."""
        if self.progress is not None:
            at = self.done + round(one.cost * images * done / of)
            self.progress("attacking, steps of images", min(at, self.planned), max(self.planned, 1))

    @torch.no_grad()
    def noise(self, eps: float) -> Cell:
        """Random signs of the same norm."""
        images = self.subjects.images
        size = eps if self.norm == "linf" else eps / math.sqrt(images[0].numel())
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
        noisy = to_8_bit((images + size * signs).clamp(0, 1))
        parts = []
        for place in torch.split(torch.arange(len(noisy)), self.batch_size):
            was, now = (self.monitor.probe(each[place]) for each in (images, noisy))
            before, after = self.monitor.objective(was), self.monitor.objective(now)
            differ = (was.output.argmax(1) != now.output.argmax(1)).reshape(len(place), -1).double().mean(1)
            parts.append(torch.stack([before.double(), after.double(), differ], 1).cpu())
        before, after, damage = torch.cat(parts).unbind(1)
        norms = torch.stack(list(change_norms(images, noisy).values()), 1)
        return Cell(before, after, damage, self.limit, norms, torch.zeros(len(images), dtype=torch.long))

    @torch.no_grad()
    def untouched(self) -> dict[str, Tensor]:
        """The clean images beside their labels: `right` and `overlap` as of a cell; nothing without labels."""
        labels, backbone = self.subjects.labels, self.monitor.backbone
        valid = self.subjects.valid(backbone)
        if labels is None or valid is None:
            return {}
        rows = [
            compared(backbone.predict(images).cpu(), labels[at : at + len(images)], valid[at : at + len(images)],
                     len(backbone.task.classes))
            for at, images in zip(range(0, len(labels), 8), torch.split(self.subjects.images, 8), strict=True)
        ]  # fmt: skip
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def assault(
    one: Assault,
    monitor: Monitor,
    images: Images,
    eps: float,
    *,
    norm: Norm,
    rate: float | None,
    seed: int,
    labels: LabelMaps | None,
    target: int | LabelMaps | None,
    parametrisation: Parametrisation | None,
    own: Watched | None,
    initial: Images | None,
    starts: Sequence[Images],
    delta: UniversalDelta | None,
    progress: Progress,
) -> MonitorAttack | MonitorQueries:
    """An attacker and a batch; `own` is what one of tier T1 has instead of the monitor, `starts` what one of tier T2
    asks about first, `delta` what one of `UNIVERSAL` adds."""
    if one.way in QUERIES:
        return ask_monitor(
            monitor, images, eps, how=one.way, queries=one.steps, rate=rate, initial=starts, seed=seed,
            progress=progress,
        )  # fmt: skip
    if one.way in WAYS:
        return attack_monitor(
            monitor, images, eps, way=one.way, loss=LOSSES[one.loss], norm=norm, steps=one.steps, weight=one.weight,
            restarts=one.restarts, rate=rate, through=own if one.tier == "T1" else None, seed=seed,
            step_size=eps if one.steps == 1 else None, labels=labels, parametrisation=parametrisation, initial=initial,
            progress=progress,
        )  # fmt: skip
    if delta is not None:
        return judged(monitor, delta.attack(Probe(monitor.backbone), images, labels=labels), limit_of(monitor, rate))
    row, attack = RECIPES[one.way], recipe_attack(one.way, eps, one.steps, one.restarts)
    result = replace(attack, parametrisation=parametrisation or Pixels())(
        Probe(monitor.backbone), images, row.objective, better=row.better, target=target, labels=labels, seed=seed,
        progress=progress,
    )  # fmt: skip
    return judged(monitor, result, limit_of(monitor, rate))


def recipe_attack(name: str, eps: float, steps: int | None = None, restarts: int | None = None) -> Attack:
    """A recipe at an eps; a step size of its own keeps its proportion to eps.

    Raises:
        ValueError: steps or restarts for a recipe that has none.
    """
    factory = RECIPES[name].factory
    parameters = inspect.signature(factory).parameters
    given: dict[str, Any] = {"eps": eps}
    for setting, value in (("steps", steps), ("restarts", restarts)):
        if setting in parameters and value is not None:
            given[setting] = value
        elif value not in (None, 1):
            raise ValueError(f"Recipe '{name}' has no {setting}")
    size, usual = (parameters[key].default if key in parameters else None for key in ("step_size", "eps"))
    if isinstance(size, float) and isinstance(usual, float):
        given["step_size"] = size * eps / usual
    return factory(**given)


def norm_of(way: str) -> Norm | None:
    """The norm that a recipe's ball is in; a way to attack a monitor takes either: None."""
    if way in WAYS:
        return None
    return "l2" if way in RECIPES and isinstance(recipe_attack(way, 0.1).constraint, L2Ball) else "linf"


def told_of(part: MonitorAttack | MonitorQueries) -> dict[str, Tensor]:
    """A batch's part of a cell."""
    spent = part.result.moves if isinstance(part, MonitorAttack) else part.queries
    return {
        "before": part.before.double().cpu(), "after": part.after.double().cpu(), "damage": part.damage.double().cpu(),
        "norms": torch.stack(list(part.norms.values()), 1).float().cpu(), "spent": spent.cpu(),
    }  # fmt: skip


def compared(prediction: LabelMaps, labels: LabelMaps, valid: Bool[Tensor, "n *hw"], classes: int) -> dict[str, Tensor]:
    """Predictions beside labels: the share of right pixels and the overlaps of each image."""
    right = ((prediction == labels) & valid).reshape(len(labels), -1).sum(1)
    counted = valid.reshape(len(labels), -1).sum(1).clamp_min(1)
    return {"right": right.double() / counted, "overlap": overlaps(prediction, labels, classes, valid)}


# --- counting ---------------------------------------------------------------------------------------------------------


def limits_of(monitor: Monitor, rate: float) -> tuple[dict[float, float], dict[float, str]]:
    """The largest unflagged score at `RATES` and at one more, and why a rate has none."""
    limits: dict[float, float] = {}
    refused: dict[float, str] = {}
    for each in sorted({*RATES, rate}):
        try:
            limits[each] = limit_of(monitor, each)
        except ValueError as error:
            refused[each] = str(error)
    return limits, refused


def row_of(one: Assault, eps: float, cell: Cell, limits: Mapping[float, float]) -> dict[str, Any]:
    """An attacker at an eps, as JSON values.

    Args:
        limits: the largest unflagged score at every rate that is counted at; the attacker aimed at the cell's own.
    """
    silent = cell.silent
    row: dict[str, Any] = {
        "attack": one.name, "tier": one.tier, "eps": eps, "images": len(silent), "damage": cell.damage.mean().item(),
        "steps": one.steps, "restarts": one.restarts,
        "steps_used": None if one.tier == "T2" else cell.spent.double().mean().item(),
        "queries_used": cell.spent.double().mean().item() if one.tier == "T2" else None,
        "detected": rate_of(cell.detected, silent),
    }  # fmt: skip
    for share in SHARES:
        hit = silent & (cell.damage >= share)
        row[f"success_{share:g}"] = rate_of(cell.evaded(share), silent)
        row[f"detected_{share:g}"] = rate_of(cell.detected, hit)
    row["rates"] = {}
    for rate, limit in limits.items():
        at = Outcome(cell.before, cell.after, cell.damage, limit)
        row["rates"][f"{rate:g}"] = {
            "success_0.3": rate_of(at.evaded(SHARES[0]), at.silent),
            "detected_0.3": rate_of(at.detected, at.silent & (at.damage >= SHARES[0])),
        }
    row["auroc"] = area(cell.before, cell.after[cell.damage >= SHARES[0]])
    row["auroc_unconditional"] = area(cell.before, cell.after)
    row["norms"] = dict(zip(("L0", "L1", "L2", "Linf"), cell.norms.double().mean(0).tolist(), strict=True))
    lost = 0 if cell.lost is None else int(cell.lost.sum())
    return row | {"dead_gradients": cell.dead_gradients, "lost": lost, "trace": list(cell.trace)}


def area(clean: Tensor, attacked: Tensor) -> float | None:
    """AUROC; a score that is nan counts as flagged. None where a side is empty."""
    sides = [scores.nan_to_num(nan=math.inf) for scores in (clean, attacked)]
    return auroc(*sides) if all(len(side) for side in sides) else None


def smallest(
    cells: Mapping[float, Sequence[Cell]], share: float = SHARES[0]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """For each image the least eps at which any of these cells has it evade (inf if none), and who was silent."""
    silent = next(iter(cells.values()))[0].silent
    least = torch.full((len(silent),), torch.inf, dtype=torch.double)
    for eps, there in sorted(cells.items(), reverse=True):
        least[torch.stack([cell.evaded(share) for cell in there]).any(0)] = eps
    return least, silent


def median_smallest(cells: Mapping[float, Sequence[Cell]], share: float = SHARES[0]) -> float | None:
    """The least eps at which half of the silent images evade or did at a smaller one; None if fewer ever do."""
    least, silent = smallest(cells, share)
    if not silent.any():
        return None
    middle = least[silent].sort().values[(int(silent.sum()) - 1) // 2].item()
    return middle if math.isfinite(middle) else None


def rate_of(hits: Bool[Tensor, " n"], among: Bool[Tensor, " n"]) -> dict[str, Any]:
    """How many of how many, with the 95 % Clopper-Pearson interval; the rate is 0 where there are none."""
    count, of = int((hits & among).sum()), int(among.sum())
    interval = list(rate_interval(count, of)) if of else [0.0, 1.0]
    return {"hits": count, "images": of, "rate": count / of if of else 0.0, "interval": interval}


def digest(values: Tensor) -> str:
    """Of all values: which images a folder is of."""
    return hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
