"""Checks on the attackers of an evaluation, as far as its record tells of them.

An evaluation shows attacked images among others; it is no stress test. What it cannot check is named, and not passed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from inlier.evaluation.gates import (
    DEAD_GRADIENTS,
    TWICE,
    UNBOUNDED,
    Gate,
    control_gate,
    iterated_gate,
    never_falls,
    not_here,
)
from inlier.evaluation.record import MonitorEntry, Record, SetEntry
from inlier.evaluation.results import DAMAGED

__all__ = ["record_gates"]

ATTACKS = ("attack", "universal", "joint")
"""Kinds of sets that somebody made on purpose."""
NOISE = "sign_noise"


def record_gates(record: Record) -> list[Gate]:
    """The checks; none where nothing was attacked."""
    attacks = [entry for entry in record.sets if entry.kind in ATTACKS and entry.name in record.changed]
    if not attacks:
        return []
    return [
        rises(record, attacks),
        iterated(record, attacks),
        above_noise(record, attacks),
        knows(record, attacks),
        breaks(record, attacks),
        *not_here(UNBOUNDED, TWICE, DEAD_GRADIENTS),
    ]


def rises(record: Record, attacks: Sequence[SetEntry]) -> Gate:
    """Whether one attack damages more at a larger eps."""
    series: dict[str, list[SetEntry]] = {}
    for entry in attacks:
        rest = {name: value for name, value in entry.settings.items() if name not in ("eps", "step_size")}
        if "eps" in entry.settings:
            series.setdefault(json.dumps([entry.kind, entry.change, rest], sort_keys=True, default=str), []).append(
                entry
            )
    told, held = [], []
    for entries in series.values():
        entries.sort(key=lambda entry: float(entry.settings["eps"]))
        if len(entries) > 1:
            values = [damage_of(record, entry) for entry in entries]
            told.append(f"{entries[0].change}: " + ", ".join(f"{value:.3f}" for value in values))
            held.append(never_falls(values, len(record.changed[entries[0].name])))
    return Gate(
        "damage rises with eps", "no fall", "; ".join(told) or "no attack at several eps", all(held) if held else None
    )


def iterated(record: Record, attacks: Sequence[SetEntry]) -> Gate:
    """Whether an attack of several steps damages as much as one of a single step at the same eps."""
    alone = [entry for entry in attacks if entry.kind == "attack"]
    pairs = [
        (damage_of(record, many), damage_of(record, once))
        for once in alone
        for many in alone
        if steps_of(once) == 1 < steps_of(many)
        and same_eps(once, many)
        and once.settings.get("target") == many.settings.get("target")
    ]
    return iterated_gate(pairs, "no two of one eps")


def above_noise(record: Record, attacks: Sequence[SetEntry]) -> Gate:
    """Whether every attack damages more than random signs that are at least as large."""
    noises = [entry for entry in record.sets if entry.change == NOISE and entry.name in record.changed]
    pairs = [
        (damage_of(record, entry), damage_of(record, noise), entry.label)
        for entry in attacks
        for noise in noises
        if "eps" in entry.settings and float(entry.settings["eps"]) <= float(noise.settings["eps"]) * (1 + 1e-4)
    ]
    name, wanted = "an attack damages more than random signs of its size or more", "every attack"
    if not pairs:
        return Gate(name, wanted, "no such signs were tried", None)
    damage, noise, label = min(pairs, key=lambda pair: pair[0] - pair[1])
    return Gate(name, wanted, f"least, {label}: {damage:.3f} against {noise:.3f}", damage > noise)


def knows(record: Record, attacks: Sequence[SetEntry]) -> Gate:
    """Whether who attacks network and monitor gets past it as often as who does not know of it, at the same eps."""
    name, wanted = "who knows more succeeds more often", "T3 >= T0, but for an image"
    joint = [entry for entry in attacks if entry.kind == "joint"]
    told, held = [], []
    for monitor in dict.fromkeys(str(entry.settings["monitor"]) for entry in joint):
        mine = [entry for entry in joint if entry.settings["monitor"] == monitor]
        for eps in dict.fromkeys(float(entry.settings["eps"]) for entry in mine):
            both = [
                success(record, record.monitor(monitor), [entry for entry in entries if is_at(entry, eps)])
                for entries in (mine, [entry for entry in attacks if entry.kind == "attack"])
            ]
            if both[0] is not None and both[1] is not None:
                rates = [float(each.double().mean()) for each in both if each is not None]
                told.append(f"{rates[0]:.3f} against {rates[1]:.3f} ({monitor})")
                held.append(never_falls(rates[::-1], len(both[0])))
    nobody = "nobody here knows a monitor: inlier stress has such attackers" if not joint else "no two of one eps"
    return Gate(name, wanted, ", ".join(told) or nobody, all(held) if held else None)


def breaks(record: Record, attacks: Sequence[SetEntry]) -> Gate:
    """Whether these attackers get past maximum softmax probability, which is known to break, at one eps or another."""
    known = [
        monitor for monitor in record.monitors if all(each.startswith("max_softmax") for each in monitor.detectors)
    ]
    rates = [
        float(found.double().mean()) for monitor in known if (found := success(record, monitor, attacks)) is not None
    ]
    return control_gate(max(rates, default=None), "on max_softmax", "no such monitor with a threshold")


def success(record: Record, monitor: MonitorEntry, attacks: Sequence[SetEntry]) -> Bool[Tensor, " n"] | None:
    """Which of the images that raised no alarm before some attack got past a monitor, under its first seed at the rate
    nearest to 5 %; None where it was shown none of them, or has no threshold."""
    seed = monitor.seeds[0]
    rate = monitor.headline_rate(seed)
    shown = [entry.name for entry in attacks if (monitor.name, seed, entry.name) in record.scores and entry.of]
    if rate is None or not shown:
        return None
    limit = monitor.thresholds[seed][rate]
    silent = record.scores[monitor.name, seed, record.clean.name] <= limit
    evaded = [(record.scores[monitor.name, seed, name] <= limit) & (record.changed[name] >= DAMAGED) for name in shown]
    return torch.stack(evaded).any(0)[silent] if silent.any() else None


def damage_of(record: Record, entry: SetEntry) -> float:
    return float(record.changed[entry.name].mean())


def steps_of(entry: SetEntry) -> int:
    return int(entry.settings.get("steps", 1))


def same_eps(one: SetEntry, other: SetEntry) -> bool:
    return "eps" in one.settings and is_at(other, float(one.settings["eps"]))


def is_at(entry: SetEntry, eps: float) -> bool:
    return math.isclose(float(entry.settings.get("eps", math.nan)), eps, rel_tol=1e-4)
