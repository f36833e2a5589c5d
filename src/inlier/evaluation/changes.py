"""Changes of an evaluation: what a configuration says is done to clean images, and images from elsewhere.

A change depends on the image, its name and the study's seed, and not on the order or the company in which images come:
what is drawn comes from a generator of the image's own. So a set can be made again, or one image of it.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from inlier.attacks.asking import QUERIES, MonitorQueries, ask_monitor
from inlier.attacks.constraints import LowResolution, MaskedPatch
from inlier.attacks.engine import Attack, AttackResult
from inlier.attacks.joint import WAYS, MonitorAttack, attack_monitor
from inlier.attacks.recipes import RECIPES, Recipe, recipe_named
from inlier.attacks.targets import TargetKind, target_maps, target_named
from inlier.attacks.universal import UniversalDelta, gd_uap
from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.config import from_keywords, from_table, used
from inlier.evaluation.gathered import Source, placed
from inlier.evaluation.record import Kind, SetEntry
from inlier.images import ImageSource
from inlier.monitor import Monitor
from inlier.perturbations.base import Perturbation
from inlier.perturbations.table import PERTURBATIONS
from inlier.probe import Probe
from inlier.registry import nearest
from inlier.types import Images, Progress

__all__ = ["CLEAN", "AttackPlan", "Change", "ChangePlan", "Ground", "JointPlan", "OtherImages", "PerturbationPlan",
           "UniversalPlan", "plans_of"]  # fmt: skip

CLEAN = "clean"
"""The name of the set of clean images that is changed."""


@dataclass(frozen=True)
class Ground:
    """What changes are made on.

    Args:
        backbone: that is attacked.
        size, channels: (h, w) and channels of the images.
        fit: the clean images of the fit, for what is made of data; nothing is ever made of those that are evaluated.
        data: what `{data}` stands for.
        folder: for what takes long to make.
        monitor: one of the study's, by its name, fitted under its first seed and calibrated, to be attacked.
        seed: of all that is drawn.
        progress: told of what takes long.
    """

    backbone: Backbone
    size: tuple[int, int]
    channels: int
    fit: ImageSource
    data: Path | None
    folder: Path
    seed: int
    progress: Progress | None = None
    monitor: Callable[[str], Monitor] | None = None

    @cached_property
    def probe(self) -> Probe:
        """What an attacker sees who does not know of any monitor."""
        return Probe(self.backbone)


class Change(ABC):
    """How images are changed."""

    @abstractmethod
    def make(self, images: Images, names: Sequence[str]) -> Images:
        """The changed images, in [0, 1] and not rounded yet."""

    def move(self, maps: Int[Tensor, "n h w"], names: Sequence[str]) -> Int[Tensor, "n h w"]:
        """Label maps or predictions of the images, with every pixel where the change puts it."""
        return maps


@dataclass(frozen=True)
class ChangePlan(ABC):
    """A set to be made of the clean images. `entry` says what it will be; names and groups are those of the images."""

    entry: SetEntry

    @abstractmethod
    def change(self, ground: Ground) -> Change:
        """The change, made ready."""


@dataclass(frozen=True)
class OtherImages:
    """A set that is made of nothing: images from elsewhere, resized to those of the study."""

    entry: SetEntry
    source: Source


@dataclass(frozen=True)
class Perturbed(Change):
    """A perturbation, image by image, each with a generator of its own."""

    perturbation: Perturbation
    told: str
    seed: int

    def make(self, images: Images, names: Sequence[str]) -> Images:
        each = [self.perturbation(images[i : i + 1], self.generator(name)) for i, name in enumerate(names)]
        return torch.cat(each)

    def move(self, maps: Int[Tensor, "n h w"], names: Sequence[str]) -> Int[Tensor, "n h w"]:
        each = [self.perturbation.move(maps[i : i + 1], self.generator(name)) for i, name in enumerate(names)]
        return torch.cat(each)

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self.seed, self.told, name))


@dataclass(frozen=True)
class PerturbationPlan(ChangePlan):
    """A perturbation of one severity."""

    perturbation: Perturbation

    def change(self, ground: Ground) -> Change:
        return Perturbed(self.perturbation, self.entry.name, ground.seed)


@dataclass(frozen=True)
class Attacked(Change):
    """An attack on the network by who does not know of any monitor. Labels are the network's own prediction."""

    attack: Attack
    recipe: Recipe
    probe: Probe
    target: int | TargetKind | None
    told: str
    seed: int

    def make(self, images: Images, names: Sequence[str]) -> Images:
        if self.attack.start == "clean" and not isinstance(self.target, str):
            return self.run(images, 0).images.to(images)
        each = [self.run(images[i : i + 1], seed_of(self.seed, self.told, name)).images for i, name in enumerate(names)]
        return torch.cat(each).to(images)

    def run(self, images: Images, seed: int) -> AttackResult:
        recipe, backbone = self.recipe, self.probe.backbone
        wanted = (
            target_maps(self.target, backbone.predict(images), backbone.task, seed=seed)
            if isinstance(self.target, str) else self.target
        )  # fmt: skip
        return self.attack(self.probe, images, recipe.objective, better=recipe.better, target=wanted, seed=seed)


@dataclass(frozen=True)
class AttackPlan(ChangePlan):
    """A recipe with its settings, what it wants predicted, if it cares, and the patch that it keeps to, if any."""

    attack: Attack
    recipe: Recipe
    target: str | None
    patch: Sequence[int]

    def change(self, ground: Ground) -> Change:
        try:
            target = None if self.target is None else target_named(self.target, ground.backbone.task)
        except LookupError as error:
            raise ValueError(f"The target of '{self.entry.name}' is none. {error.args[0]}") from error
        if target == "other_scene":
            raise ValueError(f"Images of a study are attacked one by one, so '{self.entry.name}' has no other scene")
        attack = self.attack
        if self.patch:
            height, width, *at = self.patch
            ways = MaskedPatch.rectangle((height, width), ground.size, (at[0], at[1]) if at else None)
            attack = replace(attack, parametrisation=ways)
        return Attacked(attack, self.recipe, ground.probe, target, self.entry.name, ground.seed)


@dataclass(frozen=True)
class Joined(Change):
    """An attack on the network and one monitor, by who knows both or may ask them. Labels are the network's own
    prediction; what draws is made image by image, each under a seed of its own."""

    attack: Callable[..., MonitorAttack | MonitorQueries]
    monitor: Monitor
    settings: Mapping[str, Any]
    draws: bool
    told: str
    seed: int

    def make(self, images: Images, names: Sequence[str]) -> Images:
        if not self.draws:
            return self.attack(self.monitor, images, seed=0, **self.settings).images.to(images)
        each = [
            self.attack(self.monitor, images[i : i + 1], seed=seed_of(self.seed, self.told, name), **self.settings)
            for i, name in enumerate(names)
        ]
        return torch.cat([part.images for part in each]).to(images)


@dataclass(frozen=True)
class JointPlan(ChangePlan):
    """An attack on network and monitor, the name of that monitor, and whether anything is drawn in it."""

    attack: Callable[..., MonitorAttack | MonitorQueries]
    monitor: str
    settings: Mapping[str, Any]
    draws: bool

    def change(self, ground: Ground) -> Change:
        if ground.monitor is None:
            raise ValueError(f"'{self.entry.name}' attacks the monitor '{self.monitor}', and there is none here")
        monitor = ground.monitor(self.monitor)
        return Joined(self.attack, monitor, self.settings, self.draws, self.entry.name, ground.seed)


@dataclass(frozen=True)
class Shifted(Change):
    """One delta for all images."""

    delta: UniversalDelta

    def make(self, images: Images, names: Sequence[str]) -> Images:
        return self.delta(images)


@dataclass(frozen=True)
class UniversalPlan(ChangePlan):
    """GD-UAP made on the network or on another one, once, and kept in the study's folder."""

    made_on: str | None
    settings: Mapping[str, Any]

    def change(self, ground: Ground) -> Change:
        file = ground.folder / f"{self.entry.name}.delta.safetensors"
        if not file.is_file():
            text = self.made_on
            backbone = ground.backbone if text is None else load_backbone(placed(text, ground.data))
            images = ground.fit if self.settings.get("prior") == "data" else None
            made = gd_uap(
                backbone,
                ground.size,
                images=images,
                channels=ground.channels,
                **{"seed": ground.seed, **self.settings},
                progress=ground.progress,
            )
            made.save(file)
        return Shifted(UniversalDelta.load(file))


def plans_of(tables: Sequence[Mapping[str, Any]]) -> list[ChangePlan | OtherImages]:
    """What the tables `[[changes]]` of a study say, in their order.

    Each has one of these, and besides it `name` and `label` if wanted:

    * `perturbation`: a registered one; `severities` (one set each, by default 1), `paper`, the severity that is the
      paper's, `control`, true if it should alarm nobody, and the perturbation's own settings;
    * `attack`: a recipe; `target`, a class that is wanted everywhere or a kind of target map, `low_resolution`, [h, w]
      of a smaller copy that is changed instead, `patch`, [h, w] or [h, w, row, column] of the only pixels that change,
      `paper`, true if it is the paper's, and the recipe's own settings;
    * `joint`: a way of `attacks.joint.WAYS` to attack the network and one monitor; `monitor`, its name, `eps`, and the
      settings of `attack_monitor`. Other monitors are shown the same images, which were not made against them;
    * `asked`: `square`, `spsa` or `rays`, which only ask about one image after another; `monitor`, the name of the one
      that answers, `eps`, and the settings of `ask_monitor`;
    * `universal`: `gd_uap`; `made_on`, a backbone (by default the one that is attacked), `paper`, and its settings;
    * `images`: a source of images from elsewhere, with a `name`.

    Raises:
        ValueError: none or several of these, an unknown setting, or two sets of one name.
        LookupError: no such perturbation or recipe.
    """
    plans: list[ChangePlan | OtherImages] = []
    for table in tables:
        kinds = [kind for kind in PLANNERS if kind in table]
        if len(kinds) != 1:
            raise ValueError(f"A change is one of {', '.join(PLANNERS)}, and this table has {list(table)}")
        plans += PLANNERS[kinds[0]](table)
    names = [CLEAN]
    for plan in plans:
        name = plan.entry.name
        if name in names:
            raise ValueError(f"Two sets are named '{name}'; give one of them another name")
        if not NAME.fullmatch(name):
            raise ValueError(f"A set's name has letters, digits, '.', '_' and '-' alone, not {name!r}")
        names.append(name)
    return plans


NAME = re.compile(r"[\w][\w.-]*")


def perturbations(table: Mapping[str, Any]) -> list[ChangePlan | OtherImages]:
    kind, severities = table["perturbation"], table.get("severities", (1,))
    name, paper, control = table.get("name", kind), table.get("paper"), table.get("control", False)
    label = table.get("label", name.replace("_", " "))
    settings = rest(table, ("perturbation", "severities", "paper", "name", "label", "control"))
    plans: list[ChangePlan | OtherImages] = []
    for severity in severities:
        wanted = {"name": kind, **settings, "severity": severity}
        told = used(PERTURBATIONS, wanted)
        several = len(severities) > 1
        plans.append(
            PerturbationPlan(
                SetEntry(
                    name=f"{name}-{severity}" if several else name,
                    label=f"{label} {severity}" if several else label,
                    kind="control" if control else "perturbation",
                    change=name,
                    severity=severity,
                    settings={key: value for key, value in told.items() if key not in ("name", "severity")},
                    paper=severity == paper,
                    of=CLEAN,
                ),
                from_table(PERTURBATIONS, wanted),
            )
        )
    return plans


def attacks(table: Mapping[str, Any]) -> list[ChangePlan | OtherImages]:
    recipe, target = recipe_named(str(table["attack"])), table.get("target")
    if RECIPES[recipe].needs_target and target is None:
        raise ValueError(f"The attack '{recipe}' needs target = a class of the network")
    surface = {name: tuple(table[name]) for name in ("low_resolution", "patch") if name in table}
    lengths = {name: len(numbers) for name, numbers in surface.items()}
    if len(surface) > 1 or lengths.get("low_resolution", 2) != 2 or lengths.get("patch", 2) not in (2, 4):
        raise ValueError(f"The attack '{recipe}' has low_resolution = [h, w] or patch = [h, w] or [h, w, row, column]")
    factory = RECIPES[recipe].factory
    settings = rest(table, ("attack", "target", "low_resolution", "patch", "paper", "name", "label"))
    attack = from_keywords(factory, settings, f"attack '{recipe}'")
    if "low_resolution" in surface:
        attack = replace(attack, parametrisation=LowResolution(surface["low_resolution"]))
    told = {"recipe": recipe, "target": target, **surface, **defaults(factory), **settings}
    return [AttackPlan(named(table, recipe, "attack", told), attack, RECIPES[recipe], target, surface.get("patch", ()))]


def joints(table: Mapping[str, Any]) -> list[ChangePlan | OtherImages]:
    way, monitor, settings = against(table, "joint", WAYS, JOINT)
    entry = named(table, way, "joint", {"way": way, "monitor": monitor, **JOINT, **settings})
    return [JointPlan(entry, attack_monitor, monitor, {"way": way, **settings}, settings.get("restarts", 1) > 1)]


def asking(table: Mapping[str, Any]) -> list[ChangePlan | OtherImages]:
    how, monitor, settings = against(table, "asked", QUERIES, ASKED)
    budget = settings.get("queries", ASKED["queries"])
    if budget < QUERIES[how].least:
        raise ValueError(f"asked '{how}' needs at least {QUERIES[how].least} queries to do anything, not {budget}")
    entry = named(table, how, "joint", {"asked": how, "monitor": monitor, **ASKED, **settings})
    return [JointPlan(entry, ask_monitor, monitor, {"how": how, **settings}, True)]


def against(
    table: Mapping[str, Any], kind: str, rows: Mapping[str, Any], usual: Mapping[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Of an attack on a monitor: the row it names, the monitor, and its settings."""
    row, monitor = str(table[kind]), table.get("monitor")
    if row not in rows:
        raise LookupError(f"No way to attack a monitor is named '{row}'. {nearest(row, list(rows))}")
    if monitor is None or "eps" not in table:
        raise ValueError(f"{kind} '{row}' needs monitor = the name of one, and eps")
    settings = rest(table, (kind, "monitor", "paper", "name", "label"))
    unknown = [name for name in settings if name not in ("eps", *usual)]
    if unknown:
        raise ValueError(f"{kind} '{row}' has no setting '{unknown[0]}'. {nearest(unknown[0], ['eps', *usual])}")
    return row, str(monitor), settings


def universals(table: Mapping[str, Any]) -> list[ChangePlan | OtherImages]:
    if table["universal"] != "gd_uap":
        raise LookupError(f"No universal attack named '{table['universal']}'. There is gd_uap.")
    made_on = table.get("made_on")
    settings = rest(table, ("universal", "made_on", "paper", "name", "label"))
    unknown = [name for name in settings if name not in TAKEN]
    if unknown:
        raise ValueError(f"universal 'gd_uap' has no setting '{unknown[0]}'. {nearest(unknown[0], list(TAKEN))}")
    entry = named(table, "gd_uap", "universal", {"made_on": made_on or "the same network", **TAKEN, **settings})
    return [UniversalPlan(entry, made_on, settings)]


def others(table: Mapping[str, Any]) -> list[ChangePlan | OtherImages]:
    settings = rest(table, ("images", "name", "label"))
    if settings or "name" not in table:
        raise ValueError(f"Images from elsewhere have images, a name and perhaps a label; got {list(table)}")
    source = table["images"]
    entry = named(table, "ood", "ood", {"images": source})
    return [OtherImages(entry, source)]


PLANNERS: Mapping[str, Callable[[Mapping[str, Any]], list[ChangePlan | OtherImages]]] = {
    "perturbation": perturbations,
    "attack": attacks,
    "joint": joints,
    "asked": asking,
    "universal": universals,
    "images": others,
}


def named(table: Mapping[str, Any], change: str, kind: Kind, settings: Mapping[str, Any]) -> SetEntry:
    name = table.get("name", change)
    return SetEntry(
        name=name,
        label=table.get("label", name.replace("_", " ")),
        kind=kind,
        change=change,
        settings=settings,
        paper=bool(table.get("paper", False)),
        of=None if kind == "ood" else CLEAN,
    )


def rest(table: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in own}


def defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


TAKEN = {
    name: value
    for name, value in defaults(gd_uap).items()
    if name not in ("images", "substitutes", "channels", "seed", "progress", "told")
}
"""The settings of GD-UAP that a study may have, with their defaults."""


JOINT = {
    name: value
    for name, value in defaults(attack_monitor).items()
    if name in ("norm", "steps", "step_size", "share", "weight", "margin", "rate", "restarts")
}
"""The settings of a joint attack that a study may have besides eps, with their defaults."""
ASKED = {name: value for name, value in defaults(ask_monitor).items() if name in ("queries", "share", "rate")}
"""Those of an attack that only asks."""


def seed_of(seed: int, *told: str) -> int:
    """A seed of one's own, of the study's seed and names."""
    digest = hashlib.sha256("\0".join([str(seed), *told]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
