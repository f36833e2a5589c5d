"""DAAIN: sampled activations, a normalizing flow, a distance in its latent space (von Baußnern et al., 2021).

A secret key samples activations all over the network, a flow maps them to a space where clean images are normally
distributed, and a head scores the latent vector. One head, `logistic`, learns from labelled anomalies too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from inlier.anatomy import Anatomy, KeyKind
from inlier.densities.bijections.lattice import Lattice
from inlier.densities.flow import Coupling, Flow, Mixing
from inlier.densities.fused_flow import RunTimeFlow
from inlier.detectors.base import Detector
from inlier.detectors.latent_heads import (
    HBOS,
    ClippedHBOS,
    Euclidean,
    HarmonicMean,
    LatentMahalanobis,
    Logistic,
)
from inlier.errors import NotFitted
from inlier.observation import Observation, Readings
from inlier.readers import Reader, SampledActivations
from inlier.sampling import SamplingKey
from inlier.types import Progress, Scores

__all__ = ["DAAIN", "Head", "daain"]

LOG_TAU = math.log(2 * math.pi)

Head = Literal["likelihood", "euclidean", "harmonic", "mahalanobis", "hbos", "hbos_clipped", "logistic"]


class Latents(Iterable[Tensor]):
    """What a flow makes of rows, worked out batch by batch whenever it is asked for."""

    def __init__(self, flow: RunTimeFlow, batches: Sequence[Tensor]) -> None:
        self.flow, self.batches = flow, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            with torch.no_grad():
                latent = self.flow.latent(batch)
            yield latent


class DAAIN(Detector):
    """Flow and head over a reader's numbers.

    Args:
        reader: of sampled activations (any reader of vectors will do).
        blocks, width, coupling, mixing, reflections: of the flow, see `Flow` (paper: 4, 8 or 16 blocks; 10 hidden
            units, 256 with `conv1x1`).
        head: what is scored: `hbos` (the paper's best), `euclidean`, `harmonic`, `mahalanobis` of the latent vector, or
            `likelihood`, minus the flow's log-likelihood. `hbos_clipped` is the reference implementation's, whose
            scores tie beyond the worst clean image. `logistic` needs labelled anomalies in `fit`.
        bins: of the histograms of `hbos` (paper: 20, 30, 40 or 50).
        penalty: of `logistic`, see there.
        seed: of the flow's fixed permutations and first weights.
        key: whose points the reader reads, in their order; for `conv1x1`.
    """

    name = "daain"

    def __init__(
        self,
        reader: Reader,
        *,
        blocks: int = 16,
        width: int | None = None,
        coupling: Coupling = "affine",
        mixing: Mixing = "permutation",
        reflections: int = 8,
        head: Head = "hbos",
        bins: int = 30,
        penalty: float = 1.0,
        seed: int = 0,
        key: SamplingKey | None = None,
    ) -> None:
        super().__init__()
        made = head_named(head, reader.size, bins, penalty)  # first of all: a name may be mistyped
        self.requires = (reader,)
        self.reading = reader.name
        if reader.size < 2:
            raise ValueError(
                f"DAAIN's flow needs 2 activations or more, and {reader.size} is read here: choose a smaller distance "
                "between sampled points, or larger images"
            )
        if mixing == "conv1x1" and key is None:
            raise ValueError("mixing='conv1x1' needs the key whose points are read: give key=, or use another mixing.")
        self.flow = Flow(
            reader.size,
            blocks,
            width,
            seed=seed,
            coupling=coupling,
            mixing=mixing,
            reflections=reflections,
            lattice=Lattice.of(key) if mixing == "conv1x1" and key is not None else None,
        )
        self.fused: RunTimeFlow | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.fuse())  # type: ignore[no-untyped-call]
        self.head = made
        self.learns_from_anomalies = head == "logistic"

    def fit(
        self,
        readings: Readings,
        *,
        anomalies: Readings | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from clean readings; the head `logistic` from labelled anomalies too, the flow never.

        Raises:
            ValueError: `logistic` has no anomalies to learn from, or another head has some.
        """
        if self.learns_from_anomalies and (anomalies is None or len(anomalies) == 0):
            raise ValueError(
                "head='logistic' learns from labelled anomalies and none came. Give them, "
                "fit(clean, anomalies=...), or choose a head that learns from clean images alone, such as head='hbos'."
            )
        if anomalies is not None and not self.learns_from_anomalies:
            raise ValueError(
                f"{len(anomalies)} anomalies came, and this head learns from clean images alone; "
                "head='logistic' is the one that learns from both."
            )
        x = readings.values[self.reading]
        self.flow.fit(x, seed=seed, progress=progress)
        self.fuse()
        if isinstance(self.head, Logistic):
            assert anomalies is not None
            with torch.no_grad():
                latents = [self.fitted_flow.latent(each.values[self.reading]) for each in (readings, anomalies)]
            self.head.fit(*latents)
        elif self.head is not None:
            self.head.fit(Latents(self.fitted_flow, readings.rows(self.reading)))  # type: ignore[operator]
        return self

    def fuse(self) -> None:
        """Fold the fitted flow into its fast form, which gives the same numbers."""
        self.fused = self.flow.fused()

    @property
    def fitted_flow(self) -> RunTimeFlow:
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


def head_named(head: Head, size: int, bins: int, penalty: float) -> nn.Module | None:
    """What scores a latent vector of so many numbers; None where the likelihood does."""
    match head:
        case "hbos":
            return HBOS(size, bins)
        case "hbos_clipped":
            return ClippedHBOS(size, bins)
        case "euclidean":
            return Euclidean()
        case "harmonic":
            return HarmonicMean()
        case "mahalanobis":
            return LatentMahalanobis(size)
        case "logistic":
            return Logistic(size, penalty)
        case "likelihood":
            return None
    raise ValueError(
        f"head must be likelihood, euclidean, harmonic, mahalanobis, hbos, hbos_clipped or logistic, not {head!r}"
    )


def daain(
    anatomy: Anatomy,
    *,
    taps: str | Sequence[str] = "everywhere",
    key: KeyKind = "blue_noise",
    distance: float = 64,
    blocks: int = 16,
    width: int | None = None,
    coupling: Coupling = "affine",
    mixing: Mixing = "permutation",
    reflections: int = 8,
    head: Head = "hbos",
    bins: int = 30,
    penalty: float = 1.0,
    seed: int = 0,
) -> DAAIN:
    """The detector over blue-noise samples of all activations (DAAIN, Table 2's best row by default).

    `taps` are what is sampled, see `Anatomy.select`; `key` is how, see `KeyKind`. `distance` is the minimum distance of
    the points of blue noise in pixels and channels (paper: 64 and 128); a `balanced` or `uniform` key has as many
    points as blue noise of that distance. For the other settings see `DAAIN`.
    """
    shapes = anatomy.select(taps)
    drawn = anatomy.keys.draw(key, shapes, anatomy.size, distance)
    # A reader is a module of the probe, whose name has no points.
    name = "sampled" if taps == "everywhere" else f"sampled at {taps}".replace(".", "/")
    reader = anatomy.shared(name, lambda: SampledActivations(drawn, shapes, name))
    return DAAIN(
        reader,
        blocks=blocks,
        width=width,
        coupling=coupling,
        mixing=mixing,
        reflections=reflections,
        head=head,
        bins=bins,
        penalty=penalty,
        seed=seed,
        key=drawn,
    )
