"""The page of a stress test: the worst case over eps, every gate, every attacker, and what nobody tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inlier.report.attack_page import (
    TIERS,
    aside,
    attackers_table,
    beside_table,
    curve,
    eps_axis,
    eps_cell,
    eps_text,
    rate_point,
    spent_table,
)
from inlier.report.document import Document, Section
from inlier.report.figures import Line, Point, line_chart
from inlier.report.findings import Entry
from inlier.report.markup import nominal
from inlier.report.parts import Plot
from inlier.report.tables import Column, Rate, Table, gates_table, share, words

__all__ = ["stress_document"]

NORM = "linf"
LINES = {"T3": "T3, everything known", "T1": "T1, through monitors of his own", "T0": "T0, oblivious"}
NOISE = "random noise"


def stress_document(results: Mapping[str, Any]) -> Document:
    """The page of `inlier stress`."""
    gates = results["gates"]
    failed = [gate for gate in gates if gate["verdict"] == "FAIL"]
    run = [gate for gate in gates if gate["verdict"] != "not run"]
    doubt = (
        f" {len(failed)} of {len(run)} gates failed: {', '.join(gate['name'] for gate in failed)}. What held may have "
        "held for that reason."
        if failed
        else f" All {len(run)} gates that were run passed."
    )
    return Document(
        title=results["title"],
        lead="A suite of attackers tried to make the network err while the monitor stays silent. Success: at least so "
        "much of the prediction changed, and no alarm, on the image as an 8-bit file holds it, among the images that "
        "raised no alarm when clean. What counts is the worst attacker, image by image.",
        verdict=f"{sentence(results['verdict'])}.{doubt}",
        facts=list(facts(results)),
        sections=list(sections(results)),
        limits=list(limits(results)),
        results=results,
    )


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def facts(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    settings = results["settings"]
    yield "Images", f"{settings['images']}, of which {results['silent']} raised no alarm when clean"
    yield "Goal", settings["goal"]
    yield "Norm and eps", "Linf, " + ", ".join(eps_text(eps, NORM) for eps in settings["epsilons"])
    yield "Attack surface", f"{settings['surface']}: {' x '.join(str(n) for n in settings['size'])}"
    yield "False-alarm rate", f"{nominal(settings['rate'])}, nominal, set once on clean images"
    with_gradients = [one for one in settings["suite"] if one["tier"] != "T2"]
    asking = [one for one in settings["suite"] if one["tier"] == "T2"]
    steps, restarts = (sorted({one[key] for one in with_gradients}) for key in ("steps", "restarts"))
    yield (
        "Budget",
        f"{settings['budget']}: {len(with_gradients)} attackers with gradients, "
        f"{' or '.join(map(str, steps))} steps; starts of each: {' or '.join(map(str, restarts))}"
        + (
            f"; {len(asking)} that ask, up to {max(one['steps'] for one in asking)} questions an image"
            if asking
            else ""
        ),
    )
    tiers = {one["tier"] for one in settings["suite"]}
    for tier, told in TIERS.items():
        yield tier, told if tier in tiers else f"{told}: not tried here"


def sections(results: Mapping[str, Any]) -> Iterator[Section]:
    radii = results["settings"]["epsilons"]
    yield Section(
        "worst", "The worst case, image by image",
        ["A tier has the attackers of those below it, too: T3 has all of them. Points are shares of the images that "
         "were silent when clean; bars are 95\N{NO-BREAK SPACE}% intervals over images."],
        [(text, f"s{style}") for style, text in enumerate([*tiers_of(results).values(), NOISE])],
        list(worst_plots(results)), [worst_table(results), rates_table(results), smallest_table(results)],
    )  # fmt: skip
    yield Section(
        "gates", "Were the attackers strong enough?",
        ["A monitor may seem to hold because its attackers were weak. Each gate is a reason to doubt that, and one "
         "that failed is a reason not to believe what held."],
        tables=[gates_table(results["gates"])],
    )  # fmt: skip
    attackers = list(dict.fromkeys(row["attack"] for row in results["rows"]))
    yield Section(
        "attackers", "Every attacker", tables=[
            attackers_table(results["rows"], NORM, "attackers"), beside_table(results["rows"], NORM),
            spent_table(results["rows"], NORM),
        ],
        plots=[curve("success", results["rows"], attackers[:2], "success_0.3", radii, NORM,
                     "images that evade, percent")] if len(attackers) == 2 else (),
        legend=[(name, f"s{n}") for n, name in enumerate(attackers)] if len(attackers) == 2 else (),
        folded=len(results["rows"]) > 12,
    )  # fmt: skip
    if results["queries"]:
        yield Section(
            "questions", "Attackers who may only ask",
            [f"They were tried on the first {results['queries'][0]['images']} images alone."],
            tables=[attackers_table(results["queries"], NORM, "questions",
                                    "Tier T2: no gradients, only answers to questions.")],
        )  # fmt: skip
    yield Section(
        "alarms", "Alarms on clean images",
        ["An attacker may also be after the alarm: a clean image, changed by at most eps, that is flagged."]
        if results["false_alarms"] else ["The attack that is after the alarm itself was not run with this budget."],
        tables=[clean_table(results), *([alarms_table(results)] if results["false_alarms"] else [])],
    )  # fmt: skip
    if results["quality"]:
        yield Section(
            "quality", "What is left of the network",
            ["Against the true labels, void pixels left out, alarms left aside."], tables=[quality_table(results)],
        )  # fmt: skip
    yield Section("cost", "What the monitor costs", cost_text(results["cost"]))


def worst_plots(results: Mapping[str, Any]) -> Iterator[Plot]:
    radii = results["settings"]["epsilons"]
    for part in ("0.3", "0.5"):
        tiers = tiers_of(results)
        lines = [
            Line(
                text, points(results["worst"], tier, f"success_{part}", style, radii, len(tiers) + 1), style, dots=True
            )
            for style, (tier, text) in enumerate(tiers.items())
        ]
        if part == "0.3":
            style = len(tiers)
            dots = points(results["noise"], None, "success_0.3", style, radii, style + 1)
            lines.append(Line(NOISE, dots, style, dots=True))
        yield Plot(
            f"Success with at least {100 * float(part):.0f}\N{NO-BREAK SPACE}% of the prediction changed.",
            line_chart(
                "success over eps",
                "The table below has the same numbers.",
                lines,
                eps_axis(radii, NORM),
                "images that evade, percent",
            ),
        )


def tiers_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Those that were tried, from who knows most."""
    tried = {row["tier"] for row in results["worst"]}
    return {tier: text for tier, text in LINES.items() if tier in tried}


def points(
    rows: Sequence[Entry], tier: str | None, what: str, line: int, radii: Sequence[float], lines: int
) -> list[Point]:
    beside = aside(line, lines, radii)
    found = [rate_point(row["eps"] + beside, row[what]) for row in rows if tier is None or row["tier"] == tier]
    return [point for point in found if point is not None]


def worst_table(results: Mapping[str, Any]) -> Table:
    return Table(
        "worst",
        "Success of the worst attacker for each image, and the mean over the attackers beside it.",
        (
            Column("eps"), Column("knows"), Column("worst, 30 % changed", bar=1.0), Column("mean, 30 % changed"),
            Column("worst, 50 % changed", bar=1.0), Column("mean, 50 % changed"),
        ),
        tuple(
            (
                eps_cell(row["eps"], NORM), words(row["tier"]), Rate.of(row["success_0.3"]),
                share(row["mean_success_0.3"]), Rate.of(row["success_0.5"]), share(row["mean_success_0.5"]),
            )
            for row in results["worst"]
        ),
    )  # fmt: skip


def rates_table(results: Mapping[str, Any]) -> Table:
    """The worst case at each false-alarm rate that the calibration allows."""
    rates = list(results["clean"])
    rows = [row for row in results["worst"] if row["tier"] == "T3"]
    return Table(
        "worst_by_rate",
        "Success of the worst attacker, 30\N{NO-BREAK SPACE}% changed, at other thresholds on the same attacked "
        f"images; the attackers aimed at {nominal(results['settings']['rate'])} false alarms.",
        (Column("eps"), *(Column(f"{nominal(float(rate))} false alarms") for rate in rates)),
        tuple((eps_cell(row["eps"], NORM), *(Rate.of(row["rates"][rate]) for rate in rates)) for row in rows),
    )


def smallest_table(results: Mapping[str, Any]) -> Table:
    largest, tiers = results["settings"]["epsilons"][-1], list(tiers_of(results))[::-1]

    def told(eps: float | None) -> Any:
        return words(f"above {eps_text(largest, NORM)}") if eps is None else eps_cell(eps, NORM)

    return Table(
        "smallest",
        "The least eps tried at which half of the images evade: the median over images of the least for each.",
        (Column("of the prediction changed"), *map(Column, tiers)),
        tuple((share(row["share"]), *(told(row[tier]) for tier in tiers)) for row in results["smallest"]),
    )


def clean_table(results: Mapping[str, Any]) -> Table:
    return Table(
        "clean", "The images before any attack: how many are flagged at each nominal rate.",
        (Column("nominal rate"), Column("flagged")),
        tuple((words(nominal(float(rate))), Rate.of(found)) for rate, found in results["clean"].items()),
    )  # fmt: skip


def alarms_table(results: Mapping[str, Any]) -> Table:
    noise = {row["eps"]: row["flagged"] for row in results["noise"]}
    return Table(
        "false_alarms",
        "Of the images silent when clean, those flagged after the attack on the alarm, and after random signs of the "
        "same size.",
        (Column("eps"), Column("flagged by the attack", bar=1.0), Column("flagged by noise")),
        tuple(
            (eps_cell(row["eps"], NORM), Rate.of(row["flagged"]), Rate.of(noise[row["eps"]]))
            for row in results["false_alarms"]
        ),
    )


def quality_table(results: Mapping[str, Any]) -> Table:
    rows = [row for row in results["quality"] if row["attack"] in (None, "worst image by image")]
    return Table(
        "quality",
        "Accuracy, a mean over images, and mIoU over all of them, of the network on the worst attacked copy of each "
        "image (AAcc and AIoU).",
        (Column("eps"), Column("accuracy"), Column("mIoU")),
        tuple(
            (words("clean") if row["attack"] is None else eps_cell(row["eps"], NORM), share(row["accuracy"]),
             share(row["miou"]))
            for row in rows
        ),
    )  # fmt: skip


def cost_text(cost: Entry) -> list[str]:
    ends = cost["interval"]
    between = (
        ""
        if ends[0] is None or ends[1] is None
        else f" (95\N{NO-BREAK SPACE}% interval {ends[0]:.2f} to {ends[1]:.2f})"
    )
    return [
        f"A batch of {cost['batch']} takes {cost['bare']:.1f} ms with the network alone and {cost['monitored']:.1f} ms "
        f"with the monitor: {cost['ratio']:.2f} times as long{between}, from {cost['repeats']} pairs of runs in turns. "
        "The network's predictions are its own; a gate compares them."
    ]


def limits(results: Mapping[str, Any]) -> Iterator[str]:
    if "T1" in tiers_of(results):
        yield "How many monitors of his own an attacker needs: all that he had were attacked at once."
    else:
        yield (
            "Transferred attacks (T1), by who knows everything but the key and fits monitors under keys of his own: "
            "this test does not say what a secret is worth."
        )
    if not results["queries"]:
        yield "Attackers who may only ask (T2) were not tried with this budget."
    yield "Other norms than Linf, patches, and attacks on the sensor or in the scene."
    yield "Alarms are counted image by image: which pixels evade is not told."
    yield "One key and one fit of the monitor, on the images of one source."
    last = [row for row in results["worst"] if row["tier"] == "T3"][-1]["success_0.3"]
    if last["rate"] < 1:
        yield "Eps was not raised until every image evades; a gate does that without a bound."
    yield "An attacker stronger than these. What nobody here broke is not broken by this suite, and nothing more."
