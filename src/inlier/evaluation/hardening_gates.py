"""Checks on a hardening's attackers: whether they were strong enough for their failure to mean anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from inlier.attacks.joint import DEAD

__all__ = ["hardening_gates"]

BROKEN = 0.5
"""Success from which a network counts as broken."""
RATE = "success_0.3"


def hardening_gates(tried: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gates of every network and monitor, as JSON values; a difference of one image is none.

    Args:
        tried: of results of kind `hardening`.
    """
    gates = []
    for network, found in tried.items():
        for monitor, told in found["monitors"].items():
            gates += [
                {"network": network, "monitor": monitor, "name": name, "wanted": wanted, "observed": observed,
                 "verdict": "not run" if passed is None else "PASS" if passed else "FAIL"}
                for name, wanted, observed, passed in checks(told, monitor)
            ]  # fmt: skip
    original = tried.get("original")
    rate = None if original is None else original["monitors"]["default"]["worst"][-1][RATE]["rate"]
    gates.append({
        "network": "original", "monitor": "default", "name": "the suite breaks what is known to break",
        "wanted": f"success at least {BROKEN:g} on the network that is not hardened",
        "observed": "the suite was not run on it" if rate is None else f"{rate:.3f}",
        "verdict": "not run" if rate is None else "PASS" if rate >= BROKEN else "FAIL",
    })  # fmt: skip
    return gates


def checks(told: Mapping[str, Any], monitor: str) -> list[tuple[str, str, str, bool | None]]:
    worst: Sequence[Mapping[str, Any]] = told["worst"]
    one_image = 1 / max(1, worst[0][RATE]["images"]) + 1e-9
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
        ("success rises with eps", "no fall", ", ".join(f"{rate:.3f}" for rate in rising),
         all(low <= high + one_image for low, high in pairwise(rising))),
        ("who knows the monitor succeeds as often as who does not", "at every eps",
         ", ".join(f"{knows:.3f} against {not_:.3f}" for knows, not_ in pairs) or "one of them was not tried",
         all(knows >= not_ - one_image for knows, not_ in pairs) if pairs else None),
        ("dead gradients", f"at most {DEAD:.0%} of who knows the monitor",
         f"{max(dead):.2%}" if dead else "not counted", max(dead) <= DEAD if dead else None),
    ]  # fmt: skip
