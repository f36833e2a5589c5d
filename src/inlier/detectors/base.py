"""Detectors: one score an image, larger = more anomalous, learnt from clean images alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Self

from torch import Tensor, nn

from inlier.observation import Observation, Readings
from inlier.readers import Reader
from inlier.types import Maps, Progress, Scores

__all__ = ["Detector"]


class Detector(nn.Module, ABC):
    """Scores observations.

    `name` is the name it is registered under, `requires` are the readers that must be in the probe, and `learns` says
    whether `fit` does anything, so that a detector that learns nothing is calibrated without refitting. One that
    `learns_from_anomalies` has a further argument of `fit`, `anomalies`: readings of labelled ones, or None. What one
    that `carries_over` learns holds for groups it has not seen, so that whole groups are held out to calibrate it.
    `passes` are the forward passes that a score needs, the prediction's own included; of detectors that have an equal
    `look`, those are made once.
    """

    name: str
    requires: tuple[Reader, ...] = ()
    learns: bool = True
    learns_from_anomalies: bool = False
    carries_over: bool = False
    passes: int = 1

    @property
    def measures(self) -> Mapping[str, Callable[[Observation], Tensor]]:
        """What `fit` learns from besides `requires`, for detectors that need more than one pass: by name, functions of
        an observation that give (n, k).

        They are worked out while images are read (`probe.read(images, also=detector.measures)`) and kept among the
        readings. The score takes them by `observation.measured(name, function)`, so that images need not be there. A
        name tells all settings: what has the same name is the same measure.
        """
        return {}

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        """Learn from clean readings; a detector that learns nothing returns itself."""
        return self

    @abstractmethod
    def forward(self, observation: Observation) -> Scores:
        """(n,) scores: tensors in, tensors out, differentiable with respect to the images."""

    def maps(self, observation: Observation) -> Maps | None:
        """(n, h, w) scores a pixel, where the detector has them."""
        return None

    def __call__(self, observation: Observation) -> Tensor:
        scores: Tensor = super().__call__(observation)
        return scores
