"""Cross-fitting: clean images are scored by detectors that were fitted to other clean images.

Images are cut into folds such that neighbours stay together; each fold is scored by detectors fitted to the others.
How long a block of neighbours must be is found out from the readings themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from inlier.calibration import autocorrelation_length, blocked_folds, group_folds
from inlier.densities.gaussian import Gaussian
from inlier.spool import MEMORY_LIMIT, chunk_rows, gather

__all__ = ["Blocks", "CleanScores", "correlation_length", "folds_of"]

Blocks: TypeAlias = int | Literal["auto", "group"]
"""How clean images are kept together when folds are made: blocks of so many neighbours, as many as stay correlated
(`auto`, which becomes `group` where there are 3 groups and a detector that carries over), or whole groups."""

FIRST_BLOCK = 10
"""Images a block while it is being found out how long correlation lasts."""
CONSTANT = 0.3
"""Share of the median standard deviation below which a number read counts as constant there: what hardly ever moves
adds noise to the distance, which hides that neighbours are alike."""


@dataclass(frozen=True)
class CleanScores:
    """Each detector's scores of clean images that it was not fitted to; what calibrations are made of.

    Args:
        scores: by detector.
        folds: of the images; images of one fold were scored together, by detectors fitted to the other folds.
        names, groups: of the images.
        made: how, in words.
    """

    scores: Mapping[str, Tensor]
    folds: Tensor
    names: tuple[str, ...]
    groups: tuple[str, ...]
    made: str


def folds_of(
    vectors: Tensor | None, groups: Sequence[str], blocks: Blocks, folds: int, memory_limit: int = MEMORY_LIMIT
) -> tuple[Tensor, str]:
    """The fold (n,) of each image, and how they were made, in words.

    Args:
        vectors: (n, d) readings of the images, which tell for how long neighbours are alike; None where there are none.
        groups: of the images.
        blocks: what stays together.
        folds: how many, for blocks of images.
        memory_limit: bytes of vectors to hold in memory at a time; more goes to temporary files.

    Raises:
        ValueError: no such blocks; fewer than 2 folds, or fewer blocks or groups than folds.
    """
    count = len(set(groups))
    told = f"{count} group{'s' if count > 1 else ''}"
    if blocks == "group":
        return group_folds(groups), f"whole groups ({told})"
    if blocks != "auto" and not isinstance(blocks, int):
        raise ValueError(f"blocks is 'auto', 'group' or a number of images, not {blocks!r}")
    if folds < 2:
        raise ValueError(f"Cross-fitting needs at least 2 folds, not {folds}")
    length = correlation_length(vectors, groups, folds, memory_limit) if blocks == "auto" else blocks
    fold = blocked_folds(groups, block=length, folds=folds)
    return fold, f"{folds} folds of blocks of about {length} neighbouring images ({told})"


def correlation_length(
    vectors: Tensor | None, groups: Sequence[str], folds: int, memory_limit: int = MEMORY_LIMIT
) -> int:
    """How many images apart scores of held-out images are no longer alike, judged by a Gaussian of the readings.

    The Gaussian stands in for every detector, since it is fitted in a blink.
    """
    longest = max(groups.count(group) for group in set(groups))
    if vectors is None or longest < 2 * FIRST_BLOCK:
        return 1 if longest == 1 else min(FIRST_BLOCK, max(1, longest // folds))
    fold = blocked_folds(groups, block=min(FIRST_BLOCK, max(1, len(groups) // folds)), folds=folds)
    distances = torch.empty(len(groups))
    rows = chunk_rows({"": vectors})
    for number in range(folds):
        outside, inside = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
        others = gather({"": vectors}, outside, memory_limit)[""]
        density = Gaussian(vectors.shape[1], constant=CONSTANT).fit(torch.split(others, rows))
        for chunk in torch.split(inside, rows):
            distances[chunk] = density.mahalanobis(vectors[chunk]).log().float()
    return autocorrelation_length(distances, groups)
