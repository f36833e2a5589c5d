"""What an evaluation does not cover, said beside what it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inlier.report.findings import ATTACKS, JOINT, Findings, rates_of
from inlier.report.markup import nominal

__all__ = ["limits"]


def limits(found: Findings) -> Iterator[str]:
    """What these results do not cover, in sentences, with their own numbers where they have them."""
    clean = [counts["images"] for _, _, _, counts in found.by_group(found.main, found.rate or 0)]
    if clean:
        yield (
            f"Rates of false alarms were observed on groups of {spanned(clean)} images. Frames of one drive resemble "
            "one another, so that there are fewer independent observations than images."
        )
    yield (
        "A rate that was asked for holds for images like the clean ones that the threshold was set on. Another camera, "
        "season, city or time of day is another matter: observe it there anew."
    )
    if found.sets(JOINT):
        yield (
            "Attacks on network and monitor were each made by one recipe, against one monitor. To other monitors they "
            "are transferred. `inlier stress` tries a whole suite, with every check. Printed patches and attacks on "
            "other parts of the system are not covered."
        )
    elif found.sets(*ATTACKS):
        yield (
            "The attackers here did not know of the monitor. One who knows it, or who may query it, is not covered, "
            "nor are larger budgets, more steps, printed patches or attacks on other parts of the system."
        )
    yield "Natural changes were made by formula. Real fog, dirt, glare and broken sensors differ from them."
    tested = found.sets("clean")
    if tested and found.fitted_groups:
        new = {g for s in tested for g in (s.get("groups") or {}) if g not in found.fitted_groups}
        if not new:
            yield (
                "All clean test images are of groups that the monitor was fitted to; a new group may well give more "
                "alarms."
            )
    kept = rates_of(found.main)
    asked = sorted(rate for rate in (found.main or {}).get("rates") or () if rate not in kept)
    if asked and kept:
        yield f"There is no threshold for {' and '.join(map(nominal, asked))}: the clean images were too few for that."
    seeds = max((len(m.get("seeds") or ()) for m in found.compared), default=0)
    if seeds == 1:
        yield "One key was tried. Another one may give other numbers."
    yield (
        "An image without an alarm is not thereby predicted right: the monitor judges how usual an image looks to the "
        "network."
    )
    yield "Times were taken on one machine and depend on it."


def spanned(counts: Iterable[int]) -> str:
    """`55 to 62`, or `55`."""
    least, most = min(counts := list(counts)), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"
