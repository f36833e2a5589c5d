"""What hardening costs and what it brings: networks of several settings, measured on clean images and under attack.

The cost is in mIoU (accuracy for classifiers, agreement with the original where there are no labels) against the better
of the original and the control. Settings are chosen on images that nothing is reported on; the chosen network gets
monitors of its own, one of which takes a random look, and a suite of attackers who know everything but its secret.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.attacks.engine import Attack
from inlier.attacks.hardening import Hardening, Pool, blended, fine_tuned
from inlier.attacks.joint import WAYS, attack_monitor, limit_of
from inlier.attacks.objectives import cross_entropy, share_changed
from inlier.attacks.recipes import pgd
from inlier.attacks.surrogates import hinge
from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.config import from_keywords
from inlier.cross_fitting import Blocks
from inlier.datasets.labels import translation
from inlier.datasets.load import open_images
from inlier.detectors.random_look import RandomLook
from inlier.detectors.spec import DetectorSpec
from inlier.evaluation.assaults import LOSSES, SHARES, Assault, rate_of
from inlier.evaluation.gates import least_decided
from inlier.evaluation.gathered import placed
from inlier.evaluation.hardening_gates import hardening_gates
from inlier.evaluation.intervals import Interval, bootstrap
from inlier.evaluation.metrics import changed_share, overlaps, pooled_mean_iou, rate_interval
from inlier.evaluation.stress import suite
from inlier.evaluation.workplace import Workplace
from inlier.images import Batch, ImageSource, LabelledSource, TensorImages, evenly
from inlier.monitor import DEFAULT, Monitor
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.registry import nearest
from inlier.types import Images, Progress

__all__ = ["ATTACKERS", "HardeningExperiment", "Quality", "changed", "cost", "quality", "spread", "translated"]

ATTACK_STEPS = 20
"""Of an attack on a network alone."""
NEIGHBOURS = 10
"""Images that are drawn together for the interval of a cost."""
LOOKING = "random look"
MONITORS = ("default", LOOKING)
LOOKING_DETECTORS = (*DEFAULT, RandomLook.name)
Measure: TypeAlias = Literal["miou", "accuracy", "agreement"]


ATTACKERS: Mapping[str, Assault] = {one.name: one for one in suite("standard")}
"""Those of a stress test who have gradients, by name."""


# --- a network alone -------------------------------------------------------------------------------------------------


def translated(source: ImageSource, backbone: Backbone) -> Tensor | None:
    """The network's output for each label of a source that has any."""
    if not (isinstance(source, LabelledSource) and source.classes):
        return None
    return translation(source.classes, backbone.task.classes)


@dataclass(frozen=True, eq=False)
class Quality:
    """How good networks are on the same images.

    Args:
        measure: `miou` or `accuracy`; where there are no labels, `agreement` with the first network.
        by_image: of each network, pixels of intersection and union (n, 2, classes) for `miou`, else the share of each
            image's prediction that is right (n,).
        groups: of the images.
    """

    measure: Measure
    by_image: Mapping[str, Tensor]
    groups: tuple[str, ...]

    @property
    def images(self) -> int:
        """How many."""
        return len(self.groups)

    @property
    def values(self) -> dict[str, float]:
        """Of each network, in [0, 1]."""
        return {name: goodness(part[None]).item() for name, part in self.by_image.items()}


def goodness(by_image: Tensor) -> Tensor:
    """(r,) mIoU of counts (r, n, 2, classes), or mean of shares (r, n), of r resamples of n images."""
    return by_image.double().nanmean(1) if by_image.ndim == 2 else pooled_mean_iou(by_image)


@torch.no_grad()
def quality(
    backbones: Mapping[str, Backbone], source: ImageSource, *, batch_size: int = 4, progress: Progress | None = None
) -> Quality:
    """How good networks are on the same images: their mIoU or accuracy, or agreement with the first where there are no
    labels."""
    first = next(iter(backbones.values()))
    task, translate = first.task, translated(source, first)
    found: dict[str, list[Tensor]] = {name: [] for name in backbones}
    groups: list[str] = []
    for batch in source.batches(batch_size):
        groups += batch.groups
        images = batch.images.to(first.mean.device)
        labels = None if translate is None or batch.labels is None else translate[batch.labels]
        reference = first.predict(images) if labels is None else labels.to(images.device)
        valid = torch.ones_like(reference, dtype=torch.bool)
        if labels is not None and task.void is not None:
            valid = reference != task.void
        for name, backbone in backbones.items():
            predicted = backbone.predict(images)
            if labels is None or not task.is_dense:
                part = 1 - changed_share(predicted, reference, valid)
            else:
                part = overlaps(predicted, reference, len(task.classes), valid)
                if task.void is not None and 0 <= task.void < len(task.classes):
                    part[..., task.void] = 0  # no class, even where the network predicts it
            found[name].append(part.cpu())
        if progress is not None:
            progress("clean images", len(groups), max(len(groups), len(source)))
    measure: Measure = "agreement" if translate is None else "miou" if task.is_dense else "accuracy"
    return Quality(measure, {name: torch.cat(parts) for name, parts in found.items()}, tuple(groups))


def cost(by_image: Mapping[str, Tensor], control: str, tuned: str, groups: Sequence[str]) -> Interval:
    """How much worse a tuned network is than the better of `original` and its control.

    Args:
        by_image: as in `Quality`.
        control, tuned: names in there.
        groups: of the images.

    Returns:
        With the 95 % bootstrap interval over runs of `NEIGHBOURS` images of a group.
    """

    def lost(*parts: Tensor) -> Tensor:
        first, second, third = map(goodness, parts)
        return torch.maximum(first, second) - third

    networks = (by_image["original"], by_image[control], by_image[tuned])
    return bootstrap(lost, *networks, groups=[groups], paired=True, block_length=NEIGHBOURS)


def changed(
    backbone: Backbone,
    images: Images,
    epsilons: Sequence[float],
    *,
    steps: int = ATTACK_STEPS,
    batch_size: int = 4,
    progress: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """What PGD on the network alone makes of its predictions, by eps: the worse of two losses, image by image.

    Args:
        epsilons: radii of Linf balls, in units of [0, 1].
        progress: called after each batch of each eps.

    Returns:
        For every eps `eps`, `damage` (the mean share of the prediction that changed) and the shares of images of which
        at least 30 % and 50 % did.
    """
    probe, rows = Probe(backbone), []
    for eps in epsilons:
        attack: Attack = replace(pgd(eps, steps=steps), start="clean")
        worst = []
        for part in torch.split(images, batch_size):
            ends = []
            for loss in (hinge(), cross_entropy):
                result = attack(probe, part, loss, better=share_changed)
                with torch.no_grad():
                    ends.append(result.damage_of(backbone.predict(result.to_8_bit())))
            worst.append(torch.stack(ends).amax(0).double().cpu())
            if progress is not None:
                progress()
        damage = torch.cat(worst)
        row = {"eps": eps, "damage": damage.mean().item()}
        rows.append(row | {f"changed_{q:g}": (damage >= q).double().mean().item() for q in SHARES})
    return rows


# --- the experiment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A network of the frontier: weights `share` of the way from the original's to those of a setting."""

    setting: str
    share: float

    @property
    def name(self) -> str:
        """For tables and files."""
        return self.setting if self.share == 1 else f"{self.setting}, {100 * self.share:g} % of the way"


@dataclass(frozen=True)
class HardeningExperiment:
    """Settings of hardening on a frontier, one of them chosen and tried in earnest.

    Args:
        title: of the page.
        backbone: what `load_backbone` takes. In all texts `{data}` stands for the folder of data.
        train: images to fine-tune on and to fit monitors to, as `open_images` takes them.
        choose: those that the setting is chosen on.
        test: those that are reported on.
        settings: tables of `name` and keyword arguments of `Hardening`; `grey_levels` gives its eps in 1/255, and
            `shares` how far of the way from the original's weights the results lie, several for one fine-tune.
        grey_levels: radii of the Linf balls of the attackers, in 1/255.
        most_cost: of mIoU (accuracy, agreement). No setting is chosen whose cost may be more, by the upper end of its
            interval on `choose`.
        detectors: of the monitor with the random look, `random_look` among them; all are asked at every image. By
            default those of the default monitor, which is tried, too.
        false_alarm_rate: nominal, of every monitor.
        blocks: what stays together when monitors are calibrated, see `Monitor.calibrate`: from 3 drives on, `auto` sets
            thresholds for drives of which there are no images, a number of neighbours for others of the same.
        choose_images: so many of `choose` are attacked, spread evenly; the cost is that on all of them.
        choose_steps: of that attack, on the network alone.
        test_images: so many of `test` are attacked, spread evenly.
        attackers: names of `ATTACKERS`; by default all.
        default_attackers: of the attackers who know a monitor, those that are run on the default; by default all. All
            are run on the random look.
        attack_steps: of each of these.
        draws: of a random look under a secret of their own, over which attackers average at each step.
        many_draws: so many are tried too, by one attacker of the chosen network at the eps in the middle, to see
            whether `draws` were too few; with 0 that is not tried.
        judged: secrets of the random look, over which success is averaged.
        also: further networks that the suite is run on: `original`, `control` (the chosen setting's), or any other of
            the frontier, such as `strong, 50 % of the way`.
        also_attackers: of the attackers, those that are run on these; by default all.
        batch_size: images at a time.
        seed: of attackers and looks.

    Raises:
        ValueError, LookupError: settings that cannot be.
    """

    title: str
    backbone: str
    train: str
    choose: str
    test: str
    settings: Sequence[Mapping[str, Any]]
    grey_levels: Sequence[float] = (1, 2.5, 4)
    most_cost: float = 0.03
    detectors: str | Sequence[str] = LOOKING_DETECTORS
    false_alarm_rate: float = 0.05
    blocks: Blocks = "auto"
    choose_images: int = 8
    choose_steps: int = 20
    test_images: int = 8
    attackers: Sequence[str] = ()
    default_attackers: Sequence[str] = ()
    attack_steps: int = 50
    draws: int = 2
    many_draws: int = 0
    judged: int = 10
    also: Sequence[str] = ("original", "control")
    also_attackers: Sequence[str] = ()
    batch_size: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        some = self.attackers or ATTACKERS
        for names, known in ((self.attackers, ATTACKERS), (self.default_attackers, some), (self.also_attackers, some)):
            for name in names:
                if name not in known:
                    raise LookupError(f"No attacker is named '{name}'. {nearest(name, list(known))}")
        if isinstance(self.detectors, str):
            object.__setattr__(self, "detectors", (self.detectors,))
        if RandomLook.name not in {DetectorSpec.parse(text).name for text in self.detectors}:
            raise ValueError(
                f"The monitor with the random look has '{RandomLook.name}' among its detectors, not only "
                f"{', '.join(self.detectors)}"
            )
        if self.blocks not in ("auto", "group") and not (isinstance(self.blocks, int) and self.blocks >= 1):
            raise ValueError(f"blocks is 'auto', 'group' or a number of images of at least 1, not {self.blocks!r}")
        if not self.settings or not self.grey_levels or min(self.grey_levels) <= 0:
            raise ValueError("Hardening is tried with settings, and with grey_levels above 0")
        networks = ["original", "control", *(one.name for one in self.candidates)]
        for name in self.also:
            if name not in networks:
                raise LookupError(f"The suite is not run on '{name}'. {nearest(name, networks)}")

    def recipes(self) -> dict[str, tuple[Hardening, tuple[float, ...]]]:
        """By name, how each network is fine-tuned, and the shares of the way.

        Raises:
            ValueError: a setting without a name, a name twice, or what `Hardening` refuses.
        """
        made: dict[str, tuple[Hardening, tuple[float, ...]]] = {}
        for number, given in enumerate(self.settings, start=1):
            table = dict(given)
            name, shares = str(table.pop("name", "")), tuple(table.pop("shares", (1.0,)))
            if not re.fullmatch(r"[\w .-]+", name) or name in made or name.split()[0] in ("original", "control"):
                raise ValueError(
                    f"Setting {number} needs a name of its own, of letters, digits, spaces, dots and dashes, "
                    f"not '{name}'"
                )
            if "grey_levels" in table:
                table["eps"] = table.pop("grey_levels") / 255
            if not shares or not all(0 < share <= 1 for share in shares):
                raise ValueError(f"Setting '{name}' has shares above 0 and up to 1, not {shares}")
            made[name] = (from_keywords(Hardening, table, f"setting '{name}'"), shares)
        return made

    @property
    def candidates(self) -> list[Candidate]:
        """The networks of the frontier that come of a setting."""
        return [Candidate(name, share) for name, (_, shares) in self.recipes().items() for share in shares]

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Carry it out, or go on with it, in the folder `out`; see `Experiment`."""
        started = time.perf_counter()
        work = _Work(self, Path(out), data, progress)
        frontier = work.frontier()
        chosen = work.choose(frontier)
        control = work.control_of(chosen.setting)
        names = [control if name == "control" else name for name in self.also]
        fewer = self.also_attackers or tuple(work.suite)
        tried = {name: work.tried(name, fewer) for name in dict.fromkeys(names) if name != chosen.name}
        whole = work.tried(chosen.name, tuple(work.suite))
        more = {"chance": work.chance(chosen.name), "twice": work.twice(chosen.name, whole["monitors"])}
        tried[chosen.name] = whole | more
        tested = work.tested(chosen)
        return {
            "title": self.title, "command": command, "config": asdict(self), "inlier": version("inlier"),
            "measure": tested["measure"], "images": work.counts, "frontier": frontier, "chosen": chosen.name,
            "tested": tested, "suite": list(work.suite), "tried": tried,
            "gates": hardening_gates(tried),
            "network": work.original.fingerprint(), "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 1), "notes": work.notes(frontier, chosen),
        }  # fmt: skip


class _Work:
    """The experiment at work in its folder."""

    def __init__(self, plan: HardeningExperiment, out: Path, data: Path | None, progress: Progress | None) -> None:
        self.plan, self.progress = plan, progress
        self.recipes = plan.recipes()
        self.epsilons = [level / 255 for level in sorted(plan.grey_levels)]
        self.suite = {name: one for name, one in ATTACKERS.items() if name in (plan.attackers or ATTACKERS)}
        self.original = load_backbone(placed(plan.backbone, data))
        # Faster on a CPU; the stubs of Module.to leave the argument out.
        self.original.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sources = {
            part: open_images(placed(text, data))
            for part, text in (("train", plan.train), ("choose", plan.choose), ("test", plan.test))
        }
        self.counts = {part: len(source) for part, source in self.sources.items()}
        settings = asdict(plan) | {"inlier": version("inlier"), "network": self.original.fingerprint()}
        self.place = Workplace(out, settings, "a hardening")
        self.pool: Pool | None = None
        self.made: dict[str, Backbone] = {"original": self.original}

    # --- networks -----------------------------------------------------------------------------------------------

    def network(self, name: str) -> Backbone:
        """The original, the control of the chosen setting's kind, a setting's, or one on the way to it."""
        if name not in self.made:
            setting, _, way = name.partition(", ")
            if way:
                share = float(way.partition(" ")[0]) / 100
                self.made[name] = blended(self.original, self.network(setting), share)
            else:
                how = self.controls[name] if name in self.controls else self.recipes[name][0]
                self.made[name] = self.tuned(name, how)
            self.made[name].network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.made[name]

    def tuned(self, name: str, how: Hardening) -> Backbone:
        if self.pool is None:
            source = self.sources["train"]
            self.pool = Pool.of(
                self.original, source, translate=translated(source, self.original), progress=self.progress
            )
        file = self.place.work / f"{name.replace(' ', '_')}.tuning.safetensors"
        return fine_tuned(self.original, self.pool, how, work=file, name=f"tuning, {name}", progress=self.progress)[0]

    @property
    def controls(self) -> dict[str, Hardening]:
        """By name, the controls, of which settings that differ in their attacker alone share one."""
        distinct = list(dict.fromkeys(how.control for how, _ in self.recipes.values()))
        return {f"control {number}" if number else "control": how for number, how in enumerate(distinct)}

    def control_of(self, setting: str) -> str:
        wanted = self.recipes[setting][0].control
        return next(name for name, how in self.controls.items() if how == wanted)

    # --- the frontier -------------------------------------------------------------------------------------------

    def frontier(self) -> list[dict[str, Any]]:
        """Every network on the images to choose on: what it costs, and what an attack on it alone changes."""
        some = spread(self.sources["choose"], self.plan.choose_images)
        rows, by_image = [], {}
        for name in ("original", *self.controls, *(candidate.name for candidate in self.plan.candidates)):
            tensors, row = self.place.part(f"frontier {name}", partial(self.measured, name, some))
            by_image[name] = tensors["by_image"]
            setting = name.partition(", ")[0]
            if setting in self.recipes:
                control = self.control_of(setting)
                found = cost(by_image, control, name, row["groups"])
                row |= {"control": control, "cost": found.value, "cost_interval": [found.low, found.high]}
            rows.append({key: value for key, value in row.items() if key != "groups"})
        return rows

    def measured(self, name: str, some: Images) -> tuple[dict[str, Tensor], dict[str, Any]]:
        network = self.network(name)
        source = self.sources["choose"]
        unlabelled = translated(source, self.original) is None  # then it is the original that others agree with
        compared = {"original": self.original} if unlabelled else {}
        found = quality(compared | {name: network}, source, progress=self.progress)
        done, parts = 0, -(-len(some) // self.plan.batch_size) * len(self.epsilons)

        def told() -> None:
            nonlocal done
            done += 1
            if self.progress is not None:
                self.progress(f"attacked, {name}", done, parts)

        rows = changed(
            network, some, self.epsilons, steps=self.plan.choose_steps, batch_size=self.plan.batch_size, progress=told
        )
        return {"by_image": found.by_image[name]}, {
            "name": name, "value": found.values[name], "groups": found.groups, "attacked": rows
        }  # fmt: skip

    def choose(self, frontier: Sequence[Mapping[str, Any]]) -> Candidate:
        """Among the settings whose cost is, by the upper end of its interval, no more than it may be, the one of which
        attacks change least; if there is none, the one that costs least."""
        rows = {row["name"]: row for row in frontier}

        def damage(candidate: Candidate) -> float:
            return sum(float(row["damage"]) for row in rows[candidate.name]["attacked"])

        cheap = [one for one in self.plan.candidates if rows[one.name]["cost_interval"][1] <= self.plan.most_cost]
        if cheap:
            return min(cheap, key=damage)
        return min(self.plan.candidates, key=lambda one: float(rows[one.name]["cost"]))

    def tested(self, chosen: Candidate) -> dict[str, Any]:
        """All networks on the clean images that are reported on."""
        names = ["original", *self.controls, *(candidate.name for candidate in self.plan.candidates)]

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            networks = {name: self.network(name) for name in names}
            found = quality(networks, self.sources["test"], progress=self.progress)
            costs = {
                one.name: cost(found.by_image, self.control_of(one.setting), one.name, found.groups)
                for one in self.plan.candidates
            }
            return {}, {
                "measure": found.measure, "images": found.images, "values": found.values,
                "costs": {name: each.value for name, each in costs.items()},
                "cost_intervals": {name: [each.low, each.high] for name, each in costs.items()},
            }  # fmt: skip

        told = self.place.part("clean test images", make)[1]
        return told | {
            "cost": told["costs"][chosen.name], "cost_interval": told["cost_intervals"][chosen.name],
            "control": self.control_of(chosen.setting),
        }  # fmt: skip

    # --- the suite ----------------------------------------------------------------------------------------------

    def tried(self, name: str, attackers: Sequence[str]) -> dict[str, Any]:
        """Monitors of a network under attackers of the suite: success image by image, over these, eps and draws."""
        images = spread(self.sources["test"], self.plan.test_images)
        fitted: dict[str, Monitor] = {}

        def monitor_of(kind: str) -> Monitor:
            if kind not in fitted:
                fitted[kind] = self.monitor(name, kind)
            return fitted[kind]

        def strike(one: str, kind: str, eps: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
            return self.struck(self.as_known(monitor_of(kind), self.plan.draws), images, one, eps, name)

        def judge(kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
            return {}, self.judged(monitor_of(kind), images, attacked, kind, self.plan.judged)

        attacked: dict[tuple[str, float], tuple[Tensor, Tensor]] = {}
        dead: dict[tuple[str, float], float] = {}
        for eps in self.epsilons:
            for kind in MONITORS:
                for one in attackers:
                    knows = WAYS[self.suite[one].way].knows
                    if kind != MONITORS[0] and not knows:
                        continue  # it is the same for all monitors
                    if kind == MONITORS[0] and knows and one not in (self.plan.default_attackers or attackers):
                        continue
                    label = f"{one}, on {kind}" if knows else one
                    part = f"{name} {label} {255 * eps:g}"
                    tensors, told = self.place.part(part, partial(strike, one, kind, eps))
                    attacked[label, eps] = tensors["images"], tensors["damage"]
                    dead[label, eps] = told["dead_gradients"]
        monitors = {kind: self.place.part(f"{name} judged {kind}", partial(judge, kind))[1] for kind in MONITORS}
        for judgement in monitors.values():
            for row in judgement["rows"]:
                row["dead_gradients"] = dead[row["attack"], row["eps"]]
        return {"monitors": monitors}

    def chance(self, name: str) -> dict[str, Any]:
        """What the chance in a random look is worth: at the eps in the middle, success of the first attacker who knows
        the monitor, with the look's secret known to him, and averaging over `many_draws`."""
        one = next((one for one, attacker in self.suite.items() if WAYS[attacker.way].knows), None)
        if one is None:
            return {}
        eps, images = self.epsilons[len(self.epsilons) // 2], spread(self.sources["test"], self.plan.test_images)

        def made(who: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
            monitor, draws = self.monitor(name, LOOKING), self.plan.many_draws
            known = under(monitor, self.victim(0)) if who == "secret" else self.as_known(monitor, draws)
            tensors, _ = self.struck(known, images, one, eps, f"{name}, {who}")
            attacked = {(one, eps): (tensors["images"], tensors["damage"])}
            judged = self.judged(monitor, images, attacked, LOOKING, 1 if who == "secret" else self.plan.judged)
            return {}, judged["rows"][0]["success_0.3"]

        whose = ["secret", "many"] if self.plan.many_draws else ["secret"]
        found = {who: self.place.part(f"{name} chance {who}", partial(made, who))[1] for who in whose}
        return {"attack": f"{one}, on {LOOKING}", "eps": eps, "many_draws": self.plan.many_draws, **found}

    def twice(self, name: str, judged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What twice the steps gain, by monitor: of the best of the attackers who know it, at the eps at which they
        all together are least decided."""
        images, steps = spread(self.sources["test"], self.plan.test_images), 2 * self.plan.attack_steps
        found = {}
        for kind, told in judged.items():
            eps = least_decided({row["eps"]: row["success_0.3"]["rate"] for row in told["worst"]})
            knowing = [row for row in told["rows"] if row["eps"] == eps and row["attack"].endswith(f", on {kind}")]
            if not knowing:
                continue
            best = max(knowing, key=lambda row: row["success_0.3"]["rate"])
            one = best["attack"].removesuffix(f", on {kind}")

            def made(kind: str = kind, one: str = one, eps: float = eps) -> tuple[dict[str, Tensor], dict[str, Any]]:
                monitor = self.monitor(name, kind)
                known = self.as_known(monitor, self.plan.draws)
                tensors, _ = self.struck(known, images, one, eps, f"{name}, twice the steps", steps)
                attacked = {(one, eps): (tensors["images"], tensors["damage"])}
                return {}, self.judged(monitor, images, attacked, kind, self.plan.judged)["rows"][0]["success_0.3"]

            after = self.place.part(f"{name} twice the steps on {kind} {one} {255 * eps:g}", made)[1]
            found[kind] = {"attack": best["attack"], "eps": eps, "before": best["success_0.3"], "after": after}
        return found

    def monitor(self, name: str, kind: str) -> Monitor:
        """Fitted and calibrated on clean images, of the network as it now is."""
        network = self.network(name)
        made = Monitor(network, None if kind == MONITORS[0] else list(self.plan.detectors), seed=self.plan.seed)
        made.fit(Unlabelled(self.sources["train"]), progress=self.progress)
        return made.calibrate(
            false_alarm_rate=self.plan.false_alarm_rate, blocks=self.plan.blocks, progress=self.progress
        )

    def struck(
        self, known: Monitor, images: Images, name: str, eps: float, network: str, steps: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What an attacker makes of the images with what he knows of the monitor, in the plan's steps or in others: the
        images in 8 bit, the damage, and the share of dead gradients."""
        one = self.suite[name]
        ends, damage, dead = [], [], []
        for start, part in enumerate(torch.split(images, self.plan.batch_size)):
            made = attack_monitor(
                known, part, eps, way=one.way, loss=LOSSES[one.loss], steps=steps or self.plan.attack_steps,
                weight=one.weight, seed=self.plan.seed + start,
            )  # fmt: skip
            ends.append((made.images * 255).round().byte())
            damage.append(made.damage.double())
            dead.append(made.result.dead_gradients)
            if self.progress is not None:
                done = min(len(images), (start + 1) * self.plan.batch_size)
                self.progress(f"{network}: {name}, eps {255 * eps:g}/255", done, len(images))
        return {"images": torch.cat(ends), "damage": torch.cat(damage)}, {"dead_gradients": sum(dead) / len(dead)}

    def as_known(self, monitor: Monitor, draws: int) -> Monitor:
        """The monitor with a secret of the attacker's, of whose looks he averages so many at every step."""
        return under(monitor, f"attacker {self.plan.seed}", draws)

    def victim(self, number: int) -> str:
        """A secret that a random look is asked under."""
        return f"victim {self.plan.seed} {number}"

    @torch.no_grad()
    def judged(
        self,
        monitor: Monitor,
        images: Images,
        attacked: Mapping[tuple[str, float], tuple[Tensor, Tensor]],
        kind: str,
        secrets: int,
    ) -> dict[str, Any]:
        """Success of every attacker and of the worst, image by image, against one monitor; a random one under so many
        secrets."""
        count = secrets if kind == LOOKING else 1
        asked = [under(monitor, self.victim(number)) for number in range(count)]
        limit = limit_of(monitor)

        def scores(pictures: Images) -> Tensor:
            parts = torch.split(pictures, self.plan.batch_size)
            return torch.stack([torch.cat([one.score(part) for part in parts]) for one in asked]).double()

        silent = scores(to_8_bit(images)) <= limit
        evaded: dict[tuple[str, float, float], Bool[Tensor, "draws n"]] = {}
        rows = []
        for (label, eps), (pixels, damage) in attacked.items():
            after = scores(pixels.float() / 255) <= limit
            row: dict[str, Any] = {"attack": label, "eps": eps, "damage": damage.mean().item()}
            for share in SHARES:
                evaded[label, eps, share] = silent & after & (damage >= share)
                row[f"success_{share:g}"] = over_draws(evaded[label, eps, share], silent)
            rows.append(row)
        worst = []
        for eps in dict.fromkeys(eps for _, eps in attacked):
            row = {"eps": eps}
            for share in SHARES:
                hits = torch.stack([hit for (_, e, q), hit in evaded.items() if (e, q) == (eps, share)]).any(0)
                row[f"success_{share:g}"] = over_draws(hits, silent)
            worst.append(row)
        clean = torch.cat([monitor.score(batch.images) for batch in self.sources["test"].batches(self.plan.batch_size)])
        flagged = clean.double() > limit
        return {
            "rows": rows, "worst": worst, "passes": monitor.passes,
            "false_alarms": rate_of(flagged, torch.ones_like(flagged)),
        }  # fmt: skip

    def notes(self, frontier: Sequence[Mapping[str, Any]], chosen: Candidate) -> list[str]:
        interval = next(row["cost_interval"] for row in frontier if row["name"] == chosen.name)
        if interval[1] <= self.plan.most_cost:
            return []
        return [
            f"Of no setting it is sure that it costs at most {100 * self.plan.most_cost:g} points on the images to "
            "choose on; the one that costs least there was taken."
        ]


def under(monitor: Monitor, secret: str, draws: int = 1) -> Monitor:
    """The monitor with another secret of its random look, of which it averages some draws; or itself if it has none."""
    if not any(isinstance(detector, RandomLook) for detector in monitor.detectors.values()):
        return monitor
    other = copy.deepcopy(monitor)
    for detector in other.detectors.values():
        if isinstance(detector, RandomLook):
            detector.keep(secret.encode(), draws)
    return other


class Unlabelled:
    """A source without its labels, which monitors do not ask for."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, size: int) -> Any:
        """Batches of at most `size` images."""
        for batch in self.source.batches(size):
            yield Batch(batch.images, batch.names, batch.groups)


def spread(source: ImageSource, count: int) -> Images:
    """So many images, spread evenly.

    Raises:
        ValueError: they are of several sizes.
    """
    wanted = set(evenly(len(source), count))
    images = [batch.images for number, batch in enumerate(source.batches(1)) if number in wanted]
    sizes = sorted({tuple(image.shape[1:]) for image in images})
    if len(sizes) > 1:
        raise ValueError(f"Images that are attacked together are of one size, not {sizes[:3]}")
    return TensorImages(torch.cat(images)).images


def over_draws(hits: Bool[Tensor, "draws n"], among: Bool[Tensor, "draws n"]) -> dict[str, Any]:
    """How many of how many: mean over the draws, with the 95 % Clopper-Pearson interval of the rounded counts."""
    count, of = hits.double().sum(1).mean().item(), among.double().sum(1).mean().item()
    whole, images = round(count), round(of)
    interval = list(rate_interval(min(whole, images), images)) if images else [0.0, 1.0]
    return {"hits": whole, "images": images, "rate": count / of if of else 0.0, "interval": interval}
