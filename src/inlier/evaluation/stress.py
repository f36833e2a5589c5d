"""A monitor attacked in earnest: a suite of attackers who know it, the worst of them image by image, and gates.

Success is that of `attacks.joint`: at least so much of the prediction changed, and no alarm, on 8-bit images, among
those that raised none before. Gates tell when the attackers were too weak for their failure to mean anything; one that
fails is told of beside the figures. What no attacker of a suite broke is not broken by this suite, and nothing more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.asking import QUERIES
from inlier.attacks.joint import DEAD, limit_of
from inlier.evaluation.assaults import (
    SHARES,
    SURFACE,
    Assault,
    Assaults,
    Cell,
    Tier,
    digest,
    limits_of,
    median_smallest,
    rate_of,
    row_of,
)
from inlier.evaluation.cost import overhead
from inlier.evaluation.gates import (
    BROKEN,
    DEAD_GRADIENTS,
    UNBOUNDED,
    Gate,
    black_box_gate,
    control_gate,
    iterated_gate,
    knowledge_gate,
    least_decided,
    monitor_gates,
    rising_gate,
    rounding_gate,
    slope_gate,
    steps_gate,
    surrogates_gate,
)
from inlier.evaluation.subjects import Subjects
from inlier.evaluation.workplace import Workplace
from inlier.monitor import Monitor
from inlier.types import Images, Progress

__all__ = ["BUDGETS", "Budget", "Stress", "suite"]

Budget: TypeAlias = Literal["smoke", "standard", "full"]
"""How much is tried: whether anything works at all, what a statement needs, or all there is."""
STEPS: Mapping[Budget, int] = {"smoke": 20, "standard": 50, "full": 200}
BUDGETS = tuple(STEPS)
ASKED: Mapping[Budget, Mapping[str, int]] = {
    "smoke": {}, "standard": {"square": 500, "rays": 500}, "full": {"square": 5000, "spsa": 5000, "rays": 5000},
}  # fmt: skip
"""Attacks by questions, and how many each may ask about an image."""
QUERIED = 4
"""Questions are asked about so many images alone: they take long."""
PUBLISHED = ("mifgsm", "apgd_linf", "jensen_shannon", "houdini")
"""Recipes that `full` has besides, as they were published: of who does not know the monitor."""
REPEATS = 7
"""Pairs of runs that the monitor's cost in time is measured on."""
ENOUGH = 25
"""So many clean images over the false-alarm rate tell it to 20 %."""


NEAR = 0.3
"""Where an attacker aims who is less careful with his own monitors than others: below their limit by so many standard
deviations of their clean scores. He changes more, and what they just let pass another may flag."""


TIERS: tuple[Tier, ...] = ("T0", "T1", "T3")
"""Of attackers with gradients, from who knows least to who knows most."""


def suite(budget: Budget, surrogates: int = 0) -> tuple[Assault, ...]:
    """The attackers of a budget who have gradients; the first two, of T0 and T3, are those that the gates ask.

    Args:
        surrogates: how many monitors of their own attackers of tier T1 have; with none there are no such attackers.

    Raises:
        ValueError: no such budget.
    """
    if budget not in get_args(Budget):
        raise ValueError(f"The budget is one of {', '.join(get_args(Budget))}, not {budget!r}")
    steps = STEPS[budget]

    def oblivious(loss: str) -> Assault:
        return Assault(f"oblivious, {loss}", "oblivious", loss, steps, tier="T0")

    def transferred(loss: str) -> list[Assault]:
        careful = Assault(f"dual, {loss}, through surrogates", "dual", loss, steps, tier="T1")
        return [careful, replace(careful, name=f"{careful.name}, near their limit", margin=NEAR)]

    made = [oblivious("hinge"), Assault("dual, hinge", "dual", "hinge", steps)]
    if surrogates:
        losses = ("hinge",) if budget == "smoke" else ("hinge", "cross_entropy")
        made += [one for loss in losses for one in transferred(loss)]
    if budget == "smoke":
        return tuple(made)
    made += [oblivious(loss) for loss in ("cross_entropy", "segpgd", "masked")]
    made += [Assault(f"dual, {loss}", "dual", loss, steps) for loss in ("cross_entropy", "count", "segpgd")]
    made += [Assault(f"{way}, hinge", way, "hinge", steps) for way in ("selective", "orthogonal", "n_plus_one")]
    made += [Assault(f"weighted {weight:g}, hinge", "weighted", "hinge", steps, weight) for weight in (0.1, 1.0, 10.0)]
    if budget == "full":
        made += [replace(one, name=f"{one.name}, 3 restarts", restarts=3) for one in made if one.way == "dual"]
        made += [Assault(f"oblivious, {name}", name, "", steps, tier="T0") for name in PUBLISHED]
    return tuple(made)


def asked(budget: Budget) -> tuple[Assault, ...]:
    """The attackers of a budget who may only ask."""
    return tuple(
        Assault(f"{how} on the {QUERIES[how].reveals}", how, "", queries, tier="T2")
        for how, queries in ASKED[budget].items()
    )


class Stress:
    """A suite of attackers at work on a monitor, in a folder; what was done there is not done again.

    Args:
        monitor: calibrated.
        subjects: clean images in [0, 1], at the size at which they are attacked; with labels, what an attack does to
            the network's accuracy is told too.
        out: the folder.
        epsilons: radii of the Linf balls.
        budget: see `suite`.
        rate: the nominal false-alarm rate that is aimed at; by default the monitor's own.
        control: a monitor of the same network that is known to break, such as `max_softmax`, calibrated.
        surrogates: by name, monitors of the same network that an attacker has fitted and calibrated by himself: all
            but the key, or on images of his own. What gets past all of them at once is shown to the monitor.
        keep: told of the attacked images of every cell, rounded to 8 bit.
        batch_size: images at a time.
        seed: of random starts.

    Raises:
        Mismatch: the folder is of other settings, images or another monitor.
        ValueError: no images, an eps that is not above 0, or a surrogate that is the monitor itself.
    """

    def __init__(
        self,
        monitor: Monitor,
        subjects: Images | Subjects,
        out: str | Path,
        *,
        epsilons: Sequence[float] = (1 / 255, 2 / 255, 4 / 255),
        budget: Budget = "standard",
        rate: float | None = None,
        control: Monitor | None = None,
        surrogates: Mapping[str, Monitor] | None = None,
        keep: Callable[[str, float, Images], None] | None = None,
        batch_size: int = 4,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        if isinstance(subjects, Tensor):
            subjects = Subjects(subjects, tuple(str(i) for i in range(len(subjects))))
        if len(subjects) == 0 or not epsilons or min(epsilons) <= 0:
            raise ValueError(
                f"A stress test needs images and epsilons above 0, not {len(subjects)} and {list(epsilons)}"
            )
        for name, surrogate in (surrogates or {}).items():
            if torch.equal(surrogate.calibration.scores, monitor.calibration.scores):
                raise ValueError(
                    f"Surrogate '{name}' is the monitor itself, or was fitted to the same images in the same way: who "
                    "has that knows everything. Fit one to other images, or under another key (inlier rekey)."
                )
        self.monitor, self.control, self.subjects = monitor, control, subjects
        self.images, self.surrogates = subjects.images, list((surrogates or {}).values())
        self.epsilons = tuple(sorted(epsilons))
        self.suite, self.asked = suite(budget, len(surrogates or {})), asked(budget)
        self.tiers = [tier for tier in TIERS if any(one.tier == tier for one in self.suite)]
        self.alarmists = () if budget == "smoke" else (Assault("false alarm", "false_alarm", "hinge", STEPS[budget]),)
        rate = monitor.false_alarm_rate if rate is None else rate
        self.limits, self.refused = limits_of(monitor, rate or 0.0)
        self.settings = {
            "inlier": version("inlier"), "budget": budget, "epsilons": list(self.epsilons), "rate": rate,
            "seed": seed, "images": len(self.images), "size": list(self.images.shape[1:]), "norm": "linf",
            "surface": SURFACE, "pixels": digest(self.images), "labels": subjects.labels is not None,
            "network": monitor.backbone.fingerprint(),
            "surrogates": {name: limit_of(each) for name, each in (surrogates or {}).items()},
            "suite": [asdict(one) for one in (*self.suite, *self.alarmists, *self.asked)],
            "goal": "30 % and 50 % of the prediction changed and no alarm" if monitor.backbone.task.is_dense
                    else "the class changed and no alarm",
        }  # fmt: skip
        limit = limit_of(monitor, rate)  # a rate that cannot be is refused before anything is written
        place = Workplace(out, self.settings | {"limit": limit}, "a stress test", "work/stress.json")
        self.at_work = Assaults(
            monitor, subjects, place, rate=rate, shown=QUERIED, keep=keep, surrogates=surrogates,
            batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
        self.rate, self.limit, self.place, self.batch_size = rate, self.at_work.limit, place, batch_size

    # --- the attackers --------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All attackers at every eps, then the gates; results as JSON values."""
        start = time.perf_counter()
        few = min(QUERIED, len(self.images))
        everyone = [*self.suite, *self.alarmists]
        per_eps = [(one, len(self.images)) for one in everyone] + [(one, few) for one in self.asked]
        self.at_work.plan([*per_eps * len(self.epsilons), *self.jobs_of_gates()])
        cells = {(one.name, eps): self.at_work.cell(one, eps) for eps in self.epsilons for one in everyone}
        queried = {
            (one.name, eps): self.at_work.cell(one, eps, count=few, starts=self.starts(cells, eps))
            for eps in self.epsilons for one in self.asked
        }  # fmt: skip
        noise = {eps: self.at_work.noise(eps) for eps in self.epsilons}
        first = next(iter(cells.values()))
        gates = self.gates(cells, queried, noise)

        def rows(attackers: Sequence[Assault], made: Mapping[tuple[str, float], Cell]) -> list[dict[str, Any]]:
            return [row_of(one, eps, made[one.name, eps], self.limits) for eps in self.epsilons for one in attackers]

        worst = [self.worst_row(cells, eps, tier) for eps in self.epsilons for tier in self.tiers]
        broken = [line["eps"] for line in worst if line["tier"] == "T3" and line["success_0.3"]["rate"] >= BROKEN]
        verdict = (
            f"broken at eps {255 * broken[0]:g}/255{self.rounded(cells, broken[0])}" if broken
            else f"not broken by this suite ({len(self.suite)} attackers, {self.suite[0].steps} steps, eps up to "
                 f"{255 * self.epsilons[-1]:g}/255)"
        )  # fmt: skip
        return {
            "settings": self.settings, "silent": int(first.silent.sum()),
            "clean": {f"{rate:g}": rate_of(~(first.before <= limit), torch.ones_like(first.silent))
                      for rate, limit in self.limits.items()},
            "refused_rates": {f"{rate:g}": why for rate, why in self.refused.items()},
            "rows": rows(self.suite, cells), "worst": worst,
            "smallest": [self.smallest_row(cells, share) for share in SHARES],
            "false_alarms": [
                {"eps": eps, "flagged": rate_of(cell.detected, cell.silent),
                 "steps": one.steps, "norms_linf": cell.norms[:, 3].double().mean().item()}
                for one in self.alarmists for eps in self.epsilons if (cell := cells[one.name, eps])
            ],
            "queries": rows(self.asked, queried),
            "noise": [{"eps": eps, "flagged": rate_of(cell.detected, cell.silent),
                       "success_0.3": rate_of(cell.evaded(SHARES[0]), cell.silent)} for eps, cell in noise.items()],
            "quality": self.quality(cells), "cost": self.cost(),
            "gates": [gate.told() for gate in gates], "verdict": verdict,
            "notes": self.notes(), "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip

    def starts(self, cells: Mapping[tuple[str, float], Cell], eps: float) -> list[Images]:
        """What those made of the first images who know less than who may ask, and who has all that they have."""
        below = [cells[name, eps].shown for name in self.names("T1" if "T1" in self.tiers else "T0")]
        return [made for made in below if made is not None]

    def rounded(self, cells: Mapping[tuple[str, float], Cell], eps: float) -> str:
        """What a change of eps is in 8-bit images, where that is another norm."""
        there = max(cells[one.name, eps].norms[:, 3].max().item() for one in self.suite)
        return "" if abs(there - eps) < 1e-4 else f" ({255 * there:.3g}/255 once rounded to 8 bit)"

    def names(self, tier: Tier, *, alone: bool = False) -> list[str]:
        """The attackers of a tier and, unless `alone`, of those below it."""
        wanted = [tier] if alone else TIERS[: TIERS.index(tier) + 1]
        return [one.name for one in self.suite if one.tier in wanted]

    def worst(
        self, cells: Mapping[tuple[str, float], Cell], eps: float, share: float, tier: Tier, *, alone: bool = False
    ) -> Bool[Tensor, " n"]:
        """Which images some attacker of a tier, or of those below it, got past the monitor."""
        return torch.stack([cells[name, eps].evaded(share) for name in self.names(tier, alone=alone)]).any(0)

    def worst_row(self, cells: Mapping[tuple[str, float], Cell], eps: float, tier: Tier) -> dict[str, Any]:
        """The worst case image by image at an eps, and the mean over the attackers beside it."""
        silent = cells[self.suite[0].name, eps].silent
        row: dict[str, Any] = {"eps": eps, "tier": tier}
        for share in SHARES:
            row[f"success_{share:g}"] = rate_of(self.worst(cells, eps, share, tier), silent)
            each = [cells[name, eps].success(share) for name in self.names(tier)]
            row[f"mean_success_{share:g}"] = sum(each) / len(each)
        row["rates"] = {}
        for rate, limit in self.limits.items():
            at = {name: replace(cells[name, eps], limit=limit) for name in self.names(tier)}
            evaded = torch.stack([cell.evaded(SHARES[0]) for cell in at.values()]).any(0)
            row["rates"][f"{rate:g}"] = rate_of(evaded, next(iter(at.values())).silent)
        return row

    def smallest_row(self, cells: Mapping[tuple[str, float], Cell], share: float) -> dict[str, Any]:
        """The median over images of the least eps at which some attacker evades, tier by tier."""
        told: dict[str, Any] = {"share": share}
        for tier in self.tiers:
            there = {eps: [cells[name, eps] for name in self.names(tier)] for eps in self.epsilons}
            told[tier] = median_smallest(there, share)
        return told

    def quality(self, cells: Mapping[tuple[str, float], Cell]) -> list[dict[str, Any]]:
        """Accuracy and, of a segmentation network, mIoU: clean, and at each eps of the worst attacker for each image.

        Whether an alarm was raised plays no part: it is the network alone. AAcc and AIoU of Croce et al. 2024
        (arXiv:2306.12941), section 3, are these over more attacks. Differs from there: the worst attacker for the mIoU
        is that with the least accuracy on the image, not one found by a search over all images.
        """
        clean = self.at_work.untouched()
        if not clean:
            return []
        rows: list[dict[str, Any]] = [{"eps": 0.0, "attack": None, **quality_of(clean["right"], clean["overlap"])}]
        for eps in self.epsilons:
            there = [(one.name, cells[one.name, eps]) for one in self.suite]
            rights = torch.stack([cell.right for _, cell in there if cell.right is not None])
            every = torch.stack([cell.overlap for _, cell in there if cell.overlap is not None])
            for (name, _), right, overlap in zip(there, rights, every, strict=True):
                rows.append({"eps": eps, "attack": name, **quality_of(right, overlap)})
            least = rights.min(0)
            overlap = every[least.indices, torch.arange(every.shape[1])]
            rows.append({"eps": eps, "attack": "worst image by image", **quality_of(least.values, overlap)})
        return rows

    def cost(self) -> dict[str, Any]:
        """How long a batch takes with the monitor and without, in one run."""
        batch = self.images[: self.batch_size]

        def measured() -> tuple[dict[str, Tensor], dict[str, Any]]:
            with torch.no_grad():
                found = overhead(
                    lambda: self.monitor.backbone(batch), lambda: self.monitor.score(batch), repeats=REPEATS
                )
            told = {
                "bare": found.bare, "monitored": found.monitored, "ratio": found.ratio.value,
                "interval": [found.ratio.low, found.ratio.high], "batch": len(batch), "repeats": REPEATS,
            }  # fmt: skip
            return {"milliseconds": torch.tensor([found.bare, found.monitored])}, told

        return self.place.part("cost", measured)[1]

    def notes(self) -> list[str]:
        """What a reader must know besides."""
        told = [
            f"The attackers aimed at the threshold of the nominal false-alarm rate {self.rate:g}. What is told at "
            "other rates is counted on the same attacked images.",
            "What is optimised is the score that is thresholded, not its p-value, and the pipeline is attacked from "
            "the image to the score.",
        ]
        assert self.rate is not None
        if len(self.images) < ENOUGH / self.rate:
            told.append(
                f"There are {len(self.images)} images; to tell a false-alarm rate of {self.rate:g} to 20 % takes about "
                f"{math.ceil(ENOUGH / self.rate)}."
            )
        told += [f"At the false-alarm rate {rate:g} nothing is told: {why}" for rate, why in self.refused.items()]
        if self.subjects.wrong:
            told.append(f"{self.subjects.wrong} images were left out: the network classifies them wrong as they are.")
        return told

    # --- gates ----------------------------------------------------------------------------------------------------

    def jobs_of_gates(self) -> list[tuple[Assault, int]]:
        """What the gates will ask for besides the suite."""
        plain, joint = self.suite[:2]
        twice, count = replace(joint, steps=2 * joint.steps), len(self.images)
        return [(replace(plain, steps=1), count), *[(twice, count)] * (3 if self.control is None else 5)]

    def gates(
        self,
        cells: Mapping[tuple[str, float], Cell],
        queried: Mapping[tuple[str, float], Cell],
        noise: Mapping[float, Cell],
    ) -> list[Gate]:
        """Every check of the protocol that the suite allows."""
        plain, joint = self.suite[:2]
        largest, share = self.epsilons[-1], SHARES[0]
        silent = cells[joint.name, largest].silent
        count = max(1, int(silent.sum()))
        once = self.at_work.cell(replace(plain, steps=1, loss="cross_entropy"), largest, told="one step")
        many = cells[plain.name, largest]
        yield_of = [float(self.worst(cells, eps, share, "T3").sum()) / count for eps in self.epsilons]
        raw = {"noise": float(noise[largest].evaded(share).sum()) / count}
        raw |= {tier: float(self.worst(cells, largest, share, tier, alone=True).sum()) / count for tier in self.tiers}
        harder = replace(joint, steps=2 * joint.steps)
        open_ = least_decided({eps: cells[joint.name, eps].success(share) for eps in self.epsilons})
        twice = self.at_work.cell(harder, open_, told="twice the steps")
        wide = [
            self.at_work.cell(harder, 1.0, told="unbounded"),
            self.at_work.cell(harder, 1.0, told="unbounded, from another image", initial=self.others()),
        ]
        free = float(torch.stack([cell.evaded(share) for cell in wide]).any(0).sum()) / count
        unknowing = {one.name for one in self.suite if one.tier == "T0"}
        dead, stuck = (
            max(cell.dead_gradients for (name, _), cell in cells.items() if (name in unknowing) == wanted)
            for wanted in (False, True)
        )
        lost = max(float(self.lost(cells, eps).sum()) for eps in self.epsilons) / count
        broken = None if self.control is None else self.control_success(self.control, joint)
        return [
            iterated_gate([(float(many.damage.mean()), float(once.damage.mean()))]),
            knowledge_gate(raw, count),
            *([surrogates_gate(self.surrogates, self.images, self.batch_size)] if self.surrogates else []),
            self.white_against_black(cells, queried),
            rising_gate(yield_of, count),
            Gate(*UNBOUNDED, f"{free:.3f}", free >= 0.95),
            steps_gate(
                cells[joint.name, open_].evaded(share)[silent], twice.evaded(share)[silent], f"at {255 * open_:g}/255"
            ),
            # Who does not know the monitor has nothing left to gain where every pixel is wrong, and no gradient there.
            Gate(*DEAD_GRADIENTS, f"{dead:.2%}, and {stuck:.2%} of who does not", dead <= DEAD),
            rounding_gate(lost),
            slope_gate(self.monitor, self.images),
            *monitor_gates(self.monitor, self.images[: self.batch_size]),
            control_gate(broken),
        ]  # fmt: skip

    def lost(self, cells: Mapping[tuple[str, float], Cell], eps: float) -> Bool[Tensor, " n"]:
        """Which images an attacker had got past the monitor before they were rounded, and nobody after."""
        evaded = self.worst(cells, eps, SHARES[0], "T3")
        each = [lost for one in self.suite if (lost := cells[one.name, eps].lost) is not None]
        return torch.stack([torch.zeros_like(evaded), *each]).any(0) & ~evaded

    def others(self) -> Images:
        """For each image another one to start from; where there is one image alone, its negative."""
        return self.images.roll(1, 0) if len(self.images) > 1 else 1 - self.images

    def white_against_black(
        self, cells: Mapping[tuple[str, float], Cell], queried: Mapping[tuple[str, float], Cell]
    ) -> Gate:
        """On the images that were asked about."""
        largest = self.epsilons[-1]
        black = [queried[one.name, largest].evaded(SHARES[0]) for one in self.asked] if queried else []
        white = self.worst(cells, largest, SHARES[0], "T3", alone=True)
        blind = self.worst(cells, largest, SHARES[0], "T1" if "T1" in self.tiers else "T0")
        return black_box_gate(white, torch.stack(black).any(0) if black else None, blind)

    def control_success(self, control: Monitor, joint: Assault) -> float:
        """How many images get past the monitor that is known to break, by either of two losses: one that makes the
        network barely wrong, and one that makes it sure."""
        cells = [
            self.at_work.cell(
                replace(joint, loss=loss, steps=2 * joint.steps), self.epsilons[-1], monitor=control,
                told=f"control, {loss}",
            )
            for loss in ("hinge", "cross_entropy")
        ]  # fmt: skip
        evaded = torch.stack([cell.evaded(SHARES[0]) for cell in cells]).any(0)
        return float(evaded.sum()) / max(1, int(cells[0].silent.sum()))


def quality_of(right: Tensor, overlap: Tensor) -> dict[str, float | None]:
    """Mean accuracy over images, and the mIoU over all of them; of classes that are nowhere, none."""
    hits, union = overlap.double().sum(0)
    there = union > 0
    return {
        "accuracy": right.mean().item(),
        "miou": (hits[there] / union[there]).mean().item() if there.any() else None,
    }
