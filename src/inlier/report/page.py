"""The report: one HTML file that needs nothing else, for somebody who was not there. Results in, a file out."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from inlier.evaluation.results import DAMAGED, MONITOR, Picture, Results
from inlier.files import write_bytes
from inlier.report.markup import environment

__all__ = ["label", "page", "write_page"]

LABELS = {"max_softmax": "MSP", "energy": "energy", "mahalanobis": "Mahalanobis", "daain": "DAAIN"}
LABELS |= {"profile": "profile", "disagreement": "second look"}
MEANINGS = {
    "max_softmax": "how unsure the network says it is",
    "energy": "how small its logits are",
    "mahalanobis": "how far mean activations, by channel and band of the image, are from those of clean scenes",
    "daain": "how improbable the activations at some drawn places are",
    "profile": "how unusual the strength of the activations and the certainty of the prediction are",
    "disagreement": "how much further the prediction moves than expected when the image is compressed",
}
SECOND_LOOK = "disagreement"
"""The detector that takes a pass of its own."""
TICKS = (0, 1, 3, 10, 30, 100, 300, 1_000, 10_000)  # multiples of the threshold
STEEPNESS = 2.0  # how much room the axis gives to scores below the threshold
SCATTER = 0.618034  # golden ratio: neighbouring dots come to lie far apart
# From cold to hot: position, red, green, blue.
HEAT = ((0.0, 16, 18, 32), (0.25, 82, 30, 108), (0.5, 190, 55, 84), (0.75, 247, 140, 30), (1.0, 252, 250, 170))


@dataclass(frozen=True)
class Strip:
    """A line of dots: scores of the monitor as positions in percent, and whether each was flagged."""

    title: str
    note: str
    kind: str
    dots: tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True)
class Axis:
    """Scores in multiples of the threshold on a scale that is linear near 0 and logarithmic far from it."""

    unit: float
    low: float
    high: float

    @classmethod
    def over(cls, scores: Sequence[float], threshold: float) -> Axis:
        unit = abs(threshold) or 1.0
        bent = [math.asinh(STEEPNESS * score / unit) for score in (0.0, 1.2 * threshold, *scores)]
        room = (max(bent) - min(bent)) / 40
        return cls(unit, min(bent) - room, max(bent) + room)

    def place(self, score: float) -> float:
        """In percent of the width."""
        return round(100 * (math.asinh(STEEPNESS * score / self.unit) - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        places = [
            (self.place(multiple * self.unit), f"{multiple:,}\N{MULTIPLICATION SIGN}" if multiple else "0")
            for multiple in TICKS
        ]
        return [(place, text) for place, text in places if place <= 98]


def label(column: str) -> str:
    """A column's name for people."""
    return LABELS.get(column, column)


def meanings(detectors: Sequence[str]) -> str:
    """What the scores are that are shown, in a line; nothing of those that are not known here."""
    return "; ".join(f"{label(name)}: {MEANINGS[name]}" for name in detectors if name in MEANINGS)


def page(results: Results) -> str:
    """The report as HTML."""
    made = environment()
    made.filters["label"] = label
    threshold = results.thresholds[MONITOR]
    scores = [row.scores for row in results.clean] + [row.scores for row in results.trials]
    axis = Axis.over([score for row in scores for score in row], threshold)
    return made.get_template("page.html.j2").render(
        results=results,
        damaged=DAMAGED,
        known=results.alarms(known=True),
        unseen=results.alarms(known=False),
        columns=list(results.thresholds),
        meanings=meanings(results.detectors),
        second_look=SECOND_LOOK in results.detectors,
        others=[column for column in results.thresholds if column != MONITOR],
        natural=[row for row in results.trials if row.kind == "perturbation"],
        oblivious=[row for row in results.trials if row.kind == "attack"],
        knowing=[row for row in results.trials if row.kind == "adaptive attack"],
        strips=strips(results, axis, threshold),
        threshold_at=axis.place(threshold),
        ticks=axis.ticks(),
        pictures={name: shown(picture, results) for name, picture in results.pictures.items()},
        legend=[
            (name, "#{:02x}{:02x}{:02x}".format(*c)) for name, c in zip(results.classes, results.colours, strict=True)
        ],
    )


def write_page(path: Path, results: Results) -> None:
    """Write the report, the whole file or nothing."""
    write_bytes(path, page(results).encode())


def strips(results: Results, axis: Axis, threshold: float) -> list[Strip]:
    def dots(scores: Sequence[float]) -> tuple[tuple[float, float, bool], ...]:
        return tuple(
            (axis.place(score), round(12 + 76 * (number * SCATTER % 1), 1), score > threshold)
            for number, score in enumerate(scores)
        )

    clean = [
        Strip(row.group, "clean" if row.known else "clean, a world never seen", "known" if row.known else "unseen",
              dots(row.scores))
        for row in results.clean
    ]  # fmt: skip
    return clean + [Strip(row.label, row.kind, "changed", dots(row.scores)) for row in results.trials]


def shown(picture: Picture, results: Results) -> dict[str, str]:
    """The five views of a picture as data URLs."""
    colours = np.array(results.colours, np.uint8)
    photographs = {
        name: (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        for name, image in (("before", picture.before), ("after", picture.after))
    }
    return {
        **{name: data_url(pixels, quality=90) for name, pixels in photographs.items()},
        "predicted_before": data_url(colours[picture.predicted_before.numpy()]),
        "predicted_after": data_url(colours[picture.predicted_after.numpy()]),
        "heat": data_url(heated(picture.heat.numpy()), quality=85),
    }


def heated(share: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    positions, *channels = zip(*HEAT, strict=True)
    return np.stack([np.interp(share, positions, channel) for channel in channels], -1).astype(np.uint8)


def data_url(pixels: UInt8[np.ndarray, "h w c"], quality: int | None = None) -> str:
    """A picture inside the page: WebP, lossless without a quality."""
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, -1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=quality is None, quality=quality or 80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
