"""What clean readings look like, kept small, so that a verdict can be explained after they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from inlier.observation import Readings
from inlier.readers import Reader
from inlier.spool import chunk_rows

__all__ = ["CleanReadings"]

FEATURES = 32
"""Dimensions of the random projection in which similar images are looked up."""
TAPS_TOLD = 5
MOST_ASKED = 2000
"""Clean images whose distance to their nearest neighbour is worked out: enough for a median."""


class CleanReadings(nn.Module):
    """Mean and spread of the clean readings of each reader, and a small projection of every clean image.

    Args:
        names: of the clean images.
        sizes: of each reader's vectors, by the reader's name.
    """

    places: Tensor
    typical: Tensor

    def __init__(self, names: Sequence[str], sizes: dict[str, int]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.readers = tuple(sizes)
        self.register_buffer("places", torch.zeros(len(self.names), FEATURES))
        self.register_buffer("typical", torch.ones(()))
        for number, size in enumerate(sizes.values()):
            self.register_buffer(f"mean_{number}", torch.zeros(size))
            self.register_buffer(f"std_{number}", torch.ones(size))
            projection = torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(number))
            self.register_buffer(f"projection_{number}", projection / (size * FEATURES) ** 0.5)

    def fit(self, readings: Readings) -> Self:
        """Learn from clean readings; without readers there is nothing to learn."""
        if not self.readers:
            return self
        for number, name in enumerate(self.readers):
            mean, std = mean_and_std([piece.flatten(1) for piece in readings.rows(name)])
            self.get_buffer(f"mean_{number}").copy_(mean)
            self.get_buffer(f"std_{number}").copy_(std.clamp_min(1e-6 * float(std.max()) + 1e-30))
        values = {name: readings.values[name] for name in self.readers}
        for rows in torch.split(torch.arange(len(readings)), chunk_rows(values)):
            self.places[rows] = self.place([values[name][rows] for name in self.readers])
        nearest = []
        asked = torch.linspace(0, len(readings) - 1, min(len(readings), MOST_ASKED)).round().long()
        for rows in torch.split(asked, chunk_rows({"": torch.empty(1, len(readings))})):
            gaps = torch.cdist(self.places[rows], self.places)
            gaps[torch.arange(len(rows)), rows] = torch.inf  # every image is nearest to itself
            nearest.append(gaps.amin(1))
        typical = torch.cat(nearest).median() if len(readings) > 1 else torch.ones(())
        self.typical.copy_(typical.clamp_min(1e-30))
        return self

    def place(self, readings: Sequence[Tensor]) -> Tensor:
        """(n, 32): where images lie, distances being about those of their standardised readings."""
        total = torch.zeros(len(readings[0]), FEATURES)
        for number, values in enumerate(readings):
            standardised = (values.flatten(1) - self.get_buffer(f"mean_{number}")) / self.get_buffer(f"std_{number}")
            total = total + standardised @ self.get_buffer(f"projection_{number}")
        return total

    def nearest(self, readings: Sequence[Tensor]) -> tuple[tuple[str, float], ...]:
        """The most similar clean image of each, and its distance in units of the usual one between clean neighbours."""
        distance, index = torch.cdist(self.place(readings), self.places).min(1)
        relative = (distance / self.typical).tolist()
        return tuple((self.names[i], d) for i, d in zip(index.tolist(), relative, strict=True))

    def shares(
        self, readers: Sequence[Reader], readings: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each image the taps whose departure from the clean mean raises the score most, with their shares.

        A number's contribution is its departure times the score's gradient, to first order what it adds.
        """
        by_tap: dict[str, Tensor] = {}
        for number, (reader, values, gradient) in enumerate(zip(readers, readings, gradients, strict=True)):
            if gradient is None:
                continue
            departure = values.detach().flatten(1) - self.get_buffer(f"mean_{number}")
            contribution = departure * gradient.flatten(1)
            summed = torch.zeros(len(values), len(reader.taps)).index_add_(1, reader.origins(), contribution)
            for position, tap in enumerate(reader.taps):
                by_tap[str(tap)] = by_tap.get(str(tap), torch.zeros(len(values))) + summed[:, position]
        if not by_tap:
            return ((),) * len(readings[0])
        raised = torch.stack(list(by_tap.values()), dim=1).clamp_min(0)
        raised = raised / raised.sum(1, keepdim=True).clamp_min(1e-30)
        top = raised.topk(min(TAPS_TOLD, raised.shape[1]), dim=1)
        taps = list(by_tap)
        return tuple(
            tuple((taps[i], share) for i, share in zip(row, values, strict=True) if share > 0)
            for row, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        )


def mean_and_std(pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of every column of (n, d) rows that come in pieces, without holding them all."""
    if len(pieces) == 1:
        return pieces[0].mean(0), pieces[0].std(0, correction=0)
    count = sum(len(piece) for piece in pieces)
    mean = torch.stack([piece.sum(0, dtype=torch.float64) for piece in pieces]).sum(0) / count
    squares = torch.stack([(piece.double() - mean).square().sum(0) for piece in pieces]).sum(0)
    return mean.float(), (squares / count).sqrt().float()
