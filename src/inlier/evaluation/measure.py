"""From a record to results: every number that a report, a table or a sign-off sheet prints, as JSON values.

Anomalous images are the positive class throughout. Rates are observed on the images at hand, with 95 % intervals that
take these for independent; frames of one drive are not, so that intervals are too narrow rather than too wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from inlier.evaluation.intervals import auroc_interval, aurocs, bootstrap_band
from inlier.evaluation.metrics import (
    ConfusionMatrix,
    aupr,
    auroc,
    fpr_at_tpr,
    precision_recall_curve,
    rate_interval,
    roc_curve,
)
from inlier.evaluation.record import MonitorEntry, Record, SetEntry
from inlier.evaluation.study import PAPER, RATES, Goal

__all__ = [
    "BINS",
    "DAMAGED",
    "LOST",
    "curves_of",
    "histograms",
    "measured",
    "share",
    "targets_of",
    "without_nan",
    "worst_misses",
]

DAMAGED = 0.1
"""Share of changed pixels from which a change did something to the prediction."""
BINS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Edges of the shares of changed pixels, for alarms against damage; the last bin holds 1."""
LOST = (-1.0, 0.01, 0.03, 0.1, 0.2, 0.3, 1.0)
"""Edges of what an image's mean IoU loses, for the same; the first bin holds the images that lost nothing, too."""
RESAMPLES = 500
POINTS = 200
"""Of a curve at most."""


def measured(record: Record, *, void: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Monitors, sets, rows, summary, pooled, held_out, against_damage and against_loss of a record's results.

    Args:
        record: of an evaluation.
        void: the class that is no class, for mean IoU.
        seed: of the bootstrap.
    """
    rows = [row for monitor in record.monitors for s in monitor.seeds for row in rows_of(record, monitor, s, seed)]
    return {
        "monitors": [monitor_of(monitor) for monitor in record.monitors],
        "sets": [set_of(record, entry, void) for entry in record.sets],
        "rows": rows,
        "summary": summary_of(record, rows),
        "pooled": [
            p for monitor in record.monitors for s in monitor.seeds for p in pooled_of(record, monitor, s, seed)
        ],
        "held_out": held_out_of(record),
        "against_damage": against_damage(record, record.changed, BINS),
        "against_loss": against_damage(record, lost_iou(record), LOST),
    }


def monitor_of(entry: MonitorEntry) -> dict[str, Any]:
    thresholds = {
        str(seed): {text(rate): value for rate, value in rates.items()} for seed, rates in entry.thresholds.items()
    }
    return {
        "name": entry.name,
        "label": entry.label,
        "family": entry.family,
        "detectors": list(entry.detectors),
        "fusion": entry.fusion,
        "seeds": list(entry.seeds),
        "rule": entry.rule,
        "rates": list(entry.rates),
        "thresholds": thresholds,
        "clean_scores": entry.clean_made,
        "cost": None if entry.cost is None else dict(entry.cost),
    }


def set_of(record: Record, entry: SetEntry, void: int | None) -> dict[str, Any]:
    name = entry.name
    changed, iou, linf = (part.get(name) for part in (record.changed, record.iou, record.linf))
    return {
        "name": name,
        "label": entry.label,
        "kind": entry.kind,
        "change": entry.change,
        "severity": entry.severity,
        "settings": dict(entry.settings),
        "paper": entry.paper,
        "of": entry.of,
        "images": len(entry.names),
        "groups": counts(entry.groups),
        "changed": None if changed is None else changed.mean().item(),
        "changed_images": None if changed is None else int((changed >= DAMAGED).sum()),
        "aacc": None if changed is None else changed.mean().item(),
        "aiou": None if iou is None else (1 - iou).mean().item(),
        "miou": mean_iou(record, name, void),
        "linf": None if linf is None else linf.max().item(),
    }


def mean_iou(record: Record, name: str, void: int | None) -> float | None:
    """Against the labels, over all images of a set; None where there are none."""
    counts = record.confusion.get(name)
    if counts is None:
        return None
    matrix = ConfusionMatrix(len(counts), void)
    matrix.counts = counts
    return matrix.mean_iou()


def rows_of(record: Record, monitor: MonitorEntry, seed: int, draws: int) -> list[dict[str, Any]]:
    """One monitor under one seed on every set that it was shown."""
    shown = [entry for entry in record.sets if (monitor.name, seed, entry.name) in record.scores]
    clean = record.scores[monitor.name, seed, record.clean.name]
    intervals = auroc_intervals(
        clean, {entry.name: record.scores[monitor.name, seed, entry.name] for entry in shown}, record, draws
    )
    rows = []
    for entry in shown:
        scores = record.scores[monitor.name, seed, entry.name]
        row: dict[str, Any] = {"monitor": monitor.name, "seed": seed, "set": entry.name}
        if entry.kind != "clean":
            row |= {
                "auroc": auroc(clean, scores),
                "auroc_interval": intervals[entry.name],
                "aupr": aupr(clean, scores),
                "aupr_clean": aupr(clean, scores, "clean"),
                "fpr95": fpr_at_tpr(clean, scores),
            }
        thresholds = monitor.thresholds.get(seed, {})
        if thresholds:
            row["flagged"] = {text(rate): share(scores > limit) for rate, limit in thresholds.items()}
            changed = record.changed.get(entry.name)
            if changed is not None:
                damaged = changed >= DAMAGED
                row["flagged_changed"] = {
                    text(rate): share(scores[damaged] > limit) for rate, limit in thresholds.items()
                }
            row["by_group"] = {
                group: {
                    text(rate): share(scores[inside(entry.groups, group)] > limit) for rate, limit in thresholds.items()
                }
                for group in dict.fromkeys(entry.groups)
            }
        rows.append(row)
    return rows


def auroc_intervals(clean: Tensor, scores: Mapping[str, Tensor], record: Record, draws: int) -> dict[str, list[float]]:
    """The 95 % interval of each set's AUROC: the bootstrap's, with either side drawn by itself.

    At 0 and 1 the bootstrap's has no width; there the closed form stands in.
    """
    intervals: dict[str, list[float]] = {}
    by_length: dict[int, list[str]] = {}
    for name, values in scores.items():
        if record.set(name).kind != "clean":
            by_length.setdefault(len(values), []).append(name)
    for names in by_length.values():
        anomalous = torch.stack([scores[name] for name in names], 1)
        many = clean[:, None].expand(-1, len(names)).contiguous()
        band = bootstrap_band(aurocs, many, anomalous, resamples=RESAMPLES, seed=draws)
        for name, low, high in zip(names, band.low.tolist(), band.high.tolist(), strict=True):
            if low == high:
                found = auroc_interval(clean, scores[name])
                low, high = found.low, found.high
            intervals[name] = [low, high]
    return intervals


def summary_of(record: Record, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds of each monitor, set by set."""
    summary = []
    for monitor in record.monitors:
        for entry in record.sets:
            same = [row for row in rows if row["monitor"] == monitor.name and row["set"] == entry.name]
            if not same:
                continue
            told: dict[str, Any] = {"monitor": monitor.name, "set": entry.name, "seeds": len(same)}
            for metric in ("auroc", "aupr", "fpr95"):
                if metric in same[0]:
                    told[metric] = spread([row[metric] for row in same])
            told["tpr"] = {
                rate: spread([row["flagged"][rate]["hits"] / row["flagged"][rate]["images"] for row in same])
                for rate in same[0].get("flagged", {})
                if all(rate in row["flagged"] for row in same)
            }
            summary.append(told)
    return summary


def pooled_of(record: Record, monitor: MonitorEntry, seed: int, draws: int) -> list[dict[str, Any]]:
    """All of the paper's sets as one, against the clean images: one threshold for all."""
    names = [entry.name for entry in record.sets if entry.paper and (monitor.name, seed, entry.name) in record.scores]
    if not names:
        return []
    clean = record.scores[monitor.name, seed, record.clean.name]
    scores = torch.cat([record.scores[monitor.name, seed, name] for name in names])
    band = bootstrap_band(aurocs, clean[:, None], scores[:, None], resamples=RESAMPLES, seed=draws)
    low, high = band.low.item(), band.high.item()
    if low == high:
        found = auroc_interval(clean, scores)
        low, high = found.low, found.high
    return [
        {
            "monitor": monitor.name,
            "seed": seed,
            "over": PAPER,
            "sets": len(names),
            "auroc": auroc(clean, scores),
            "auroc_interval": [low, high],
            "aupr": aupr(clean, scores),
            "fpr95": fpr_at_tpr(clean, scores),
            "images": len(scores),
        }
    ]


def held_out_of(record: Record) -> list[dict[str, Any]]:
    """False alarms on each group of the fit's images, by monitors that were fitted and calibrated without it."""
    found: dict[tuple[str, int, str], dict[str, Any]] = {}
    for (monitor, seed, group, rate), flagged in record.nested.items():
        line = found.setdefault(
            (monitor, seed, group),
            {"monitor": monitor, "seed": seed, "group": group, "images": len(flagged), "flagged": {}},
        )
        line["flagged"][text(rate)] = share(flagged > 0)
    return list(found.values())


def lost_iou(record: Record) -> dict[str, Tensor]:
    """By set, what each image's mean IoU against its labels lost by the change; nan where an image has no labels."""
    clean = record.overlap.get(record.clean.name)
    if clean is None:
        return {}
    return {
        entry.name: iou_of(clean) - iou_of(record.overlap[entry.name])
        for entry in record.sets
        if entry.of == record.clean.name and entry.name in record.overlap
    }


def iou_of(overlap: Int64[Tensor, "n 2 k"]) -> Float64[Tensor, " n"]:
    """The mean over the classes that the image's label map or prediction has."""
    hits, union = overlap.double().unbind(1)
    return (hits / union).nanmean(1)  # 0 / 0 is nan


def against_damage(record: Record, damage: Mapping[str, Tensor], edges: Sequence[float]) -> list[dict[str, Any]]:
    """How many changed images each monitor flags, by the damage that the change did; controls stay out."""
    named = [entry.name for entry in record.sets if entry.kind not in ("clean", "control", "ood", "joint")]
    lines = []
    for monitor, seed in ((each, seed) for each in record.monitors for seed in each.seeds):
        parts = [
            (damage[name], record.scores[monitor.name, seed, name])
            for name in named
            if name in damage and (monitor.name, seed, name) in record.scores
        ]
        if not parts:
            continue
        done, scores = (torch.cat(values) for values in zip(*parts, strict=True))
        done, scores = done[~done.isnan()], scores[~done.isnan()]
        place = torch.bucketize(done, torch.tensor(edges[1:-1], dtype=done.dtype), right=True)
        for rate, limit in monitor.thresholds.get(seed, {}).items():
            bins = [
                {"from": edges[number], "to": edges[number + 1], **share(scores[place == number] > limit)}
                for number in range(len(edges) - 1)
            ]
            lines.append({
                "monitor": monitor.name, "seed": seed, "rate": rate,
                "bins": [{"flagged": each.pop("hits"), **each} for each in bins],
            })  # fmt: skip
    return lines


def curves_of(record: Record, monitors: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """ROC and precision-recall curves of some monitors under their first seeds, for the paper's sets."""
    curves: dict[str, list[dict[str, Any]]] = {"roc": [], "pr": []}
    for name in monitors:
        if name not in [monitor.name for monitor in record.monitors]:
            continue
        seed = record.monitor(name).seeds[0]
        clean = record.scores[name, seed, record.clean.name]
        for entry in record.sets:
            scores = record.scores.get((name, seed, entry.name))
            if not entry.paper or scores is None:
                continue
            told = {"monitor": name, "seed": seed, "set": entry.name}
            roc, pr = roc_curve(clean, scores), precision_recall_curve(clean, scores)
            curves["roc"].append(told | {"fpr": thinned(roc.fpr), "tpr": thinned(roc.tpr)})
            curves["pr"].append(told | {"recall": thinned(pr.recall), "precision": thinned(pr.precision)})
    return curves


def histograms(record: Record, monitor: str, bins: int = 40) -> dict[str, Any]:
    """Scores of the clean images and of the paper's sets, counted in bins of one width; Figure 4 of DAAIN.

    The bins span the middle 98 % of all these scores; what lies outside is counted in the first and the last.
    """
    seed = record.monitor(monitor).seeds[0]
    shown = [
        entry.name
        for entry in record.sets
        if (entry.paper or entry.kind == "clean") and (monitor, seed, entry.name) in record.scores
    ]
    scores = {name: record.scores[monitor, seed, name].numpy() for name in shown}
    low, high = np.quantile(np.concatenate(list(scores.values())), [0.01, 0.99])
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    return {
        "monitor": monitor,
        "edges": edges.tolist(),
        "counts": {
            name: np.histogram(values.clip(edges[0], edges[-1]), edges)[0].tolist() for name, values in scores.items()
        },
    }


def worst_misses(record: Record, monitor: str, most: int) -> list[dict[str, Any]]:
    """The changed images that a monitor did not flag, those whose prediction changed most first.

    Under its first seed, at the rate nearest to 5 %; of each image the worst change only, so that they differ.
    """
    entry = record.monitor(monitor)
    seed = entry.seeds[0]
    rate = entry.headline_rate(seed)
    if rate is None:
        return []
    calibration = record.calibration.get((monitor, seed))
    missed: list[dict[str, Any]] = []
    for of in record.sets:
        scores = record.scores.get((monitor, seed, of.name))
        if scores is None or of.kind in ("clean", "control", "ood") or of.name not in record.changed:
            continue
        for number in (~(scores > entry.thresholds[seed][rate])).nonzero()[:, 0].tolist():
            p_value = None
            if calibration is not None:
                p_value = (1 + int((calibration >= scores[number]).sum())) / (len(calibration) + 1)
            missed.append({
                "monitor": monitor, "seed": seed, "rate": rate, "set": of.name, "image": of.names[number],
                "changed": record.changed[of.name][number].item(), "p_value": p_value,
            })  # fmt: skip
    chosen: dict[str, dict[str, Any]] = {}
    for miss in sorted(missed, key=lambda miss: -miss["changed"]):
        if len(chosen) < most and miss["changed"] > 0:
            chosen.setdefault(miss["image"], miss)
    return list(chosen.values())


def targets_of(goals: Sequence[Goal], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was wanted, and whether it came: means over seeds, of the worst of the sets meant."""
    targets = []
    for goal in goals:
        value = reached(goal, results)
        wanted = f"at least {goal.at_least:g}" if goal.at_least is not None else f"at most {goal.at_most:g}"
        met = value is not None and (
            value >= goal.at_least if goal.at_least is not None else value <= float(goal.at_most or 0)
        )
        targets.append({"text": goal.text, "wanted": wanted, "value": value, "met": met})
    return targets


def reached(goal: Goal, results: Mapping[str, Any]) -> float | None:
    """None where nothing was measured that the goal is about."""
    if goal.pooled:
        values = [line[goal.metric] for line in results["pooled"] if line["monitor"] == goal.monitor]
        return sum(values) / len(values) if values else None
    meant = {
        entry["name"]
        for entry in results["sets"]
        if goal.over in (entry["name"], entry["change"], entry["kind"]) or (goal.over == PAPER and entry["paper"])
    }
    values = []
    if goal.metric in RATES:
        shares: dict[tuple[str, str], list[float]] = {}
        for row in results["rows"]:
            if row["monitor"] == goal.monitor and row["set"] in meant:
                for part, found in rates_in(row, goal):
                    shares.setdefault((row["set"], part), []).append(found["hits"] / found["images"])
        values = [sum(seeds) / len(seeds) for seeds in shares.values()]
    else:
        for line in results["summary"]:
            if line["monitor"] == goal.monitor and line["set"] in meant and goal.metric in line:
                values.append(line[goal.metric]["mean"])
    if not values:
        return None
    larger_is_better = goal.at_least is not None
    return float(min(values) if larger_is_better else max(values))


def rates_in(row: Mapping[str, Any], goal: Goal) -> list[tuple[str, Mapping[str, Any]]]:
    """What a row has of the shares that a goal is about, by group for false alarms."""
    parts = row.get("by_group", {}) if goal.metric == "false_alarms" else {"": row.get(goal.metric) or {}}
    found = [(part, rates.get(text(goal.rate))) for part, rates in parts.items()]
    return [(part, share) for part, share in found if share is not None and share["images"]]


def without_nan(value: Any) -> Any:
    """JSON values; a number that is none becomes null, which strict JSON has."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def text(rate: float) -> str:
    """A rate as a key of JSON."""
    return f"{rate:g}"


def share(flags: Bool[Tensor, " n"]) -> dict[str, Any]:
    """How many of how many, with the 95 % Clopper-Pearson interval."""
    hits, images = int(flags.sum()), len(flags)
    return {"hits": hits, "images": images, "interval": list(rate_interval(hits, images))}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation with n - 1 (0 of a single value), least and largest."""
    array = np.array(values, dtype=np.float64)
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {"mean": float(array.mean()), "std": std, "min": float(array.min()), "max": float(array.max())}


def thinned(points: Float64[Tensor, " n"]) -> list[float]:
    """At most `POINTS` of them, both ends among these."""
    if len(points) > POINTS:
        points = points[torch.linspace(0, len(points) - 1, POINTS).round().long()]
    return [round(value, 5) for value in points.tolist()]


def counts(groups: Sequence[str]) -> dict[str, int]:
    """In order of appearance."""
    return {group: groups.count(group) for group in dict.fromkeys(groups)}


def inside(groups: Sequence[str], group: str) -> Bool[Tensor, " n"]:
    return torch.tensor([other == group for other in groups])
