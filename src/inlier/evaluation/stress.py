"""A monitor attacked in earnest: a suite of attackers who know it, the worst of them image by image, and gates.

Success is that of `attacks.joint`: at least so much of the prediction changed, and no alarm, on 8-bit images, among
those that raised none before. Gates tell when the attackers were too weak for their failure to mean anything; one that
fails is told of beside the figures. What no attacker of a suite broke is not broken by this suite, and nothing more.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.joint import MonitorAttack, Outcome, attack_monitor, limit_of
from inlier.attacks.objectives import Objective, cross_entropy
from inlier.attacks.surrogates import correct_cross_entropy, hinge, segpgd, smooth_count
from inlier.errors import Mismatch
from inlier.evaluation.intervals import paired_rate_interval
from inlier.evaluation.metrics import rate_interval
from inlier.files import PRIVATE, read_tensors, write_bytes, write_tensors
from inlier.monitor import Monitor
from inlier.perturbations.base import to_8_bit
from inlier.types import Images, Progress

__all__ = ["BUDGETS", "LOSSES", "SHARES", "Assault", "Budget", "Cell", "Gate", "Stress", "suite"]

Budget: TypeAlias = Literal["smoke", "standard", "full"]
"""How much is tried: whether anything works at all, what a statement needs, or all there is."""
SHARES = (0.3, 0.5)
"""Of the prediction that an attacker must change."""
BROKEN = 0.5
"""Success of the worst case from which a monitor counts as broken."""
LOSSES: Mapping[str, Objective] = {
    "hinge": hinge(), "cross_entropy": cross_entropy, "count": smooth_count(), "segpgd": segpgd,
    "masked": correct_cross_entropy,
}  # fmt: skip
STEPS: Mapping[Budget, int] = {"smoke": 20, "standard": 50, "full": 200}
BUDGETS = tuple(STEPS)


@dataclass(frozen=True)
class Assault:
    """An attacker of the suite.

    Args:
        name: for tables and files.
        way: of `attacks.joint.WAYS`.
        loss: of `LOSSES`.
        steps, weight, restarts: of `attack_monitor`.
        tier: T0 does not know of the monitor, T3 knows everything.
    """

    name: str
    way: str
    loss: str
    steps: int
    weight: float = 0.1
    restarts: int = 1
    tier: Literal["T0", "T3"] = "T3"


def suite(budget: Budget) -> tuple[Assault, ...]:
    """The attackers of a budget; the first two, one of each tier, are those that the gates ask.

    Raises:
        ValueError: no such budget.
    """
    if budget not in get_args(Budget):
        raise ValueError(f"The budget is one of {', '.join(get_args(Budget))}, not {budget!r}")
    steps = STEPS[budget]

    def oblivious(loss: str) -> Assault:
        return Assault(f"oblivious, {loss}", "oblivious", loss, steps, tier="T0")

    made = [oblivious("hinge"), Assault("dual, hinge", "dual", "hinge", steps)]
    if budget == "smoke":
        return tuple(made)
    made += [oblivious(loss) for loss in ("cross_entropy", "segpgd", "masked")]
    made += [Assault(f"dual, {loss}", "dual", loss, steps) for loss in ("cross_entropy", "count", "segpgd")]
    made += [Assault(f"{way}, hinge", way, "hinge", steps) for way in ("selective", "orthogonal", "n_plus_one")]
    made += [Assault(f"weighted {weight:g}, hinge", "weighted", "hinge", steps, weight) for weight in (0.1, 1.0, 10.0)]
    if budget == "full":
        made += [replace(one, name=f"{one.name}, 3 restarts", restarts=3) for one in made if one.way == "dual"]
    return tuple(made)


@dataclass(frozen=True, eq=False)
class Cell(Outcome):
    """What one attacker made of the images at one eps.

    Args:
        dead_gradients: as in `AttackResult`.
    """

    dead_gradients: float = 0.0


@dataclass(frozen=True)
class Gate:
    """A check against fooling ourselves; `passed` is None where it was not run."""

    name: str
    wanted: str
    observed: str
    passed: bool | None

    @property
    def verdict(self) -> str:
        return "not run" if self.passed is None else "PASS" if self.passed else "FAIL"


class Stress:
    """A suite of attackers at work on a monitor, in a folder; what was done there is not done again.

    Args:
        monitor: calibrated.
        images: clean ones in [0, 1], at the size at which they are attacked.
        out: the folder.
        epsilons: radii of the Linf balls.
        budget: see `suite`.
        rate: the nominal false-alarm rate; by default the monitor's own.
        control: a monitor of the same network that is known to break, such as `max_softmax`, calibrated.
        keep: told of the attacked images of every cell, rounded to 8 bit.
        batch_size: images at a time.
        seed: of random starts.

    Raises:
        Mismatch: the folder is of other settings, images or another monitor.
        ValueError: no images, or an eps that is not above 0.
    """

    def __init__(
        self,
        monitor: Monitor,
        images: Images,
        out: str | Path,
        *,
        epsilons: Sequence[float] = (1 / 255, 2 / 255, 4 / 255),
        budget: Budget = "standard",
        rate: float | None = None,
        control: Monitor | None = None,
        keep: Callable[[str, float, Images], None] | None = None,
        batch_size: int = 4,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        if len(images) == 0 or not epsilons or min(epsilons) <= 0:
            raise ValueError(f"A stress test needs images and epsilons above 0, not {len(images)} and {list(epsilons)}")
        self.monitor, self.control = monitor, control
        self.images = images
        self.work = Path(out) / "work"
        self.epsilons = tuple(sorted(epsilons))
        self.suite = suite(budget)
        self.rate = monitor.false_alarm_rate if rate is None else rate
        self.limit = limit_of(monitor, self.rate)
        self.keep, self.batch_size, self.seed, self.progress = keep, batch_size, seed, progress
        self.settings = {
            "inlier": version("inlier"), "budget": budget, "epsilons": list(self.epsilons), "rate": self.rate,
            "seed": seed, "images": len(images), "size": list(images.shape[1:]), "norm": "linf",
            "surface": "8-bit images at this size", "pixels": digest(images), "network": monitor.backbone.fingerprint(),
            "limit": self.limit, "suite": [asdict(one) for one in self.suite],
        }  # fmt: skip
        self.check_folder()

    def check_folder(self) -> None:
        file = self.work / "stress.json"
        told = json.loads(json.dumps(self.settings))
        if not file.is_file():
            if self.work.parent.is_dir() and any(self.work.parent.iterdir()):
                raise Mismatch(f"'{self.work.parent}' is not empty and no stress test was begun in it")
            write_bytes(file, json.dumps(told, indent=1).encode())
            return
        there = json.loads(file.read_text(encoding="utf-8"))
        for name, value in told.items():
            if there.get(name) != value:
                raise Mismatch(
                    f"'{self.work.parent}' holds a stress test with {name} = {json.dumps(there.get(name))[:200]}, and "
                    f"this one has {json.dumps(value)[:200]}. Give this one another folder."
                )

    # --- the attackers --------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """All attackers at every eps, then the gates; results as JSON values."""
        start = time.perf_counter()
        cells = {(one.name, eps): self.cell(one, eps) for eps in self.epsilons for one in self.suite}
        noise = {eps: self.noise(eps) for eps in self.epsilons}
        silent = next(iter(cells.values())).silent
        gates = self.gates(cells, noise)
        rows = [self.row(one, eps, cells[one.name, eps]) for eps in self.epsilons for one in self.suite]
        worst: list[dict[str, Any]] = [
            {
                "eps": eps, "tier": tier,
                **{
                    f"success_{share:g}": rate_of(self.worst(cells, eps, share, tier), silent)
                    for share in SHARES
                },
            }
            for eps in self.epsilons for tier in ("T0", "T3")
        ]  # fmt: skip
        broken = [line["eps"] for line in worst if line["tier"] == "T3" and line["success_0.3"]["rate"] >= BROKEN]
        verdict = (
            f"broken at eps {255 * broken[0]:g}/255" if broken
            else f"not broken by this suite ({len(self.suite)} attackers, {self.suite[0].steps} steps, eps up to "
                 f"{255 * self.epsilons[-1]:g}/255)"
        )  # fmt: skip
        return {
            "settings": self.settings, "silent": int(silent.sum()), "rows": rows, "worst": worst,
            "noise": [{"eps": eps, "flagged": rate_of(cell.detected, silent)} for eps, cell in noise.items()],
            "gates": [asdict(gate) | {"verdict": gate.verdict} for gate in gates], "verdict": verdict,
            "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip

    def row(self, one: Assault, eps: float, cell: Cell) -> dict[str, Any]:
        """An attacker at an eps."""
        silent = cell.silent
        row: dict[str, Any] = {"attack": one.name, "tier": one.tier, "eps": eps, "damage": cell.damage.mean().item()}
        for share in SHARES:
            hit = silent & (cell.damage >= share)
            row[f"success_{share:g}"] = rate_of(cell.evaded(share), silent)
            row[f"detected_{share:g}"] = rate_of(cell.detected, hit)
        return row | {"dead_gradients": cell.dead_gradients}

    def worst(self, cells: Mapping[tuple[str, float], Cell], eps: float, share: float, tier: str) -> Bool[Tensor, " n"]:
        """Which images some attacker of a tier, or of those below it, got past the monitor."""
        names = [one.name for one in self.suite if tier == "T3" or one.tier == tier]
        return torch.stack([cells[name, eps].evaded(share) for name in names]).any(0)

    def cell(self, one: Assault, eps: float, monitor: Monitor | None = None, told: str = "", **more: Any) -> Cell:
        """One attacker at one eps; from its file, if it is there."""
        name = f"{told or one.name} {255 * eps:g}"
        file = self.work / f"{''.join(c if c.isalnum() or c in '.-' else '_' for c in name)}.safetensors"
        if file.is_file():
            tensors, metadata = read_tensors(file)
            return Cell(tensors["before"], tensors["after"], tensors["damage"], **json.loads(metadata["cell"]))
        monitor = monitor or self.monitor
        rate = self.rate if monitor is self.monitor else monitor.false_alarm_rate
        parts: list[MonitorAttack] = []
        for start in range(0, len(self.images), self.batch_size):
            part = self.images[start : start + self.batch_size]
            given = {key: value[start : start + len(part)] for key, value in more.items()}
            parts.append(attack_monitor(
                monitor, part, eps, way=one.way, loss=LOSSES[one.loss], steps=one.steps, weight=one.weight,
                restarts=one.restarts, rate=rate, seed=self.seed + start,
                step_size=eps if one.steps == 1 else None, **given,
            ))  # fmt: skip
            if self.progress is not None:
                self.progress(f"{told or one.name}, eps {255 * eps:g}/255", start + len(part), len(self.images))
        made = {
            name: torch.cat([getattr(part, name) for part in parts]).detach().double().cpu()
            for name in ("before", "after", "damage")
        }
        dead = sum(part.result.dead_gradients for part in parts) / len(parts)
        if self.keep is not None and not told:
            self.keep(one.name, eps, torch.cat([part.images for part in parts]))
        numbers = {"dead_gradients": dead, "limit": parts[0].limit}
        write_tensors(file, made, {"cell": json.dumps(numbers)}, PRIVATE)
        return Cell(made["before"], made["after"], made["damage"], **numbers)

    @torch.no_grad()
    def noise(self, eps: float) -> Cell:
        """Random signs of the same norm."""
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(0, 2, self.images.shape, generator=generator).to(self.images) * 2 - 1
        noisy = to_8_bit((self.images + eps * signs).clamp(0, 1))
        parts = []
        for place in torch.split(torch.arange(len(noisy)), self.batch_size):
            was, now = (self.monitor.probe(each[place]) for each in (self.images, noisy))
            before, after = self.monitor.objective(was), self.monitor.objective(now)
            differ = (was.output.argmax(1) != now.output.argmax(1)).reshape(len(place), -1).double().mean(1)
            parts.append(torch.stack([before.double(), after.double(), differ], 1).cpu())
        before, after, damage = torch.cat(parts).unbind(1)
        return Cell(before, after, damage, self.limit)

    # --- gates ----------------------------------------------------------------------------------------------------

    def gates(self, cells: Mapping[tuple[str, float], Cell], noise: Mapping[float, Cell]) -> list[Gate]:
        """Every check of the protocol that a white-box suite allows."""
        plain, joint = self.suite[:2]
        largest, share = self.epsilons[-1], SHARES[0]
        silent = cells[joint.name, largest].silent
        count = max(1, int(silent.sum()))

        def success(cell: Cell) -> float:
            return float(cell.evaded(share).sum()) / count

        once = self.cell(replace(plain, steps=1, loss="cross_entropy"), largest, told="one step")
        many = cells[plain.name, largest]
        yield_of = [float(self.worst(cells, eps, share, "T3").sum()) / count for eps in self.epsilons]
        worst0 = float(self.worst(cells, largest, share, "T0").sum()) / count
        by_noise = success(noise[largest])
        twice = self.cell(replace(joint, steps=2 * joint.steps), largest, told="twice the steps")
        a, b = cells[joint.name, largest].evaded(share)[silent], twice.evaded(share)[silent]
        pairs = [int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())]
        change = paired_rate_interval(*pairs)
        wide = [
            self.cell(replace(joint, steps=2 * joint.steps), 1.0, told="unbounded"),
            self.cell(
                replace(joint, steps=2 * joint.steps), 1.0, told="unbounded, from another image",
                initial=self.images.roll(1, 0),
            ),
        ]  # fmt: skip
        free = float(torch.stack([cell.evaded(share) for cell in wide]).any(0).sum()) / count
        dead = max(cell.dead_gradients for cell in cells.values())
        wrong = self.finite_differences()
        spread = self.repeatability()
        broken = math.nan if self.control is None else self.control_success(self.control, joint)
        tolerance = 1 / count + 1e-9  # one image
        return [
            Gate("iterated attack against one step", "at least its mean damage",
                 f"{many.damage.mean():.3f} against {once.damage.mean():.3f}",
                 bool(many.damage.mean() >= once.damage.mean() - 0.01)),
            Gate("who knows more succeeds more often", "T3 >= T0 >= noise",
                 f"{yield_of[-1]:.3f}, {worst0:.3f}, {by_noise:.3f}",
                 yield_of[-1] >= worst0 - tolerance and worst0 >= by_noise - tolerance),
            Gate("success rises with eps", "no fall", ", ".join(f"{value:.3f}" for value in yield_of),
                 all(x <= y + tolerance for x, y in pairwise(yield_of))),
            Gate("without a bound every image evades", "at least .95", f"{free:.3f}", free >= 0.95),
            Gate("twice the steps change nothing", "the interval of the difference holds 0",
                 f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]", change.low <= 0 <= change.high),
            Gate("dead gradients", "at most 1 %", f"{dead:.2%}", dead <= 0.01),
            Gate("finite differences agree with the gradient", "median relative error at most 0.2", f"{wrong:.3f}",
                 wrong <= 0.2),
            Gate("five passes agree", "to 1e-6 of the score", f"{spread:.2g}", spread <= 1e-6),
            Gate("the suite breaks what is known to break", f"success at least {BROKEN:g}",
                 "no control was given" if self.control is None else f"{broken:.3f}",
                 None if self.control is None else broken >= BROKEN),
        ]  # fmt: skip

    def control_success(self, control: Monitor, joint: Assault) -> float:
        """How many images get past the monitor that is known to break, by either of two losses: one that makes the
        network barely wrong, and one that makes it sure."""
        cells = [
            self.cell(
                replace(joint, loss=loss, steps=2 * joint.steps), self.epsilons[-1], control, told=f"control, {loss}"
            )
            for loss in ("hinge", "cross_entropy")
        ]
        evaded = torch.stack([cell.evaded(SHARES[0]) for cell in cells]).any(0)
        return float(evaded.sum()) / max(1, int(cells[0].silent.sum()))

    def finite_differences(self, step: float = 2e-3) -> float:
        """The median, over up to 8 images, of the relative error of the score's slope along its gradient's sign."""
        errors = []
        for image in torch.split(self.images[:8], 1):
            leaf = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.monitor.score(leaf).sum(), leaf)
            sign = gradient.sign()
            with torch.no_grad():
                up, down = (self.monitor.score(image + way * step * sign).double() for way in (1, -1))
            slope = float((up - down) / (2 * step))
            told = float(gradient.abs().double().sum())
            errors.append(abs(slope - told) / max(abs(slope), told, 1e-12) if told or slope else 1.0)
        return sorted(errors)[len(errors) // 2]

    @torch.no_grad()
    def repeatability(self) -> float:
        """The largest difference between five scores of one batch, over the scores' size."""
        scores = torch.stack([self.monitor.score(self.images[: self.batch_size]).double() for _ in range(5)])
        return float((scores.amax(0) - scores.amin(0)).max() / scores.abs().max().clamp_min(1e-12))


def rate_of(hits: Bool[Tensor, " n"], among: Bool[Tensor, " n"]) -> dict[str, Any]:
    """How many of how many, with the 95 % Clopper-Pearson interval; the rate is 0 where there are none."""
    count, of = int((hits & among).sum()), int(among.sum())
    interval = list(rate_interval(count, of)) if of else [0.0, 1.0]
    return {"hits": count, "images": of, "rate": count / of if of else 0.0, "interval": interval}


def digest(images: Images) -> str:
    return hashlib.sha256(images.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
