"""A stress test as an experiment: the monitor and what is known to break beside it are fitted first, then attacked.

`inlier stress` attacks a monitor that is there; this makes it from a file's settings, so that one command gives the
whole result again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inlier.backbones.load import load_backbone
from inlier.evaluation.gathered import Source, gather_images, placed
from inlier.evaluation.guards import Guard, Pictures, guards_of, plans_of
from inlier.evaluation.stress import BUDGETS, Budget, Stress
from inlier.evaluation.subjects import Subjects
from inlier.evaluation.workplace import Workplace
from inlier.registry import nearest
from inlier.types import Progress

__all__ = ["StressExperiment"]


@dataclass(frozen=True, kw_only=True)
class StressExperiment:
    """The settings of an experiment of the kind `stress`.

    Args:
        backbone: what `load_backbone` takes; in all texts `{data}` stands for the folder of data.
        fit: clean images that the monitors learn from and, cross-fitted, are calibrated with.
        clean: the images that are attacked; with labels, what is left of the network's accuracy is told too.
        title: of the report.
        monitor: a table, see `GuardPlan`; the default monitor by default.
        control: likewise, of one that is known to break.
        surrogates: likewise, of those that attackers of tier T1 fit; with none there are no such attackers.
        surrogate_fit: images that these learn from, but for those that are attacked; by default those of `fit`.
        size: (h, w) that all images are resized to.
        images: how many are attacked, spread evenly.
        grey_levels: radii of the Linf balls, of 255.
        budget: of `stress.suite`.
        rate: the nominal false-alarm rate.
        batch_size, seed: images at a time, and of all that is drawn.

    Raises:
        ValueError, LookupError: settings that cannot be.
    """

    backbone: str
    fit: Source
    clean: Source
    title: str = "A stress test"
    monitor: Mapping[str, Any] = field(default_factory=lambda: {"name": "default"})
    control: Mapping[str, Any] = field(default_factory=lambda: {"name": "max_softmax", "detectors": "max_softmax"})
    surrogates: Sequence[Mapping[str, Any]] = ()
    surrogate_fit: Source | None = None
    size: Sequence[int] | None = None
    images: int = 8
    grey_levels: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
    budget: Budget = "standard"
    rate: float = 0.01
    batch_size: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        plans_of([self.monitor, self.control, *self.surrogates])
        if self.surrogate_fit is not None and not self.surrogates:
            raise ValueError("surrogate_fit is for surrogates, and there are none: give tables [[surrogates]]")
        if self.budget not in BUDGETS:
            raise ValueError(f"There is no budget '{self.budget}'. {nearest(str(self.budget), list(BUDGETS))}")
        if self.images < 1 or not self.grey_levels or min(self.grey_levels) <= 0:
            raise ValueError(f"A stress test needs images and grey_levels above 0, not {list(self.grey_levels)}")
        if not 0 < self.rate < 1:
            raise ValueError(f"The rate is a false-alarm rate above 0 and below 1, not {self.rate!r}")

    def run(
        self, out: Path, *, data: Path | None = None, command: str = "", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Fit, calibrate and attack; see `Experiment`."""
        backbone = load_backbone(placed(self.backbone, data))
        settings = asdict(self) | {"inlier": version("inlier"), "print": backbone.fingerprint()}
        place = Workplace(out, settings, "a stress test")
        size = None if self.size is None else (int(self.size[0]), int(self.size[1]))
        fit = Pictures.of(gather_images(self.fit, data, size=size))
        notes: list[str] = []
        made = partial(guards_of, place, rate=self.rate, batch_size=self.batch_size, notes=notes, progress=progress)
        watched, control = made("network", backbone, plans_of([self.monitor, self.control]), fit, None)
        subjects = Subjects.of(gather_images(self.clean, data, most=self.images, size=size), backbone)
        surrogates: list[Guard] = []
        if self.surrogates:
            his = fit
            if self.surrogate_fit is not None:
                his = Pictures.of(gather_images(self.surrogate_fit, data, size=size)).without(subjects.images)
            surrogates = made("attacker", backbone, plans_of(self.surrogates), his, None)
        found = Stress(
            watched.monitor, subjects, place.work / "suite", epsilons=[grey / 255 for grey in self.grey_levels],
            budget=self.budget, rate=self.rate, control=control.monitor,
            surrogates={each.name: each.monitor for each in surrogates}, batch_size=self.batch_size, seed=self.seed,
            progress=progress,
        ).run()  # fmt: skip
        return {"title": self.title, "command": command, "config": asdict(self), **found,
                "notes": [*notes, *found["notes"]]}  # fmt: skip
