"""Several monitors of one network, looked after in one forward pass.

Monitors under different keys, with other taps or other looks have readers of the same names that read different
things. Here every different reader reads once, under a name of its own, and each monitor is handed its part under the
names that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from inlier.attacks.joint import Watched, limit_of
from inlier.backbones.base import Backbone
from inlier.monitor import Monitor, Needs
from inlier.observation import Look, Observation, Readings
from inlier.origin import reader_digest
from inlier.probe import Probe
from inlier.readers import Reader
from inlier.types import Images, Logits, Scores

__all__ = ["Part", "Pool", "Scale", "Together", "pooled", "scale_of", "scored"]

Pool: TypeAlias = Literal["mean", "max"]
"""How the scores of several monitors are one."""


class Together:
    """The probe that several monitors of one backbone share.

    Args:
        backbone: of all of them.
        monitors: by name; built, fitted or not.

    Example:
        >>> from inlier.backbones.base import Classification
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...                               torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> backbone = Backbone(network, Classification(("cat", "dog")))
        >>> monitors = {text: Monitor(backbone, text).build((8, 8)) for text in ("mahalanobis", "energy")}
        >>> together = Together(backbone, monitors)
        >>> observation = together(torch.rand(2, 3, 8, 8))
        >>> len(together.values(observation)), observation.passes
        (2, 1)
    """

    def __init__(self, backbone: Backbone, monitors: Mapping[str, Monitor]) -> None:
        self.needs: dict[str, Needs] = {name: monitor.needs for name, monitor in monitors.items()}
        self.names: dict[str, dict[str, str]] = {}
        """By monitor, under which shared name what it calls its own is found."""
        shared: dict[str, Reader] = {}
        measures: dict[str, tuple[str, Callable[[Observation], Tensor]]] = {}
        for monitor, needs in self.needs.items():
            self.names[monitor] = {}
            for own, reader in needs.readers.items():
                name = f"read-{reader_digest(reader)[:24]}"
                shared.setdefault(name, reader)
                self.names[monitor][own] = name
            for measure, of in needs.measures.items():
                measures.setdefault(measure, (monitor, of))
                self.names[monitor][measure] = measure
        self.measures = measures
        self.probe = Probe(backbone, shared).to(backbone.mean.device)

    def __call__(self, images: Images) -> Observation:
        """Observe images; a view of what one monitor sees of them is `Part`."""
        return self.probe(images)  # type: ignore[no-any-return]

    def wanted(self, monitors: Sequence[str]) -> set[str]:
        """The shared names of all that some of the monitors need."""
        return {shared for monitor in monitors for shared in self.names[monitor].values()}

    @torch.no_grad()
    def values(self, observation: Observation) -> dict[str, Tensor]:
        """What all monitors need of an observation, by shared name."""
        values = dict(observation.readings)
        for name, (monitor, of) in self.measures.items():
            values[name] = of(Part(observation, self.names[monitor]))
        return values

    def readings(
        self, monitor: str, values: Mapping[str, Tensor], names: Sequence[str], groups: Sequence[str]
    ) -> Readings:
        """One monitor's readings of images, of the `values` of all of them, to fit it to or to score."""
        own = {own: values[shared] for own, shared in self.names[monitor].items()}
        return Readings(own, tuple(names), tuple(groups), origin=self.needs[monitor].origin)


class Part(Observation):
    """An observation as one monitor sees it: its readings under its own names, everything else shared.

    What it looks at again is looked at once for all that ask for the same look.
    """

    def __init__(self, whole: Observation, names: Mapping[str, str]) -> None:
        self._whole = whole
        self._names = names

    @property
    def images(self) -> Images:
        return self._whole.images

    @property
    def output(self) -> Logits:
        return self._whole.output

    @property
    def readings(self) -> Mapping[str, Tensor]:
        shared = self._whole.readings
        return {own: shared[name] for own, name in self._names.items() if name in shared}

    @property
    def passes(self) -> int:
        return self._whole.passes

    def look(self, look: Look, generator: torch.Generator | None = None) -> Observation:
        return Part(self._whole.look(look, generator), self._names)

    def subset(self, indices: Tensor) -> Observation:
        return Part(self._whole.subset(indices), self._names)

    def gradient(self, of: Callable[[Observation], Tensor], *, create_graph: bool = False) -> Images:
        return self._whole.gradient(lambda seen: of(Part(seen, self._names)), create_graph=create_graph)


@dataclass(frozen=True)
class Scale:
    """What a monitor's score is measured in.

    Args:
        limit: the largest score that is not flagged.
        spread: the standard deviation of its clean scores.
    """

    limit: float
    spread: float

    def of(self, scores: Tensor) -> Tensor:
        """Scores in spreads above the limit: flagged above 0."""
        return (scores - self.limit) / self.spread


def scale_of(monitor: Monitor) -> Scale:
    """Of a calibrated monitor."""
    return Scale(limit_of(monitor), monitor.calibration_scores.double().std().clamp_min(1e-12).item())


def scored(
    observation: Observation, together: Together, monitors: Mapping[str, Monitor], scales: Mapping[str, Scale]
) -> Float[Tensor, "monitors n"]:
    """The scores of several monitors of what they see together, in their scales: flagged above 0."""
    return torch.stack([
        scales[name].of(monitor.objective(Part(observation, together.names[name])))
        for name, monitor in monitors.items()
    ])  # fmt: skip


def pooled(backbone: Backbone, monitors: Mapping[str, Monitor], margin: float, pool: Pool = "max") -> Watched:
    """Several calibrated monitors as one, for who attacks them together: flagged above 0, in spreads of clean scores.

    Args:
        margin: how far below 0 the attacker aims.
    """
    together = Together(backbone, monitors)
    scales = {name: scale_of(monitor) for name, monitor in monitors.items()}

    def score(observation: Observation) -> Scores:
        scores = scored(observation, together, monitors, scales)
        return scores.mean(0) if pool == "mean" else scores.amax(0)

    return Watched(together.probe, score, -margin)
