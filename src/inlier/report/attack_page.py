"""The page of attacks on a monitor: what each attacker came to over eps, and what the images look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inlier.report.document import Document, Section
from inlier.report.evaluation_page import VIEWS
from inlier.report.figures import STYLES, Axis, Line, Point, line_chart
from inlier.report.findings import Entry
from inlier.report.markup import percent
from inlier.report.parts import Plot, Thumbnails
from inlier.report.tables import Column, Rate, Table, Value, gates_table, number, share, words

__all__ = ["TIERS", "aside", "attack_document", "attackers_table", "beside_table", "curve", "eps_axis", "eps_cell",
           "eps_text", "rate_point", "spent_table"]  # fmt: skip

TIERS = {
    "T0": "knows the network, and not that there is a monitor",
    "T1": "has monitors like this one, under other keys or of other images, and all else",
    "T2": "may ask the running monitor, for its score or for its flag",
    "T3": "knows everything, the key too",
}
"""What an attacker knows."""
SUCCESS, DETECTED = "success_0.3", "detected_0.3"
BESIDE = 0.015
"""How far the dots of two lines lie apart, over the largest eps."""
FALSE_ALARM = "false_alarm"
"""The attacker who is after the alarm."""


def attack_document(results: Mapping[str, Any]) -> Document:
    """The page of `inlier attack` on a monitor."""
    settings, rows = results["settings"], results["rows"]
    radii, norm = settings["epsilons"], settings["norm"]
    attackers = list(dict.fromkeys(row["attack"] for row in rows))
    sections = [
        Section(
            "curves", "Success and detection over eps",
            ["Left: the share of images that evade, among those that raised no alarm when clean. Right: of the images "
             "whose prediction was changed by 30\N{NO-BREAK SPACE}% or more, those that are flagged. Bars are "
             "95\N{NO-BREAK SPACE}% intervals over images."],
            [(name, f"s{n % STYLES}") for n, name in enumerate(attackers)],
            [
                curve("success", rows, attackers, SUCCESS, radii, norm, "images that evade, percent"),
                curve("detected", rows, attackers, DETECTED, radii, norm, "damaged images flagged, percent"),
            ],
            [attackers_table(rows, norm), beside_table(rows, norm), spent_table(rows, norm)],
        ),
    ]  # fmt: skip
    strips = list(pictures(results, norm))
    if strips:
        sections.append(Section("images", "What the images look like", pictures=strips))
    if results.get("gates"):
        sections.append(
            Section(
                "gates", "Were the attackers strong enough?",
                ["A monitor may seem to hold because its attackers were weak. A check that fails, or was not run, is a "
                 "reason to doubt the figures above."],
                tables=[gates_table(results["gates"])],
            )
        )  # fmt: skip
    if results["raised"]:
        sections.append(Section("doubts", "What makes an attacker a poor witness", results["raised"]))
    tiers = sorted({row["tier"] for row in rows})
    return Document(
        title=results["title"],
        lead="Images were changed on purpose, by no more than eps, so that the network errs on them. An image evades "
        "when its prediction changed and the monitor stayed silent, on the image as an 8-bit file holds it.",
        verdict=verdict_of(rows, norm) + failed(results.get("gates", ())),
        facts=[
            ("Images", f"{settings['images']}, of which {results['silent']} raised no alarm when clean"),
            ("False-alarm rate", f"{settings['rate']:g}, nominal, set on clean images"),
            ("Surface", f"{settings['surface']}: {' x '.join(str(n) for n in settings['size'])}"),
            ("Norm", "Linf" if norm == "linf" else "L2, over all values of an image"),
            *((f"{tier} attackers", TIERS[tier]) for tier in tiers),
        ],
        sections=sections,
        limits=[
            *(f"No attacker was tried who {told} ({tier})." for tier, told in TIERS.items() if tier not in tiers),
            "These are the attackers that were asked for. `inlier stress` has more of them, and runs every check of "
            "their strength.",
        ],
        results=results,
    )


def verdict_of(rows: Sequence[Entry], norm: str) -> str:
    """The most that any attacker came to."""
    told = []
    evading = [row for row in rows if row["attack"] != FALSE_ALARM]
    if evading:
        worst = max(evading, key=lambda row: float(row[SUCCESS]["rate"]))
        most, names = worst[SUCCESS], ", ".join(dict.fromkeys(row["attack"] for row in evading))
        told.append(
            f"{most['hits']} of {most['images']} images got past the monitor with 30\N{NO-BREAK SPACE}% or more of the "
            f"prediction changed: {worst['attack']} at eps {eps_text(worst['eps'], norm)}."
            if most["hits"]
            else f"None of {most['images']} images got past the monitor with 30\N{NO-BREAK SPACE}% of the prediction "
            f"changed: {names}, eps up to {eps_text(max(row['eps'] for row in evading), norm)}. A stronger attack may."
        )
    alarming = [row for row in rows if row["attack"] == FALSE_ALARM]
    if alarming:
        worst = max(alarming, key=lambda row: float(row["detected"]["rate"]))
        most = worst["detected"]
        told.append(
            f"{most['hits']} of {most['images']} images that raised no alarm were made to raise one, at eps "
            f"{eps_text(worst['eps'], norm)}."
        )
    return " ".join(told)


def failed(gates: Sequence[Entry]) -> str:
    """Which checks of the attackers failed."""
    names = [gate["name"] for gate in gates if gate["verdict"] == "FAIL"]
    return f" Failed checks: {', '.join(names)}." if names else ""


def attackers_table(rows: Sequence[Entry], norm: str, name: str = "by_eps", caption: str = "") -> Table:
    """What counts, a row for each attacker and eps."""
    return Table(
        name,
        caption or "What each attacker came to. Success: evaded, of the images silent when clean. Detected: flagged, "
        "of those whose prediction was changed by 30\N{NO-BREAK SPACE}% or more.",
        (
            Column("attacker"), Column("knows"), Column("eps"), Column("mean damage"),
            Column("success, 30 % changed", bar=1.0), Column("success, 50 % changed"), Column("detected"),
        ),
        tuple(
            (
                words(row["attack"]), words(row["tier"]), eps_cell(row["eps"], norm), share(row["damage"]),
                Rate.of(row[SUCCESS]), Rate.of(row["success_0.5"]), Rate.of(row[DETECTED]),
            )
            for row in rows
        ),
    )  # fmt: skip


def beside_table(rows: Sequence[Entry], norm: str, name: str = "beside") -> Table:
    """What does not count and is told beside it."""
    return Table(
        name,
        "Beside it, not instead of it: all images silent when clean that are flagged, whatever came of their "
        "prediction (what the attacker false_alarm is after), and the AUROC against the clean images, of the attacked "
        "ones whose prediction was changed by 30\N{NO-BREAK SPACE}% or more and of all. An attacker stops just below "
        "the threshold, so AUROC misleads.",
        (Column("attacker"), Column("eps"), Column("flagged, of all"), Column("AUROC, damaged"), Column("AUROC, all")),
        tuple(
            (
                words(row["attack"]), eps_cell(row["eps"], norm), Rate.of(row["detected"]), number(row["auroc"]),
                number(row["auroc_unconditional"]),
            )
            for row in rows
        ),
    )  # fmt: skip


def spent_table(rows: Sequence[Entry], norm: str) -> Table:
    """What each attacker spent, and how large the changes are."""
    return Table(
        "spent",
        "What an image took, and how large its change is, as the file holds it: means over images. Dead gradients: "
        "zero or not finite.",
        (
            Column("attacker"), Column("eps"), Column("steps"), Column("questions"), Column("L0"), Column("L1"),
            Column("L2"), Column("Linf"), Column("dead gradients"),
        ),
        tuple(
            (
                words(row["attack"]), eps_cell(row["eps"], norm), number(row["steps_used"], 1),
                number(row["queries_used"], 1), number(row["norms"]["L0"], 0), number(row["norms"]["L1"], 1),
                number(row["norms"]["L2"], 2), number(row["norms"]["Linf"], 4), share(row["dead_gradients"]),
            )
            for row in rows
        ),
    )  # fmt: skip


def curve(
    name: str, rows: Sequence[Entry], attackers: Sequence[str], what: str, radii: Sequence[float], norm: str, title: str
) -> Plot:
    """A rate over eps, a line an attacker."""
    across = eps_axis(radii, norm)
    lines = [
        Line(
            attacker,
            [point for row in rows if row["attack"] == attacker
             and (point := rate_point(row["eps"] + aside(n, len(attackers), radii), row[what])) is not None],
            n, dots=True,
        )
        for n, attacker in enumerate(attackers)
    ]  # fmt: skip
    return Plot(
        f"{title[0].upper()}{title[1:]}.",
        line_chart(f"{name} over eps", "The table below has the same numbers.", lines, across, title),
    )


def aside(line: int, lines: int, radii: Sequence[float]) -> float:
    """How far the dots of a line lie from their eps, lest their intervals hide one another."""
    return BESIDE * max(radii) * (line - (lines - 1) / 2)


def rate_point(eps: float, rate: Entry) -> Point | None:
    """A rate at an eps; none without images."""
    return Point(eps, rate["rate"], *rate["interval"]) if rate["images"] else None


def eps_axis(radii: Sequence[float], norm: str) -> Axis:
    """From 0 to a little beyond the largest eps, a tick at each."""
    texts = [f"{255 * eps:.4g}" if norm == "linf" else f"{eps:.4g}" for eps in radii]
    title = "eps, in 1/255 (Linf)" if norm == "linf" else "eps (L2)"
    return Axis(0.0, 1.07 * max(radii), [(0.0, "0"), *zip(radii, texts, strict=True)], title)


def eps_text(eps: float, norm: str) -> str:
    """An eps for people: 2/255 or, in L2, as it is."""
    return f"{255 * eps:.4g}/255" if norm == "linf" else f"{eps:.4g}"


def eps_cell(eps: float, norm: str) -> Value:
    """For a table."""
    return Value(eps, eps_text(eps, norm))


def pictures(results: Mapping[str, Any], norm: str) -> Iterator[Thumbnails]:
    for strip in results["pictures"]:
        was, now = ("flagged" if strip[f"flagged_{when}"] else "silent" for when in ("before", "after"))
        classes = f"{strip['classes'][0]} became {strip['classes'][1]}" if strip.get("classes") else ""
        changed = classes or f"{percent(strip['damage'])} of the prediction changed"
        yield Thumbnails(
            f"{strip['attack']}, eps {eps_text(strip['eps'], norm)}",
            f"{strip['image']}: {changed}; {was} before, {now} after",
            tuple((strip[key], caption, alt) for key, caption, alt in VIEWS if strip.get(key)),
        )
