"""What a secret sampling key is worth, which DAAIN claims and does not measure.

Monitors under several keys are attacked by who does not know of them, by who knows all but the key and fits surrogates
under keys of his own to other images, and by who knows the key too; the last one's images are also shown to the same
monitor under another key. And it is tried to find a key out by asking.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inlier.attacks.constraints import LinfBall
from inlier.attacks.engine import Attack, AttackResult
from inlier.attacks.joint import Outcome, Watched
from inlier.attacks.objectives import Dual, Sum, evasion, share_changed, unseen
from inlier.attacks.steppers import Cosine, MomentumSign
from inlier.attacks.surrogates import hinge
from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.calibration import blocked_folds
from inlier.densities.histogram import Histogram
from inlier.detectors.base import Detector
from inlier.evaluation.assaults import SHARES, SURFACE, rate_of
from inlier.evaluation.gates import Gate, dead_gate, never_falls, surrogates_gate
from inlier.evaluation.gathered import Source, gather_images, placed
from inlier.evaluation.intervals import auroc_interval, bootstrap
from inlier.evaluation.key_extraction import ORACLES, Candidates, extraction, sampled
from inlier.evaluation.metrics import rate_interval
from inlier.evaluation.together import Pool, Scale, Together, pooled, scale_of, scored
from inlier.evaluation.workplace import Workplace
from inlier.images import TensorImages, evenly
from inlier.monitor import Monitor
from inlier.observation import Observation, Readings
from inlier.perturbations.base import to_8_bit
from inlier.probe import Probe
from inlier.readers import SampledActivations
from inlier.sampling import uniform
from inlier.types import Images, Progress, Scores

__all__ = ["AllFeatures", "Keys", "attacker_named"]

WEIGHT = 0.1
"""Of the monitor in the attack, at the start; it finds its own."""
KEYLESS = "default"
"""The monitor without a key beside those with one."""
FOLDS = 5
"""One of so many parts of the surrogates' images calibrates them."""


class AllFeatures(Detector):
    """The method's histograms over very many activations at once: what all keys have in common, without a flow.

    Args:
        reader: of points that lie everywhere.
        bins: of each histogram.
    """

    name = "all_features"

    def __init__(self, reader: SampledActivations, bins: int = 30) -> None:
        super().__init__()
        self.requires = (reader,)
        self.reading = reader.name
        self.histogram = Histogram(reader.size, bins)

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        """Count."""
        self.histogram.fit(readings.values[self.reading])
        return self

    def forward(self, observation: Observation) -> Scores:
        scores: Scores = self.histogram(observation.readings[self.reading])
        return scores


@dataclass(frozen=True)
class Keys:
    """An experiment, `kind = "keys"` of `inlier evaluate`.

    Args:
        title: of the page.
        backbone: what `load_backbone` takes.
        fit: clean images, in contiguous blocks dealt to the victims and to the attacker: neither has one of the
            other's.
        clean: clean images that neither has seen; all of them tell the false alarms, some are attacked.
        size: (h, w) to which all are resized; by default they stay as they are.
        images: how many are attacked, spread evenly.
        detector: with a key, as `Monitor` takes it.
        keyless: whether inlier's default monitor, which has none, is attacked beside it.
        keys: how many victims there are, each under a key of its own.
        surrogates: how many the attacker fits who knows all but the key. He goes round among the largest of these
            numbers, from image to image, so that few are not always the same.
        grey_levels: eps in grey levels, 255 of which are 1.
        steps: of every attack.
        margins: how far below the limit of each surrogate the attacker aims, in standard deviations of its clean
            scores: what surrogates just let pass a victim may flag, and who aims lower changes less. All are tried,
            and of each attacker at each eps the one that comes to the most is told. Who attacks the monitor itself aims
            `known_margin` lower.
        pool: how surrogates are one: the mean or the largest of their scores.
        points: activations that the attacker on all features reads; 0 leaves him out.
        false_alarm_rate: nominal.
        block: frames that stay together when images are dealt.
        folds: in which the victims are cross-fitted.
        candidates: of each key, in the extraction test.
        asked_images: clean images of the attacker's that the test asks about.
        strength: of the changes it asks about, in grey levels.
        batch_size: images at a time.
        seed: of keys and draws; the victims' keys are as secret as this number.
    """

    title: str
    backbone: str
    fit: Source
    clean: Source
    size: tuple[int, int] | None = None
    images: int = 12
    detector: str = "daain(distance=64, blocks=16, head='hbos', bins=30)"
    keyless: bool = True
    keys: int = 5
    surrogates: tuple[int, ...] = (1, 4, 16)
    grey_levels: tuple[float, ...] = (2.0, 4.0)
    steps: int = 30
    margins: tuple[float, ...] = (0.3, 1.0)
    known_margin: float = 0.1
    pool: Pool = "mean"
    points: int = 100_000
    false_alarm_rate: float = 0.05
    block: int = 10
    folds: int = 5
    candidates: int = 40
    asked_images: int = 4
    strength: float = 4.0
    batch_size: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keys < 2 or not self.surrogates or min(self.surrogates) < 1 or not self.grey_levels:
            raise ValueError(
                f"Expected at least 2 keys, numbers of surrogates above 0 and grey levels, not {self.keys}, "
                f"{list(self.surrogates)} and {list(self.grey_levels)}"
            )
        if not self.margins:
            raise ValueError("Attackers with surrogates aim some margin below their limits: give margins")
        if self.pool not in ("mean", "max"):
            raise ValueError(f"pool is 'mean' or 'max', not {self.pool!r}")

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Carry it out, or go on with it, in the folder `out`; see `Experiment`."""
        started = time.perf_counter()
        work = _Work(self, Path(out), data, progress)
        rekey, found = work.rekeyed(), work.extracted()
        rows = [row for level in work.levels for row in work.rows(level)]
        summary = [line for level in work.levels for line in work.summaries(level)]
        return {
            "title": self.title, "command": command, "config": asdict(self), "inlier": version("inlier"),
            "network": work.backbone.fingerprint(), "threads": torch.get_num_threads(), "surface": SURFACE,
            "size": list(work.clean.images.shape[1:]), "attackers": [asdict(one) for one in work.attackers],
            "victims": work.victims_told(), "images": work.counts(), "rows": rows, "summary": summary,
            "rekey": rekey, "extraction": found,
            "gates": [gate.told() for gate in work.gates(summary)],
            "seconds": round(time.perf_counter() - started, 1), "notes": work.notes(),
        }  # fmt: skip


@dataclass(frozen=True)
class Attacker:
    """What an attacker knows.

    Args:
        name: for files and tables.
        label: for people.
        tier: of the threat.
        surrogates: how many he fits; None for those who fit none, or one on all features.
    """

    name: str
    label: str
    tier: Literal["T0", "T1", "T3"]
    surrogates: int | None = None


OBLIVIOUS = Attacker("oblivious", "does not know of the monitor", "T0")
EVERYTHING = Attacker("all features", "all but the key; one surrogate on all features", "T1")
KNOWN = Attacker("key known", "everything, the key too", "T3")
ROTATED = Attacker("key rotated", "the key that was in use before", "T3")


def attacker_named(count: int) -> Attacker:
    """Who fits so many surrogates."""
    plural = "s" if count > 1 else ""
    return Attacker(f"{count} surrogate{plural}", f"all but the key; {count} surrogate{plural}", "T1", count)


def part_name(attacker: Attacker, level: float, victim: str, margin: float | None) -> str:
    """Of what an attacker makes at an eps."""
    return f"{attacker.name} {victim} {level:g}" + ("" if margin is None else f" margin {margin:g}")


class _Work:
    """The experiment at work in its folder."""

    def __init__(self, plan: Keys, out: Path, data: Path | None, progress: Progress | None) -> None:
        self.plan, self.progress = plan, progress
        self.levels = sorted(plan.grey_levels)
        self.backbone = load_backbone(placed(plan.backbone, data))
        size: dict[str, Any] = {} if plan.size is None else {"size": tuple(plan.size)}
        self.fit = loaded(gather_images(plan.fit, data, labelled=False, **size), "reading images to fit", progress)
        self.clean = loaded(gather_images(plan.clean, data, labelled=False, **size), "reading clean images", progress)
        places = torch.tensor(evenly(len(self.clean), plan.images))
        self.attacked = self.clean.images[places]
        self.places = places
        settings = asdict(plan) | {"inlier": version("inlier"), "network": self.backbone.fingerprint()}
        self.place = Workplace(out, settings, "an experiment on keys")
        self.attackers = (
            OBLIVIOUS, *(attacker_named(count) for count in sorted(plan.surrogates)),
            *((EVERYTHING,) if plan.points else ()), KNOWN, ROTATED,
        )  # fmt: skip

    # --- monitors -------------------------------------------------------------------------------------------------

    @cached_property
    def sides(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        """Which images are the victims', and which the attacker's."""
        side = blocked_folds(self.fit.groups, block=self.plan.block, folds=2)
        return (side == 0).nonzero()[:, 0], (side == 1).nonzero()[:, 0]

    @cached_property
    def unfitted(self) -> dict[str, Monitor]:
        """Every monitor that has no file yet, built."""
        size = (self.fit.images.shape[-2], self.fit.images.shape[-1])
        made: dict[str, Monitor] = {}
        for number, name in enumerate((*self.victim_names, *self.surrogate_names)):
            if not self.file(name).is_file():
                made[name] = Monitor(self.backbone, self.plan.detector, seed=self.plan.seed * 1000 + number)
        if self.plan.keyless and not self.file(KEYLESS).is_file():
            made[KEYLESS] = Monitor(self.backbone)
        if self.plan.points:
            some = next(iter(made.values()), None) or Monitor(self.backbone, "energy")
            some = some.build(size, self.fit.images.shape[1])
            assert some.anatomy is not None
            shapes = some.anatomy.everywhere()
            volume = (sum(shape[0] for shape in shapes.values()), *size)
            key = uniform(volume, self.plan.points, self.plan.seed)
            made[EVERYTHING.name] = Monitor(self.backbone, AllFeatures(SampledActivations(key, shapes, "all features")))
        for done, monitor in enumerate(made.values()):
            monitor.build(size, self.fit.images.shape[1])
            self.tell("drawing keys", done + 1, len(made))
        return made

    @cached_property
    def read(self) -> tuple[Together, dict[str, Tensor]]:
        """All that these need of all images to fit to, in one pass each."""
        together = Together(self.backbone, self.unfitted)
        parts: dict[str, list[Tensor]] = {}
        for batch in self.fit.batches(self.plan.batch_size):
            for name, value in together.values(together(batch.images)).items():
                parts.setdefault(name, []).append(value)
            self.tell("reading", sum(map(len, parts[next(iter(parts))])), len(self.fit))
        return together, {name: torch.cat(values) for name, values in parts.items()}

    def readings(self, name: str, which: Tensor) -> Readings:
        together, values = self.read
        return together.readings(name, values, self.fit.names, self.fit.groups).subset(which)

    @property
    def victim_names(self) -> list[str]:
        return [f"victim {number}" for number in range(self.plan.keys)]

    @property
    def surrogate_names(self) -> list[str]:
        return [f"surrogate {number}" for number in range(max(self.plan.surrogates))]

    def file(self, name: str) -> Path:
        return self.place.work / "monitors" / f"{name.replace(' ', '_')}.inlier"

    def monitor(self, name: str) -> Monitor:
        """From its file, or fitted now: victims cross-fitted, the attacker's own calibrated with held-out images."""
        if name != EVERYTHING.name and self.file(name).is_file():
            return Monitor.load(self.file(name), self.backbone)
        made, (theirs, his) = self.unfitted[name], self.sides
        rate = self.plan.false_alarm_rate
        if name in self.victim_names or name == KEYLESS:
            made.fit(self.readings(name, theirs), progress=self.progress)
            made.calibrate(false_alarm_rate=rate, folds=self.plan.folds, progress=self.progress)
        else:
            fold = blocked_folds([self.fit.groups[i] for i in his.tolist()], block=self.plan.block, folds=FOLDS)
            made.fit(self.readings(name, his[fold > 0]), progress=self.progress)
            made.calibrate(self.readings(name, his[fold == 0]), false_alarm_rate=rate)
        if name != EVERYTHING.name:
            self.file(name).parent.mkdir(parents=True, exist_ok=True)
            made.save(self.file(name))
        return made

    @cached_property
    def victims(self) -> dict[str, Monitor]:
        """Under a key each, and the one without."""
        return {name: self.monitor(name) for name in (*self.victim_names, *([KEYLESS] if self.plan.keyless else []))}

    @cached_property
    def surrogates(self) -> dict[str, Monitor]:
        return {name: self.monitor(name) for name in self.surrogate_names}

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Of all monitors that have a file."""
        return {name: scale_of(monitor) for name, monitor in {**self.victims, **self.surrogates}.items()}

    # --- attacks --------------------------------------------------------------------------------------------------

    def made(
        self, attacker: Attacker, level: float, victim: str = "", margin: float | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The attacked images, rounded to 8 bit, from their file if they are there; and what went wrong."""

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            told = f"{attacker.name}{f', {victim}' if victim else ''}, eps {level:g}/255"
            stored, dead, done = torch.empty_like(self.attacked), 0.0, 0
            for places, watched in self.watched(attacker, victim, margin or 0.0):
                for part in torch.split(places, self.plan.batch_size):
                    result = attack(self.backbone, self.attacked[part], level / 255, watched, self.plan.steps)
                    stored[part], done = result.to_8_bit(), done + len(part)
                    dead += result.dead_gradients * len(part)
                    self.tell(told, done, len(stored))
            return {"images": (255 * stored).round().to(torch.uint8)}, {"dead_gradients": dead / len(stored)}

        return self.place.part(f"images {part_name(attacker, level, victim, margin)}", make)

    def gates(self, summary: Sequence[Mapping[str, Any]]) -> list[Gate]:
        """Checks of the attackers."""
        own = surrogates_gate(self.surrogates.values(), self.attacked, self.plan.batch_size)
        return [*success_gates(summary, self.plan), own, dead_gate([self.dead_gradients()], "any attack's")]

    def dead_gradients(self) -> float:
        """The largest share of them that an attack had."""
        told: list[float] = [
            self.made(attacker, level, victim, margin)[1]["dead_gradients"]
            for level in self.levels for attacker in self.attackers if attacker is not ROTATED
            for victim in (self.victims if attacker is KNOWN else [""]) for margin in self.margins_of(attacker)
        ]  # fmt: skip
        return max(told)

    def watched(
        self, attacker: Attacker, victim: str, margin: float
    ) -> Iterator[tuple[Int[Tensor, " n"], Watched | None]]:
        """Which images are attacked by whom who sees what; None for who knows of no monitor."""
        every = torch.arange(len(self.attacked))
        if attacker is OBLIVIOUS:
            yield every, None
        elif attacker is KNOWN:
            yield every, pooled(self.backbone, {victim: self.victims[victim]}, self.plan.known_margin)
        elif attacker is EVERYTHING:
            yield every, pooled(self.backbone, {attacker.name: self.monitor(attacker.name)}, margin)
        else:
            assert attacker.surrogates is not None
            names, count = self.surrogate_names, attacker.surrogates
            starts = (every * count) % len(names) if count < len(names) else torch.zeros_like(every)
            for start in sorted(set(starts.tolist())):
                some = {name: self.surrogates[name] for name in (names[(start + i) % len(names)] for i in range(count))}
                yield (starts == start).nonzero()[:, 0], pooled(self.backbone, some, margin, self.plan.pool)

    # --- what came of them ----------------------------------------------------------------------------------------

    @cached_property
    def together(self) -> Together:
        """All victims at once."""
        return Together(self.backbone, self.victims)

    @torch.no_grad()
    def seen(self, images: Images, name: str) -> tuple[Float[Tensor, "victims n"], Int[Tensor, "n *hw"]]:
        """All victims' scores of images, in their scales, and the network's prediction."""
        scores, predictions = [], []
        for part in torch.split(images, self.plan.batch_size):
            observation = self.together(part)
            scores.append(scored(observation, self.together, self.victims, self.scales).double())
            predictions.append(observation.output.argmax(1))
            self.tell(name, sum(map(len, predictions)), len(images))
        return torch.cat(scores, 1), torch.cat(predictions)

    @cached_property
    def before(self) -> dict[str, Tensor]:
        """Scores and predictions of all clean images."""

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            scores, predictions = self.seen(self.clean.images, "scoring clean images")
            return {"scores": scores, "predictions": predictions.to(torch.uint8)}, {}

        return self.place.part("clean", make)[0]

    def after(
        self, attacker: Attacker, level: float, victim: str = "", margin: float | None = None
    ) -> dict[str, Tensor]:
        """All victims' scores of an attacker's images, and their damage."""

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            attacked = self.made(attacker, level, victim, margin)[0]["images"].float() / 255
            scores, predictions = self.seen(attacked, f"scoring {attacker.name}")
            changed = predictions != self.before["predictions"][self.places].long()
            return {"scores": scores, "damage": changed.reshape(len(changed), -1).double().mean(1)}, {}

        return self.place.part(f"scores {part_name(attacker, level, victim, margin)}", make)[0]

    def margins_of(self, attacker: Attacker) -> tuple[float | None, ...]:
        """Those that an attacker tries; None of who has no surrogates."""
        return tuple(self.plan.margins) if attacker.tier == "T1" else (None,)

    def best_margin(self, attacker: Attacker, level: float) -> float | None:
        """That with which an attacker succeeds most at an eps, as the mean over keys."""
        margins = self.margins_of(attacker)
        if len(margins) == 1:
            return margins[0]

        return max(margins, key=lambda margin: self.came_to(attacker, level, margin))

    def came_to(self, attacker: Attacker, level: float, margin: float | None) -> float:
        """Success at the smaller share, as the mean over keys."""
        won, of = self.counted(attacker, level, SHARES[0], margin)
        return float(((won & of).sum(0) / of.sum(0)).nanmean().nan_to_num())

    def counted(
        self, attacker: Attacker, level: float, share: float, margin: float | None
    ) -> tuple[Bool[Tensor, "n keys"], Bool[Tensor, "n keys"]]:
        """Of the victims with a key: which images evaded, and which were silent; rotated keys one after another."""
        ones = [one for victim in self.victim_names for one in self.outcomes(attacker, level, victim, margin)]
        return torch.stack([one.evaded(share) for one in ones], 1), torch.stack([one.silent for one in ones], 1)

    def outcomes(self, attacker: Attacker, level: float, victim: str, margin: float | None) -> list[Outcome]:
        """What an attacker did to a victim: one outcome, or for rotated keys one for each key that was before."""
        number = list(self.victims).index(victim)
        if attacker is ROTATED:
            sources = [other for other in self.victim_names if other != victim] if victim != KEYLESS else []
            parts = [self.after(KNOWN, level, other) for other in sources]
        else:
            parts = [self.after(attacker, level, victim if attacker is KNOWN else "", margin)]
        before = self.before["scores"][number, self.places]
        return [Outcome(before, part["scores"][number], part["damage"], 0.0) for part in parts]

    def rows(self, level: float) -> list[dict[str, Any]]:
        """A row an attacker and victim; of rotated keys all that were before count."""
        found = []
        for attacker in self.attackers:
            margin = self.best_margin(attacker, level)
            for victim in self.victims:
                outcomes = self.outcomes(attacker, level, victim, margin)
                if not outcomes:
                    continue
                silent = torch.cat([one.silent for one in outcomes])
                damage = torch.cat([one.damage for one in outcomes])
                row: dict[str, Any] = {
                    "attacker": attacker.name, "tier": attacker.tier, "grey_levels": level, "victim": victim,
                    "margin": margin, "damage": damage.mean().item(),
                }  # fmt: skip
                for share in SHARES:
                    evaded = torch.cat([one.evaded(share) for one in outcomes])
                    flagged = torch.cat([one.detected for one in outcomes])
                    row[f"success_{share:g}"] = rate_of(evaded, silent)
                    row[f"detected_{share:g}"] = rate_of(flagged, silent & (damage >= share))
                found.append(row)
        return found

    def summaries(self, level: float) -> list[dict[str, Any]]:
        """A line an attacker: mean over keys, their spread, and the interval over images; and the keyless monitor."""
        found = []
        for attacker in self.attackers:
            margin = self.best_margin(attacker, level)
            line: dict[str, Any] = {
                "attacker": attacker.name, "tier": attacker.tier, "grey_levels": level, "margin": margin,
                "margins": {f"{tried:g}": self.came_to(attacker, level, tried)
                            for tried in self.margins_of(attacker) if tried is not None},
            }  # fmt: skip
            ones = [one for victim in self.victim_names for one in self.outcomes(attacker, level, victim, margin)]
            per_key = len(ones) // self.plan.keys
            for share in SHARES:
                evaded, silent = self.counted(attacker, level, share, margin)
                harmed = silent & torch.stack([one.damage >= share for one in ones], 1)
                flagged = torch.stack([one.detected for one in ones], 1)
                line[f"success_{share:g}"] = over_keys(evaded, silent, per_key)
                line[f"detected_{share:g}"] = over_keys(flagged, harmed, per_key)
            found.append(line)
        return found

    def victims_told(self) -> list[dict[str, Any]]:
        """Each victim: its false alarms on clean images, all and by group, beside the nominal rate."""
        told = []
        groups = self.clean.groups
        for number, (name, monitor) in enumerate(self.victims.items()):
            flagged = self.before["scores"][number] > 0
            every = torch.ones_like(flagged)
            kept = 0 if name == KEYLESS else sampled(monitor).size
            assert monitor.clean is not None
            told.append({
                "victim": name, "activations": kept, "calibrated": monitor.clean.made,
                "fitted_to": len(self.sides[0]), "silent": int((~flagged[self.places]).sum()),
                "false_alarms": rate_of(flagged, every),
                "by_group": {group: rate_of(flagged, torch.tensor([g == group for g in groups]))
                             for group in dict.fromkeys(groups)},
            })  # fmt: skip
        return told

    def rekeyed(self) -> dict[str, Any]:
        """How long it takes to draw another key, read the victim's images, fit and calibrate."""

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            which = self.sides[0].tolist()
            source = TensorImages(
                self.fit.images[self.sides[0]], [self.fit.names[i] for i in which], [self.fit.groups[i] for i in which]
            )
            start, busy = time.perf_counter(), time.process_time()
            self.victims[self.victim_names[0]].rekey(source, progress=self.progress)
            return {}, {
                "seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - busy,
                "images": len(which),
            }  # fmt: skip

        return self.place.part("rekey", make)[1]

    def extracted(self) -> dict[str, Any]:
        """AUROC of candidates in each victim's key against those that are not, by oracle."""
        plan = self.plan
        if plan.candidates == 0:
            return {}

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            his = self.sides[1]
            places = his[evenly(len(his), plan.asked_images)]
            victims = {name: self.victims[name] for name in self.victim_names}
            drawn = Candidates.drawn(list(victims.values()), plan.candidates, plan.seed)
            found = extraction(
                self.backbone, victims, self.surrogates, self.scales, self.fit.images[places], drawn,
                strength=plan.strength / 255, progress=self.progress,
            )  # fmt: skip
            rows = []
            for oracle, values in found.items():
                for number, name in enumerate(victims):
                    inside = drawn.truth[number]
                    value, low, high = auroc_interval(values[number][~inside].double(), values[number][inside].double())
                    rows.append({"oracle": oracle, "victim": name, "auroc": value, "auroc_interval": [low, high]})
            return {}, {
                "rows": rows, "candidates": len(drawn), "inside": plan.candidates,
                "queries_a_candidate": 2 * plan.asked_images, "queries": plan.asked_images * (2 * len(drawn) + 1),
            }  # fmt: skip

        told = self.place.part("extraction", make)[1]
        summary = []
        for oracle, label in ORACLES.items():
            values = torch.tensor([row["auroc"] for row in told["rows"] if row["oracle"] == oracle])
            summary.append({
                "oracle": oracle, "label": label, "mean": values.mean().item(), "std": values.std().item(),
                "least": values.min().item(), "most": values.max().item(),
            })  # fmt: skip
        return {**told, "summary": summary}

    def counts(self) -> dict[str, int]:
        """Of images."""
        return {
            "victims": len(self.sides[0]), "attacker": len(self.sides[1]), "clean": len(self.clean),
            "attacked": len(self.places),
        }  # fmt: skip

    def notes(self) -> list[str]:
        """What whoever reads the numbers must know."""
        told = [line for line in self.victims_told() if line["victim"] != KEYLESS]
        rates = [line["false_alarms"]["rate"] for line in told]
        none = sum(line["silent"] == 0 for line in told)
        height, width = self.clean.images.shape[-2:]
        left_out = [
            f"{none} of {len(told)} keyed victims flagged every attacked image when it was clean: of these there is no "
            "success to count, and means are over the others."
        ]
        return [
            f"Observed false alarms of the {self.plan.keys} keyed victims go from {min(rates):.1%} to {max(rates):.1%} "
            f"of {len(self.clean)} clean images that nothing was fitted to, at a nominal "
            f"{self.plan.false_alarm_rate:.1%}. Success is counted among images that are silent when clean, which "
            "differ from key to key. A victim that hardly ever alarms hardly stops anybody.",
            *(left_out if none else []),
            "The histogram score is piecewise constant: attackers follow the gradient of its smooth copy, and are "
            "judged by the score itself.",
            "Victims and surrogates are fitted to different images of the same drives, in blocks of "
            f"{self.plan.block} frames.",
            f"Images are attacked at {height} x {width}, and judged as 8-bit images of that size.",
            f"{len(self.places)} images are few: the intervals are wide, and take images for independent.",
        ]

    def tell(self, phase: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(phase, done, total)


def attack(backbone: Backbone, images: Images, eps: float, watched: Watched | None, steps: int) -> AttackResult:
    """The dual attack with the hinge, from the clean images; of who watches nothing, the hinge alone."""
    stepper = Cosine(MomentumSign(eps / 4, 0.75), steps)
    if watched is None:
        plain = Attack(LinfBall(eps), stepper, steps, rule=Sum(), keep="best")
        return plain(Probe(backbone), images, (hinge(),), better=share_changed)
    joint = Attack(LinfBall(eps), stepper, steps, rule=Dual(watched.aim, WEIGHT), keep="best")
    objectives = (hinge(), evasion(watched.score))
    return joint(watched.probe, images, objectives, better=unseen(watched.score, watched.aim))


def over_keys(hits: Bool[Tensor, "n keys"], among: Bool[Tensor, "n keys"], per_key: int = 1) -> dict[str, Any]:
    """The mean over keys of a rate, its spread over them, and a bootstrap interval over images.

    Where all images agree it is the Clopper-Pearson interval of as many as a key counts.

    Args:
        hits: image by key; where `per_key` columns belong to a key, they are one.
        among: what is counted; a key without any has no rate, and does not count.
    """

    def rates(won: Tensor, of: Tensor) -> Tensor:  # (r, n, columns) -> (r, keys), nan where there are none
        counts = [side.double().sum(1).reshape(len(side), -1, per_key).sum(-1) for side in (won, of)]
        return torch.div(*counts)

    each = rates((hits & among)[None], among[None])[0]
    known = each[each.isfinite()]
    told: dict[str, Any] = {"keys": len(known), "images": among.double().sum(0).mean().item(), "of": len(hits)}
    if not len(known):
        return {**told, "mean": None, "std": None, "least": None, "most": None, "interval": None}
    _, low, high = bootstrap(
        lambda won, of: rates(won, of).nanmean(-1).nan_to_num(known.mean().item()), hits & among, among, paired=True,
    )  # fmt: skip
    if low == high:  # nothing varies, and the bootstrap has no width
        images = max(1, round(told["images"]))
        low, high = rate_interval(round(known.mean().item() * images), images)
    return {
        **told, "mean": known.mean().item(), "std": known.std().item() if len(known) > 1 else 0.0,
        "least": known.min().item(), "most": known.max().item(), "interval": [low, high],
    }  # fmt: skip


def success_gates(summary: Sequence[Mapping[str, Any]], plan: Keys) -> list[Gate]:
    """Checks that who knows more does not succeed less, and that more eps does not hurt, to one image's weight."""
    share = f"success_{SHARES[0]:g}"
    found = {(line["attacker"], line["grey_levels"]): line[share]["mean"] or 0.0 for line in summary}
    ladder = [OBLIVIOUS.name, *(attacker_named(count).name for count in sorted(plan.surrogates)), KNOWN.name]
    gates = []
    levels = sorted(plan.grey_levels)
    for level in levels:
        values = [found[name, level] for name in ladder]
        images = next(line[share]["images"] for line in summary if line["grey_levels"] == level)
        gates.append(Gate(
            f"who knows more succeeds more often, eps {level:g}/255", " <= ".join(ladder),
            ", ".join(f"{value:.3f}" for value in values), never_falls(values, images),
        ))  # fmt: skip
    rising = [found[KNOWN.name, level] for level in levels]
    gates.append(Gate(
        "with the key known success rises with eps", "no fall", ", ".join(f"{value:.3f}" for value in rising),
        all(low <= high + 0.1 for low, high in pairwise(rising)),
    ))  # fmt: skip
    return gates


def loaded(source: Any, phase: str, progress: Progress | None) -> TensorImages:
    """A source in memory, without labels, as 8-bit files hold it.

    Raises:
        ValueError: images of several sizes.
    """
    batches = []
    for batch in source.batches(1):
        batches.append(batch)
        if progress is not None:
            progress(phase, len(batches), len(source))
    sizes = sorted({tuple(batch.images.shape[1:]) for batch in batches})
    if len(sizes) != 1:
        raise ValueError(f"Expected images of one size, not {sizes[:3]}: give size = [height, width]")
    return TensorImages(
        to_8_bit(torch.cat([batch.images for batch in batches])), [name for batch in batches for name in batch.names],
        [group for batch in batches for group in batch.groups],
    )  # fmt: skip
