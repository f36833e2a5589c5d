"""The page of an experiment on keys: what the secret is worth, what another key brings, and whether it can be found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inlier.report.document import Document, Section
from inlier.report.figures import STYLES, Axis, Line, Point, line_chart
from inlier.report.parts import Plot
from inlier.report.tables import Column, Rate, Spread, Table, gates_table, number, whole, words

__all__ = ["keys_page"]

SHARES = ("0.3", "0.5")
KEYLESS = "default"
BREAKS = 0.5
"""Mean success from which a tier counts as broken."""
CHANCE = 0.1
"""An AUROC this near to one half told nothing."""


def keys_page(results: Mapping[str, Any]) -> Document:
    """The page of results of kind `keys`."""
    config, images, rekey = results["config"], results["images"], results["rekey"]
    height, width = results["size"][-2:]
    sections = [
        Section(
            "success", "Success of those who know more and more",
            [
                "From left to right the attacker knows more: nothing of the monitor; all but the key, with one, some "
                "or many surrogate monitors under keys of his own, fitted to other images; the key too. Dots are means "
                "over the victims' keys, bars go from the key that held best to the one that held worst. One set of "
                "images per attacker serves all victims, but where the key is known.",
            ],
            legend=list(legend(results)), plots=list(plots(results)), tables=list(success_tables(results)),
        ),
        Section(
            "rotated", "Another key, and no key",
            [
                "Key rotated: images made by who knew a key, shown to the same method under another key. The monitor "
                f"without a key is inlier's default, on the same images. Drawing another key, reading "
                f"{rekey['images']} images, fitting and calibrating took {rekey['seconds']:.0f} s "
                f"({rekey['processor_seconds']:.0f} s of processor time, {results['threads']} thread"
                f"{'s' if results['threads'] > 1 else ''}, on a machine that may have had other work).",
            ],
            tables=list(keyless_tables(results)),
        ),
        *extraction_sections(results),
        Section(
            "victims", "The monitors",
            [
                "One threshold each, set on clean images of the victims' half of the fit at a nominal rate of "
                f"{100 * config['false_alarm_rate']:g} %. What was observed on other clean images differs much from "
                "key to key; the thresholds were left as they are.",
            ],
            tables=[victims_table(results)],
        ),
        Section(
            "gates", "Gates", ["Checks that the attackers were not merely weak."],
            tables=[gates_table(results["gates"], "Those of success compare means at 30 % over keys.")],
        ),
    ]  # fmt: skip
    return Document(
        title=results["title"],
        lead=(
            "A monitor that samples activations under a secret key is said to be hard to attack for who does not know "
            "the key. Here the same attack is made with less and with more knowledge, and what the secret is worth is "
            "the difference."
        ),
        verdict=verdict(results),
        facts=[
            ("Monitor", f"{config['detector']}, {config['keys']} keys"),
            ("Fitted to", f"{images['victims']} images; surrogates to {images['attacker']} others"),
            ("Attacked", f"{images['attacked']} of {images['clean']} clean images, at {height} x {width}"),
            ("False-alarm rate", f"nominal {100 * config['false_alarm_rate']:g} %, one threshold a victim"),
            ("Attack", f"Linf, {config['steps']} steps, hinge and score by the dual rule, best iterate, 8 bit"),
            ("Success", "30 % (or 50 %) of the prediction changed and no alarm, among images silent when clean"),
        ],
        sections=sections,
        limits=[
            "An attacker with more surrogates, more steps or better data does better. What failed here is not broken "
            "by this suite, and nothing more is said.",
            "Keys were drawn from a seed so that this can be made again: in use a key comes from the system's "
            "randomness.",
            "The extraction test is one test. Where it does not tell the key, another may.",
            "One network, one data set, one size of image.",
        ],
        results=results,
    )  # fmt: skip


def found_in(results: Mapping[str, Any], attacker: str, level: float) -> Mapping[str, Any]:
    return next(
        line for line in results["summary"] if line["attacker"] == attacker and line["grey_levels"] == level
    )  # fmt: skip


def most_surrogates(results: Mapping[str, Any]) -> str:
    fitted = [one for one in results["attackers"] if one["surrogates"]]
    return str(max(fitted, key=lambda one: int(one["surrogates"]))["name"])


def verdict(results: Mapping[str, Any]) -> str:
    """What came out, at every eps, and the verdict words."""
    levels = sorted(results["config"]["grey_levels"])
    most = most_surrogates(results)
    told = []
    for level in levels:
        named = [("who does not know of the monitor", "oblivious"), (f"who has {most}", most)]
        if any(one["name"] == "all features" for one in results["attackers"]):
            named.append(("who reads all features", "all features"))
        named += [("who knows the key", "key known"), ("after the key is rotated", "key rotated")]
        parts = [f"{share_of(found_in(results, name, level))} ({text})" for text, name in named]
        told.append(f"At eps {level:g}/255 success at 30 % changed pixels, mean over keys, is {', '.join(parts)}.")
    for tier, text in (("T1", "Without the key"), ("T3", "With the key known")):
        names = [one["name"] for one in results["attackers"] if one["tier"] == tier and one["name"] != "key rotated"]
        broken = [
            level for level in levels
            if max(found_in(results, name, level)["success_0.3"]["mean"] or 0.0 for name in names) >= BREAKS
        ]  # fmt: skip
        ends = (
            f"broken at eps {broken[0]:g}/255" if broken
            else f"not broken by this suite ({len(names)} attackers, {results['config']['steps']} steps)"
        )  # fmt: skip
        told.append(f"{text} the monitors are {ends}.")
    return " ".join(told)


def share_of(line: Mapping[str, Any]) -> str:
    mean = line["success_0.3"]["mean"]
    return "unknown" if mean is None else f"{100 * mean:.0f} %"


def legend(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for style, level in enumerate(sorted(results["config"]["grey_levels"])):
        yield f"eps {level:g}/255", f"s{style % STYLES}"


def plots(results: Mapping[str, Any]) -> Iterator[Plot]:
    """Success over what the attacker knows: a chart for each share of the prediction, a line an eps."""
    ladder = [one for one in results["attackers"] if one["name"] not in ("key rotated", "all features")]
    ticks = [
        (float(place), one["tier"] if one["surrogates"] is None else str(one["surrogates"]))
        for place, one in enumerate(ladder)
    ]  # fmt: skip
    x = Axis(-0.4, len(ladder) - 0.6, ticks, "surrogates (T0: none, T3: the key is known)")
    levels = sorted(results["config"]["grey_levels"])
    for share in SHARES:
        lines = []
        for style, level in enumerate(levels):
            points = []
            for place, one in enumerate(ladder):
                cell = found_in(results, one["name"], level)[f"success_{share}"]
                if cell["mean"] is not None:
                    at = place + 0.08 * (style - (len(levels) - 1) / 2)
                    points.append(Point(at, cell["mean"], cell["least"], cell["most"]))
            lines.append(Line(f"eps {level:g}/255", points, style, dots=True))
        text = f"{100 * float(share):.0f} % of the prediction changed and no alarm"
        yield Plot(
            text,
            line_chart(f"Success: {text}", "A line an eps; dots are means over keys, bars their range.", lines, x,
                       "success, percent"),
        )  # fmt: skip


def spread(cell: Mapping[str, Any]) -> Spread | None:
    if cell["mean"] is None:
        return None
    low, high = cell["interval"]
    return Spread(cell["mean"], cell["std"], cell["keys"], low, high, round(cell["images"]))


def success_tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """What every attacker came to, an eps at a time."""
    for level in sorted(results["config"]["grey_levels"]):
        rows = []
        for one in results["attackers"]:
            line = found_in(results, one["name"], level)
            cells = [spread(line[f"{what}_{share}"]) for what in ("success", "detected") for share in SHARES]
            rows.append((words(one["label"]), words(one["tier"]), number(line.get("margin"), 1), *cells))
        yield Table(
            f"success_{level:g}",
            f"eps {level:g}/255: mean over keys ± standard deviation over keys, the 95 % interval over images, and how "
            "many images a key counts on average. Success is of images silent when clean; detected, of those of them "
            "of which so much changed. Margin: how far below the limit of his surrogates an attacker aims, in standard "
            "deviations of their clean scores; of those that were tried the one that comes to the most.",
            (
                *map(Column, ("the attacker knows", "tier", "margin")),
                Column("success at 30 %", heat=(0.0, 1.5)), Column("success at 50 %", heat=(0.0, 1.5)),
                Column("detected at 30 %"), Column("detected at 50 %"),
            ),
            tuple(rows),
        )  # fmt: skip


def keyless_tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """Every attacker against the monitor without a key."""
    rows = [row for row in results["rows"] if row["victim"] == KEYLESS]
    if not rows:
        return
    labels = {one["name"]: one["label"] for one in results["attackers"]}
    levels = sorted(results["config"]["grey_levels"])
    table = []
    for name in dict.fromkeys(row["attacker"] for row in rows):
        own = {row["grey_levels"]: row for row in rows if row["attacker"] == name}
        known = name == "key known"
        table.append((
            words("everything" if known else labels[name]), words(own[levels[0]]["tier"]),
            *(Rate.of(own[level][f"success_{share}"]) for level in levels for share in SHARES),
        ))  # fmt: skip
    columns = tuple(
        Column(f"{level:g}/255, {100 * float(share):.0f} %", bar=1.0) for level in levels for share in SHARES
    )  # fmt: skip
    yield Table(
        "without_a_key",
        "Success against inlier's default monitor, which has no key. Surrogates are of the keyed method: against this "
        "monitor their images are transferred to another family of features.",
        (Column("the attacker knows"), Column("tier"), *columns), tuple(table),
    )  # fmt: skip


def extraction_sections(results: Mapping[str, Any]) -> Iterator[Section]:
    """Whether the key was found by asking, if that was tried."""
    found = results.get("extraction")
    if not found:
        return
    rows = []
    for line in found["summary"]:
        own = [row["auroc"] for row in found["rows"] if row["oracle"] == line["oracle"]]
        spread = Spread(line["mean"], line["std"], len(own))
        rows.append((words(line["label"]), spread, number(line["least"]), number(line["most"])))
    best = max((line for line in found["summary"] if line["oracle"] != "gradient"), key=lambda line: line["mean"])
    far = best["mean"] - 0.5 > CHANCE
    said = (
        "The answers tell something of the key: whoever may ask for the score so often can rank activations by it."
        if far else "By these queries this test did not extract the key. It does not show that it cannot be extracted."
    )  # fmt: skip
    yield Section(
        "extraction", "Can the key be found by asking?",
        [
            f"{found['candidates']} activations, {found['inside']} of each victim's key, were told apart by "
            f"{found['queries_a_candidate']} queries each, {found['queries']:,} in all for a victim: the change of an "
            "image that moves an activation the most, and its opposite, up to "
            f"{results['config']['strength']:g} grey levels. Half (0.5) is chance. {said}",
        ],
        tables=[Table(
            "extraction", "AUROC of activations in a victim's key against those in another's, mean ± standard "
            "deviation over the victims' keys.",
            (Column("what is asked for"), Column("AUROC"), Column("least"), Column("most")), tuple(rows),
        )],
    )  # fmt: skip


def victims_table(results: Mapping[str, Any]) -> Table:
    groups = list(results["victims"][0]["by_group"])
    rows = [
        (
            words(line["victim"]), whole(line["activations"]) if line["activations"] else None, whole(line["silent"]),
            Rate.of(line["false_alarms"]), *(Rate.of(line["by_group"][group]) for group in groups),
        )
        for line in results["victims"]
    ]  # fmt: skip
    asked = results["config"]["false_alarm_rate"]
    columns = tuple(Column(group, bar=1.0, asked=asked) for group in ("false alarms", *groups))
    return Table(
        "victims",
        "Activations sampled, attacked images that were silent when clean, and false alarms observed on all clean "
        f"images that nothing was fitted to, in all and by drive; nominal {100 * asked:g} %.",
        (Column("monitor"), Column("activations"), Column("silent"), *columns), tuple(rows),
    )  # fmt: skip
