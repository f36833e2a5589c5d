"""A calibration turns scores into p-values and a false-alarm rate into a threshold, from clean scores alone.

What it says holds for images that are exchangeable with those it was fitted to. **The guarantee lapses under shift**:
another site, season or camera may raise more alarms than were asked for, and the frames of one video are no
independent draws. `blocked_folds` and `group_folds` cut such images into folds that may be scored by a detector that
did not see them; `autocorrelation_length` says how long a block must be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float64, Int
from scipy.special import betainc, ndtri
from scipy.stats import beta, binom
from torch import Tensor, nn

from inlier.errors import NotFitted
from inlier.types import Scores

__all__ = [
    "Calibration", "RealisedRate", "Rule", "autocorrelation_length", "blocked_folds", "group_folds", "images_needed",
    "least_rate", "members",
]  # fmt: skip

Rule: TypeAlias = Literal["order_statistic", "high_probability", "robust"]

TAIL_SHARE = 0.1  # of the scores, the largest, to which the tail of the surprisal is fitted
TAIL_LEAST = 5  # scores at least
MAD_TO_STD = 1.4826  # standard deviations in one median absolute deviation of a normal
SERIES_TO = 2.0  # below: Taylor series of the normal distribution; above: continued fraction of its tail
TERMS = 60  # of either: relative error below 1e-12 everywhere
# The slope at -2 of -log P(Z > z), along which the surprisal goes on below.
LOWER_SLOPE = math.exp(-(SERIES_TO**2) / 2) / math.sqrt(math.pi / 2) / math.erfc(-SERIES_TO / math.sqrt(2))


class RealisedRate(NamedTuple):
    """The false-alarm rate that calibrations of one size really have: its mean and a central 95 % interval."""

    mean: float
    low: float
    high: float


class Calibration(nn.Module):
    """Scores of clean images that stand for what is normal: p-value, threshold and surprisal of any other score.

    Rules, for calibration scores s_1 <= ... <= s_n and a false-alarm rate a:

    * `"order_statistic"`: flagged above s_k, k = ceil((n + 1)(1 - a)), which is p <= a. The rate is at most a *on
      average over calibration sets*; that of this set is a draw from `realised_rate`. (Vovk et al., Algorithmic
      Learning in a Random World, 2005.)
    * `"high_probability"`: flagged above the smallest s_k with P(Beta(n + 1 - k, k) <= a) >= `confidence`: this
      set's own rate is at most a with that confidence. (Vovk, Conditional validity, ACML 2012, Prop. 2a.)
    * `"robust"`: a normal with the median and 1.4826 MAD of the scores, of their logarithms where all are positive.
      It guarantees nothing, extrapolates to any a, and depends little on the largest scores. Below the smallest
      calibration score the logarithm goes on along its tangent, so that a score may be zero or negative.

    All need future images to be exchangeable with the calibration images; under shift none holds. A score that is nan
    counts as larger than all others: it is flagged.

    Args:
        rule: see above.
        confidence: of the rule `"high_probability"`; the others do not look at it.

    Example:
        >>> calibration = Calibration().fit(torch.arange(99.0))
        >>> calibration.threshold(0.05)
        94.0
        >>> calibration.p_value(torch.tensor([94.0, 94.5])).tolist()
        [0.06, 0.05]
        >>> calibration.flagged(torch.tensor([94.0, 94.5]), 0.05).tolist()
        [False, True]
    """

    scores: Tensor
    knots: Tensor
    heights: Tensor
    slopes: Tensor
    centre: Tensor
    spread: Tensor
    floor: Tensor
    logarithmic: Tensor

    def __init__(self, rule: Rule = "order_statistic", confidence: float = 0.95) -> None:
        super().__init__()
        check_rule(rule, confidence)
        self.rule = rule
        self.confidence = confidence
        self.register_buffer("scores", torch.empty(0, dtype=torch.float64))
        self.remember(self.scores)

    @property
    def count(self) -> int:
        """The number of calibration images."""
        return self.scores.numel()

    def fit(self, scores: Scores) -> Self:
        """Keep the scores of clean images that no detector was fitted to.

        Raises:
            ValueError: there are none, some are not finite, or half of them tie under the rule `"robust"`.
        """
        if scores.ndim != 1 or scores.numel() == 0:
            raise ValueError(f"Calibration needs scores of shape (n,) with n >= 1, not {tuple(scores.shape)}.")
        bad = int((~scores.isfinite()).sum())
        if bad:
            raise ValueError(
                f"{bad} of {scores.numel()} calibration scores are nan or infinite. Find the images or the detector "
                "that made them; a calibration that left them out would promise too much."
            )
        self.remember(scores.detach().to(self.scores.device, torch.float64))
        return self

    def p_value(self, scores: Scores) -> Float64[Tensor, " n"]:
        """The share of clean images that score at least as high.

        `"order_statistic"` and `"high_probability"`: (1 + #{s_i >= s}) / (n + 1), ties counted, so never below
        1 / (n + 1). `"robust"`: the upper tail of the normal.
        """
        self.check_fitted()
        values = scores.double()
        if self.rule == "robust":
            z = self.standardise(values)
            tail = log_upper_tail(z.abs()).exp()
            p = torch.where(z < 0, 1 - tail, tail)
            return torch.where(z.isnan(), 0.0, p)
        largest = torch.where(values.isnan(), torch.inf, values)
        return (1.0 + self.count - count_below(self.scores, largest).double()) / (self.count + 1)

    def threshold(self, false_alarm_rate: float) -> float:
        """The largest score that is not flagged.

        Raises:
            ValueError: the rate is not in (0, 1), or too low for this many images.
        """
        self.check_fitted()
        check_share("false_alarm_rate", false_alarm_rate)
        if self.rule == "robust":
            return self.score_at(-float(ndtri(false_alarm_rate)))
        return self.scores[self.count - 1 - self.false_alarms_allowed(false_alarm_rate)].item()

    def flagged(self, scores: Scores, false_alarm_rate: float) -> Bool[Tensor, " n"]:
        """Whether each score lies above the threshold; for `"order_statistic"` exactly where p_value <= the rate."""
        return ~(scores.double() <= self.threshold(false_alarm_rate))

    def realised_rate(self, false_alarm_rate: float) -> RealisedRate:
        """What the rate of a calibration of this size really is, over its draws: Beta(n + 1 - k, k), if no scores tie.

        Raises:
            ValueError: as `threshold`; or the rule is `"robust"`, of which no such law is known.
        """
        self.check_fitted()
        check_share("false_alarm_rate", false_alarm_rate)
        if self.rule == "robust":
            raise ValueError("The rule 'robust' guarantees no rate: count the alarms on clean images held out.")
        allowed = self.false_alarms_allowed(false_alarm_rate)
        law = beta(allowed + 1, self.count - allowed)
        return RealisedRate(float(law.mean()), float(law.ppf(0.025)), float(law.ppf(0.975)))

    def surprisal(self, scores: Scores) -> Scores:
        """A smooth stand-in for -log p: strictly increasing, with a gradient everywhere; for fusion and attacks.

        Between calibration scores it interpolates -log p linearly; above them it goes on along an exponential tail
        fitted to the largest tenth (mean excess), below them along the mean slope of the lower half, and so below
        zero. `"robust"`: -log of the normal's upper tail; below two standard deviations under the median, its tangent.
        Computed in float64, returned in the type of `scores`.
        """
        self.check_fitted()
        values = scores.double()
        if self.rule == "robust":
            z = self.standardise(values)
            lowest = z.clamp_min(-SERIES_TO)
            return (LOWER_SLOPE * (z - lowest) - log_upper_tail(lowest)).to(scores.dtype)
        segment = count_below(self.knots, values)
        start = (segment - 1).clamp_min(0)
        return (self.heights[start] + self.slopes[segment] * (values - self.knots[start])).to(scores.dtype)

    def remember(self, scores: Float64[Tensor, " n"]) -> None:
        """Sort the scores and work out all that follows from them."""
        ordered = scores.sort().values
        derived = curve(ordered) | normal(ordered)
        if self.rule == "robust" and derived["spread"] == 0:
            raise ValueError(
                f"Half or more of the {ordered.numel()} calibration scores are equal, so that the rule 'robust' has no "
                "spread to go by. Use the rule 'order_statistic'."
            )
        self.scores = ordered
        for name, value in derived.items():
            self.register_buffer(name, value, persistent=False)  # the scores alone are saved

    def check_fitted(self) -> None:
        if self.count == 0:
            raise NotFitted("The calibration has no scores yet: call fit(scores of clean images) or load a fitted one.")

    def false_alarms_allowed(self, false_alarm_rate: float) -> int:
        """How many calibration scores may lie above the threshold."""
        allowed = exceedances(self.count, false_alarm_rate, self.rule, self.confidence)
        if allowed < 0:
            needed = images_needed(false_alarm_rate, self.rule, self.confidence)
            raise ValueError(
                f"Calibration has {self.count} images; a false-alarm rate of {false_alarm_rate:g} "
                f"needs at least {needed}."
            )
        return allowed

    def standardise(self, values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """How many robust standard deviations above the median."""
        logarithms = values.clamp(min=self.floor).log() - (self.floor - values).relu() / self.floor
        return (torch.where(self.logarithmic, logarithms, values) - self.centre) / self.spread

    def score_at(self, z: float) -> float:
        """The inverse of `standardise`."""
        value = (self.centre + z * self.spread).item()
        if not self.logarithmic:
            return value
        floor = self.floor.item()
        return math.exp(value) if value >= math.log(floor) else floor * (1 + value - math.log(floor))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The number of scores is known from the state alone, so make room for it before they are copied.
        name = f"{prefix}scores"
        if name in state_dict:
            self.remember(state_dict[name].to(self.scores.device, torch.float64))
            state_dict = {**state_dict, name: self.scores}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def curve(scores: Float64[Tensor, " n"]) -> dict[str, Tensor]:
    """The piecewise-linear surprisal: `knots` (k,), its `heights` (k,) there, its `slopes` (k + 1,) around them."""
    count = scores.numel()
    knots, ties = torch.unique_consecutive(scores, return_counts=True)
    at_least = count - ties.cumsum(0) + ties
    kept = torch.ones_like(knots, dtype=torch.bool)
    # Scores nearer than this differ by rounding alone, and would make slopes that overflow.
    kept[1:] = knots.diff() > 1e-12 * knots[1:].abs() + 1e-30
    knots, at_least = knots[kept], at_least[kept]
    heights = -((1 + at_least.double()) / (count + 1)).log()
    lower = upper = torch.ones_like(heights[:1])  # if all scores are equal, any unit is as good as another
    if knots.numel() > 1:
        middle = knots.numel() // 2
        lower = ((heights[middle] - heights[0]) / (knots[middle] - knots[0])).view(1)
        # The highest knot with enough scores above it, or the lowest of all.
        enough = max(TAIL_LEAST, math.ceil(TAIL_SHARE * count))
        tail = max(int((at_least[1:] >= enough).sum()) - 1, 0)
        upper = 1 / (scores[-int(at_least[tail + 1]) :].mean() - knots[tail]).view(1)
    return {
        "knots": knots,
        "heights": heights,
        "slopes": torch.cat([lower, heights.diff() / knots.diff(), upper]),
    }


def normal(scores: Float64[Tensor, " n"]) -> dict[str, Tensor]:
    """Median and spread of the scores or, where all are positive, of their logarithms; `floor` starts the logarithm."""
    one = scores.new_ones(())
    if scores.numel() == 0:
        return {"centre": one, "spread": one, "floor": one, "logarithmic": one.bool()}
    logarithmic = scores[0] > 0
    values = scores.log() if logarithmic else scores
    centre = median(values)
    spread = MAD_TO_STD * median((values - centre).abs().sort().values)
    return {
        "centre": centre,
        "spread": spread,
        "floor": torch.where(logarithmic, scores[0], one),
        "logarithmic": logarithmic,
    }


def median(ordered: Float64[Tensor, " n"]) -> Float64[Tensor, ""]:
    return (ordered[(ordered.numel() - 1) // 2] + ordered[ordered.numel() // 2]) / 2


def count_below(ordered: Float64[Tensor, " k"], values: Float64[Tensor, " n"]) -> Int[Tensor, " n"]:
    """How many of `ordered` are less than each value.

    `torch.searchsorted`, which has no counterpart in ONNX: in a graph it is a binary search of gathers and comparisons.
    """
    if not torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export():
        return torch.searchsorted(ordered, values.detach().contiguous())
    size = ordered.numel()
    count = torch.zeros_like(values, dtype=torch.long)
    for bit in reversed(range(size.bit_length())):
        more = count + (1 << bit)
        count = torch.where((more <= size) & (ordered[more.clamp_max(size) - 1] < values), more, count)
    return count


def log_upper_tail(z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """log P(Z > z) of a standard normal for z >= -2, without overflow or a vanishing gradient far out.

    Taylor series of the distribution up to 2, continued fraction of the tail above (Abramowitz & Stegun 26.2.11 and
    26.2.14). `torch.special.log_ndtr` says the same, but has no counterpart in ONNX.
    """
    near, far = z.clamp_max(SERIES_TO), z.clamp_min(SERIES_TO)  # each branch stays where its gradient is finite
    series, fraction = torch.ones_like(z), far
    for term in range(TERMS, 0, -1):
        series = 1 + near * near / (2 * term + 1) * series
        fraction = far + term / fraction
    log_height = math.log(2 * math.pi) / 2
    within = 0.5 - near * series * (-near * near / 2 - log_height).exp()
    return torch.where(z < SERIES_TO, within.log(), -far * far / 2 - log_height - fraction.log())


def images_needed(false_alarm_rate: float, rule: Rule = "order_statistic", confidence: float = 0.95) -> int:
    """The fewest calibration images from which a rule can keep a false-alarm rate.

    `"order_statistic"`: 1 / (n + 1) <= a. `"high_probability"`: (1 - a)^n <= 1 - confidence. `"robust"`: 2, the fewest
    that have a spread; it extrapolates, and more images make it true.

    >>> images_needed(0.01), images_needed(0.01, "high_probability")
    (99, 299)
    """
    check_rule(rule, confidence)
    check_share("false_alarm_rate", false_alarm_rate)
    if rule == "robust":
        return 2
    needed = 1 / false_alarm_rate - 1
    if rule == "high_probability":
        needed = math.log1p(-confidence) / math.log1p(-false_alarm_rate)
    start = max(1, math.floor(needed) - 1)  # rounding may be off by one; the rule itself decides
    return next(n for n in itertools.count(start) if exceedances(n, false_alarm_rate, rule, confidence) >= 0)


def least_rate(count: int, rule: Rule = "order_statistic", confidence: float = 0.95) -> float | None:
    """The smallest false-alarm rate of two digits that a rule can keep with so many calibration images.

    None where it keeps none, and for `"robust"`, which extrapolates to any.

    >>> least_rate(30), least_rate(30, "high_probability")
    (0.033, 0.096)
    """
    check_rule(rule, confidence)
    if count < 1 or rule == "robust":
        return None
    exact = 1 / (count + 1) if rule == "order_statistic" else -math.expm1(math.log1p(-confidence) / count)
    places = 1 - math.floor(math.log10(exact))
    rates = (round(step / 10**places, places) for step in range(math.ceil(exact * 10**places), 10**places))
    return next((rate for rate in rates if images_needed(rate, rule, confidence) <= count), None)


def exceedances(count: int, rate: float, rule: Rule, confidence: float) -> int:
    """n - k: how many of `count` calibration scores may lie above the threshold; -1 if even none are too many."""
    if rule == "order_statistic":
        # The division is the one that makes the p-value, so that both agree to the last bit.
        allowed = math.floor(rate * (count + 1)) + 1
        while allowed / (count + 1) > rate:
            allowed -= 1
        return allowed - 1
    allowed = min(int(binom.ppf(1 - confidence, count, rate)) + 1, count - 1)
    while allowed >= 0 and betainc(allowed + 1, count - allowed, rate) < confidence:
        allowed -= 1
    return allowed


def check_rule(rule: Rule, confidence: float) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"No calibration rule named {rule!r}. There are {', '.join(map(repr, get_args(Rule)))}.")
    check_share("confidence", confidence)


def check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, not {value!r}.")


def autocorrelation_length(scores: Scores, groups: Sequence[str], level: float = 0.3) -> int:
    """The smallest lag, in images, at which the scores' autocorrelation within their groups is at most `level`.

    Scores are centred in each group, products pooled over groups: what a group has in common does not count. Images
    of a group must be given in their order in time; groups may be interleaved. It is 1 where nothing varies within a
    group.

    Raises:
        ValueError: as many groups as scores are needed, and `level` in [0, 1).
    """
    if scores.numel() != len(groups):
        raise ValueError(f"There are {scores.numel()} scores and {len(groups)} groups; every score needs one.")
    if not 0 <= level < 1:
        raise ValueError(f"level must be at least 0 and less than 1, not {level!r}.")
    runs = [values - values.mean() for values in (scores.double()[index] for index in members(groups).values())]
    variance = sum(float(run.square().sum()) for run in runs) / max(len(groups), 1)
    # Centred products of all lags sum to minus half the variance, so that some lag is not above any level >= 0.
    for lag in range(1, max(map(len, runs), default=0)):
        pairs = [(run[:-lag], run[lag:]) for run in runs if len(run) > lag]
        covariance = sum(float(a @ b) for a, b in pairs) / sum(len(a) for a, _ in pairs)
        if covariance <= level * variance:
            return lag
    return 1


def blocked_folds(groups: Sequence[str], *, block: int, folds: int) -> Int[Tensor, " n"]:
    """The fold of each image, such that neighbours in a group share it: blocks of about `block` images, never split.

    A group of n images, in the order given, is cut into max(1, n / block rounded) contiguous blocks that differ by one
    image at most. Blocks are dealt to the folds in turn, from group to group, so that every fold has about the same
    share of each group. A group of one image is a block.

    Raises:
        ValueError: `block` < 1, `folds` < 2, or fewer blocks than folds.

    Example:
        >>> blocked_folds(["a"] * 6 + ["b"], block=2, folds=2).tolist()
        [0, 0, 1, 1, 0, 0, 1]
    """
    if block < 1 or folds < 2:
        raise ValueError(f"Expected block >= 1 and folds >= 2, not block={block} and folds={folds}.")
    runs = members(groups)
    blocks = [
        piece
        for index in runs.values()
        for piece in index.tensor_split(max(1, (2 * len(index) + block) // (2 * block)))
    ]
    if len(blocks) < folds:
        raise ValueError(
            f"{len(groups)} images in {len(runs)} groups make {len(blocks)} blocks of about {block}, too few for "
            f"{folds} folds. Use shorter blocks, fewer folds or more images."
        )
    fold = torch.empty(len(groups), dtype=torch.long)
    for number, piece in enumerate(blocks):
        fold[piece] = number % folds
    return fold


def group_folds(groups: Sequence[str]) -> Int[Tensor, " n"]:
    """The fold of each image when every group is left out once: groups numbered in the order they first appear.

    Raises:
        ValueError: there are fewer than two groups.
    """
    runs = members(groups)
    if len(runs) < 2:
        raise ValueError(
            f"Leaving one group out needs at least 2 groups, not {len(runs)} ({', '.join(runs)}). "
            "Use blocked_folds, or name the groups of the images."
        )
    fold = torch.empty(len(groups), dtype=torch.long)
    for number, index in enumerate(runs.values()):
        fold[index] = number
    return fold


def members(groups: Sequence[str]) -> dict[str, Int[Tensor, " m"]]:
    """The positions of each group's images, groups in the order they first appear."""
    positions: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        positions.setdefault(group, []).append(position)
    return {group: torch.tensor(index) for group, index in positions.items()}
