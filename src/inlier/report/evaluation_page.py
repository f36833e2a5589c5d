"""The report of an evaluation: one HTML file that needs nothing else, for somebody who has not read the paper.

And the sign-off sheet: the same results on a page of paper. Both are written of `results.json` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from inlier.report.evaluation_tables import evaluation_tables, told_value
from inlier.report.figures import STYLES, Axis, Line, Point, diverging, line_chart, step_chart
from inlier.report.findings import ATTACKS, Entry, Findings, label_of
from inlier.report.glossary import GLOSSARY
from inlier.report.limits import limits
from inlier.report.parts import Plot, Thumbnails, bar, templates, warmth
from inlier.report.tables import Rate, Table

__all__ = ["LIMIT", "evaluation_page", "sign_off_page"]

LIMIT = 5_000_000
"""A report is smaller than so many bytes."""
FOR_PICTURES = 4_000_000
THUMBNAILS = 12
BESIDE = 0.09
"""How far the dots of two lines lie apart, in bins."""
LINES, LETTERS = 44, 130
"""Of the middle part of a sign-off sheet: so many lines, of so many letters, fit on a page of A4 beside the rest."""
DENSE = 34
"""With more lines than these the sheet is set smaller."""
LEAST = 4
"""So many changes are always on the sheet."""
GOALS = 6
"""So many targets are on the sheet."""
UNREAD = re.compile(r"<style>.*?</style>|<[^>]*>", re.DOTALL)
"""What of a page is no text."""
HEADING = re.compile(r'<h2 id="([^"]*)">([^<]*)</h2>')
VIEWS = (
    ("before", "unchanged", "the image before the change"),
    ("after", "as tried", "the image after the change"),
    ("difference", "difference, amplified", "what was added to the image"),
    ("predicted", "prediction", "classes predicted for the changed image"),
    ("predicted_before", "prediction before", "classes predicted for the unchanged image"),
    ("predicted_after", "prediction after", "classes predicted for the changed image"),
    ("mask", "pixels that changed class", "mask of the pixels whose predicted class changed"),
)


class Lenient(dict[str, Any]):
    """Part of the results as templates see it: what is not there is None, which a template can ask for."""

    def __missing__(self, _: str) -> None:
        return None


def lenient(value: Any) -> Any:
    """Results with all that is in them made `Lenient`."""
    if isinstance(value, Mapping):
        return Lenient({name: lenient(inner) for name, inner in value.items()})
    return [lenient(inner) for inner in value] if isinstance(value, list | tuple) else value


def evaluation_page(results: Mapping[str, Any]) -> str:
    """The report as HTML, of what `inlier evaluate` found.

    Args:
        results: its results.json. Sections whose numbers are not there are left out.
    """
    results = lenient(results)
    found = Findings(results)
    tables = Lenient(evaluation_tables(found))
    kept, left_out = affordable(found)
    body = {
        "results": results,
        "found": found,
        "tables": tables,
        "paper_tables": present(tables, "auroc_paper", "aupr_paper", "fpr95_paper"),
        "more_tables": present(tables, "auroc_more", "aupr_more", "fpr95_more"),
        "harmless": present(tables, "auroc_controls"),
        "ablations": [table for name, table in tables.items() if name.startswith("ablation_")],
        "misses": [shown for kind, shown in kept if kind == "worst"],
        "pictures": [shown for kind, shown in kept if kind == "pictures"],
        "left_out": left_out,
        "damage_legend": legend(found, damage_bins(found)),
        "curve_legend": legend(found, {curve["monitor"] for curve in curves_of(found, "roc")}),
        "damage_plot": damage_plot(found),
        "roc": list(curve_plots(found, "roc")),
        "precision": list(curve_plots(found, "pr")),
        "scores": list(score_plots(found)),
        "scored_by": found.monitor(str(scores_of(found).get("monitor"))),
        "coactivation": list(coactivations(found)),
        "limits": list(limits(found)),
        "config": json.dumps(results.get("config") or {}, indent=2, ensure_ascii=False),
        "glossary": {},
        "sections": [],
    }
    # Which sections and terms there are is seen from the page itself, so it is made twice.
    first = rendered("evaluation.html.j2", body)
    text = UNREAD.sub(" ", first)
    used = {term: told for term, told in GLOSSARY.items() if re.search(rf"\b{term}", text, re.IGNORECASE)}
    sections = HEADING.findall(first) + [("terms", "Terms")] * bool(used)
    return rendered("evaluation.html.j2", body | {"glossary": used, "sections": sections})


def sign_off_page(results: Mapping[str, Any]) -> str:
    """The sign-off sheet as HTML: one page of A4 when printed."""
    results = lenient(results)
    found = Findings(results)
    tables = Lenient(evaluation_tables(found))
    limited = list(limits(found))
    alarms = present(tables, "false_alarms", "held_out", "controls")
    goals = sorted(found.all("targets"), key=lambda goal: bool(goal.get("met")))  # missed ones first
    spent = sum(2 + len(table.rows) * table_lines(table) for table in alarms) + min(len(goals), GOALS)
    spent += sum(len(text) // LETTERS + 1 for text in limited)
    told = list(caught(found))
    room = max(LINES - spent, LEAST)
    return rendered(
        "sign_off.html.j2",
        {
            "results": results, "found": found, "alarms": alarms, "limits": limited,
            "goals": goals[:GOALS], "more_goals": max(0, len(goals) - GOALS),
            "told": told_value, "caught": told[:room], "more": max(0, len(told) - room),
            "dense": spent + min(len(told), room) > DENSE,
        },
    )  # fmt: skip


def table_lines(table: Table) -> int:
    """Lines that a row of a table takes on the sheet."""
    longest = max((len(cell.note) for row in table.rows for cell in row if cell is not None), default=0)
    return 1 + longest * (len(table.columns) - 1) // LETTERS


def rendered(name: str, body: Mapping[str, Any]) -> str:
    return templates().get_template(name).render(**body, bar=bar, warmth=warmth, label_of=label_of)


def present(tables: Mapping[str, Table], *names: str) -> list[Table]:
    return [tables[name] for name in names if name in tables]


def roster(found: Findings) -> list[Entry]:
    """All monitors that figures may have lines for; those of the curves come early and so have styles of their own."""
    curved = [found.monitor(name) for name in dict.fromkeys(c["monitor"] for c in curves_of(found, "roc"))]
    wanted = [*found.compared[:1], *(m for m in curved if m is not None), *found.compared[1:]]
    return list({m["name"]: m for m in wanted}.values())


def legend(found: Findings, names: Collection[str]) -> list[tuple[str, str]]:
    """(label, style) of the lines of these monitors."""
    return [(label_of(m), f"s{n % STYLES}") for n, m in enumerate(roster(found)) if m["name"] in names]


def curves_of(found: Findings, which: str) -> list[Entry]:
    """The curves of a kind; none if there are none."""
    return list((found.results.get("curves") or {}).get(which) or ())


def damage_plot(found: Findings) -> Plot | None:
    """What is flagged against damage; a line a monitor."""
    lines: list[Line] = []
    ticks: list[tuple[float, str]] = []
    for number, (m, bins) in enumerate(damage_bins(found).values()):
        ticks = ticks or [(n + 0.5, f"{100 * b['from']:g}\N{EN DASH}{100 * b['to']:g}") for n, b in enumerate(bins)]
        aside = 0.5 + BESIDE * (number - (len(damage_bins(found)) - 1) / 2)  # intervals would hide one another
        points = [
            Point(n + aside, b["flagged"] / b["images"], *(b.get("interval") or ()))
            for n, b in enumerate(bins)
            if b["images"]
        ]
        lines.append(Line(label_of(m), points, roster(found).index(m), dots=True))
    if not any(line.points for line in lines):
        return None
    across = Axis(0, len(ticks), ticks, "predicted pixels changed, percent")
    return Plot(
        "Images flagged, in percent, by how much of the prediction changed; all changes and attacks together. Bars are "
        "95\N{NO-BREAK SPACE}% intervals.",
        line_chart(
            "Images flagged against damage", "The table beside it has the same numbers and how many images there are.",
            lines, across, "images flagged, percent",
        ),
    )  # fmt: skip


def damage_bins(found: Findings) -> dict[str, tuple[Entry, Sequence[Entry]]]:
    """The monitors that are drawn and their bins at the headline's rate, for their first keys."""
    bins: dict[str, tuple[Entry, Sequence[Entry]]] = {}
    for m in found.compared[:STYLES]:
        for entry in found.all("against_damage"):
            if entry["monitor"] == m["name"] and float(entry["rate"]) == found.rate:
                bins.setdefault(m["name"], (m, entry["bins"]))
    return bins


def curve_plots(found: Findings, which: str) -> Iterator[Plot]:
    """A chart a set, a line a monitor, of the first key."""
    x, y = {"roc": ("fpr", "tpr"), "pr": ("recall", "precision")}[which]
    titles = {
        "roc": ("unchanged images flagged, percent", "changed images flagged, percent"),
        "pr": ("recall, percent", "precision, percent"),
    }[which]
    styles = {m["name"]: n for n, m in enumerate(roster(found))}
    by_set: dict[str, dict[str, Entry]] = {}
    for curve in curves_of(found, which):
        if curve["monitor"] in styles:
            by_set.setdefault(curve["set"], {}).setdefault(curve["monitor"], curve)
    for name, curves in by_set.items():
        lines = [
            Line(m, [Point(a, b) for a, b in zip(curves[m][x], curves[m][y], strict=True)], styles[m])
            for m in sorted(curves, key=lambda m: styles[m])
        ]
        label, kind = found.set_label(name), "ROC curve" if which == "roc" else "Precision over recall"
        yield Plot(
            label,
            line_chart(f"{kind}: {label}", f"A line a monitor: {', '.join(curves)}.", lines, *titles,
                       asked=found.rate if which == "roc" else None),
        )  # fmt: skip


def score_plots(found: Findings) -> Iterator[Plot]:
    """A chart a set: the histogram of its scores, in front of that of the unchanged images."""
    figure = scores_of(found)
    counts = figure.get("counts") or {}
    clean = next((s["name"] for s in found.sets("clean") if s["name"] in counts), None)
    for name, own in counts.items():
        if name != clean and clean is not None:
            label = found.set_label(name)
            yield Plot(
                label,
                step_chart(f"Scores: {label}", f"In front of those of {found.set_label(clean)}.", figure["edges"],
                           counts[clean], own, "score; larger is more anomalous"),
            )  # fmt: skip


def scores_of(found: Findings) -> Entry:
    """The histograms of one monitor's scores, if there are any."""
    return (found.results.get("figures") or {}).get("likelihood") or {}


def coactivations(found: Findings) -> Iterator[tuple[str, str]]:
    """(label, picture) a set; all in the same colours."""
    matrices = (found.results.get("figures") or {}).get("coactivation") or {}
    values = [abs(v) for matrix in matrices.values() for row in matrix for v in row if v is not None]
    most = max(values, default=0)
    if not most:
        return
    for name, matrix in matrices.items():
        cleaned = [[0.0 if v is None else v for v in row] for row in matrix]
        yield found.set_label(name), diverging(cleaned, most)


def affordable(found: Findings) -> tuple[list[tuple[str, Thumbnails]], int]:
    """Pictures in the order of their worth until the page would grow too large, and how many are left out."""
    kept: list[tuple[str, Thumbnails]] = []
    spent = left_out = 0
    for kind, shown in (*(("worst", t) for t in misses(found)), *(("pictures", t) for t in pictures(found))):
        size = sum(len(source) for source, _, _ in shown.views)
        if spent + size > FOR_PICTURES:
            left_out += 1
            continue
        spent += size
        kept.append((kind, shown))
    return kept, left_out


def misses(found: Findings) -> Iterator[Thumbnails]:
    worst = [entry for entry in found.all("worst") if found.main and entry["monitor"] == found.main["name"]]
    for entry in sorted(worst, key=lambda e: -e["changed"])[:THUMBNAILS]:
        p = entry.get("p_value")
        said = "" if p is None else f", p-value {p:.3f}"
        yield Thumbnails(
            found.set_label(entry["set"]),
            f"{entry['image']}: {100 * entry['changed']:.0f}\N{NO-BREAK SPACE}% of the pixels changed, no alarm{said}",
            views(entry),
        )


def pictures(found: Findings) -> Iterator[Thumbnails]:
    for name, entry in (found.results.get("pictures") or {}).items():
        tried = next((s for s in found.sets() if s["name"] == name), None)
        share = None if tried is None else tried.get("changed")
        note = "" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}% of the pixels changed, mean over images"
        yield Thumbnails(found.set_label(name), note, views(entry))


def views(entry: Entry) -> tuple[tuple[str, str, str], ...]:
    """(source, caption, alternative text) of those pictures that are there, and are in the page itself."""
    return tuple(
        (entry[key], caption, alt) for key, caption, alt in VIEWS if str(entry.get(key) or "").startswith("data:image/")
    )


def caught(found: Findings) -> Iterator[tuple[str, str, Rate, Rate | None]]:
    """(label, kind, flagged of all, flagged of the damaged): the paper's changes, else all, and foreign images."""
    of_paper = found.sets("perturbation", *ATTACKS, paper=True)
    for s in [*(of_paper or found.sets("perturbation", *ATTACKS)), *found.sets("ood")]:
        of_all = Rate.of(found.flagged(found.main, s, found.rate))
        if of_all is not None:
            yield label_of(s), s["kind"], of_all, Rate.of(found.flagged(found.main, s, found.rate, "flagged_changed"))
