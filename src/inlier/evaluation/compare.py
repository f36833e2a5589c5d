"""Which of two monitors, or of two networks, is better: both saw the same images, and that is made use of.

A difference is worked out image by image, so that what is hard for both does not count. Each has a 95 % interval and a
p-value that goes with it; as many differences as are shown are allowed for before one is called better. Two monitors
at their own thresholds need not have the same false-alarm rate: that of the clean images stands beside every other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float64, Int64
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from inlier.errors import Mismatch
from inlier.evaluation.intervals import (
    Band,
    Interval,
    auroc_interval,
    bootstrap_band,
    means,
    paired_rate_interval,
)
from inlier.evaluation.metrics import pooled_mean_iou
from inlier.evaluation.slices import CHANGES, OWN, TOO_FEW, Judged, Side, aligned, holm, judged_length

__all__ = ["Comparison", "Difference", "Row", "compare", "mean_ious", "p_value_of"]

Better = Literal["a", "b"]

MANY = 20
"""Independent runs of images from which a bootstrap is taken at its word."""
FLAGGED = "flagged"
POOLED = (
    ("all changes", CHANGES), ("all natural changes", ("perturbation",)), ("all attacks", ("attack", "universal")),
)  # fmt: skip
"""Sets that are told of together, if there are two of them at least."""


@dataclass(frozen=True)
class Difference:
    """A number of two monitors or networks, and by how much that of B is larger.

    Args:
        a, b: the number itself; with several seeds, the mean over them.
        difference: b - a.
        low, high: ends of its interval.
        p_value: that belongs to the interval, see `p_value_of`.
        adjusted: the p-value with all differences of the comparison allowed for; None of too few images.
        better: who is better, if `adjusted` is small enough; None where that cannot be told, or has no meaning.
        seems: who is better by the interval alone.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    adjusted: float | None = None
    better: Better | None = None
    seems: Better | None = None


@dataclass(frozen=True)
class Row:
    """What was compared on one set of images, or on several taken together.

    Args:
        name, label: of the set.
        kind: of its images; "pooled" for several sets, None where nobody said.
        images: how many both sides saw.
        differences: by metric: `auroc` against the clean images; `flagged@RATE` at each side's own threshold for this
            nominal false-alarm rate, `flagged` where no rate is known; of two networks `wrong`, the mean share of
            labelled pixels predicted wrong, and `miou`.
    """

    name: str
    label: str
    kind: str | None
    images: int
    differences: Mapping[str, Difference]

    @property
    def too_few(self) -> bool:
        """Whether the images are too few to call anything better."""
        return self.images < TOO_FEW


@dataclass(frozen=True)
class Comparison:
    """Two monitors or networks side by side.

    Args:
        a, b: their labels.
        rows: pooled ones first, then the clean images, then set by set.
        confidence: of the intervals, and one minus the level for calling one better.
        block_length: images of a group that are drawn as one, in a run.
        resamples: how often images were drawn.
        notes: what a reader has to know.
    """

    a: str
    b: str
    rows: tuple[Row, ...]
    confidence: float
    block_length: int
    resamples: int
    notes: tuple[str, ...]

    @property
    def comparisons(self) -> int:
        """How many differences there are that one might be called better for."""
        return compared(self.rows)

    @property
    def rates(self) -> tuple[str, ...]:
        """The nominal false-alarm rates at which both have thresholds, as text; `OWN` where none is known."""
        metrics = dict.fromkeys(metric for row in self.rows for metric in row.differences)
        return tuple(rate for rate in map(rate_of_metric, metrics) if rate is not None)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [asdict(row) | {"too_few": row.too_few} for row in self.rows]
        return asdict(self) | {"comparisons": self.comparisons, "rows": rows}

    def flat(self) -> Iterator[dict[str, Any]]:
        """A row for every set and metric, for CSV."""
        for row in self.rows:
            for metric, difference in row.differences.items():
                line = {"set": row.name, "label": row.label, "kind": row.kind, "images": row.images}
                line |= {"too_few": row.too_few, "metric": metric}
                yield line | asdict(difference)


def metric_of_rate(rate: str) -> str:
    return FLAGGED if rate == OWN else f"{FLAGGED}@{rate}"


def rate_of_metric(metric: str) -> str | None:
    """The rate that a metric is about; None for other metrics."""
    name, _, rate = metric.partition("@")
    return (rate or OWN) if name == FLAGGED else None


def compare(
    a: Side,
    b: Side,
    *,
    rates: Sequence[str] | None = None,
    block_length: int | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare what two monitors said of the images that both saw, or what became of them under two networks.

    Intervals are percentiles of a bootstrap that draws the same images for both, within their groups and in runs of
    neighbours. Where that has no width the closed forms for independent images stand in; of a single threshold's
    rates the wider one of both is taken (Newcombe's for paired rates). Seeds count as given: intervals are about
    other images, not about other keys.

    Args:
        a, b: of one evaluation or of two, or made of files of `inlier score`. Images are matched by set and name.
        rates: keys of `flagged` to compare at; all that both have by default. Each is one more difference to allow for.
        block_length: images in a run; by default the longest `judged_length` of both on the clean images.
        resamples, confidence, seed: of the bootstrap.

    Raises:
        Mismatch: they have no set of images, or too few of the images of one, in common; or names that are not unique
            keep images from being matched.
        LookupError: a rate is wanted that one of them has no threshold for.
        ValueError: a score is nan, or an argument is out of range.
    """
    common = [name for name in a.sets if name in b.sets]
    if not common:
        raise Mismatch(
            f"'{a.label}' and '{b.label}' were shown no set of images in common: {', '.join(a.sets)} and "
            f"{', '.join(b.sets)}. Evaluate both on the same sets."
        )
    pairs = {name: matched(name, a.sets[name], b.sets[name]) for name in common}
    clean = a.clean if a.clean is not None and a.clean == b.clean else None
    reference = pairs[common[0] if clean is None else clean]
    length = max(map(judged_length, reference)) if block_length is None else block_length
    settings = Settings(wanted(reference, rates), length, resamples, confidence, seed)
    copies = [
        name
        for name in common
        if clean is not None and name in a.copies and name in b.copies and aligned(pairs[name].a, pairs[clean].a)
    ]
    rows: list[Row] = []
    if clean is not None:
        rows += of_copies(clean, copies, pairs, settings)
    for name in common:
        if name != clean and name not in copies:
            rows.append(by_itself(name, pairs[name], None if clean is None else pairs[clean], settings))
    rows = with_networks(rows, pairs, clean, settings)
    notes = tuple(notes_on(a, b, pairs, reference, settings, rows))
    return Comparison(a.label, b.label, tuple(judged(rows, confidence)), confidence, length, resamples, notes)


class Settings(NamedTuple):
    """How differences are worked out."""

    rates: tuple[str, ...]
    block_length: int
    resamples: int
    confidence: float
    seed: int


class Pair(NamedTuple):
    """What two monitors said of the same images."""

    a: Judged
    b: Judged

    @property
    def groups(self) -> list[str]:
        """Of the images; groups of few images are taken together: one of a single image would not vary at all."""
        groups = self.a.groups
        few = {group for group in set(groups) if groups.count(group) < TOO_FEW}
        return ["" if group in few else group for group in groups]


# --- matching --------------------------------------------------------------------------------------------------------


def matched(name: str, a: Judged, b: Judged) -> Pair:
    """Both on the images that both saw, in the order of A."""
    for each in (a, b):
        if each.scores.isnan().any():
            raise ValueError(f"Of set '{name}', {int(each.scores.isnan().sum())} scores are nan.")
    if a.names != b.names:
        for each in (a, b):
            if len(set(each.names)) < len(each.names):
                raise Mismatch(
                    f"Both saw a set '{name}', but not image by image the same, and names in it are not unique: "
                    "images cannot be matched. Evaluate both on the same images."
                )
        places = {image: place for place, image in enumerate(b.names)}
        kept = [place for place, image in enumerate(a.names) if image in places]
        a, b = chosen(a, kept), chosen(b, [places[a.names[place]] for place in kept])
    if len(a.names) < 2:
        raise Mismatch(
            f"Both saw a set '{name}', but only {len(a.names)} of its images are of the same names; at least 2 are "
            "needed. Score the same images with both."
        )
    return Pair(a, b)


def chosen(judged: Judged, places: Sequence[int]) -> Judged:
    """Some of the images, in this order."""
    rows = list(places)
    parts = {name: getattr(judged, name) for name in ("changed", "wrong", "overlap", "light", "content")}
    kept: dict[str, Any] = {name: part[rows] for name, part in parts.items() if part is not None}
    return replace(
        judged,
        names=tuple(judged.names[place] for place in rows),
        groups=tuple(judged.groups[place] for place in rows),
        scores=judged.scores[rows],
        flagged={rate: flags[rows] for rate, flags in judged.flagged.items()},
        **kept,
    )


def wanted(reference: Pair, rates: Sequence[str] | None) -> tuple[str, ...]:
    """Rates at which both have thresholds."""
    both = [rate for rate in reference.a.flagged if rate in reference.b.flagged]
    if rates is None:
        return tuple(both)
    missing = [rate for rate in rates if rate not in both]
    if missing:
        raise LookupError(
            f"Not both have a threshold for a false-alarm rate of {missing[0]}; there are {', '.join(both) or 'none'}."
        )
    return tuple(rates)


# --- monitors --------------------------------------------------------------------------------------------------------


def of_copies(clean: str, copies: Sequence[str], pairs: Mapping[str, Pair], settings: Settings) -> list[Row]:
    """The clean images and all sets made of them: an image is drawn with all its copies."""
    base = pairs[clean]
    sets = [pairs[name] for name in copies]
    rows = []
    for name, label, kind, places in pooling(clean, copies, pairs):
        meant = [base if place is None else sets[place] for place in places]
        found: dict[str, Difference] = {}
        if name != clean:
            found["auroc"] = area_difference(base, meant, settings, paired=True)
        for rate in settings.rates:
            found[metric_of_rate(rate)] = rate_difference(meant, rate, settings)
        if found:
            rows.append(Row(name, label, kind, len(base.a.names), found))
    return rows


def pooling(
    clean: str, copies: Sequence[str], pairs: Mapping[str, Pair]
) -> Iterator[tuple[str, str, str | None, tuple[int | None, ...]]]:
    """Rows of a table: name, label, kind and the places of the sets that are told of together, None for the clean."""
    given: set[tuple[int, ...]] = set()
    for label, meant in POOLED:
        places = tuple(place for place, name in enumerate(copies) if pairs[name].a.kind in meant)
        if len(places) > 1 and places not in given:
            given.add(places)
            yield label, label, "pooled", places
    yield clean, pairs[clean].a.label, pairs[clean].a.kind, (None,)
    for place, name in enumerate(copies):
        yield name, pairs[name].a.label, pairs[name].a.kind, (place,)


def area_difference(clean: Pair, changed: Sequence[Pair], settings: Settings, *, paired: bool) -> Difference:
    """AUROC of both against the clean images, averaged over seeds, of one set or of several of the same images.

    Where the bootstrap's interval of one side has no width, that side has the one of `auroc_interval`, and both are put
    together as if they were independent, which is wider than they are. (Zou & Donner, Statistics in Medicine 27, 2008,
    1693-1702.)

    Args:
        clean: the clean images.
        changed: sets of as many images each, in one order.
        settings: of the bootstrap.
        paired: whether row i is the same image in all of them.
    """
    above = [added_up(clean[side].scores, [pair[side].scores for pair in changed]) for side in range(2)]
    numbers = [torch.arange(size) for size in above[0][0].shape]
    groups = [clean.groups] if paired else [clean.groups, changed[0].groups]
    band = bootstrap_band(
        Areas(above), *numbers, groups=groups, paired=paired,
        **settings_of(settings),
    )  # fmt: skip
    value, low, high = band.value.tolist(), band.low.tolist(), band.high.tolist()
    if any(low[side] == high[side] for side in range(2)):
        down, up = [], []
        for side in range(2):
            if low[side] < high[side]:
                down.append(value[side] - low[side])
                up.append(high[side] - value[side])
                continue
            # Copies of an image are as one: the first set speaks for all.
            both = zip(clean[side].scores.unbind(1), changed[0][side].scores.unbind(1), strict=True)
            ends = [auroc_interval(under, over, settings.confidence) for under, over in both]
            down.append(sum(each.value - each.low for each in ends) / len(ends))
            up.append(sum(each.high - each.value for each in ends) / len(ends))
        low[2] = max(-1.0, min(low[2], value[2] - math.hypot(down[1], up[0])))
        high[2] = min(1.0, max(high[2], value[2] + math.hypot(up[1], down[0])))
    return difference_of(value[0], value[1], Interval(value[2], low[2], high[2]), settings.confidence)


def added_up(
    clean: Float64[Tensor, "n seeds"], changed: Sequence[Float64[Tensor, "m seeds"]]
) -> tuple[Float64[Tensor, "n m"], int]:
    """`higher` added up over sets and seeds, and over how many."""
    above = torch.zeros(len(clean), len(changed[0]), dtype=torch.float64)
    for scores in changed:
        for under, over in zip(clean.unbind(1), scores.unbind(1), strict=True):
            above += higher(under, over)
    return above, clean.shape[1] * len(changed)


def higher(clean: Float64[Tensor, " n"], changed: Float64[Tensor, " m"]) -> Float64[Tensor, "n m"]:
    """1 where the changed image scores higher than the clean one, and one half where they tie."""
    return torch.heaviside(changed - clean[:, None], torch.tensor(0.5, dtype=torch.float64)).nan_to_num(0.5)


class Areas:
    """AUROC of A, of B and their difference, of resamples that are given by the numbers of the images drawn.

    An AUROC is a mean over pairs of images. How often a pair counts is how often its images were drawn, so that what
    was made of many scores, by adding up, is drawn as fast as what was made of one.

    Args:
        sides: of A and of B, see `added_up`.
    """

    def __init__(self, sides: Sequence[tuple[Float64[Tensor, "n m"], int]]) -> None:
        self.sides = sides

    def __call__(self, clean: Int64[Tensor, "r n"], changed: Int64[Tensor, "r m"]) -> Float64[Tensor, "r 3"]:
        under, over = (
            torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(
                1, drawn, torch.ones(drawn.shape, dtype=torch.float64)
            )
            for drawn in (clean, changed)
        )
        # Sums of halves are exact, and divided last: what is the same in all resamples is equal.
        a, b = (
            ((under @ above) * over).sum(1) / (count * above.numel()) for above, count in self.sides
        )  # fmt: skip
        return torch.stack([a, b, b - a], 1)


def rate_difference(sets: Sequence[Pair], rate: str, settings: Settings) -> Difference:
    """Share flagged by both, averaged over seeds, of one set or of several of the same images.

    Of a single threshold and set the interval is at least Newcombe's. Where the bootstrap's has no width, it is that.
    """
    flags = torch.stack(
        [
            torch.stack([pair[side].flagged[rate].double().mean(1) for pair in sets]).mean(0)
            for side in range(2)
        ], 1
    )  # fmt: skip
    values = torch.cat([flags, flags[:, 1:] - flags[:, :1]], 1)
    band = bootstrap_band(means, values, groups=[sets[0].groups], **settings_of(settings))
    (a, b, difference), low, high = band.value.tolist(), band.low[2].item(), band.high[2].item()
    single = len(sets) == 1 and all(side.scores.shape[1] == 1 for side in sets[0])
    if single or low == high:
        both = flags.amin(1)
        # Rounded where there are several: an image that some flag counts as part of one.
        shared, only_a, only_b = (round(part.sum().item()) for part in (both, flags[:, 0] - both, flags[:, 1] - both))
        neither = max(0, len(flags) - shared - only_a - only_b)
        closed = paired_rate_interval(shared, only_b, only_a, neither, settings.confidence)  # B's rate minus A's
        low, high = min(low, closed.low), max(high, closed.high)
    return difference_of(a, b, Interval(difference, low, high), settings.confidence)


def by_itself(name: str, pair: Pair, clean: Pair | None, settings: Settings) -> Row:
    """A set whose images are not copies of the clean ones: these are drawn by themselves."""
    found: dict[str, Difference] = {}
    if clean is not None:
        found["auroc"] = area_difference(clean, [pair], settings, paired=False)
    for rate in settings.rates:
        found[metric_of_rate(rate)] = rate_difference([pair], rate, settings)
    return Row(name, pair.a.label, pair.a.kind, len(pair.a.names), found)


# --- networks --------------------------------------------------------------------------------------------------------


def with_networks(rows: Sequence[Row], pairs: Mapping[str, Pair], clean: str | None, settings: Settings) -> list[Row]:
    """Rows with what two networks predict wrong, if they are two: if they differ on the clean images."""
    if clean is None or not differ(pairs[clean]):
        return list(rows)
    widened = []
    for row in rows:
        more = {} if row.name not in pairs else network_differences(pairs[row.name], settings)
        widened.append(replace(row, differences={**row.differences, **more}))
    return widened


def differ(pair: Pair) -> bool:
    a, b = pair.a.wrong, pair.b.wrong
    return a is not None and b is not None and not torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def network_differences(pair: Pair, settings: Settings) -> dict[str, Difference]:
    """Of the share of wrong pixels, and of mean IoU where it is known by image."""
    found: dict[str, Difference] = {}
    groups = pair.groups
    if pair.a.wrong is not None and pair.b.wrong is not None:
        values = torch.stack([pair.a.wrong, pair.b.wrong, pair.b.wrong - pair.a.wrong], 1).double()
        labelled = values.isfinite().all(1)
        if int(labelled.sum()) > 1:
            kept = [group for group, has in zip(groups, labelled.tolist(), strict=True) if has]
            band = bootstrap_band(means, values[labelled], groups=[kept], **settings_of(settings))
            found["wrong"] = of_band(band, settings)
    a, b = pair.a.overlap, pair.b.overlap
    if a is not None and b is not None and a.shape == b.shape and int(a.sum()) and int(b.sum()):
        band = bootstrap_band(mean_ious, torch.stack([a, b], 2), groups=[groups], **settings_of(settings))
        found["miou"] = of_band(band, settings)
    return found


def mean_ious(overlap: Int64[Tensor, "r n 2 2 k"]) -> Float64[Tensor, "r 3"]:
    """Mean IoU of network A, of network B and their difference, of r resamples of n images at once.

    Args:
        overlap: pixels by image, intersection or union, network, and class.
    """
    a, b = pooled_mean_iou(overlap).unbind(1)
    return torch.stack([a, b, b - a], 1)


# --- what a difference says ------------------------------------------------------------------------------------------


def settings_of(settings: Settings) -> dict[str, Any]:
    """Of `bootstrap_band`."""
    named = ("block_length", "resamples", "confidence", "seed")
    return {name: getattr(settings, name) for name in named}


def of_band(band: Band, settings: Settings) -> Difference:
    """From a band of A, B and B - A."""
    a, b, difference = band.value.tolist()
    interval = Interval(difference, band.low[2].item(), band.high[2].item())
    return difference_of(a, b, interval, settings.confidence)


def difference_of(a: float, b: float, interval: Interval, confidence: float) -> Difference:
    return Difference(a, b, *interval, p_value_of(interval, confidence))


def p_value_of(interval: Interval, confidence: float = 0.95) -> float:
    """The two-sided p-value of "it is 0" that belongs to an interval: the end that faces 0 is read as a normal's.

    It is below 1 - confidence if and only if the interval leaves 0 out. (After Altman & Bland, How to obtain the P
    value from a confidence interval, BMJ 343, 2011; they take the width, which is the same where both sides are.)

    >>> round(p_value_of(Interval(0.2, 0.0, 0.4)), 3)
    0.05
    """
    value, low, high = interval
    facing = value - low if value > 0 else high - value
    if value == 0:
        return 1.0
    if facing <= 0:
        return 0.0
    return float(2 * norm.sf(ndtri((1 + confidence) / 2) * abs(value) / facing))


def judged(rows: Sequence[Row], confidence: float) -> Iterator[Row]:
    """Rows with adjusted p-values and with who is better; of too few images nobody is."""
    adjusted = iter(holm([found.p_value for row in rows if not row.too_few for found in row.differences.values()]))
    for row in rows:
        if row.too_few:
            yield row
            continue
        differences = {}
        for metric, found in row.differences.items():
            level = next(adjusted)
            ahead = leader(metric, row.kind, found.difference)
            seems = ahead if found.low > 0 or found.high < 0 else None
            better = ahead if level <= 1 - confidence else None
            differences[metric] = replace(found, adjusted=level, better=better, seems=seems)
        yield replace(row, differences=differences)


def compared(rows: Sequence[Row]) -> int:
    return sum(len(row.differences) for row in rows if not row.too_few)


def leader(metric: str, kind: str | None, difference: float) -> Better | None:
    """Who is ahead; None where more is neither better nor worse."""
    if metric == "wrong":
        larger_is_better = False
    elif metric == "miou":
        larger_is_better = True
    elif kind is None or (metric == "auroc" and kind == "control"):
        return None
    else:
        larger_is_better = kind not in ("clean", "control")
    return "b" if (difference > 0) == larger_is_better else "a"


def notes_on(
    a: Side, b: Side, pairs: Mapping[str, Pair], reference: Pair, settings: Settings, rows: Sequence[Row]
) -> Iterator[str]:
    """What a reader has to know."""
    percent = f"{100 * settings.confidence:g} %"
    groups = len(set(reference.groups))
    run = "one by one" if settings.block_length == 1 else f"in runs of {settings.block_length} neighbours"
    where = "" if groups == 1 else f" within their {groups} groups"
    yield (
        f"Differences are B - A, with {percent} intervals from drawing the same images for both {settings.resamples} "
        f"times, {run}{where}: they speak of further images like these, not of other drives or sites."
    )
    runs = len(reference.a.names) / settings.block_length
    if runs < MANY:
        yield (
            f"The images are hardly more than {max(1, round(runs))} independent runs: take these intervals as rough, "
            "and rather as too narrow."
        )
    yield (
        f"{compared(rows)} differences were looked at. 'better' allows for that many (Holm, {percent}); 'better?' does "
        "not, and some of these come by chance."
    )
    seeds = [side.sets[next(iter(side.sets))].scores.shape[1] for side in (a, b)]
    if max(seeds) > 1:
        yield f"Means over {seeds[0]} and {seeds[1]} keys; the intervals are about other images, not about other keys."
    if any(not rates for rates in (reference.a.flagged, reference.b.flagged)) or not settings.rates:
        yield "No rates of alarm are compared: there is no threshold for one nominal rate of both."
    small = [row.label for row in rows if row.too_few]
    if small:
        yield f"Fewer than {TOO_FEW} images, too few to call anything better: {', '.join(small)}."
    for row in rows:
        for metric, found in row.differences.items():
            rate = rate_of_metric(metric)
            if row.kind == "clean" and rate is not None and not found.low <= 0 <= found.high:
                more, less = ("B", "A") if found.difference > 0 else ("A", "B")
                at = "" if rate == OWN else f" at a nominal rate of {rate}"
                yield (
                    f"{more} flags more of the clean images too than {less}{at} (A {found.a:.1%}, B {found.b:.1%}): "
                    "what it flags more of the others is partly owed to that. AUROC does not depend on thresholds."
                )
    alone = [[name for name in one.sets if name not in other.sets] for one, other in ((a, b), (b, a))]
    for side, names in zip((a, b), alone, strict=True):
        if names:
            yield f"Only '{side.label}' was shown {', '.join(names)}: left out."
    for name, pair in pairs.items():
        if dict(pair.a.settings) != dict(pair.b.settings):
            yield f"Set '{name}' was made with other settings for A than for B: {told(pair.a)} and {told(pair.b)}."
        lost = max(len(a.sets[name].names), len(b.sets[name].names)) - len(pair.a.names)
        if lost:
            yield f"Of set '{name}', {lost} images were not seen by both: left out."


def told(judged: Judged) -> str:
    """The settings of a set."""
    return ", ".join(f"{name}={value!r}" for name, value in judged.settings.items()) or "none"
