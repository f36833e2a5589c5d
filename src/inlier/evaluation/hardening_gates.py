"""Checks on a hardening's attackers: whether they were strong enough for their failure to mean anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inlier.evaluation.gates import Gate, control_gate, dead_gate, never_falls, rising_gate

__all__ = ["hardening_gates"]

RATE = "success_0.3"


def hardening_gates(tried: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gates of every network and monitor, as JSON values; a difference of one image is none.

    Args:
        tried: of results of kind `hardening`.
    """
    gates = []
    for network, found in tried.items():
        for monitor, told in found["monitors"].items():
            gates += [{"network": network, "monitor": monitor} | gate.told() for gate in checks(told, monitor)]
        if found.get("chance"):
            checked = checks_of_chance(found)
            gates += [{"network": network, "monitor": "random look"} | gate.told() for gate in checked]
        for monitor, told in found.get("twice", {}).items():
            gates.append({"network": network, "monitor": monitor} | check_of_steps(told).told())
    original = tried.get("original")
    rate = None if original is None else original["monitors"]["default"]["worst"][-1][RATE]["rate"]
    breaks = control_gate(rate, "on the network that is not hardened", "the suite was not run on it")
    return [*gates, {"network": "original", "monitor": "default"} | breaks.told()]


def checks(told: Mapping[str, Any], monitor: str) -> list[Gate]:
    worst: Sequence[Mapping[str, Any]] = told["worst"]
    images = worst[0][RATE]["images"]
    rising = [row[RATE]["rate"] for row in worst]
    # Images made against another monitor were not made by who knows this one.
    knowing = [each for each in told["rows"] if each["attack"].endswith(f", on {monitor}")]
    unknowing = [each for each in told["rows"] if ", on " not in each["attack"]]
    pairs = []
    for eps in (row["eps"] for row in worst):
        knows, not_ = ([each[RATE]["rate"] for each in rows if each["eps"] == eps] for rows in (knowing, unknowing))
        if knows and not_:
            pairs.append((max(knows), max(not_)))
    dead = [each["dead_gradients"] for each in knowing if "dead_gradients" in each]
    return [
        rising_gate(rising, images),
        Gate("who knows the monitor succeeds as often as who does not", "at every eps",
             ", ".join(f"{knows:.3f} against {not_:.3f}" for knows, not_ in pairs) or "one of them was not tried",
             all(never_falls((not_, knows), images) for knows, not_ in pairs) if pairs else None),
        dead_gate(dead, "who knows the monitor"),
    ]  # fmt: skip


def checks_of_chance(found: Mapping[str, Any]) -> list[Gate]:
    """Of an attacker of a random look: with the secret he must do as well as without, and with more draws no better."""
    told, rows = found["chance"], found["monitors"]["random look"]["rows"]
    plain = next(row[RATE] for row in rows if (row["attack"], row["eps"]) == (told["attack"], told["eps"]))
    secret, many = told["secret"]["rate"], told.get("many")
    level, images = f"at {255 * told['eps']:g}/255", plain["images"]
    observed = "they were not tried" if many is None else f"{many['rate']:.3f} against {plain['rate']:.3f}"
    return [
        Gate("who knows the look's secret succeeds as often as who does not", level,
             f"{secret:.3f} against {plain['rate']:.3f}", never_falls([plain["rate"], secret], images)),
        Gate(f"averaging over {told['many_draws'] or 'many'} draws gains nothing", f"at most one image more, {level}",
             observed, None if many is None else never_falls([many["rate"], plain["rate"]], images)),
    ]  # fmt: skip


def check_of_steps(told: Mapping[str, Any]) -> Gate:
    """With twice the steps the best attacker must do no better, or they all had too few."""
    before, after = told["before"], told["after"]
    return Gate(
        "twice the steps gain nothing",
        f"at most one image more, {told['attack']}, at {255 * told['eps']:g}/255",
        f"{after['rate']:.3f} against {before['rate']:.3f}",
        never_falls([after["rate"], before["rate"]], before["images"]),
    )
