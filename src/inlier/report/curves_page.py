"""The page of robustness curves: AUROC over the size of a change, for every monitor in one figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from inlier.report.document import Document, Section
from inlier.report.figures import STYLES, Axis, Line, Point, axis_over, line_chart
from inlier.report.findings import Entry
from inlier.report.markup import fine_percent, nominal
from inlier.report.parts import Plot, Thumbnails
from inlier.report.tables import Cell, Column, Rate, Spread, Table, Value, gates_table, words

__all__ = ["curves_page", "picked"]

HIDE, ALARM = "hide", "false_alarm"
NORMS = {"Linf": "Linf norm of the change", "L2": "L2 norm of the change"}
TIED = 0.05
"""The share of pairs of one score from which ties are told of."""
DRAWN = 5
"""The style of single images' lines."""


def curves_page(results: Mapping[str, Any]) -> Document:
    """The page of an experiment of the kind `curves`."""
    anomalies = [one for one in results["sets"] if one["name"] != "clean"]
    styles = {name: n % STYLES for n, name in enumerate(dict.fromkeys(m["monitor"] for m in results["monitors"]))}
    labels = {monitor["monitor"]: monitor["label"] for monitor in results["monitors"]}
    legend = [(labels[name], f"s{style}") for name, style in styles.items()]
    sections = []
    for way, title, text in WAYS:
        for network in results["networks"]:
            own = {"network": network["name"], "direction": way}
            sections.append(Section(
                f"{way}_{network['name']}", f"{title}: {network['label']}", text, legend,
                [
                    plot
                    for one in anomalies
                    for norm in NORMS
                    for plot in area_plots(results, {**own, "set": one["name"], "norm": norm}, one["label"], styles)
                ],
                [area_table(results, network, way, labels)],
            ))  # fmt: skip
    sections += [
        Section(
            "through", "Who gets past the threshold",
            ["The share of images that get through, over the Linf norm: anomalies that were flagged and no longer are. "
             "One threshold for all, set on clean images. Where few were flagged at first, a curve is of few images. "
             "The smallest norm is the median over those that have a way to go: flagged anomalies, and clean images "
             "that are not. Below 1/255 it is of images that no 8-bit file holds; the runs in balls, further down, are "
             "on such as a file does hold."],
            legend, list(through_plots(results, anomalies, styles)),
            [past_table(results, network, labels) for network in results["networks"]],
        ),
        Section(
            "balls", "One path, and runs ball by ball",
            ["The curves are read off one path of small steps for each image. Beside it the attack was run again in a "
             "ball of each radius, with momentum, every run starting where the last one ended, and on images rounded "
             "to 8 bit. What the path does not reach has a dash."],
            tables=[balls_table(results, network, labels) for network in results["networks"]], folded=True,
        ),
        Section(
            "images", "Image by image",
            [f"The scores of single images along the path: {results['networks'][0]['label']}, {anomalies[0]['label']}. "
             "Dotted lines are images, the full line is the threshold above which a monitor flags."],
            plots=list(image_plots(results, anomalies[0]["name"], labels)), folded=True,
        ),
    ]  # fmt: skip
    strips = list(strips_of(results, labels))
    if strips:
        sections.append(Section(
            "strips", "What the images look like",
            ["The first image of each set, as it was and in growing balls, with the monitor's score. The last picture "
             "is the largest change, amplified."], pictures=strips, folded=True,
        ))  # fmt: skip
    sections.append(Section("gates", "Checks against fooling ourselves", tables=[gates_table(results["gates"])]))
    return Document(
        title=results["title"],
        lead="A monitor gives every image a score. Here somebody who knows everything changes an image step by step so "
        "that the score falls, until an anomaly looks ordinary, or rises, until an ordinary image raises an alarm. The "
        "smaller the change that suffices, the less the score is worth against such a person.",
        verdict=verdict_of(results),
        facts=[
            ("Surface", f"{results['surface']}; on the path of small steps it is not rounded to 8 bit, in balls it is"),
            ("Attack", f"{results['config']['steps']} steps of {results['config']['step_size']:g} along the sign of "
                       f"the score's gradient, no ball: up to Linf {255 * results['reach']:.2g}/255"),
            ("Images", ", ".join(f"{one['images']} of {one['label']}" for one in results["sets"])),
            ("Clean images", f"{results['fitted_to']} to fit, {results['held_out'] or 'the same, cross-fitted,'} to "
                             f"calibrate, {results['reference']} others to compare with"),
            ("False-alarm rate", f"{nominal(results['config']['rate'])}, nominal; observed: " + "; ".join(
                f"{network['label']} " + ", ".join(
                    f"{m['label']} {fine_percent(m['false_alarms']['hits'] / m['false_alarms']['images'])}"
                    for m in results["monitors"] if m["network"] == network["name"])
                for network in results["networks"])),
            *(
                ("Accuracy", f"{network['label']}: {fine_percent(pooled([network['right']]))} of "
                             f"{network['right']['images']} clean images")
                for network in results["networks"] if network["right"]
            ),
        ],
        sections=sections,
        limits=list(limits_of(results, labels)),
        results=results,
    )  # fmt: skip


WAYS = (
    (HIDE, "Anomalies hidden",
     ["AUROC of attacked anomalies against clean images that nobody attacked, over the size of the change. Shaded: "
      "95\N{NO-BREAK SPACE}% bootstrap intervals over images, point by point. 50 is chance; below it anomalies look "
      "more ordinary than clean images."]),
    (ALARM, "False alarms raised",
     ["The other direction: AUROC of anomalies that nobody attacked against attacked clean images, whose scores are "
      "pushed up."]),
)  # fmt: skip


def picked(rows: Sequence[Entry], wanted: Mapping[str, Any]) -> list[Entry]:
    """The rows that have all of these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def norm_axis(norm: str, end: float) -> Axis:
    """Linf in grey levels, L2 as it is."""
    if norm == "L2":
        found = axis_over([0.0, end], NORMS[norm])
        return Axis(0.0, end, [tick for tick in found.ticks if tick[0] <= end], NORMS[norm])
    levels = round(255 * end, 6)
    ticks = [(n / 255, f"{n}/255") for n in range(int(levels) + 1)]
    return Axis(0.0, end, [(at, text if at else "0") for at, text in ticks], NORMS[norm])


def area_plots(
    results: Mapping[str, Any], wanted: Mapping[str, Any], label: str, styles: Mapping[str, int]
) -> Iterator[Plot]:
    """All monitors in one figure."""
    curves = picked(results["curves"], wanted)
    if not curves:
        return
    lines = [
        Line(
            curve["monitor"],
            [Point(*each) for each in zip(curve["at"], curve["auroc"], curve["low"], curve["high"], strict=True)],
            styles[curve["monitor"]], band=True,
        )
        for curve in curves
    ]  # fmt: skip
    norm, end = wanted["norm"], settled(curves)
    lines = [replace(line, points=line.points[: end + 1]) for line in lines]
    yield Plot(
        f"{label}, {norm}",
        line_chart(f"AUROC over {norm}: {label}", "The table below has the numbers at 1/255.", lines,
                   norm_axis(norm, curves[0]["at"][end]), "AUROC, percent"),
    )  # fmt: skip


def settled(curves: Sequence[Entry]) -> int:
    """The place from which on no curve changes any more, as paths ended before; at least the second."""
    last = max(
        (n for curve in curves for n, value in enumerate(curve["auroc"]) if value != curve["auroc"][-1]), default=0
    )
    return min(last + 1, len(curves[0]["at"]) - 1)


def through_plots(results: Mapping[str, Any], anomalies: Sequence[Entry], styles: Mapping[str, int]) -> Iterator[Plot]:
    """The share that gets through, over Linf."""
    for network in results["networks"]:
        for one in anomalies:
            curves = picked(
                results["curves"], {"network": network["name"], "set": one["name"], "direction": HIDE, "norm": "Linf"}
            )
            lines = [
                Line(c["monitor"], [Point(a, b) for a, b in zip(c["at"], c["through"], strict=True)],
                     styles[c["monitor"]])
                for c in curves if c["images"]
            ]  # fmt: skip
            if lines:
                axis = norm_axis("Linf", curves[0]["at"][-1])
                label = f"{network['label']}, {one['label']}"
                yield Plot(label, line_chart(f"Hidden anomalies: {label}", "Share over the size of the change.", lines,
                                             axis, "flagged anomalies hidden, percent"))  # fmt: skip


def image_plots(results: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> Iterator[Plot]:
    """Scores of single images along the path, one figure a monitor and norm."""
    network = results["networks"][0]["name"]
    limits = {m["monitor"]: m["limit"] for m in results["monitors"] if m["network"] == network}
    for entry in picked(results["images"], {"network": network, "set": name}):
        at, limit = entry["at"], limits[entry["monitor"]]
        values = [value for scores in entry["scores"] for value in scores]
        lines = [Line("threshold", [Point(at[0], limit), Point(at[-1], limit)])] + [
            Line("image", [Point(a, b) for a, b in zip(at, scores, strict=True)], DRAWN) for scores in entry["scores"]
        ]
        label = f"{labels[entry['monitor']]}, {entry['norm']}"
        up = axis_over([*values, limit], "score")
        drawn = line_chart(f"Scores: {label}", "A line an image.", lines, norm_axis(entry["norm"], at[-1]), up)
        yield Plot(label, drawn)


def area_table(results: Mapping[str, Any], network: Entry, way: str, labels: Mapping[str, str]) -> Table:
    """The paper's Table 1, and random signs beside it."""
    return Table(
        f"{way}_{network['name']}",
        f"{network['label']}, {'anomalies hidden' if way == HIDE else 'false alarms raised'}: AUROC before the attack "
        "and at a change of 1/255 (Linf).",
        (
            Column("monitor"), Column("anomalies"), Column("AUROC before", heat=(0.5, 1.0)),
            Column("AUROC at 1/255", heat=(0.5, 1.0)), Column("loss"), Column("under random signs of 1/255"),
        ),
        tuple(
            (
                words(labels[row["monitor"]]), words(label_of(results, row["set"])), spread(row, "auroc"),
                spread(row, "auroc_at"), spread(row, "loss"), Value(row["auroc_noise"], f"{row['auroc_noise']:.3f}"),
            )
            for row in picked(results["rows"], {"network": network["name"], "direction": way})
        ),
    )  # fmt: skip


def past_table(results: Mapping[str, Any], network: Entry, labels: Mapping[str, str]) -> Table:
    """What it takes to get past the threshold; clean images are pushed the same way whatever they are compared with."""
    rows = picked(results["rows"], {"network": network["name"]})
    hidden = [row for row in rows if row["direction"] == HIDE]
    raised = [row for row in rows if row["direction"] == ALARM and row["set"] == rows[0]["set"]]
    return Table(
        f"past_{network['name']}",
        f"{network['label']}: images flagged, and the median smallest norm that brings one past the threshold.",
        (
            Column("monitor"), Column("images"), Column("flagged before"), Column("flagged at 1/255"),
            Column("smallest Linf, of 255"), Column("smallest L2"),
        ),
        tuple(
            (
                words(labels[row["monitor"]]),
                words(label_of(results, row["set"] if row["direction"] == HIDE else "clean")),
                Rate.of(row["flagged"]), Rate.of(row["flagged_at"]),
                smallest(row["smallest"]["Linf"], 255, 255 * results["reach"]),
                smallest(row["smallest"]["L2"], 1, None),
            )
            for row in sorted([*hidden, *raised], key=lambda row: list(labels).index(row["monitor"]))
        ),
    )  # fmt: skip


def label_of(results: Mapping[str, Any], name: str) -> str:
    """A set's name for people."""
    return next(str(one["label"]) for one in results["sets"] if one["name"] == name)


def spread(row: Entry, name: str) -> Spread:
    """A number with its interval."""
    low, high = row[f"{name}_interval"]
    return Spread(row[name], None, 1, low, high)


def smallest(found: Entry, unit: float, reach: float | None) -> Cell | None:
    """A median norm; beyond the path's reach it is only known to be larger."""
    if not found["images"]:
        return None
    told = (
        f"{found['images']} image"
        + "s" * (found["images"] > 1)
        + (f", {found['never']} never" if found["never"] else "")
    )
    if found["median"] is None:
        beyond = "more than the path's" if reach is None else f"more than {reach:.2g}"
        return words(f"{beyond} ({told})")
    return words(f"{unit * found['median']:.2g} ({told})")


def balls_table(results: Mapping[str, Any], network: Entry, labels: Mapping[str, str]) -> Table:
    """The path beside runs in balls."""
    sets = {one["name"]: one["label"] for one in results["sets"]}
    rows = picked(results["balls"], {"network": network["name"]})
    return Table(
        f"balls_{network['name']}",
        f"{network['label']}: AUROC and the share that gets past the threshold, of those on its wrong side at first. "
        "Clean images are pushed up and compared with all anomalies.",
        (
            Column("monitor"), Column("images"), Column("eps"), Column("AUROC, path"), Column("AUROC, balls"),
            Column("through, path"), Column("through, balls"),
        ),
        tuple(
            (
                words(labels[row["monitor"]]), words(sets[row["set"]]), words(f"{row['eps']:g}/255"),
                None if row["auroc_path"] is None else Value(row["auroc_path"], f"{row['auroc_path']:.3f}"),
                Value(row["auroc_balls"], f"{row['auroc_balls']:.3f}"), Rate.of(row["through_path"]),
                Rate.of(row["through_balls"]),
            )
            for row in rows
        ),
    )  # fmt: skip


def strips_of(results: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Thumbnails]:
    """Pictures of the first network; none where they were left out."""
    sets = {one["name"]: one["label"] for one in results["sets"]}
    for strip in picked(results["strips"], {"network": results["networks"][0]["name"]}):
        views = [
            (view["picture"], f"{view['eps']:g}/255: {view['score']:.3g}, {'flagged' if view['flagged'] else 'silent'}",
             f"image at eps {view['eps']:g}/255")
            for view in strip["views"] if "picture" in view
        ]  # fmt: skip
        if views and "difference" in strip:
            views.append((strip["difference"], "change, amplified", "what was added to the image"))
        if views:
            yield Thumbnails(labels[strip["monitor"]], f"{sets[strip['set']]}, {strip['image']}", tuple(views))


def verdict_of(results: Mapping[str, Any]) -> str:
    """What came out."""
    rows = picked(results["rows"], {"direction": HIDE})
    before, after = [row["auroc"] for row in rows], [row["auroc_at"] for row in rows]
    below = sum(value < 0.5 for value in after)
    flagged, still = (pooled([row[name] for row in rows]) for name in ("flagged", "flagged_at"))
    told = [
        f"A change of one grey level (Linf 1/255) takes the AUROC from between {min(before):.2f} and {max(before):.2f} "
        f"to between {min(after):.2f} and {max(after):.2f}; {below} of {len(rows)} pairs of monitor and anomalies end "
        "below chance.",
        f"At the threshold the monitors flagged {fine_percent(flagged)} of the anomalies before and "
        f"{fine_percent(still)} after, all together.",
    ]
    failed = [gate["name"] for gate in results["gates"] if gate["verdict"] == "FAIL"]
    if failed:
        told.append(f"FAIL: {'; '.join(failed)}.")
    return " ".join(told)


def pooled(rates: Sequence[Entry]) -> float:
    """Of all images together."""
    return float(sum(rate["hits"] for rate in rates) / max(1, sum(rate["images"] for rate in rates)))


def limits_of(results: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[str]:
    """What this does not say."""
    weak = []
    for monitor in results["monitors"]:
        own = {name: monitor[name] for name in ("network", "monitor")} | {"direction": HIDE}
        rates = [row["flagged"] for row in picked(results["rows"], own)]
        if pooled(rates) < 2 * results["config"]["rate"]:
            network = next(n["label"] for n in results["networks"] if n["name"] == monitor["network"])
            weak.append(f"{labels[monitor['monitor']]} on {network} ({fine_percent(pooled(rates))})")
    if weak:
        yield (
            f"Some monitors flag hardly more anomalies than the nominal {nominal(results['config']['rate'])} even when "
            f"nobody attacks, so that they have little to lose: {', '.join(weak)}."
        )
    tied = [labels[row["monitor"]] for row in results["balls"] if row["tied"] > TIED]
    if tied:
        yield (
            f"Scores of {', '.join(dict.fromkeys(tied))} come to the very same number for attacked and for clean "
            "images, the last one that there is; a tie counts one half, and AUROC falls no further."
        )
    yield "AUROC is no headline: an attacker stops just past the threshold. The share that gets through is beside it."
    yield "The attack lowers or raises the score alone; whether the network's prediction stays as it was is not asked."
    yield (
        "Few images: read the intervals. A detector that holds here holds against these two ways to go down a "
        "gradient, with so many steps, and nothing more is said."
    )
