"""How far a number that was worked out from some images can be trusted: intervals, by drawing the images again.

The images seen are drawn again and again with replacement, and the interval holds the middle 95 % of what the number
comes to (Efron, Annals of Statistics 7, 1979: the percentile bootstrap). It speaks of further images of the same kind:
with `groups`, of the same drives or sites. Where a closed form exists it is here too; it needs no drawing, and holds
where the bootstrap fails, which is at the ends: **a number that comes to the same in all resamples, such as an AUROC
of 1, has a bootstrap interval of no width**. Use `rate_interval` for rates and `auroc_interval` for AUROC there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int, Shaped
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binom, rankdata
from torch import Tensor

from inlier.evaluation.metrics import Values, auroc, scores_of

__all__ = [
    "Band", "Interval", "Statistic", "auroc_covariance", "auroc_interval", "aurocs", "bootstrap", "bootstrap_band",
    "differences", "means", "median_interval", "one_by_one", "paired_rate_interval",
]  # fmt: skip

Statistic: TypeAlias = Callable[..., Tensor]
"""Given r resamples at once, each sample as a tensor (r, n, ...), its values (r, ...)."""
Groups: TypeAlias = Sequence[Hashable]

CHUNK = 2**22
"""Numbers drawn at a time: 32 MB of doubles."""


class Interval(NamedTuple):
    """A number with the ends of its interval."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """Several numbers that come from the same images, each with the ends of its own interval.

    Args:
        value, low, high: of one shape. The intervals are pointwise: that all hold at once is less certain than each.
    """

    value: Float64[Tensor, "*out"]
    low: Float64[Tensor, "*out"]
    high: Float64[Tensor, "*out"]


def bootstrap(
    statistic: Statistic,
    *samples: Shaped[Tensor, "_ ..."],
    groups: Sequence[Groups] | None = None,
    paired: bool = False,
    block_length: int = 1,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a number, by drawing the images of each sample again.

    What belongs to one image belongs in one row: the scores of two monitors for the same images are a sample (n, 2),
    and their AUROC is compared by `differences(aurocs)`. A clean and a changed copy of each image are two samples that
    are `paired`: then all samples draw the same images.

    Args:
        statistic: of r resamples at once: `aurocs`, `means`, or `one_by_one(f)` of any function of single samples.
        samples: the first axis runs over images, in their order in time where `block_length` is above 1.
        groups: of the images of each sample (of the first alone, if `paired`): images are drawn within their group,
            such as their drive, as many as it has. Then the interval speaks of the groups that were seen, no others.
        paired: whether row i of every sample belongs to the same image.
        block_length: images are drawn as runs of so many neighbours within their group, which goes round from its end
            to its start (Politis & Romano, A circular block-resampling procedure, 1992). The frames of a video need
            it, else the interval is too narrow; `autocorrelation_length` of the scores is a good length.
        resamples: how often to draw.
        confidence: of the interval, in (0, 1).
        seed: of the draws. Equal seeds draw the same images of samples of the same sizes.

    Raises:
        ValueError: an argument is out of range, samples and groups do not fit each other, the statistic does not give
            one number a resample, or it is nan or infinite for some of them.

    >>> scores = torch.arange(40.0).remainder(7)
    >>> value, low, high = bootstrap(means, scores)
    >>> low < value < high
    True
    """
    band = bootstrap_band(
        statistic,
        *samples,
        groups=groups,
        paired=paired,
        block_length=block_length,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    if band.value.ndim:
        shape = tuple(band.value.shape)
        raise ValueError(f"The statistic gives numbers of shape {shape} for each resample, not one: use bootstrap_band")
    return Interval(band.value.item(), band.low.item(), band.high.item())


def bootstrap_band(
    statistic: Statistic,
    *samples: Shaped[Tensor, "_ ..."],
    groups: Sequence[Groups] | None = None,
    paired: bool = False,
    block_length: int = 1,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Band:
    """As `bootstrap`, for a statistic that gives several numbers, such as the points of a curve over eps.

    Raises:
        ValueError: as `bootstrap`.
    """
    if resamples < 1 or block_length < 1:
        raise ValueError(f"Expected resamples >= 1 and block_length >= 1, not {resamples} and {block_length}.")
    miss = (1 - checked(confidence)) / 2
    lengths = [len(sample) for sample in samples]
    if not samples or 0 in lengths:
        raise ValueError(f"Expected samples of at least one image each, not of {lengths}.")
    if paired and len(set(lengths)) > 1:
        raise ValueError(f"Paired samples have one row an image, all as many; these have {lengths}.")
    drawn = lengths[:1] if paired else lengths
    strata = [[torch.arange(length)] for length in drawn] if groups is None else strata_of(groups, drawn)
    generator = torch.Generator().manual_seed(seed)
    values = [statistic(*(sample[None] for sample in samples)).detach().cpu().double()]
    step = max(1, CHUNK // sum(sample.numel() for sample in samples))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        rows = [draw(members, count, block_length, generator) for members in strata]
        taken = [
            sample[(rows[0] if paired else rows[number]).to(sample.device)] for number, sample in enumerate(samples)
        ]
        values.append(statistic(*taken).detach().cpu().double())
    observed, replicates = values[0], torch.cat(values[1:])
    if len(observed) != 1 or len(replicates) != resamples:
        shapes = (tuple(observed.shape), tuple(replicates.shape))
        raise ValueError(
            f"Of 1 and of {resamples} resamples the statistic made numbers of shapes {shapes[0]} and {shapes[1]}; "
            "expected one row a resample. one_by_one(f) makes such a statistic of a function of single samples."
        )
    wrong = int((~replicates.isfinite()).reshape(resamples, -1).any(1).sum())
    if wrong or not observed.isfinite().all():
        raise ValueError(
            f"The statistic has no finite value for {wrong} of {resamples} resamples, or for the images themselves. "
            "There are too few images of a kind: give more, or use rate_interval for a rate."
        )
    # Linear between order statistics, as scipy.stats.bootstrap has it.
    low, high = torch.from_numpy(np.quantile(replicates.numpy(), [miss, 1 - miss], axis=0))
    return Band(observed[0], low, high)


def strata_of(groups: Sequence[Groups], lengths: Sequence[int]) -> list[list[Int[Tensor, " members"]]]:
    """The rows of each group of each sample, in their order."""
    told = [len(one) for one in groups]
    if told != list(lengths):
        raise ValueError(f"Groups of {told} images were given for samples that are drawn from {list(lengths)} images.")
    strata = []
    for one in groups:
        members: dict[Hashable, list[int]] = {}
        for row, group in enumerate(one):
            members.setdefault(group, []).append(row)
        strata.append([torch.tensor(rows) for rows in members.values()])
    return strata


def draw(
    strata: Sequence[Int[Tensor, " members"]], resamples: int, block_length: int, generator: torch.Generator
) -> Int[Tensor, "resamples n"]:
    """Rows drawn with replacement, as many of each group as it has, in runs of neighbours."""
    parts = []
    for members in strata:
        size = len(members)
        run = min(block_length, size)
        starts = torch.randint(size, (resamples, -(-size // run), 1), generator=generator)
        parts.append(members[((starts + torch.arange(run)) % size).flatten(1)[:, :size]])
    return torch.cat(parts, 1)


# --- statistics of r resamples at once -------------------------------------------------------------------------------


def means(values: Shaped[Tensor, "r n *out"]) -> Float64[Tensor, "r *out"]:
    """The mean over the images of each resample; of flags (true or false), the rate."""
    return values.double().mean(1)


def aurocs(clean: Shaped[Tensor, "r n *out"], anomalous: Shaped[Tensor, "r m *out"]) -> Float64[Tensor, "r *out"]:
    """`auroc` of each resample, ties counted one half; of each column, where the scores of an image are several."""
    low, high = (side.double().movedim(1, -1).contiguous() for side in (clean, anomalous))
    low = low.sort(-1).values
    twice_below = torch.searchsorted(low, high) + torch.searchsorted(low, high, right=True)
    return twice_below.sum(-1).double() / (2 * low.shape[-1] * high.shape[-1])


def differences(statistic: Statistic) -> Statistic:
    """The last column of a statistic minus the one before: of samples (n, 2), by how much the second column is better.

    >>> clean, anomalous = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.5, 2.0]])
    >>> differences(aurocs)(clean[None], anomalous[None]).tolist()
    [0.5]
    """

    def difference(*samples: Tensor) -> Tensor:
        values = statistic(*samples)
        return values[..., -1] - values[..., -2]

    return difference


def one_by_one(function: Callable[..., float]) -> Statistic:
    """A statistic from a function of single samples, such as `fpr_at_tpr`; slower than one that takes them at once."""

    def statistic(*samples: Tensor) -> Tensor:
        return torch.tensor([function(*single) for single in zip(*samples, strict=True)], dtype=torch.float64)

    return statistic


# --- closed forms ----------------------------------------------------------------------------------------------------


def auroc_covariance(clean: Sequence[Values], anomalous: Sequence[Values]) -> Float64[Tensor, "k k"]:
    """How the AUROC of k scores of the same images vary together, estimated from their placements; ties one half.

    Entry (i, i) is the variance of the i-th. The scores of all images are independent draws; for video use
    `bootstrap` with a `block_length`. It is 0 where clean and anomalous images do not overlap. (DeLong, DeLong &
    Clarke-Pearson, Biometrics 44, 1988, eq. 5; by ranks: Sun & Xu, IEEE Signal Processing Letters 21, 2014.)

    Args:
        clean, anomalous: for each of the k scores those of the images, in one order of images.

    Raises:
        ValueError: there is no score, they are of different lengths or nan, or a side has fewer than two images.
    """
    pairs = [
        (scores_of(low, "clean"), scores_of(high, "anomalous")) for low, high in zip(clean, anomalous, strict=True)
    ]
    sizes = {(len(low), len(high)) for low, high in pairs}
    if len(sizes) != 1 or min(min(sizes)) < 2:
        raise ValueError(
            f"Expected scores of one set of at least 2 clean and 2 anomalous images, not of (clean, anomalous) = "
            f"{sorted(sizes)} images."
        )
    placed = [placements(low, high) for low, high in pairs]
    total = sum(np.cov(np.stack(side), ddof=1) / len(side[0]) for side in zip(*placed, strict=True))
    return torch.from_numpy(np.atleast_2d(total))


def placements(
    clean: NDArray[np.float64], anomalous: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each clean image the share of anomalous ones above it, for each anomalous one that of clean ones below."""
    ranks = rankdata(np.r_[clean, anomalous])
    below = (ranks[len(clean) :] - rankdata(anomalous)) / len(clean)
    above = 1 - (ranks[: len(clean)] - rankdata(clean)) / len(anomalous)
    return above, below


def auroc_interval(clean: Values, anomalous: Values, confidence: float = 0.95) -> Interval:
    """AUROC with a score interval that never leaves [0, 1] and has a width at AUROC 0 and 1 too.

    Both ends are AUROCs that lie as many standard errors as the confidence asks from what was seen, with Hanley and
    McNeil's standard error at the end itself. (Newcombe, Statistics in Medicine 25, 2006, part 2, method 5.) The
    images are independent draws.

    Raises:
        ValueError: a side is empty or holds nan, or `confidence` not in (0, 1).

    >>> auroc_interval([0.0] * 20, [1.0] * 20).low < 0.95
    True
    """
    seen = auroc(clean, anomalous)
    n, m = len(scores_of(clean, "clean")), len(scores_of(anomalous, "anomalous"))
    edge = 1e-12  # at 0 and 1 the excess is 0 too, which is not the root sought
    known = (seen, n, m, normal_quantile(confidence))
    low = float(brentq(excess, 0.0, min(seen, 1 - edge), known, xtol=edge)) if seen > 0 else 0.0
    high = float(brentq(excess, max(seen, edge), 1.0, known, xtol=edge)) if seen < 1 else 1.0
    return Interval(seen, low, high)


def excess(area: float, seen: float, n: int, m: int, z: float) -> float:
    """By how much the squared distance of an AUROC from that seen exceeds that of `z` standard errors."""
    half = (n + m) / 2 - 1  # in place of n - 1 and of m - 1: method 5
    variance = area * (1 - area) * (1 + half * ((1 - area) / (2 - area) + area / (1 + area))) / (n * m)
    return float((area - seen) ** 2 - z**2 * variance)


def paired_rate_interval(both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95) -> Interval:
    """The rate of A minus the rate of B, where A and B saw the same images: "flagged by A, not by B".

    Wilson intervals of both rates, put together with the correlation of the two, which is taken a little nearer to 0
    for the sake of small numbers. The difference alone comes from `only_a` and `only_b`. (Newcombe, Statistics in
    Medicine 17, 1998, 2635-2650, method 10.)

    Args:
        both, only_a, only_b, neither: how many images A and B, only A, only B and none of them flagged.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: a count is negative, there are no images, or `confidence` not in (0, 1).

    >>> [round(number, 4) for number in paired_rate_interval(20, 12, 2, 16)]  # Newcombe's Table III
    [0.2, 0.0562, 0.3292]
    """
    counts = (both, only_a, only_b, neither)
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"Expected counts of images, none negative and one at least above 0, not {counts}.")
    n = sum(counts)
    z = normal_quantile(confidence)
    rate_a, low_a, high_a = wilson(both + only_a, n, z)
    rate_b, low_b, high_b = wilson(both + only_b, n, z)
    product = both * neither - only_a * only_b
    variances = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    nearer = max(product - n / 2, 0) if product > 0 else product
    correlation = nearer / math.sqrt(variances) if variances else 0.0
    difference = (only_a - only_b) / n
    low = difference - together(rate_a - low_a, high_b - rate_b, correlation)
    high = difference + together(high_a - rate_a, rate_b - low_b, correlation)
    return Interval(difference, max(low, -1.0), min(high, 1.0))


def together(one: float, other: float, correlation: float) -> float:
    """How far a difference extends whose two sides extend so far."""
    return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))  # rounding may go below 0


def wilson(hits: int, count: int, z: float) -> tuple[float, float, float]:
    """A rate and the ends of its Wilson score interval, `z` standard errors away."""
    rate = hits / count
    middle = (hits + z**2 / 2) / (count + z**2)
    half = z * math.sqrt(count * rate * (1 - rate) + z**2 / 4) / (count + z**2)
    return rate, max(middle - half, 0.0), min(middle + half, 1.0)


def median_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The median with the two of the values between which the true median lies: exact for any distribution.

    The k-th smallest and the k-th largest value, k the largest with P(Binomial(n, 1/2) < k) <= (1 - confidence) / 2.
    With too few values for that, fewer than 6 for 95 %, the ends are minus and plus infinity. (Thompson, Annals of
    Mathematical Statistics 7, 1936.)

    Raises:
        ValueError: there are none, some are nan, or `confidence` not in (0, 1).
    """
    ordered = np.sort(scores_of(values, "given"))
    k = int(binom.ppf((1 - checked(confidence)) / 2, len(ordered), 0.5))
    # P(X <= k) reaches the share; P(X < k) is the largest below it, or equal where P(X <= k) meets it exactly.
    if binom.cdf(k, len(ordered), 0.5) <= (1 - confidence) / 2:
        k += 1
    low, high = (float(ordered[k - 1]), float(ordered[-k])) if k else (-math.inf, math.inf)
    return Interval(float(np.median(ordered)), low, high)


def normal_quantile(confidence: float) -> float:
    """How many standard errors a central interval of a normal extends to each side."""
    return float(ndtri((1 + checked(confidence)) / 2))


def checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, both excluded, not {confidence!r}.")
    return confidence
