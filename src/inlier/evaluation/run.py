"""An evaluation at work: every set of images is made and read once, monitors are fitted to readings and score readings.

What is finished lies in `work/` of the folder: a file for each set and network, and one for each monitor and seed. An
evaluation that was killed goes on with what is missing, and ends with the same record. 8-bit files are what monitors
get to see, so every changed image is rounded to 8 bit before anybody looks at it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.attacks.objectives import most_likely
from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.datasets.labels import label_map, translation
from inlier.datasets.names import natural
from inlier.errors import Mismatch
from inlier.evaluation.changes import CLEAN, Change, ChangePlan, Ground, OtherImages, plans_of
from inlier.evaluation.cost import count_operations, count_parameters, milliseconds, overhead
from inlier.evaluation.defects import DEFECTS
from inlier.evaluation.gates import SLOPES, Gate, monitor_gates, slope_gate
from inlier.evaluation.gathered import DATA, gather_images, placed
from inlier.evaluation.pictures import changed_mask, class_picture, difference_picture, palette, photograph
from inlier.evaluation.record import MonitorEntry, Record, SetEntry
from inlier.evaluation.seen import Damage, Gatherer, SeenSet, small
from inlier.evaluation.study import PAPER, MonitorPlan, Study
from inlier.evaluation.together import Part, Together
from inlier.evaluation.workplace import Workplace
from inlier.files import PRIVATE, read_tensors, write_bytes, write_tensors
from inlier.images import Batch, ImageSource
from inlier.monitor import Monitor
from inlier.observation import Readings
from inlier.origin import AbsentBackbone, Origin
from inlier.perturbations.base import to_8_bit
from inlier.perturbations.tolerance import Tolerating, tolerated
from inlier.readers import SampledActivations
from inlier.registry import nearest
from inlier.sampling import SamplingKey
from inlier.types import Images, LabelMaps, Progress

__all__ = ["Evaluated", "Evaluation"]

FIT = "fit"
THUMBNAIL, PICTURE = 200, 320
"""Widths of pictures, in pixels."""
STRONGEST = 48
"""Activations in the figure of coactivations."""


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What an evaluation came to, before it is summed up.

    Args:
        record: values of single images.
        network, fitted_to: what results say of the network and of the images of the fit, as JSON values.
        seconds: by phase.
        notes: what a reader must know, such as what was left out.
        coactivation: by set, differences of the first image's coactivations to those of the unchanged image.
    """

    record: Record
    network: Mapping[str, Any]
    fitted_to: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: Sequence[str]
    coactivation: Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Seat:
    """A monitor under one of its seeds."""

    plan: MonitorPlan
    seed: int

    @property
    def name(self) -> str:
        return f"{self.plan.name}@{self.seed}"


class Watch:
    """A network and the monitors on it: one forward pass an image for all of them."""

    def __init__(self, name: str, backbone: Backbone, monitors: Mapping[Seat, Monitor]) -> None:
        self.name = name
        self.backbone = backbone
        self.monitors = dict(monitors)
        self.together = Together(backbone, {seat.name: monitor for seat, monitor in monitors.items()})
        self._parties: dict[tuple[str, ...], Together] = {}

    def seats(self, entry: SetEntry) -> list[Seat]:
        """Who is shown a set."""
        return [seat for seat in self.monitors if is_shown(seat.plan.shown, entry)]

    def party(self, entry: SetEntry) -> Together:
        """Those who are shown a set, and nobody else, since a look that nobody needs costs time."""
        return self.some(tuple(self.seats(entry)))

    def pupils(self, tolerate: tuple[str, ...]) -> Together:
        """Those who are shown the images of the fit, with copies that show what is tolerated."""
        return self.some(tuple(seat for seat in self.monitors if self.learns(seat) and seat.plan.tolerated == tolerate))

    def learns(self, seat: Seat) -> bool:
        """Whether a monitor learns from the images of the fit: in its detectors, or a threshold."""
        return seat.plan.threshold or any(bool(each.learns) for each in self.monitors[seat].detectors.values())

    def some(self, seats: tuple[Seat, ...]) -> Together:
        """Some of the monitors, which need one pass and no more than their own looks."""
        if len(seats) == len(self.monitors):
            return self.together
        names = tuple(seat.name for seat in seats)
        if names not in self._parties:
            self._parties[names] = Together(self.backbone, {seat.name: self.monitors[seat] for seat in seats})
        return self._parties[names]


class Evaluation:
    """A study at work in a folder.

    Args:
        study: what is tried on what.
        out: the folder.
        data: what `{data}` stands for.
        only: names of monitors, sets or changes: of those that are named only these; clean images always.
        progress: told of every batch and fit.

    Raises:
        Mismatch: the folder is of another study, or something else is in it.
        LookupError: `only` names what there is not.
    """

    def __init__(
        self,
        study: Study,
        out: str | Path,
        *,
        data: str | Path | None = None,
        only: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> None:
        self.study = study
        self.out = Path(out)
        self.work = self.out / "work"
        self.data = None if data is None else Path(data)
        self.progress = progress
        self.notes: list[str] = []
        self._keys: dict[int, list[SamplingKey]] = {}
        self.changes = plans_of(study.changes)
        self.plans = list(study.plans)
        there = {name for plan in self.changes for name in (plan.entry.name, plan.entry.change)}
        for table in study.published:
            if table["of"] not in there:
                raise LookupError(f"Published numbers are of '{table['of']}'. {nearest(table['of'], sorted(there))}")
        self.restrict(only)
        backbone = load_backbone(placed(study.backbone, self.data), classes=study.classes).to(study.device)
        self.backbone = backbone
        self.check_settings()
        self.seconds = self.seconds_before()
        self.clean = gather_images(study.clean, self.data, most=study.images)
        first = next(iter(self.clean.batches(1)), None)
        if first is None:
            raise ValueError("There are no clean images to evaluate on")
        self.size = (first.images.shape[-2], first.images.shape[-1])
        self.channels = first.images.shape[1]
        self.fit_images = gather_images(
            study.fit, self.data, most=study.fit_images, labelled=False, channels=self.channels
        )
        self.translate = self.label_table()
        self.ground = Ground(
            backbone, self.size, self.channels, self.fit_images, self.data, self.work, study.seeds[0], progress,
            self.attackable,
        )  # fmt: skip

    # --- what is tried ------------------------------------------------------------------------------------------

    def restrict(self, only: Sequence[str]) -> None:
        monitors = {plan.name for plan in self.plans}
        sets = {name for plan in self.changes for name in (plan.entry.name, plan.entry.change)}
        for name in only:
            if name not in monitors | sets:
                raise LookupError(f"--only names '{name}', and there is no monitor, set or change of this name")
        if monitors & set(only):
            self.plans = [plan for plan in self.plans if plan.name in only]
        if sets & set(only):
            self.changes = [plan for plan in self.changes if plan.entry.name in only or plan.entry.change in only]

    def check_settings(self) -> None:
        """Write down what this study is, or compare with what the folder is of."""
        told = asdict(self.study) | {"inlier": version("inlier"), "network": self.backbone.fingerprint()}
        Workplace(self.out, told, "an evaluation", "work/study.json")

    def label_table(self) -> Tensor | None:
        """The network's class of each label of the clean images; None where they have none that it knows."""
        if not self.clean.classes:
            return None
        try:
            return translation(self.clean.classes, self.backbone.task.classes)
        except ValueError as error:
            self.notes.append(f"The labels of the clean images are not used: {error}")
            return None

    @cached_property
    def watches(self) -> list[Watch]:
        """The study's network first, with its monitors built; others with theirs."""
        backbones: dict[str, Backbone] = {"": self.backbone}
        origins = {"": self.origin_of(self.backbone)}
        monitors: dict[str, dict[Seat, Monitor]] = {"": {}}
        for done, plan in enumerate(self.plans):
            key = " ".join([plan.backbone or "", *plan.defects]).strip()
            if key not in backbones:
                try:
                    backbones[key] = self.backbone_of(plan)
                except FileNotFoundError as error:
                    told = str(error) if self.data is None else str(error).replace(str(self.data), DATA)
                    self.note(f"The monitor '{plan.label or plan.name}' is left out: {told}")
                    continue
                origins[key] = self.origin_of(backbones[key])
            monitors.setdefault(key, {}).update(self.seats(plan, origins[key]))
            self.tell("building monitors", done + 1, len(self.plans))
        return [Watch(key, backbones[key], monitors[key]) for key in monitors]

    def origin_of(self, backbone: Backbone) -> Origin:
        """What monitors must know of a network; found out once for all of them."""
        return Origin.of(backbone, Anatomy.of(backbone, self.size, self.channels), ())

    def backbone_of(self, plan: MonitorPlan) -> Backbone:
        text = plan.backbone or self.study.backbone
        backbone = load_backbone(placed(text, self.data), classes=self.study.classes)
        for defect in plan.defects:
            backbone = DEFECTS[defect](backbone)
        return backbone.to(self.study.device)

    def seats(self, plan: MonitorPlan, origin: Origin) -> dict[Seat, Monitor]:
        """A built monitor for each seed that matters."""
        seeds = list(plan.seeds or self.study.seeds)
        first = self.built(plan, origin, seeds[0])
        if plan.seeds is None and plan.fit_images is None and not is_keyed(first):
            seeds = seeds[:1]
        made = {Seat(plan, seeds[0]): first}
        return made | {Seat(plan, seed): self.built(plan, origin, seed) for seed in seeds[1:]}

    def built(self, plan: MonitorPlan, origin: Origin, seed: int) -> Monitor:
        """A monitor to be fitted to readings, without the network."""
        drawn = self._keys.setdefault(seed, [])
        # To draw a key takes long, and monitors of one seed that want the same kind of key draw the same one.
        for key in [*drawn, None]:
            monitor = Monitor(
                AbsentBackbone(origin), plan.specs, fusion=plan.fusion, escalate=plan.escalate, key=key, seed=seed
            )
            try:
                monitor.build(origin.size, origin.channels)
                break
            except Mismatch:
                if key is None:
                    raise
        if key is None and monitor.keys.key is not None:
            drawn.append(monitor.keys.key)
        return monitor

    def attackable(self, name: str) -> Monitor:
        """A monitor on the study's own network, under its first seed, as it is judged but with the network in it.

        Raises:
            LookupError: there is no such monitor, or it is on another network.
            ValueError: it has no threshold.
        """
        watch = self.watches[0]
        seats = {seat.plan.name: seat for seat in reversed(watch.monitors)}
        if watch.name or name not in seats:
            raise LookupError(f"No monitor '{name}' on the study's own network to attack. {nearest(name, list(seats))}")
        seat, plan = seats[name], seats[name].plan
        if not plan.threshold:
            raise ValueError(f"The monitor '{name}' has threshold = false: whether it raises an alarm cannot be known")
        key = self.built(plan, watch.together.needs[seat.name].origin, seat.seed).keys.key
        monitor = Monitor(
            self.backbone, plan.specs, fusion=plan.fusion, escalate=plan.escalate, key=key, seed=seat.seed
        )
        if watch.learns(seat):
            monitor.fit(self.fit_readings(watch, seat), progress=self.named(plan.name))
        return self.calibrated(monitor, plan).to(self.study.device)

    def gates(self, name: str) -> list[Gate]:
        """What must be true of a monitor if its figures under attack are to mean anything; see `gates`.

        Args:
            name: of a monitor on the study's own network, with a threshold; of another nothing is checked.
        """
        seats = [seat for seat in self.watches[0].monitors if seat.plan.name == name]
        if self.watches[0].name or not seats or not seats[0].plan.threshold:
            return []
        monitor = self.attackable(name)
        images = torch.cat([batch.images for batch, _ in zip(self.clean.batches(1), range(SLOPES), strict=False)])
        shown = self.there(images, self.watches[0])
        return [slope_gate(monitor, shown), *monitor_gates(monitor, shown[: self.study.batch_size])]

    def fit_readings(self, watch: Watch, seat: Seat) -> Readings:
        """What a monitor is fitted to: all of the fit, or as many as it is to have, which its seed draws."""
        readings, most = self.readings(watch, seat, fit_with(seat.plan.tolerated)), seat.plan.fit_images
        if most is None or most >= len(readings):
            return readings
        return readings.subset(torch.tensor(one_of_each_part(len(readings), most, seat.seed)))

    # --- the work -----------------------------------------------------------------------------------------------

    def run(self) -> Evaluated:
        """Work out what is missing."""
        with self.timed("building monitors"):
            watches = self.watches
        for watch in watches:
            with self.timed("clean images"):
                for tolerate in dict.fromkeys([(), *(seat.plan.tolerated for seat in watch.monitors)]):
                    self.see_fit(watch, tolerate)
                self.see_clean(watch, watch is watches[0])
        for plan in self.changes:
            with self.timed(f"set {plan.entry.name}"):
                self.see_set(plan)
        results: dict[Seat, tuple[dict[str, Tensor], dict[str, Any]]] = {}
        jobs = [(watch, seat) for watch in watches for seat in watch.monitors]
        for done, (watch, seat) in enumerate(jobs):
            with self.timed(f"monitor {seat.plan.name}"):
                results[seat] = self.judged(watch, seat)
            self.tell("monitors", done + 1, len(jobs))
        record = self.record(results)
        with self.timed("figures"):
            coactivation = self.coactivation() if self.study.coactivation else {}
        return Evaluated(record, self.network(), self.fitted_to(), self.seconds, self.notes, coactivation)

    def see_fit(self, watch: Watch, tolerate: tuple[str, ...]) -> None:
        file, party = self.file(fit_with(tolerate), watch), watch.pupils(tolerate)
        plain = not tolerate and watch.name == ""  # these are read in any case, since results tell of them
        if SeenSet.holds(file, party.wanted(list(party.names))) or not (party.names or plain):
            return
        shown: ImageSource = self.fit_images
        if tolerate:
            shown = Tolerating(shown, tolerated(tolerate), seed=self.study.seeds[0])
        gatherer = Gatherer()
        for batch in shown.batches(self.study.batch_size):
            gatherer.add(batch, party.values(party(self.there(batch.images, watch))) if party.names else {})
            self.tell(f"reading images of the fit{at(watch)}", len(gatherer.names), len(shown))
        seen = gatherer.seen()
        # Of several folders: frames of one drive together, and in their order, for blocks of neighbours are cut.
        first = {group: place for place, group in reversed(list(enumerate(seen.groups)))}
        order = sorted(range(len(seen.names)), key=lambda i: (first[seen.groups[i]], natural(seen.names[i])))
        SeenSet(
            tuple(seen.names[i] for i in order),
            tuple(seen.groups[i] for i in order),
            {name: value[torch.tensor(order)] for name, value in seen.values.items()},
        ).save(file)

    def see_clean(self, watch: Watch, ours: bool) -> None:
        file = self.file(CLEAN, watch)
        wanted = watch.together.wanted([seat.name for seat in watch.monitors])
        wanted |= {Damage.PREDICTED, *Damage.VALUES} if ours else set()
        if SeenSet.holds(file, wanted):
            return
        gatherer, damage = Gatherer(), Damage(watch.backbone.task)
        for batch in self.clean.batches(self.study.batch_size):
            self.check_size(batch)
            values = self.looked(watch.together, batch.images, watch)
            if ours:
                predicted = values[Damage.PREDICTED]
                values |= damage.values(batch.images, predicted.long(), self.labels(batch))
            else:
                del values[Damage.PREDICTED]
            gatherer.add(batch, values)
            self.tell(f"clean images{at(watch)}", len(gatherer.names), len(self.clean))
        gatherer.seen(damage.whole() if ours else None).save(file)

    def see_set(self, plan: ChangePlan | OtherImages) -> None:
        """Make and show a set to every network whose monitors are shown it, and to the study's own in any case."""
        missing = [
            watch
            for number, watch in enumerate(self.watches)
            if (number == 0 or watch.seats(plan.entry))
            and not SeenSet.holds(self.file(plan.entry.name, watch), self.wanted(plan, watch))
        ]
        if not missing:
            return
        gatherers = {watch.name: Gatherer() for watch in missing}
        damage = Damage(self.backbone.task)
        if isinstance(plan, OtherImages):
            source = gather_images(
                plan.source, self.data, most=self.study.images, size=self.size, labelled=False, channels=self.channels
            )
            change = None
        else:
            source, change = self.clean, plan.change(self.ground)
        done = 0
        for batch in source.batches(self.study.batch_size):
            if change is None:
                shown = batch.images
            else:
                shown = to_8_bit(change.make(self.there(batch.images, self.watches[0]), batch.names)).to(batch.images)
            for watch in missing:
                values = self.looked(watch.party(plan.entry), shown, watch)
                predicted = values.pop(Damage.PREDICTED).long()
                if watch.name == "":
                    values |= self.damaged(damage, batch, shown, predicted, change, done)
                gatherers[watch.name].add(batch, values)
            done += len(batch.names)
            self.tell(f"set {plan.entry.name}", done, len(source))
        for watch in missing:
            whole = damage.whole() if watch.name == "" else None
            gatherers[watch.name].seen(whole).save(self.file(plan.entry.name, watch))

    def damaged(
        self, damage: Damage, batch: Batch, shown: Images, predicted: LabelMaps, change: Change | None, start: int
    ) -> dict[str, Tensor]:
        if change is None:
            return damage.values(shown, predicted, None)
        clean = self.clean_seen
        part = slice(start, start + len(batch.names))
        if clean.names[part] != batch.names:
            raise Mismatch("The clean images are no longer those that were looked at first: begin in another folder")
        before, labels = clean.values[Damage.PREDICTED][part].long(), self.labels(batch)
        if before.ndim == 3:
            before = change.move(before, batch.names)
            labels = None if labels is None else change.move(labels, batch.names)
        return damage.values(shown, predicted, labels, (batch.images, before))

    @torch.no_grad()
    def looked(self, together: Together, images: Images, watch: Watch) -> dict[str, Tensor]:
        """What the monitors need of images, and the prediction, in one pass."""
        observation = together(self.there(images, watch))
        values = together.values(observation)
        classes = len(watch.backbone.task.classes)
        return values | {Damage.PREDICTED: small(most_likely(observation.output), classes).cpu()}

    def wanted(self, plan: ChangePlan | OtherImages, watch: Watch) -> set[str]:
        wanted = watch.together.wanted([seat.name for seat in watch.seats(plan.entry)])
        if watch.name == "":
            wanted |= set(Damage.VALUES)
            wanted |= set(Damage.CHANGED) if isinstance(plan, ChangePlan) else set()
        return wanted

    def labels(self, batch: Batch) -> LabelMaps | None:
        if self.study.labels is not None:
            folder = placed(self.study.labels, self.data)
            return torch.stack([label_map(folder, name) for name in batch.names])
        return None if batch.labels is None or self.translate is None else self.translate[batch.labels]

    def check_size(self, batch: Batch) -> None:
        if (batch.images.shape[-2], batch.images.shape[-1]) != self.size:
            raise Mismatch(
                f"The clean images are of several sizes: {self.size} and {tuple(batch.images.shape[-2:])}. Give a size "
                'to resize them to: clean = {text = "...", size = [h, w]}'
            )

    # --- monitors -----------------------------------------------------------------------------------------------

    def judged(self, watch: Watch, seat: Seat) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Scores of one monitor by set, and what is told of it; from its file, if that has all of it."""
        file = self.work / "monitors" / f"{slug(seat.plan.name)}-{seat.seed}.safetensors"
        shown = [CLEAN, *(plan.entry.name for plan in self.changes if is_shown(seat.plan.shown, plan.entry))]
        if file.is_file():
            tensors, metadata = read_tensors(file)
            told = json.loads(metadata["monitor"])
            if {f"scores {name}" for name in shown} <= set(tensors):
                return tensors, told
        tensors, told = self.worked_out(watch, seat, shown)
        write_tensors(file, tensors, {"monitor": json.dumps(told)}, PRIVATE)
        return tensors, told

    def worked_out(self, watch: Watch, seat: Seat, shown: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        plan = seat.plan
        monitor = self.built(plan, watch.together.needs[seat.name].origin, seat.seed)
        readings: Readings | None = None
        if watch.learns(seat):
            readings = self.fit_readings(watch, seat)
            monitor.fit(readings, progress=self.named(plan.name))
        tensors: dict[str, Tensor] = {}
        told: dict[str, Any] = {"thresholds": {}, "made": "", "cost": None, "notes": [], "nested": []}
        if plan.threshold:
            self.calibrated(monitor, plan)
            assert monitor.clean is not None
            tensors["calibration"] = monitor.calibration_scores.double()
            told |= {"made": monitor.clean.made, "thresholds": self.thresholds(monitor, told["notes"], plan)}
        for name in shown:
            tensors[f"scores {name}"] = monitor.score_of(self.readings(watch, seat, name)).double()
        if seat.seed == next(iter(other.seed for other in watch.monitors if other.plan == plan)):
            told["cost"] = self.cost(watch, seat, monitor)
            if plan.nested and readings is not None:
                for group, rate, flagged in self.nested(watch, seat, readings):
                    tensors[f"nested {len(told['nested'])}"] = flagged.long()
                    told["nested"].append([group, rate])
        return tensors, told

    def readings(self, watch: Watch, seat: Seat, name: str) -> Readings:
        seen = SeenSet.load(self.file(name, watch))
        return watch.together.readings(seat.name, seen.values, seen.names, seen.groups)

    def calibrated(self, monitor: Monitor, plan: MonitorPlan) -> Monitor:
        study = self.study
        return monitor.calibrate(
            false_alarm_rate=max(study.rates),
            rule=plan.rule or study.rule,
            confidence=study.confidence,
            blocks=study.blocks,
            folds=study.folds,
            progress=self.named(plan.name),
        )

    def thresholds(self, monitor: Monitor, notes: list[str], plan: MonitorPlan) -> dict[str, float]:
        found = {}
        for rate in self.study.rates:
            try:
                found[str(rate)] = monitor.calibration.threshold(rate)
            except ValueError as error:
                notes.append(f"{plan.label or plan.name} has no threshold at a rate of {rate}: {error}")
        return found

    def nested(self, watch: Watch, seat: Seat, readings: Readings) -> Iterator[tuple[str, float, Tensor]]:
        """Group by group: which of its images a monitor flags that was fitted to and calibrated with all others."""
        groups = list(dict.fromkeys(readings.groups))
        if len(groups) < 2:
            self.note(f"All images of the fit are of one group, so that '{seat.plan.name}' cannot be nested")
            return
        for done, group in enumerate(groups):
            inside = torch.tensor([other == group for other in readings.groups])
            try:
                origin = watch.together.needs[seat.name].origin
                monitor = self.built(seat.plan, origin, seat.seed).fit(readings.subset((~inside).nonzero()[:, 0]))
                self.calibrated(monitor, seat.plan)
            except ValueError as error:
                self.note(f"{seat.plan.label or seat.plan.name} cannot be fitted without '{group}': {error}")
                continue
            scores = monitor.score_of(readings.subset(inside.nonzero()[:, 0]))
            for rate in self.study.rates:
                try:
                    yield group, rate, monitor.calibration.flagged(scores, rate)
                except ValueError as error:
                    self.note(f"No rate of {rate} without '{group}': {error}")
            self.tell(f"leaving groups out of {seat.plan.name}", done + 1, len(groups))

    @torch.no_grad()
    def cost(self, watch: Watch, seat: Seat, monitor: Monitor) -> dict[str, float]:
        """Of the monitor's own numbers and operations, of the time that one image takes with it, and of passes."""
        image = self.there(self.first_image, watch)
        monitor.detectors.to(image.device)
        monitor.calibrations.to(image.device)
        alone = Together(watch.backbone, {seat.name: watch.monitors[seat]})

        def monitored() -> Tensor:
            observation = alone(image)
            score = monitor.objective(Part(observation, alone.names[seat.name]))
            observation.output  # noqa: B018 (the prediction is wanted anyway)
            return score

        bare = count_operations(lambda: watch.backbone(image))
        together = count_operations(monitored)
        times = overhead(lambda: watch.backbone(image), monitored, repeats=REPEATS)
        return {
            "parameters": count_parameters(monitor.detectors),
            "flops": together.flops - bare.flops,
            "milliseconds": times.monitored,
            "overhead": times.ratio.value,
            "passes": monitor.passes,
        }

    # --- what came of it ----------------------------------------------------------------------------------------

    def record(self, results: Mapping[Seat, tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> Record:
        fit = self.any_fit()
        entries = []
        scores: dict[tuple[str, int, str], Tensor] = {}
        calibration: dict[tuple[str, int], Tensor] = {}
        nested: dict[tuple[str, int, str, float], Tensor] = {}
        for plan in self.plans:
            seats = [seat for seat in results if seat.plan.name == plan.name]
            if not seats:
                continue
            thresholds: dict[int, dict[float, float]] = {}
            for seat in seats:
                tensors, told = results[seat]
                thresholds[seat.seed] = {float(rate): value for rate, value in told["thresholds"].items()}
                for note in told["notes"]:
                    self.note(note)
                for name, tensor in tensors.items():
                    what, _, of = name.partition(" ")
                    if what == "scores" and (of == CLEAN or any(of == plan.entry.name for plan in self.changes)):
                        scores[plan.name, seat.seed, of] = tensor
                    elif what == "calibration":
                        calibration[plan.name, seat.seed] = tensor
                    elif what == "nested":
                        group, rate = told["nested"][int(of)]
                        nested[plan.name, seat.seed, group, float(rate)] = tensor
            first = results[seats[0]][1]
            entries.append(
                MonitorEntry(
                    name=plan.name,
                    label=plan.label or plan.name,
                    family=plan.family,
                    detectors=tuple(str(spec) for spec in plan.specs),
                    fusion=plan.fusion,
                    seeds=tuple(seat.seed for seat in seats),
                    rule=plan.rule or self.study.rule,
                    rates=tuple(self.study.rates),
                    thresholds=thresholds,
                    clean_made=first["made"],
                    cost=first["cost"],
                )
            )
        sets = []
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in OF_SETS}
        for entry in [SetEntry(CLEAN, "clean", "clean", settings={"images": self.study.clean}),
                      *(plan.entry for plan in self.changes)]:  # fmt: skip
            seen = SeenSet.load(self.file(entry.name, self.watches[0]))
            sets.append(replace(entry, names=seen.names, groups=seen.groups))
            for name, part in parts.items():
                if name in seen.values:
                    part[entry.name] = seen.values[name]
        return Record(
            monitors=tuple(entries),
            sets=tuple(sets),
            scores=scores,
            calibration=calibration,
            calibration_names=fit.names,
            calibration_groups=fit.groups,
            nested=nested,
            **parts,
        )

    def network(self) -> dict[str, Any]:
        image = self.there(self.first_image, self.watches[0])
        with torch.no_grad():
            flops = count_operations(lambda: self.backbone(image)).flops
            took = milliseconds(lambda: self.backbone(image), REPEATS)
        return {
            "name": self.study.backbone,
            "fingerprint": self.backbone.fingerprint(),
            "parameters": sum(parameter.numel() for parameter in self.backbone.network.parameters()),
            "flops": flops,
            "milliseconds": took,
            "classes": list(self.backbone.task.classes),
            "size": list(self.size),
        }

    def fitted_to(self) -> dict[str, Any]:
        groups = self.any_fit().groups
        return {"images": len(groups), "groups": {group: groups.count(group) for group in dict.fromkeys(groups)}}

    def any_fit(self) -> SeenSet:
        """The images of the fit, in their order; the same for all networks."""
        return SeenSet.load(self.file(FIT, self.watches[0]))

    def coactivation(self) -> dict[str, list[list[float]]]:
        """Figure 3 of DAAIN: what becomes of products of activations, for the first image and the paper's sets.

        The strongest sampled activations of the unchanged image are taken, strongest first; their pairwise products are
        log-transformed, sign(p) log(1 + |p|), and those of the unchanged image subtracted.
        """
        watch = self.watches[0]
        readers = [
            (name, reader) for name, reader in watch.together.probe.readers.items()
            if isinstance(reader, SampledActivations)
        ]  # fmt: skip
        if not readers:
            self.note("No monitor samples activations, so that there is no figure of coactivations")
            return {}
        name = readers[0][0]
        before = self.clean_seen.values[name][0].double()
        chosen = before.abs().argsort(descending=True)[:STRONGEST]
        clean = coactivations(before[chosen])
        figures = {}
        for plan in self.changes:
            if plan.entry.paper:
                values = SeenSet.load(self.file(plan.entry.name, watch)).values
                if name in values:
                    after = coactivations(values[name][0].double()[chosen])
                    figures[plan.entry.name] = [[round(v, 3) for v in row] for row in (after - clean).tolist()]
        return figures

    def pictures(self, wanted: Sequence[tuple[str, str]], *, whole: bool) -> dict[tuple[str, str], dict[str, str]]:
        """Views of single images as text, made again, by set and image.

        Args:
            wanted: sets and images.
            whole: with the difference and the mask of changed pixels, larger.
        """
        needed = {image for _, image in wanted}
        found: dict[str, Images] = {}
        for batch in self.clean.batches(1):
            if batch.names[0] in needed:
                found[batch.names[0]] = batch.images
        plans = {plan.entry.name: plan for plan in self.changes if isinstance(plan, ChangePlan)}
        changes = {name: plans[name].change(self.ground) for name in dict.fromkeys(name for name, _ in wanted)}
        task = self.backbone.task
        colours, width = palette(len(task.classes), task.void), PICTURE if whole else THUMBNAIL
        views = {}
        for number, (name, image) in enumerate(wanted):
            change, before = changes[name], found[image]
            after = to_8_bit(change.make(self.there(before, self.watches[0]), (image,))).to(before)
            with torch.no_grad():
                predicted = [self.backbone.predict(self.there(one, self.watches[0])).cpu() for one in (before, after)]
            view = {"before": photograph(before[0], width), "after": photograph(after[0], width)}
            if task.is_dense:
                view["predicted_before"] = class_picture(predicted[0][0], colours, width)
                view["predicted_after"] = class_picture(predicted[1][0], colours, width)
            if whole:
                view["difference"] = difference_picture(before[0], after[0], width)
            if whole and task.is_dense:
                view["mask"] = changed_mask(change.move(predicted[0], (image,))[0], predicted[1][0], width)
            views[name, image] = view
            self.tell("pictures", number + 1, len(wanted))
        return views

    # --- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def clean_seen(self) -> SeenSet:
        return SeenSet.load(self.file(CLEAN, self.watches[0]))

    @cached_property
    def first_image(self) -> Images:
        return next(iter(self.clean.batches(1))).images

    def there(self, images: Images, watch: Watch) -> Images:
        return images.to(watch.backbone.mean.device)

    def file(self, name: str, watch: Watch) -> Path:
        return self.work / "sets" / (f"{name}{'-' if watch.name else ''}{slug(watch.name)}.safetensors")

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def tell(self, phase: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(phase, done, total)

    def named(self, name: str) -> Progress | None:
        progress = self.progress
        return None if progress is None else lambda phase, done, total: progress(f"{name}: {phase}", done, total)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add up how long a phase takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.perf_counter() - start, 2)
            write_bytes(self.work / SECONDS, json.dumps(self.seconds).encode())

    def seconds_before(self) -> dict[str, float]:
        """What an evaluation that was ended had taken until then."""
        file = self.work / SECONDS
        try:
            return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
        except ValueError:  # it is told and not relied on
            return {}


REPEATS = 11
SECONDS = "seconds.json"
OF_SETS = ("changed", "iou", "wrong", "overlap", "confusion", "content", "light", "linf")


def is_shown(on: Sequence[str], entry: SetEntry) -> bool:
    """Whether a list such as `on` of a monitor names a set."""
    told = {entry.name, entry.change, entry.kind, "all", *([PAPER] if entry.paper else [])}
    return bool(told & set(on))


def fit_with(tolerate: Sequence[str]) -> str:
    """What the images of the fit are called together with copies that show what is tolerated."""
    return f"{FIT}-{slug(', '.join(tolerate))}" if tolerate else FIT


def is_keyed(monitor: Monitor) -> bool:
    """Whether a monitor's seed is that of a key too: whether it reads places of images of one size."""
    return any(reader.image_size is not None for reader in monitor.needs.readers.values())


def one_of_each_part(count: int, most: int, seed: int) -> list[int]:
    """So many places out of `count`: of as many parts of it, equally long, one each, drawn by the seed."""
    ends = [part * count // most for part in range(most + 1)]
    drawn = torch.rand(most, generator=torch.Generator().manual_seed(seed)).tolist()
    return [start + int(share * (end - start)) for start, end, share in zip(ends[:-1], ends[1:], drawn, strict=True)]


def coactivations(activations: Tensor) -> Tensor:
    products = activations[:, None] * activations[None, :]
    return products.sign() * products.abs().log1p()


def at(watch: Watch) -> str:
    return f" ({watch.name})" if watch.name else ""


def slug(text: str) -> str:
    """A text as part of a file's name; different texts have different ones."""
    plain = "".join(character if character.isalnum() or character in "-_" else "_" for character in text)
    return plain if plain == text else f"{plain[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
