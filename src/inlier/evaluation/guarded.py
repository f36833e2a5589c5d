"""What the experiments that attack monitors share: their settings, and their work before anything is attacked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.evaluation.gathered import Source, gather_images, placed
from inlier.evaluation.guards import (
    Guard,
    NetworkPlan,
    Pictures,
    guards_of,
    networks_of,
    plans_of,
    pool_of,
    scores_of,
)
from inlier.evaluation.workplace import Workplace
from inlier.types import Progress, Scores

__all__ = ["Guarded", "GuardedWork"]


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """Settings of networks, monitors and images.

    Args:
        networks: tables, see `NetworkPlan`.
        monitors: tables, see `GuardPlan`; each guards each network.
        fit: clean images that the monitors learn from. In all texts `{data}` stands for the folder of data.
        clean: clean images that nothing is fitted to.
        title: of the report.
        size: (h, w) that all images are resized to.
        fit_images: how many to learn from at most.
        held_out: how many of the clean images the monitors are calibrated with; with 0 the images of the fit are
            cross-fitted. A network is surer of images that it was trained on, so calibrate with others.
        reference: how many further clean images stand for what is clean.
        images: how many images of each kind are attacked.
        rate: the nominal false-alarm rate.
        batch_size, device, seed: images a pass, where it is made, and of all that is drawn.

    Raises:
        ValueError, LookupError: settings that cannot be.
    """

    networks: Sequence[Mapping[str, Any]]
    monitors: Sequence[Mapping[str, Any]]
    fit: Source
    clean: Source
    title: str
    size: Sequence[int] | None = None
    fit_images: int | None = None
    held_out: int = 0
    reference: int = 100
    images: int = 8
    rate: float = 0.05
    batch_size: int = 16
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        networks_of(self.networks)
        plans_of(self.monitors)
        if min(self.images, self.reference) < 1:
            raise ValueError(f"images and reference are above 0, not {self.images} and {self.reference}")
        if not 0 < self.rate < 1:
            raise ValueError(f"The rate is a false-alarm rate above 0 and below 1, not {self.rate!r}")


T = TypeVar("T", bound=Guarded)


class GuardedWork(Generic[T]):
    """Such an experiment at work: its networks loaded, its images in memory, its monitors made when asked for.

    Args:
        told: the settings.
        out: the folder of the work.
        data: what `{data}` in the settings stands for.
        job: what it is, with its article, for errors.
        progress: told of every batch.

    Raises:
        Mismatch: the folder is of a job with other settings, or something else lies in it.
        ValueError: images that are too few, or of several sizes.
    """

    def __init__(self, told: T, out: Path, data: Path | None, job: str, progress: Progress | None) -> None:
        self.told, self.progress = told, progress
        self.start = time.perf_counter()
        self.notes: list[str] = []
        self.networks = [(plan, load_backbone(placed(plan.backbone, data))) for plan in networks_of(told.networks)]
        prints = [backbone.fingerprint() for _, backbone in self.networks]
        self.place = Workplace(out, asdict(told) | {"inlier": version("inlier"), "prints": prints}, job)
        self.size = None if told.size is None else (int(told.size[0]), int(told.size[1]))
        self.pool = pool_of(told.clean, data, told.held_out, told.reference, self.size)
        self.fit = Pictures.of(gather_images(told.fit, data, most=told.fit_images, size=self.size))

    def guards(self, plan: NetworkPlan, backbone: Backbone) -> list[Guard]:
        """The monitors of a network, fitted and calibrated; from their files, if they were made before."""
        told = self.told
        return guards_of(
            self.place, plan.name, backbone, plans_of(told.monitors), self.fit, self.pool.held_out, rate=told.rate,
            batch_size=told.batch_size, device=told.device, notes=self.notes, progress=self.progress,
        )  # fmt: skip

    def clean_scores(self, plan: NetworkPlan, guard: Guard) -> Scores:
        """Of the clean images that nobody attacks."""
        images = self.pool.reference.images
        tensors, _ = self.place.part(
            f"{plan.name} {guard.name} reference",
            lambda: ({"scores": scores_of(guard, images, self.told.batch_size)}, {}),
        )
        return tensors["scores"]

    def told_of_all(self, command: str) -> dict[str, Any]:
        """What the page of every such experiment tells; the seconds are those since it began."""
        return {
            "title": self.told.title, "command": command, "config": asdict(self.told), "notes": self.notes,
            "size": list(self.pool.reference.images.shape[1:]), "reference": len(self.pool.reference),
            "held_out": 0 if self.pool.held_out is None else len(self.pool.held_out), "fitted_to": len(self.fit),
            "seconds": round(time.perf_counter() - self.start, 1),
        }  # fmt: skip
