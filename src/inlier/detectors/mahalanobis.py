"""Mahalanobis distance of what a reader keeps, without classes.

Over channel means in horizontal bands of the deepest stage it is a part of the monitor's default: it is fitted in
seconds from a few dozen images, costs little, and sees a vertical flip, which statistics of the whole image do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from inlier.anatomy import Anatomy
from inlier.densities.gaussian import Gaussian
from inlier.detectors.base import Detector
from inlier.observation import Observation, Readings
from inlier.readers import ChannelStatistics, Reader, Statistic
from inlier.types import Progress, Scores

__all__ = ["Mahalanobis", "mahalanobis"]

CONSTANT = 0.1
"""Share of the median standard deviation below which a feature counts as constant. Cross-fitted scores of clean CamVid
frames have the longer a tail the smaller it is: a channel that is nearly dead has no scale of its own."""


class Mahalanobis(Detector):
    """Squared Mahalanobis distance to the mean of the clean readings, Ledoit-Wolf covariance, divided by the dimension.

    The division (Differs from Lee et al. 2018, who do not divide) makes 1 the expected score of a clean Gaussian
    reading, whatever the number of features.
    """

    name = "mahalanobis"

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.requires = (reader,)
        self.reading = reader.name
        self.density = Gaussian(reader.size, constant=CONSTANT)

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        self.density.fit(readings.rows(self.reading))
        return self

    def forward(self, observation: Observation) -> Scores:
        readings = observation.readings[self.reading]
        return self.density.mahalanobis(readings) / readings.shape[1]


def mahalanobis(
    anatomy: Anatomy,
    *,
    taps: str | Sequence[str] = "stage_ends",
    grid: tuple[int, int] = (4, 1),
    statistics: Sequence[Statistic] = ("mean",),
    normalise: Literal["none", "rms"] = "none",
) -> Mahalanobis:
    """The detector over channel statistics, by default means in four horizontal bands, at the end of every stage.

    `taps` are where; see `Anatomy.select`.
    """
    shapes = anatomy.select(taps)
    name = f"{'+'.join(statistics)} in {grid[0]} x {grid[1]}, normalise {normalise}"
    if taps != "stage_ends":
        name += f", at {taps}".replace(".", "/")  # modules have no points in their names
    return Mahalanobis(
        anatomy.shared(
            name, lambda: ChannelStatistics(shapes, grid=grid, statistics=statistics, normalise=normalise, name=name)
        )
    )
