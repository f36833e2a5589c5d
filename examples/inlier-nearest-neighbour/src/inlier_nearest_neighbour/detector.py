"""Distance to the k-th nearest clean image (Sun et al., ICML 2022, arXiv:2204.06507)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from inlier.anatomy import Anatomy
from inlier.detectors.base import Detector
from inlier.errors import NotFitted
from inlier.observation import Observation, Readings
from inlier.readers import ChannelStatistics, Reader
from inlier.registry import cites
from inlier.types import Progress, Scores

__all__ = ["NearestNeighbour", "nearest_neighbour"]


class NearestNeighbour(Detector):
    """Euclidean distance, between features of unit length, to the k-th nearest of at most `bank` clean images.

    Args:
        reader: keeps the features, (n, d).
        k: which neighbour.
        bank: how many clean images to remember; of more, so many are drawn with the seed of the fit.

    Raises:
        ValueError: k is not in 1 to `bank`, or `fit` gets fewer than k images.
    """

    name = "nearest_neighbour"

    def __init__(self, reader: Reader, k: int, bank: int) -> None:
        super().__init__()
        if not 1 <= k <= bank:
            raise ValueError(f"k must be from 1 to the {bank} images of the bank, not {k}")
        self.requires = (reader,)
        self.reading = reader.name
        self.k = k
        self.features: Tensor
        self.filled: Tensor
        # Places that are empty when there are fewer images, so that a saved state always has the same shape.
        self.register_buffer("features", torch.zeros(bank, reader.size))
        self.register_buffer("filled", torch.zeros(bank, dtype=torch.bool))

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        clean = F.normalize(readings.values[self.reading], dim=1)
        if len(clean) < self.k:
            raise ValueError(
                f"The {self.k}-th nearest of {len(clean)} clean images does not exist: lower k, or add images"
            )
        order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(seed))
        chosen = order[: len(self.features)].sort().values
        self.features.zero_()[: len(chosen)] = clean[chosen]
        self.filled.zero_()[: len(chosen)] = True
        return self

    def forward(self, observation: Observation) -> Scores:
        if not self.filled.any():
            raise NotFitted("nearest_neighbour remembers no image: call fit(clean readings) first")
        features = F.normalize(observation.readings[self.reading], dim=1)
        # |a - b|^2 = 2 - 2 a b for vectors of unit length; the floor gives the root a slope at a remembered image.
        squared = (2 - 2 * features @ self.features.T).clamp_min(1e-12)
        distances = squared.sqrt().masked_fill(~self.filled, torch.inf)
        return distances.topk(self.k, dim=1, largest=False).values[:, -1]


@cites("Sun et al. 2022")
def nearest_neighbour(anatomy: Anatomy, *, k: int = 10, bank: int = 1000) -> NearestNeighbour:
    """Distance of the last stage's mean features to the k-th nearest clean image.

    Differs from the source, which takes a classifier's penultimate layer: the last stage exists in any network.
    """
    tap, shape = list(anatomy.stage_ends().items())[-1]
    name = "mean of the last stage"
    reader = anatomy.shared(name, lambda: ChannelStatistics({tap: shape}, grid=(1, 1), name=name))
    return NearestNeighbour(reader, k, bank)
