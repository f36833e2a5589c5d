"""Networks with the monitors that guard them, as experiments that attack need them: made once, kept in a folder.

Images are cut into what the monitors are calibrated with and what they are tried on, so that nothing is both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.attacks.joint import limit_of
from inlier.backbones.base import Backbone
from inlier.config import from_keywords
from inlier.detectors.spec import DetectorSpec
from inlier.evaluation.gathered import Gathered, Source, gather_images
from inlier.evaluation.workplace import Workplace
from inlier.images import TensorImages
from inlier.monitor import Fusion, Monitor
from inlier.perturbations.base import to_8_bit
from inlier.types import Images, LabelMaps, Progress, Scores

__all__ = ["Guard", "GuardPlan", "NetworkPlan", "Pictures", "Pool", "guards_of", "networks_of", "plans_of",
           "pool_of", "scores_of"]  # fmt: skip


@dataclass(frozen=True)
class NetworkPlan:
    """A network to be attacked; the keyword arguments of a table `[[networks]]`.

    Args:
        name, label: for machines and for people; the label is the name by default.
        backbone: what `load_backbone` takes; `{data}` stands for the folder of data.
        bottleneck: the tap that counts as the encoder's output, for collisions.
        layers: of collisions, if not those of all networks.
    """

    name: str
    backbone: str
    label: str = ""
    bottleneck: str = ""
    layers: Sequence[str] = ()


@dataclass(frozen=True)
class GuardPlan:
    """A monitor that is attacked or tried; the keyword arguments of a table `[[monitors]]`.

    Args:
        name, label: for machines and for people; the label is the name by default.
        detectors: with or without settings, such as `daain(blocks=8)`; several are one monitor. None is the default.
        fusion, escalate: of several detectors, see `Monitor`.
        seeds: of key and fit; a monitor each.
    """

    name: str
    detectors: str | Sequence[str] = ()
    label: str = ""
    fusion: Fusion = "max"
    escalate: float | None = None
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError(f"Monitor '{self.name}' needs seeds, or none said")
        for text in [self.detectors] if isinstance(self.detectors, str) else self.detectors:
            DetectorSpec.parse(text)

    def made(self, backbone: Backbone, seed: int) -> Monitor:
        """The monitor, not yet fitted."""
        detectors = [self.detectors] if isinstance(self.detectors, str) else list(self.detectors)
        return Monitor(backbone, detectors or None, fusion=self.fusion, escalate=self.escalate, seed=seed)


@dataclass(frozen=True, eq=False)
class Guard:
    """A monitor at work.

    Args:
        name, label: of the monitor, its seed told where there are several.
        family: the name of its plan.
        monitor: fitted and calibrated.
        limit: the largest score that is not flagged.
    """

    name: str
    label: str
    family: str
    monitor: Monitor
    limit: float


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images in memory, as 8-bit files hold them.

    Args:
        groups: one an image.
        labels: where the data set has them for images.
        classes: what the labels mean.
    """

    images: Images
    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: LabelMaps | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def some(self, places: Sequence[int]) -> Pictures:
        """Those at some places."""
        labels = None if self.labels is None else self.labels[list(places)]
        names, groups = (tuple(told[i] for i in places) for told in (self.names, self.groups))
        return Pictures(self.images[list(places)], names, groups, labels, self.classes)

    def without(self, images: Images) -> Pictures:
        """Those that are none of these, pixel for pixel.

        Raises:
            ValueError: all of them are.
        """
        taken = {image.cpu().numpy().tobytes() for image in to_8_bit(images)}
        kept = [n for n, image in enumerate(self.images) if image.numpy().tobytes() not in taken]
        if not kept:
            raise ValueError(f"All {len(self)} images are among those that are attacked: give further ones")
        return self.some(kept)

    @property
    def source(self) -> TensorImages:
        """To fit to and to calibrate with."""
        return TensorImages(self.images, self.names, self.groups)

    @classmethod
    def of(cls, source: Gathered) -> Pictures:
        """All of a source.

        Raises:
            ValueError: none, or images of several sizes.
        """
        batches = list(source.batches(1))
        sizes = sorted({tuple(batch.images.shape[1:]) for batch in batches})
        if len(sizes) != 1:
            told = f"of several sizes, {sizes[:3]}: give size = [height, width]" if sizes else "none"
            raise ValueError(f"Images to be attacked together are of one size, and these are {told}")
        labels = [batch.labels for batch in batches if batch.labels is not None and batch.labels.ndim == 1]
        return cls(
            to_8_bit(torch.cat([batch.images for batch in batches])),
            tuple(name for batch in batches for name in batch.names),
            tuple(group for batch in batches for group in batch.groups),
            torch.cat(labels) if len(labels) == len(batches) else None, source.classes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pool:
    """Clean images that no monitor was fitted to.

    Args:
        held_out: those to calibrate with; None where the images of the fit are cross-fitted instead.
        reference: those to try monitors on.
    """

    held_out: Pictures | None
    reference: Pictures


def networks_of(tables: Sequence[Mapping[str, Any]]) -> list[NetworkPlan]:
    """The networks of a configuration.

    Raises:
        ValueError: none, an unknown setting, or a name twice.
    """
    plans = [from_keywords(NetworkPlan, table, f"network '{table.get('name', '?')}'") for table in tables]
    check_names("networks", [plan.name for plan in plans])
    return plans


def plans_of(tables: Sequence[Mapping[str, Any]]) -> list[GuardPlan]:
    """The monitors of a configuration.

    Raises:
        ValueError, LookupError: none, an unknown setting or detector, or a name twice.
    """
    plans = [from_keywords(GuardPlan, table, f"monitor '{table.get('name', '?')}'") for table in tables]
    check_names("monitors", [plan.name for plan in plans])
    return plans


def check_names(what: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"The experiment needs {what}: give at least one table [[{what}]]")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two of the {what} are named '{twice[0]}'; give each a name of its own")


def pool_of(source: Source, data: Path | None, held_out: int, reference: int, size: tuple[int, int] | None) -> Pool:
    """Clean images, some to calibrate with and some to try on: both spread evenly over all, none in both.

    Raises:
        ValueError: there are not so many.
    """
    gathered = gather_images(source, data, most=held_out + reference, size=size)
    if len(gathered) < held_out + reference:
        raise ValueError(
            f"There are {len(gathered)} clean images, and {held_out} are to calibrate with and {reference} to try on"
        )
    every = Pictures.of(gathered)
    count = len(every)  # an unreadable image may be missing
    aside = {i for i in range(count) if i * held_out // count != (i + 1) * held_out // count}
    rest = every.some([i for i in range(count) if i not in aside])
    return Pool(every.some(sorted(aside)) if aside else None, rest)


def guards_of(
    place: Workplace,
    network: str,
    backbone: Backbone,
    plans: Sequence[GuardPlan],
    fit: Pictures,
    held_out: Pictures | None,
    *,
    rate: float,
    batch_size: int = 16,
    device: str = "cpu",
    notes: list[str] | None = None,
    progress: Progress | None = None,
) -> list[Guard]:
    """The monitors of a network; from their files in the folder of the work, where they were made before.

    They are fitted on the CPU and then moved, the network with them.

    Args:
        held_out: to calibrate with; without, the images of the fit are cross-fitted.
        rate: the nominal false-alarm rate.
        notes: are added to, with what fits and calibrations warned of.
    """
    found = []
    for plan in plans:
        for seed in plan.seeds:
            several = f", key {seed}" if len(plan.seeds) > 1 else ""
            name, label = plan.name + several, (plan.label or plan.name) + several
            file = place.work / f"{''.join(c if c.isalnum() else '_' for c in f'{network} {name}')}.inlier"
            said: list[str] = []
            if file.is_file():
                monitor = Monitor.load(file, backbone)
            else:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    monitor = plan.made(backbone, seed)
                    monitor.fit(fit.source, batch_size=batch_size, progress=renamed(progress, name))
                    held = None if held_out is None else held_out.source
                    monitor.calibrate(held, false_alarm_rate=rate, batch_size=batch_size)
                said = [str(each.message) for each in told]
                monitor.save(file)
            limit = limit_of(monitor, rate)
            _, kept = place.part(f"{file.stem} told", partial(made_known, limit, said))
            if notes is not None:
                notes += [text for text in dict.fromkeys(kept["notes"]) if text not in notes]
            found.append(Guard(name, label, plan.name, monitor, limit))
    for guard in found:
        guard.monitor.to(device)
    return found


def made_known(limit: float, notes: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A part of the work: what was said while a monitor was made."""
    return {"limit": torch.tensor(limit, dtype=torch.float64)}, {"notes": list(notes)}


def renamed(progress: Progress | None, name: str) -> Progress | None:
    """The same, told of a monitor."""
    return None if progress is None else lambda phase, done, total: progress(f"{phase}, {name}", done, total)


@torch.no_grad()
def scores_of(guard: Guard, images: Images, batch_size: int) -> Scores:
    """A monitor's scores, on the CPU."""
    device = guard.monitor.backbone.mean.device
    return torch.cat([guard.monitor.score(part.to(device)).double().cpu() for part in torch.split(images, batch_size)])
