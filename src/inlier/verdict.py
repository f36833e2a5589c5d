"""Verdicts: what a monitor says of a batch of images, for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from inlier.errors import Unavailable
from inlier.types import Logits, Maps, Scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Verdict", "Why"]


@dataclass(frozen=True)
class Why:
    """What stands behind a verdict. It also tells about the sampling key: show it to whoever may know the key.

    Args:
        taps: for each image, the taps that raised its score most, each with its share of the rise (0 to 1).
        heat: how much each pixel moves the score: the input gradient's magnitude, smoothed, largest value 1 an image.
        nearest: for each image, the most similar clean image and its distance relative to the median distance of
            clean images to their own nearest neighbour (1 = as near as these are); None where nothing is read.
    """

    taps: tuple[tuple[tuple[str, float], ...], ...]
    heat: Maps
    nearest: tuple[tuple[str, float] | None, ...]


@dataclass(frozen=True, repr=False)
class Verdict:
    """Whether the predictions for n images can be relied on. Iterating or indexing gives verdicts of one image.

    Args:
        names: of the images.
        output: the backbone's logits.
        score: larger = more anomalous.
        p_value: the share of clean images that score at least as high, as the calibration sees it.
        flagged: whether the score is above the threshold.
        false_alarm_rate: the rate the threshold was set for.
        why: only when asked for.
    """

    names: tuple[str, ...]
    output: Logits
    score: Scores
    p_value: Float64[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    false_alarm_rate: float
    why: Why | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Verdict:
        i = range(len(self))[index]
        one = slice(i, i + 1)
        why = self.why and Why(self.why.taps[one], self.why.heat[one], self.why.nearest[one])
        return Verdict(
            self.names[one],
            self.output[one],
            self.score[one],
            self.p_value[one],
            self.flagged[one],
            self.false_alarm_rate,
            why,
        )

    def __iter__(self) -> Iterator[Verdict]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        rate = f"at a false-alarm rate of {self.false_alarm_rate:g}"
        if len(self) == 1:
            word = "flagged" if self.flagged[0] else "not flagged"
            return f"Verdict({self.names[0]}: {word} {rate}, score {self.score[0]:.4g}, p-value {self.p_value[0]:.4g})"
        return f"Verdict({int(self.flagged.sum())} of {len(self)} images flagged {rate})"

    @property
    def prediction(self) -> Tensor:
        """The most likely class: (n,) or (n, h, w)."""
        return self.output.argmax(1)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of plain values an image: image, score, p_value, flagged and, if asked for, why."""
        rows: list[dict[str, Any]] = [
            {"image": name, "score": _plain(score), "p_value": p, "flagged": flagged}
            for name, score, p, flagged in zip(
                self.names, self.score.tolist(), self.p_value.tolist(), self.flagged.tolist(), strict=True
            )
        ]
        if self.why is not None:
            for row, taps, nearest in zip(rows, self.why.taps, self.why.nearest, strict=True):
                row["taps"] = [{"tap": tap, "share": share} for tap, share in taps]
                row["nearest"] = nearest and {"image": nearest[0], "distance": nearest[1]}
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the false-alarm rate and the rows."""
        return {"false_alarm_rate": self.false_alarm_rate, "images": self.rows()}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas data frame.

        Raises:
            Unavailable: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise Unavailable("to_frame needs pandas: pip install 'inlier[frame]'") from error
        return pd.DataFrame(self.rows())

    @classmethod
    def concatenate(cls, parts: Sequence[Verdict]) -> Verdict:
        """The verdicts of several batches as one, without `why`."""
        if not parts:
            raise ValueError("No verdicts to put together")
        return cls(
            tuple(name for part in parts for name in part.names),
            torch.cat([part.output for part in parts]),
            torch.cat([part.score for part in parts]),
            torch.cat([part.p_value for part in parts]),
            torch.cat([part.flagged for part in parts]),
            parts[0].false_alarm_rate,
        )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity
