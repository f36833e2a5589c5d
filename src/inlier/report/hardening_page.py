"""The page of an experiment in hardening: what it costs, what it brings, and where the chosen setting is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inlier.report.document import Document, Section
from inlier.report.figures import STYLES, Axis, Line, Point, line_chart
from inlier.report.parts import Plot
from inlier.report.tables import Column, Rate, Table, Value, gates_table, number, share, words

__all__ = ["hardening_page"]

MEASURES = {"miou": "mIoU", "accuracy": "accuracy", "agreement": "agreement with the original"}
GOALS = ((2.5, "0.3", 0.20), (4.0, "0.3", 0.50))
"""What was to be reached with a random look: grey levels, share of the prediction, largest success."""


def hardening_page(results: Mapping[str, Any]) -> Document:
    """The page of results of kind `hardening`."""
    tested, chosen, measure = results["tested"], results["chosen"], MEASURES[results["measure"]]
    row = next(row for row in results["frontier"] if row["name"] == chosen)
    images, config = results["images"], results["config"]
    return Document(
        title=results["title"],
        lead=(
            "A short adversarial fine-tune makes a network harder to fool, and worse at what it is for. Here are "
            "several settings of it, the one that was chosen, and what attackers who know network and monitor make "
            "of that. Which one to take was chosen on other images than those that are reported on."
        ),
        verdict=verdict(results, measure),
        facts=[
            ("Fine-tuned on", f"{images['train']} images"),
            ("Settings chosen on", f"{images['choose']} images, {attacked(config, 'choose', images)} of them attacked"),
            ("Reported on", f"{images['test']} images, {attacked(config, 'test', images)} of them attacked"),
            ("False-alarm rate", f"nominal {100 * config['false_alarm_rate']:g} %, set on clean images of training"
                                 f"{together(config)}"),
            ("Attackers", f"{len(results['suite'])}, of {config['attack_steps']} steps, the worst image by image"),
            ("Success", "30 % (or 50 %) of the prediction changed, and no alarm, on 8-bit images silent when clean"),
            ("Chosen", f"{chosen}: costs {points(row['cost'])} of {measure} on the images to choose on "
                       f"({span(row['cost_interval'])} in 95 % of resamples)"),
        ],
        sections=[
            Section(
                "frontier", "Cost against what attacks change",
                [
                    "Each point is a network: how much it loses on clean images against the better of the original "
                    "and an equally long clean fine-tune, and how much of its prediction PGD on the network alone, "
                    "without any monitor, changes. Left and low is better. Points of a line come of one fine-tune: "
                    "their weights lie on the way from the original's.",
                ],
                legend=list(legend(results)), plots=list(frontier_plots(results, measure)),
                tables=[frontier_table(results, measure)],
            ),
            Section(
                "test", "On the images that are reported on",
                [f"{measure} on all {tested['images']} clean ones."], tables=[clean_table(results, measure)],
            ),
            Section(
                "success", "Success of the whole suite", [
                    "The worst attacker, image by image. Attacks that were made against one monitor are also shown "
                    f"to the other. A random look is asked {config['judged']} times, each time under another secret. "
                    f"Draws that an attacker averages over at every step: {config['draws']}."
                    + fewer(config),
                ],
                legend=[(label, f"s{n % STYLES}") for n, label in enumerate(results["tried"])],
                plots=list(success_plots(results)), tables=[worst_table(results), alarm_table(results)],
            ),
            *trade(results, measure),
            *gates(results),
            Section("attackers", "Every attacker", tables=list(attacker_tables(results)), folded=True),
        ],
        limits=[
            f"Success is counted on {attacked(config, 'test', images)} images: read the intervals.",
            "Not broken by this suite means these attackers with these steps; a stronger one may come.",
            "What is hardened is hardened against changes of every pixel by at most eps (Linf). Patches, weather and "
            "larger changes are something else.",
        ],
        results=results,
    )  # fmt: skip


def monitors(config: Mapping[str, Any]) -> dict[str, str]:
    """What each is, by name; earlier results, without the detectors, had those of the default beside the look."""
    looking = " + ".join(config["detectors"]) if "detectors" in config else "the same and one random look"
    return {
        "default": "the default monitor, fitted to this network", "random look": f"{looking}, at every image"
    }  # fmt: skip


def together(config: Mapping[str, Any]) -> str:
    """What stayed together when monitors were calibrated, if anything was said of it."""
    blocks = config.get("blocks", "auto")
    if blocks == "auto":
        return ""
    return f", cross-fitted over {'whole groups' if blocks == 'group' else f'blocks of {blocks} neighbours'}"


def fewer(config: Mapping[str, Any]) -> str:
    """That not all attackers were run on the default monitor, or on the networks besides the chosen one."""
    told, some = "", config.get("default_attackers")
    if some:
        told = f" On the default, of those who know a monitor: {'; '.join(some)}."
    if some := config.get("also_attackers"):
        told += f" On {' and '.join(config['also'])} there were {len(some)}: {'; '.join(some)}."
    return told


def gates(results: Mapping[str, Any]) -> Iterator[Section]:
    """What was checked of the attackers, and whether it held; earlier results have no gates."""
    if "gates" not in results:
        return
    table = gates_table(results["gates"], "Of the attackers, for every network and monitor that they were run on.")
    told = ["A check that fails, or was not run, is a reason to doubt the figures above."]
    yield Section("gates", "Were the attackers strong enough", told, tables=[table])


def attacked(config: Mapping[str, Any], part: str, images: Mapping[str, int]) -> int:
    return min(int(config[f"{part}_images"]), images[part])


def points(cost: float) -> str:
    return f"{100 * cost:.1f} points"


def span(interval: Sequence[float]) -> str:
    return " to ".join(f"{100 * end:.1f}" for end in interval)


def verdict(results: Mapping[str, Any], measure: str) -> str:
    tested, chosen = results["tested"], results["chosen"]
    worst = results["tried"][chosen]["monitors"]["random look"]["worst"]
    told = [
        f"The chosen network costs {points(tested['cost'])} of {measure} ({span(tested['cost_interval'])} in 95 % of "
        f"resamples) on the images that are reported on (wanted: at most {100 * results['config']['most_cost']:g})."
    ]
    for row in worst:
        found = row["success_0.3"]
        word = "broken" if found["rate"] >= 0.5 else "not broken by this suite"
        told.append(
            f"With monitor and random look, {found['hits']} of {found['images']} images get past "
            f"{len(results['suite'])} attackers with 30 % changed at eps {grey(row['eps'])} ({word}){goal(row)}."
        )
    return " ".join(told)


def goal(row: Mapping[str, Any]) -> str:
    """Against what was wanted; met only if the whole interval says so, since the images are few."""
    for level, key, most in GOALS:
        if math.isclose(255 * row["eps"], level, rel_tol=1e-4):  # results have six digits
            found = row[f"success_{key}"]
            high = found["interval"][1]
            told = f", wanted at most {100 * most:.0f} %: "
            if found["rate"] > most:
                return f"{told}missed"
            return told + ("met" if high <= most else f"open, since its interval goes up to {100 * high:.0f} %")
    return ""


def grey(eps: float) -> str:
    return f"{255 * eps:.4g}/255"


def setting_of(name: str) -> str:
    return name.partition(", ")[0]


def legend(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for number_, name in enumerate(lines_of(results)):
        yield name, f"s{number_ % STYLES}"


def lines_of(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of the frontier by setting, from the original on."""
    original = next(row for row in results["frontier"] if row["name"] == "original")
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["frontier"]:
        if "cost" in row:
            found.setdefault(setting_of(row["name"]), []).append(row)
    for rows in found.values():
        best = max(row["value"] for row in results["frontier"] if row["name"] in ("original", rows[0]["control"]))
        rows.append(dict(original) | {"cost": best - original["value"]})
        rows.sort(key=lambda row: float(row["cost"]))
    return found


def frontier_plots(results: Mapping[str, Any], measure: str) -> Iterator[Plot]:
    lines = lines_of(results)
    across = cost_axis([100 * row["cost"] for rows in lines.values() for row in rows], measure)
    for place, eps in enumerate(row["eps"] for row in results["frontier"][0]["attacked"]):
        drawn = [
            Line(name, [Point(100 * row["cost"], row["attacked"][place]["damage"]) for row in rows], n, dots=True)
            for n, (name, rows) in enumerate(lines.items())
        ]
        title = f"Prediction changed at eps {grey(eps)}"
        told = "; ".join(f"{line.label}: " + ", ".join(f"{p.x:.1f} and {p.y:.2f}" for p in line.points)
                         for line in drawn)  # fmt: skip
        yield Plot(title, line_chart(title, f"cost and share changed. {told}", drawn, across, "prediction changed, %"))


def cost_axis(costs: Sequence[float], measure: str) -> Axis:
    low, high = min(0.0, math.floor(min(costs))), max(1.0, math.ceil(max(costs)))
    step = max(1, round((high - low) / 5))
    ticks = [(float(value), f"{value}") for value in range(int(low), int(high) + 1, step)]
    return Axis(low, high, ticks, f"cost, points of {measure}")


def frontier_table(results: Mapping[str, Any], measure: str) -> Table:
    levels = [row["eps"] for row in results["frontier"][0]["attacked"]]
    heads = [Column("network"), Column(measure), Column("cost, points"), Column("95 % of resamples")]
    for eps in levels:
        heads += [Column(f"changed, {grey(eps)}", heat=(0.0, 1.0)), Column(f"30 % changed, {grey(eps)}")]
    rows = []
    for row in results["frontier"]:
        cells = [words(row["name"]), number(100 * row["value"], 1), number(maybe(row.get("cost")), 1),
                 interval(row.get("cost_interval"))]  # fmt: skip
        for each in row["attacked"]:
            cells += [share(each["damage"]), share(each["changed_0.3"])]
        rows.append(tuple(cells))
    return Table(
        "frontier", f"{measure} in percent, and PGD on the network alone, on the images to choose on", tuple(heads),
        tuple(rows),
    )  # fmt: skip


def interval(ends: Sequence[float] | None) -> Value | None:
    return None if ends is None else words(span(ends))


def maybe(cost: float | None) -> float | None:
    return None if cost is None else 100 * cost


def clean_table(results: Mapping[str, Any], measure: str) -> Table:
    tested = results["tested"]
    rows = tuple(
        (words(name), number(100 * value, 1), number(maybe(tested["costs"].get(name)), 1),
         interval(tested["cost_intervals"].get(name)))
        for name, value in tested["values"].items()
    )  # fmt: skip
    return Table(
        "test", f"{measure} in percent on the clean images that are reported on",
        (Column("network"), Column(measure), Column("cost, points"), Column("95 % of resamples")), rows,
    )  # fmt: skip


def success_plots(results: Mapping[str, Any]) -> Iterator[Plot]:
    for monitor, label in monitors(results["config"]).items():
        drawn = []
        for n, (name, tried) in enumerate(results["tried"].items()):
            rows = tried["monitors"][monitor]["worst"]
            drawn.append(Line(name, [success_at(round(255 * row["eps"], 3), row) for row in rows], n, dots=True))
        last = max(point.x for line in drawn for point in line.points)
        across = Axis(0.0, last, [(point.x, f"{point.x:g}") for point in drawn[0].points], "eps, 1/255")
        told = "; ".join(f"{line.label}: " + ", ".join(f"{100 * p.y:.0f} % at {p.x:g}/255" for p in line.points)
                         for line in drawn)  # fmt: skip
        yield Plot(f"Success at 30 %: {label}", line_chart(f"Success, {monitor}", told, drawn, across, "success, %"))


def trade(results: Mapping[str, Any], measure: str) -> Iterator[Section]:
    """Success over cost, where the suite was run on several hardened networks."""
    tried, costs = results["tried"], results["tested"]["costs"]
    order = sorted((name for name in tried if name in costs), key=costs.__getitem__)
    if len(order) < 2:
        return
    across, plots = cost_axis([100 * costs[name] for name in order], measure), []
    for monitor, label in monitors(results["config"]).items():
        drawn = []
        for n, rows in enumerate(zip(*(tried[name]["monitors"][monitor]["worst"] for name in order), strict=True)):
            dots = [success_at(100 * costs[name], row) for name, row in zip(order, rows, strict=True)]
            drawn.append(Line(f"eps {grey(rows[0]['eps'])}", dots, n, dots=True))
        told = "; ".join(f"{line.label}: " + ", ".join(f"{100 * p.y:.0f} % at {p.x:.1f}" for p in line.points)
                         for line in drawn)  # fmt: skip
        chart = line_chart(f"Cost and success, {monitor}", told, drawn, across, "success, %")
        plots.append(Plot(f"Success at 30 %: {label}", chart))
    yield Section(
        "trade", "Cost against success",
        ["The same successes over what each network costs on the images that are reported on. Left and low is better. "
         f"Points of {measure}: " + "; ".join(f"{name}: {100 * costs[name]:.1f}" for name in order) + "."],
        legend=[(line.label, f"s{line.style % STYLES}") for line in drawn], plots=plots,
    )  # fmt: skip


def success_at(x: float, row: Mapping[str, Any]) -> Point:
    return Point(x, row["success_0.3"]["rate"], *row["success_0.3"]["interval"])


def worst_table(results: Mapping[str, Any]) -> Table:
    levels = [row["eps"] for row in next(iter(results["tried"].values()))["monitors"]["default"]["worst"]]
    heads = [Column("network and monitor")]
    heads += [Column(f"{q} % changed, {grey(eps)}", bar=1.0) for q in (30, 50) for eps in levels]
    rows = []
    for name, tried in results["tried"].items():
        for monitor, found in tried["monitors"].items():
            cells = [Rate.of(row[f"success_{q}"]) for q in ("0.3", "0.5") for row in found["worst"]]
            rows.append((words(f"{name}, {monitor}"), *cells))
    return Table("success", "Success of the worst attacker, image by image", tuple(heads), tuple(rows))


def alarm_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for name, tried in results["tried"].items():
        for monitor, found in tried["monitors"].items():
            rows.append(
                (words(f"{name}, {monitor}"), Rate.of(found["false_alarms"]), number(found["passes"], 2))
            )  # fmt: skip
    asked = results["config"]["false_alarm_rate"]
    return Table(
        "false_alarms", "Alarms on all clean images that are reported on, and forward passes a clean image",
        (Column("network and monitor"), Column("alarms", bar=1.0, asked=asked), Column("passes")), tuple(rows),
    )  # fmt: skip


def attacker_tables(results: Mapping[str, Any]) -> Iterator[Table]:
    labels = monitors(results["config"])
    for name, tried in results["tried"].items():
        for monitor, found in tried["monitors"].items():
            rows: Sequence[Mapping[str, Any]] = found["rows"]
            yield Table(
                f"attackers_{name}_{monitor}".replace(" ", "_").replace(",", "").replace("%", "percent"),
                f"{name}: success against {labels[monitor]}",
                (Column("attacker"), Column("eps"), Column("changed"), Column("30 % changed", bar=1.0),
                 Column("50 % changed", bar=1.0)),
                tuple(
                    (words(row["attack"]), words(grey(row["eps"])), share(row["damage"]),
                     Rate.of(row["success_0.3"]), Rate.of(row["success_0.5"]))
                    for row in rows
                ),
            )  # fmt: skip
