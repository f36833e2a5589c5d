"""Where a monitor alarms more or less than elsewhere: its rates by drive, light, content and damage.

A slice is some of the clean images, and with each of them its changed copies. Neighbouring frames of a drive and the
copies of one image are alike, so both the intervals and the tests count runs of neighbours and not images. Whoever
looks at many slices finds one that differs: how many were looked at is told, and allowed for.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64
from numpy.typing import NDArray
from scipy.stats import beta, rankdata
from scipy.stats import t as student
from torch import Tensor

from inlier.calibration import autocorrelation_length
from inlier.errors import Mismatch
from inlier.evaluation.intervals import Interval
from inlier.evaluation.record import Kind, Record

__all__ = [
    "CHANGES", "OWN", "TOO_FEW", "Judged", "Per", "Side", "Slice", "SliceRate", "SliceRow", "SliceTable", "aligned",
    "by_content", "by_group", "by_light", "clustered_rate_interval", "holm", "judged_length", "nearest_rate", "side_of",
    "side_of_scores", "slice_table", "slices_of",
]  # fmt: skip

Per: TypeAlias = Literal["kind", "change", "set"]
"""What changed copies are told of together."""

CHANGES: tuple[Kind, ...] = ("perturbation", "attack", "universal", "joint")
"""Kinds that a monitor should alarm at."""
OWN = "own"
"""In place of a nominal rate, where all that is known is which images were flagged."""
TOO_FEW = 10
"""Images below which a slice says too little to be tested."""
LEAST = 0.005
"""Share of the pixels from which an image counts as one with a class: 5 in 1000."""
DAMAGE = (0.0, 0.01, 0.1, 0.3, 1.0)
"""Edges of the shares of changed pixels; the last slice holds 1."""
NUMBERS = 2**22
"""Drawn at a time."""
KIND_LABELS = {
    "perturbation": "natural changes", "attack": "attacks", "universal": "universal attacks",
    "joint": "attacks on network and monitor", "control": "controls",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judged:
    """What a monitor said of one set of images, and what is known of these.

    Args:
        label: for people.
        kind: what the images are; None where nobody said.
        names, groups: of the images, in their order in time.
        scores: a column a seed.
        flagged: by nominal false-alarm rate as text, such as "0.05", or `OWN`.
        change, settings: what was done to clean images; sets of one change are told of together.
        changed: share of pixels whose predicted class the change altered.
        wrong: share of the labelled pixels that the network predicts wrong.
        overlap: pixels of intersection (row 0) and union (row 1) of label and prediction, by class.
        light: mean brightness in [0, 1].
        content: share of each class.
    """

    label: str
    kind: Kind | None
    names: tuple[str, ...]
    groups: tuple[str, ...]
    scores: Float64[Tensor, "n seeds"]
    flagged: Mapping[str, Bool[Tensor, "n seeds"]]
    change: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: Float64[Tensor, " n"] | None = None
    wrong: Float64[Tensor, " n"] | None = None
    overlap: Int64[Tensor, "n 2 k"] | None = None
    light: Float64[Tensor, " n"] | None = None
    content: Float64[Tensor, "n k"] | None = None


@dataclass(frozen=True, eq=False)
class Side:
    """What one monitor, under one or several seeds, said of sets of images.

    Args:
        label: of the monitor.
        sets: by name.
        clean: the name of the set of clean images; None where there is none.
        copies: names of the sets made of the clean images, image by image in the same order.
    """

    label: str
    sets: Mapping[str, Judged]
    clean: str | None
    copies: tuple[str, ...] = ()


def side_of(record: Record, monitor: str, seeds: Sequence[int] | None = None, label: str | None = None) -> Side:
    """One monitor of an evaluation, under all its seeds or some.

    Raises:
        LookupError: there is no monitor of this name, or it has not these seeds.
    """
    entry = record.monitor(monitor)
    chosen = entry.seeds if seeds is None else tuple(seeds)
    missing = [seed for seed in chosen if seed not in entry.seeds]
    if missing or not chosen:
        raise LookupError(f"Monitor '{monitor}' has the seeds {list(entry.seeds)}, not {missing or 'none at all'}.")
    limits = [entry.thresholds.get(seed, {}) for seed in chosen]
    rates = [rate for rate in entry.rates if all(rate in found for found in limits)]
    sets = {}
    for shown in record.sets:
        columns = [record.scores.get((monitor, seed, shown.name)) for seed in chosen]
        scores = torch.stack([column.double() for column in columns if column is not None] or [torch.empty(0)], 1)
        if scores.shape != (len(shown.names), len(chosen)):
            continue  # a monitor need not have been shown every set
        sets[shown.name] = Judged(
            shown.label, shown.kind, shown.names, shown.groups, scores,
            {
                f"{rate:g}": scores > torch.tensor([found[rate] for found in limits], dtype=torch.float64)
                for rate in rates
            },
            shown.change or shown.name, shown.settings, record.changed.get(shown.name), record.wrong.get(shown.name),
            record.overlap.get(shown.name), record.light.get(shown.name), record.content.get(shown.name),
        )  # fmt: skip
    clean = record.clean.name
    copies = tuple(shown.name for shown in record.sets if shown.name in sets and shown.of == clean)
    return Side(label or entry.label, sets, clean if clean in sets else None, copies)


def side_of_scores(path: str | Path, clean: str | Path | None = None, label: str | None = None) -> Side:
    """A monitor by what `inlier score` wrote of images, and of clean ones: JSON lines, or CSV where so named.

    Without `clean` nothing says whether the images should be flagged. Where both files tell of the same images, by
    name without ending, the first ones are taken for changed copies of the clean ones.

    Raises:
        FileNotFoundError: there is no such file.
        Mismatch: a file is not of `inlier score`, or tells of no image or twice of one.
    """
    judged = scored(Path(path), "changed" if clean else "images", "perturbation" if clean else None)
    name = label or Path(path).stem
    if clean is None:
        return Side(name, {"images": judged}, None)
    return Side(name, {"clean": scored(Path(clean), "clean", "clean"), "changed": judged}, "clean", ("changed",))


def scored(path: Path, label: str, kind: Kind | None) -> Judged:
    """One file of `inlier score`."""
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        names, groups = (tuple(str(row[column]) for row in rows) for column in ("image", "group"))
        scores = torch.tensor([[float(row["score"])] for row in rows], dtype=torch.float64)
        flagged = torch.tensor([[TRUTH[row["flagged"]]] for row in rows])
    except (ValueError, KeyError, TypeError) as error:
        raise Mismatch(
            f"'{path}' is not what `inlier score` writes ({error!r}); expected JSON lines, or CSV in a file named "
            ".csv, with image, group, score and flagged"
        ) from error
    if not rows:
        raise Mismatch(f"'{path}' tells of no image; `inlier score` writes a row an image")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Mismatch(f"'{path}' tells of '{twice}' more than once; expected every image once")
    return Judged(label, kind, names, groups, scores, {OWN: flagged}, label)


TRUTH = {True: True, False: False, "True": True, "False": False, "true": True, "false": False}


def nearest_rate(rates: Sequence[str], wanted: float = 0.05) -> str:
    """The rate nearest to that wanted, `OWN` where it is all there is.

    Raises:
        LookupError: there are none.
    """
    if not rates:
        raise LookupError("This monitor has no threshold: it was evaluated without, or had too few clean images.")
    return min(rates, key=lambda rate: math.inf if rate == OWN else abs(float(rate) - wanted))


def judged_length(judged: Judged) -> int:
    """How many neighbouring images say about the same: the `autocorrelation_length` of their scores' ranks.

    The longest over the seeds. It is 1 where images of a group do not follow one another.
    """
    ranks = torch.from_numpy(rankdata(judged.scores.numpy(), axis=0))
    return max(autocorrelation_length(column, judged.groups) for column in ranks.unbind(1))


# --- slices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Slice:
    """Some of the images.

    Args:
        by: what sets them apart: group, light or content.
        label: which they are, with the bounds.
        inside: whether each image is one of them.
    """

    by: str
    label: str
    inside: Bool[Tensor, " n"]


def by_group(groups: Sequence[str]) -> list[Slice]:
    """A slice for each group, in the order of their first images; none if there is one group only."""
    return proper(
        [Slice("group", group, torch.tensor([g == group for g in groups])) for group in dict.fromkeys(groups)]
    )


def by_light(light: Float64[Tensor, " n"]) -> list[Slice]:
    """Thirds of the images by their mean brightness; images as bright as a bound belong to the darker third."""
    low, high = (round(bound, 3) for bound in np.quantile(light.numpy(), [1 / 3, 2 / 3]).tolist())
    return proper([
        Slice("light", f"brightness up to {low:.3f}", light <= low),
        Slice("light", f"brightness {low:.3f} to {high:.3f}", (light > low) & (light <= high)),
        Slice("light", f"brightness above {high:.3f}", light > high),
    ])  # fmt: skip


def by_content(content: Float64[Tensor, "n k"], classes: Sequence[str] = (), least: float = LEAST) -> list[Slice]:
    """For every class that some images have and others have not: those with it, and those without.

    Args:
        content: share of each class in each image.
        classes: their names; numbers by default.
        least: the share of the pixels from which an image counts as one with the class.

    Raises:
        ValueError: there are not as many names as classes.
    """
    names = list(classes) or [f"class {number}" for number in range(content.shape[1])]
    if len(names) != content.shape[1]:
        raise ValueError(f"{len(names)} names were given for {content.shape[1]} classes: {', '.join(names)}")
    slices: list[Slice] = []
    for name, share in zip(names, content.unbind(1), strict=True):
        having = share >= least
        slices += proper([
            Slice("content", f"with {name} ({least:.1%} or more)", having),
            Slice("content", f"without {name}", ~having),
        ])  # fmt: skip
    return slices


def proper(slices: list[Slice]) -> list[Slice]:
    """Those with images in them and out of them."""
    return [each for each in slices if 0 < int(each.inside.sum()) < len(each.inside)]


@dataclass(frozen=True)
class SliceRate:
    """How much of a slice was flagged.

    Args:
        hits, count: of changed copies, or of clean images.
        rate: their ratio.
        low, high: ends of the 95 % interval, or of what confidence was asked for.
        p_value: of the difference from all other images; None where it was not tested.
        adjusted: the same, with all that was tested allowed for.
        differs: the direction, if `adjusted` is small enough.
    """

    hits: int
    count: int
    rate: float
    low: float
    high: float
    p_value: float | None = None
    adjusted: float | None = None
    differs: Literal["higher", "lower"] | None = None


@dataclass(frozen=True)
class SliceRow:
    """One slice.

    Args:
        by, label: see `Slice`; `by` may be damage too.
        images: how many there are in it.
        too_few: whether there are too few to say much.
        rates: by what was done to the images; "false alarms" are those of the clean ones.
        wrong: mean share of labelled pixels that the network predicts wrong on the clean images; None without labels.
    """

    by: str
    label: str
    images: int
    too_few: bool
    rates: Mapping[str, SliceRate]
    wrong: float | None = None


@dataclass(frozen=True)
class SliceTable:
    """Rates of a monitor by slice.

    Args:
        monitor: its label.
        rate: the nominal false-alarm rate of the threshold, as text.
        rows: a slice each.
        tested: how many differences from the rest were looked at. A slice and its complement are one.
        block_length: images of a group that are taken for one, in a run.
        confidence: of the intervals, and one minus the level of the tests.
    """

    monitor: str
    rate: str
    rows: tuple[SliceRow, ...]
    tested: int
    block_length: int
    confidence: float

    @property
    def columns(self) -> tuple[str, ...]:
        """What there are rates of."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row.rates))

    @property
    def notes(self) -> list[str]:
        """What a reader has to know."""
        percent = f"{100 * self.confidence:g} %"
        run = "every image counts" if self.block_length == 1 else f"runs of {self.block_length} neighbours count as one"
        return [
            f"Rates are observed, with {percent} intervals (Korn and Graubard); {run}, and so do copies of an image.",
            f"{self.tested} differences between a slice and the other images were tested by moving blocks of images; "
            f"those marked are left when all of them are allowed for (Holm, {percent}).",
            f"Slices of fewer than {TOO_FEW} images are marked 'too few' and not tested; nor are those that leave so "
            "few images over. Damage is not tested: alarms should grow with it.",
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"notes": self.notes}

    def flat(self) -> Iterator[dict[str, Any]]:
        """A row for every slice and column, for CSV."""
        for row in self.rows:
            for column, rate in row.rates.items():
                yield {
                    "monitor": self.monitor, "nominal": self.rate, "by": row.by, "slice": row.label,
                    "images": row.images, "too_few": row.too_few, "of": column, **asdict(rate), "wrong": row.wrong,
                }  # fmt: skip


FALSE_ALARMS = "false alarms"


def slices_of(
    side: Side,
    *,
    rate: str | None = None,
    classes: Sequence[str] = (),
    per: Per = "kind",
    least: float = LEAST,
    block_length: int | None = None,
    permutations: int = 9999,
    confidence: float = 0.95,
    seed: int = 0,
) -> SliceTable:
    """All slices of a monitor, under its first seed: by group, and by light, content and damage where they are known.

    Light and content are those of the clean images; their changed copies stay with them. Foreign images are in no
    slice, because they are of none of the clean images.

    Args:
        side: the monitor, with clean images.
        rate: a key of `flagged`; by default the rate nearest to 5 %.
        classes: names of the network's classes.
        per: what changed copies are told of together: their kind, their change or each set by itself.
        least: see `by_content`.
        block_length: in images; by default `judged_length` of the clean images.
        permutations, confidence, seed: see `slice_table`.

    Raises:
        LookupError: there are no clean images, or no threshold for this rate.
        ValueError: see `by_content` and `slice_table`.
    """
    if side.clean is None:
        raise LookupError(f"Slices of '{side.label}' are slices of clean images, and there are none.")
    clean = side.sets[side.clean]
    chosen = nearest_rate(tuple(clean.flagged)) if rate is None else rate
    if chosen not in clean.flagged:
        raise LookupError(
            f"'{side.label}' has no threshold for a false-alarm rate of {chosen}. "
            f"There are {', '.join(clean.flagged) or 'none'}."
        )
    told = [side.sets[name] for name in side.copies if aligned(side.sets[name], clean)]
    columns: dict[str, list[Tensor]] = {FALSE_ALARMS: [clean.flagged[chosen][:, 0]]}
    for each in told:
        name = {"kind": KIND_LABELS.get(each.kind or "", "changed"), "change": each.change, "set": each.label}[per]
        columns.setdefault(name, []).append(each.flagged[chosen][:, 0])
    slices = by_group(clean.groups)
    if clean.light is not None:
        slices += by_light(clean.light)
    if clean.content is not None:
        slices += by_content(clean.content, classes, least)
    length = judged_length(clean) if block_length is None else block_length
    table = slice_table(
        slices, {name: torch.stack(flags, 1) for name, flags in columns.items()}, groups=clean.groups,
        block_length=length, permutations=permutations, confidence=confidence, seed=seed, wrong=clean.wrong,
        monitor=side.label, rate=chosen,
    )  # fmt: skip
    harmed = [each for each in told if each.kind in CHANGES and each.changed is not None]
    rows = damage_rows(harmed, chosen, blocks_of(clean.groups, length), confidence)
    return SliceTable(side.label, chosen, (*table.rows, *rows), table.tested, length, confidence)


def aligned(copies: Judged, clean: Judged) -> bool:
    """Whether the i-th of both is the same image, by name without ending."""
    return stems(copies.names) == stems(clean.names)


def stems(names: Sequence[str]) -> list[str]:
    """Names without their endings: a changed copy may be another type of file."""
    return [name.rpartition(".")[0] or name for name in names]


def slice_table(
    slices: Sequence[Slice],
    flagged: Mapping[str, Bool[Tensor, "n _"]],
    *,
    groups: Sequence[str] | None = None,
    block_length: int = 1,
    permutations: int = 9999,
    confidence: float = 0.95,
    seed: int = 0,
    wrong: Float64[Tensor, " n"] | None = None,
    monitor: str = "",
    rate: str = OWN,
) -> SliceTable:
    """Rates by slice, each with its interval and tested against all other images.

    The test moves blocks of neighbouring images to other places, slices staying where they are, and asks how often a
    slice's rate is then as far from the average as it was. It supposes that blocks would be exchangeable if slices
    made no difference. p-values of all slices and columns are adjusted together (Holm).

    Args:
        slices: of the images.
        flagged: by column: whether each copy of each image was flagged.
        groups: of the images; in each they are in their order in time. None: all are of one group.
        block_length: of a block, in images.
        permutations: how often blocks are moved. No p-value is below 1 / (permutations + 1).
        confidence: of the intervals, and one minus the level of the tests.
        seed: of the permutations.
        wrong: see `SliceRow`.
        monitor, rate: see `SliceTable`.

    Raises:
        ValueError: lengths differ, or an argument is out of range.
    """
    if block_length < 1 or permutations < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"Expected block_length >= 1, permutations >= 1 and confidence in (0, 1), not {block_length}, "
            f"{permutations} and {confidence!r}."
        )
    lengths = {len(each.inside) for each in slices} | {len(flags) for flags in flagged.values()}
    lengths |= set() if groups is None else {len(groups)}
    if len(lengths) > 1:
        raise ValueError(f"Slices, flags and groups must tell of the same images; there are {sorted(lengths)} of them.")
    n = max(lengths, default=0)
    within = tuple(groups) if groups is not None else ("",) * n
    blocks = blocks_of(within, block_length)
    tested: dict[tuple[bool, ...], Tensor] = {}
    for each in slices:
        if TOO_FEW <= int(each.inside.sum()) <= n - TOO_FEW:
            tested.setdefault(split(each.inside), each.inside)
    found: dict[tuple[tuple[bool, ...], str], float] = {}
    if tested and flagged:
        means = torch.stack([flags.double().mean(1) for flags in flagged.values()], 1)
        masks = torch.stack(list(tested.values()), 1).double()
        p_values = permutation_p_values(means, masks, within, block_length, permutations, seed)
        found = {
            (key, column): p_values[s, c].item() for s, key in enumerate(tested) for c, column in enumerate(flagged)
        }
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    rows = []
    for each in slices:
        rates = {}
        for column, flags in flagged.items():
            bare = rate_of(flags, each.inside[:, None].expand_as(flags), blocks, confidence)
            key = (split(each.inside), column)
            p_value, level = found.get(key), adjusted.get(key)
            differs: Literal["higher", "lower"] | None = None
            if level is not None and level <= 1 - confidence:
                differs = "higher" if bare.rate > flags[~each.inside].double().mean().item() else "lower"
            rates[column] = SliceRate(bare.hits, bare.count, bare.rate, bare.low, bare.high, p_value, level, differs)
        images = int(each.inside.sum())
        error = None if wrong is None else wrong[each.inside].nanmean().item()
        rows.append(SliceRow(each.by, each.label, images, images < TOO_FEW, rates, error if error == error else None))
    return SliceTable(monitor, rate, tuple(rows), len(found), block_length, confidence)


def split(inside: Bool[Tensor, " n"]) -> tuple[bool, ...]:
    """The same for a slice and its complement."""
    flags = inside.tolist()
    return tuple(flag != flags[0] for flag in flags)


def damage_rows(sets: Sequence[Judged], rate: str, blocks: Int[Tensor, " n"], confidence: float) -> Iterator[SliceRow]:
    """Copies of all images by how much of the prediction changed; no tests."""
    if not sets:
        return
    changed = torch.stack([each.changed for each in sets if each.changed is not None], 1)
    flags = torch.stack([each.flagged[rate][:, 0] for each in sets], 1)
    kinds = [KIND_LABELS.get(each.kind or "", "changed") for each in sets]
    for low, high in pairwise(DAMAGE):
        inside = (changed >= low) & ((changed < high) | (high == DAMAGE[-1]))
        rates = {}
        for kind in dict.fromkeys(kinds):
            chosen = inside & torch.tensor([other == kind for other in kinds])
            if chosen.any():
                rates[kind] = rate_of(flags, chosen, blocks, confidence)
        images = int(inside.any(1).sum())
        if images:
            yield SliceRow("damage", f"{low:.0%} to {high:.0%} of the pixels changed", images, images < TOO_FEW, rates)


def rate_of(
    flags: Bool[Tensor, "n s"], inside: Bool[Tensor, "n s"], blocks: Int[Tensor, " n"], confidence: float
) -> SliceRate:
    """Of the copies inside; images of a block are a cluster."""
    size = int(blocks.max()) + 1
    hits, counts = (
        torch.bincount(blocks, values.double().sum(1), size)
        for values in (flags & inside, inside)
    )  # fmt: skip
    held = counts > 0
    interval = clustered_rate_interval(hits[held].numpy(), counts[held].numpy(), confidence)
    return SliceRate(int(hits.sum()), int(counts.sum()), *interval)


# --- statistics ------------------------------------------------------------------------------------------------------


def clustered_rate_interval(
    hits: NDArray[np.float64], counts: NDArray[np.float64], confidence: float = 0.95
) -> Interval:
    """A rate over clusters of trials that are alike within a cluster, with an interval that has a width at 0 and 1.

    Clopper and Pearson's interval for as many independent trials as would leave the rate as uncertain as the spread
    between the clusters does; with one trial a cluster it is `rate_interval`. (Korn & Graubard, Survey Methodology 24,
    1998, 193-201.)

    Args:
        hits, counts: (clusters,) of each cluster.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: there are no trials, not 0 <= hits <= counts, or `confidence` not in (0, 1).

    >>> [round(end, 3) for end in clustered_rate_interval(np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 1, 1]))]
    [0.25, 0.006, 0.806]
    """
    if hits.shape != counts.shape or hits.size == 0 or (counts <= 0).any() or (hits < 0).any() or (hits > counts).any():
        raise ValueError(f"Expected clusters with 0 <= hits <= counts and counts above 0, not {hits} of {counts}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, both excluded, not {confidence!r}.")
    trials, clusters = float(counts.sum()), len(counts)
    rate = float(hits.sum() / trials)
    miss = (1 - confidence) / 2
    if 0 < rate < 1 and clusters > 1:
        variance = float(np.square(hits - rate * counts).sum()) / trials**2
        effect = max(variance / (rate * (1 - rate) / trials), 1 / trials)
        fewer = (student.ppf(miss, trials - 1) / student.ppf(miss, clusters - 1)) ** 2
        # Never more than the trials there were, as in the paper; never less than one.
        effective = float(np.clip(trials / effect * fewer, 1.0, trials))
    else:
        # Differs from the paper, which takes all trials as independent where none or all are hits.
        effective = float(clusters)
    x = rate * effective
    low = float(beta.ppf(miss, x, effective - x + 1)) if rate > 0 else 0.0
    high = float(beta.ppf(1 - miss, x + 1, effective - x)) if rate < 1 else 1.0
    return Interval(rate, low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given. (Holm, Scandinavian Journal of Statistics 6, 1979.)

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return adjusted


def blocks_of(groups: Sequence[str], length: int) -> Int[Tensor, " n"]:
    """The number of the run of so many neighbours of its group that each image is in."""
    seen: dict[str, int] = {}
    numbers: dict[tuple[str, int], int] = {}
    blocks = []
    for group in groups:
        place = seen.get(group, 0)
        seen[group] = place + 1
        blocks.append(numbers.setdefault((group, place // length), len(numbers)))
    return torch.tensor(blocks, dtype=torch.long)


def permutation_p_values(
    values: Float64[Tensor, "n c"],
    masks: Float64[Tensor, "n s"],
    groups: Sequence[str],
    block_length: int,
    permutations: int,
    seed: int,
) -> Float64[Tensor, "s c"]:
    """How often a mask's mean is as far from that of all images, when blocks of images are moved about."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    order = sorted(range(len(groups)), key=lambda image: numbers[groups[image]])
    values, masks = values[order], masks[order]
    sizes = [list(groups).count(group) for group in dict.fromkeys(groups)]
    place = torch.cat([torch.arange(size) for size in sizes])
    most = [(size + block_length - 1) // block_length + 1 for size in sizes]
    base = torch.repeat_interleave(torch.tensor([0, *most[:-1]]).cumsum(0), torch.tensor(sizes))
    expected = masks.sum(0)[:, None] * values.mean(0)
    away = (masks.T @ values - expected).abs()
    generator = torch.Generator().manual_seed(seed)
    as_far = torch.ones_like(away)
    step = max(1, NUMBERS // (len(values) * (values.shape[1] + 2)))
    for start in range(0, permutations, step):
        count = min(step, permutations - start)
        offset = torch.randint(block_length, (count, 1), generator=generator)
        blocks = base + (place + offset) // block_length
        keys = torch.rand(count, sum(most), generator=generator).gather(1, blocks)
        moved = values[keys.argsort(dim=1, stable=True)]
        # Sums of equal numbers in another order differ in their last bits.
        far = (torch.einsum("rnc,ns->rsc", moved, masks) - expected).abs() >= away - 1e-9
        as_far += far.sum(0)
    return as_far / (permutations + 1)
