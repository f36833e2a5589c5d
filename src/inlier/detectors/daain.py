"""DAAIN: sampled activations, a normalizing flow, a distance in its latent space (von Baußnern et al., 2021).

A secret key samples activations all over the network, a flow maps them to a space where clean images are normally
distributed, and a head without parameters of its own scores the latent vector.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from torch import nn

from inlier.anatomy import Anatomy
from inlier.densities.flow import Flow, FusedFlow
from inlier.detectors.base import Detector
from inlier.detectors.latent_heads import HBOS, Euclidean, HarmonicMean, LatentMahalanobis
from inlier.errors import NotFitted
from inlier.observation import Observation, Readings
from inlier.readers import Reader, SampledActivations
from inlier.types import Progress, Scores

__all__ = ["DAAIN", "Head", "daain"]

LOG_TAU = math.log(2 * math.pi)

Head = Literal["likelihood", "euclidean", "harmonic", "mahalanobis", "hbos"]


class DAAIN(Detector):
    """Flow and head over a reader's numbers.

    Args:
        reader: of sampled activations (any reader of vectors will do).
        blocks, width: of the flow (paper: 4, 8 or 16 blocks; 10 hidden units).
        head: what is scored: `hbos` (the paper's best), `euclidean`, `harmonic`, `mahalanobis` of the latent vector, or
            `likelihood`, minus the flow's log-likelihood.
        bins: of the histograms of `hbos` (paper: 20, 30, 40 or 50).
        seed: of the flow's fixed permutations and first weights.
    """

    name = "daain"

    def __init__(
        self, reader: Reader, *, blocks: int = 16, width: int = 10, head: Head = "hbos", bins: int = 30, seed: int = 0
    ) -> None:
        super().__init__()
        self.requires = (reader,)
        self.reading = reader.name
        self.flow = Flow(reader.size, blocks=blocks, width=width, seed=seed)
        self.fused: FusedFlow | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.fuse())  # type: ignore[no-untyped-call]
        self.head: nn.Module | None
        if head == "hbos":
            self.head = HBOS(reader.size, bins)
        elif head == "euclidean":
            self.head = Euclidean()
        elif head == "harmonic":
            self.head = HarmonicMean()
        elif head == "mahalanobis":
            self.head = LatentMahalanobis(reader.size)
        elif head == "likelihood":
            self.head = None
        else:
            raise ValueError(f"head must be likelihood, euclidean, harmonic, mahalanobis or hbos, not {head!r}")

    def fit(self, readings: Readings, *, seed: int = 0, progress: Progress | None = None) -> Self:
        x = readings.values[self.reading]
        self.flow.fit(x, seed=seed, progress=progress)
        self.fuse()
        if self.head is not None:
            with torch.no_grad():
                self.head.fit(self.fitted_flow.latent(x))  # type: ignore[operator]
        return self

    def fuse(self) -> None:
        """Fold the fitted flow into its fast form, which gives the same numbers."""
        self.fused = self.flow.fused()

    @property
    def fitted_flow(self) -> FusedFlow:
        """The flow in its fast form.

        Raises:
            NotFitted: it was never fitted.
        """
        if self.fused is None:
            raise NotFitted("The flow is not fitted: call fit(readings of clean images) first")
        return self.fused

    def forward(self, observation: Observation) -> Scores:
        x = observation.readings[self.reading]
        if self.head is None:
            z, log_det = self.fitted_flow(x)
            surprise: Scores = 0.5 * (z.square() + LOG_TAU).sum(1) - log_det
            return surprise
        scores: Scores = self.head(self.fitted_flow.latent(x))
        return scores


def daain(
    anatomy: Anatomy,
    *,
    distance: float = 64,
    blocks: int = 16,
    width: int = 10,
    head: Head = "hbos",
    bins: int = 30,
    seed: int = 0,
) -> DAAIN:
    """The detector over blue-noise samples of all activations (DAAIN, Table 2's best row by default).

    `distance` is the minimum distance of the sampled points in pixels and channels (paper: 64 and 128).
    """
    shapes = anatomy.everywhere()
    volume = (sum(shape[0] for shape in shapes.values()), *anatomy.size)
    key = anatomy.keys.blue_noise(volume, distance)
    reader = anatomy.shared("sampled", lambda: SampledActivations(key, shapes, "sampled"))
    return DAAIN(reader, blocks=blocks, width=width, head=head, bins=bins, seed=seed)
