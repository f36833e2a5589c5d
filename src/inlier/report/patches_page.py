"""The page of patches: harm, activations and alarms over the distance from a square that an attacker has to himself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inlier.evaluation.patches import CLEAN, KINDS
from inlier.report.curves_page import picked
from inlier.report.document import Document, Section
from inlier.report.figures import STYLES, Axis, Line, Point, axis_over, line_chart
from inlier.report.findings import Entry
from inlier.report.markup import fine_percent, nominal
from inlier.report.parts import Plot, Thumbnails
from inlier.report.tables import Cell, Column, Rate, Spread, Table, Value, gates_table, number, whole, words

__all__ = ["patches_page"]

ALL = {**KINDS, CLEAN: "no patch"}
SHOWN = ("attack", "noise", "object", CLEAN)
"""Of these, in the figures of who notices."""
LEAST = 1e-6
"""A change below it counts as this, for its logarithm."""
ACROSS = "from the patch's edge, pixels"
LOSSES = {"masked_cross_entropy": "the cross-entropy of pixels that are still right", "hinge": "the hinge of pixels"}


def patches_page(results: Mapping[str, Any]) -> Document:
    """The page of an experiment of the kind `patches`."""
    sides = [patch["side"] for patch in results["patches"]]
    legend = [(f"{side} x {side} pixels", f"s{n % STYLES}") for n, side in enumerate(sides)]
    sections: list[Section] = []
    for network in results["networks"]:
        sections += sections_of(results, network, legend)
    strips = list(strips_of(results))
    if strips:
        sections.append(Section(
            "images", "What the images look like",
            ["The first image, as it was and with the optimised patch, and what the network makes of both."],
            pictures=strips,
        ))  # fmt: skip
    sections.append(Section("gates", "Checks against fooling ourselves", tables=[gates_table(results["gates"])]))
    config = results["config"]
    height, width = results["size"][-2:]
    return Document(
        title=results["title"],
        lead="Somebody may put whatever he likes into a small square of the image, such as a poster on a wall, and can "
        "touch nothing else. How far from it is the prediction wrong? How far do the network's activations feel it? "
        "And does a detector notice that may look only at activations far away?",
        verdict=verdict_of(results),
        facts=[
            ("Attacker", "knows the network and its weights, and not that there is a monitor (T0)"),
            ("Patches", ", ".join(
                f"{patch['side']} x {patch['side']} ({fine_percent(patch['share'])} of the pixels)"
                for patch in results["patches"]) + f", upper left corner of the first at row "
                f"{results['patches'][0]['top']}, column {results['patches'][0]['left']}"),
            ("In the patch", "any value" if config["eps"] is None else f"at most {config['eps']:g} grey levels away"),
            ("Surface", f"8-bit images of {height} x {width} pixels, before the network's own resizing"),
            ("Attack", f"{config['steps']} momentum sign steps from noise, {config['restarts']} start(s), up "
                       f"{LOSSES[config['loss']]} (classifiers: cross-entropy); the best iterate"),
            ("Beside it", "uniform noise, a piece of another clean image, and a grey square, in the same place"),
            ("Images", f"{results['images']} attacked, of {results['reference']} clean ones to compare with; "
                       f"{results['fitted_to']} to fit, {results['held_out']} others to calibrate with"),
            ("False-alarm rate", f"{nominal(config['rate'])}, nominal"),
        ],
        sections=sections,
        limits=list(limits_of(results)),
        results=results,
    )  # fmt: skip


def sections_of(results: Mapping[str, Any], network: Entry, legend: Sequence[tuple[str, str]]) -> Iterator[Section]:
    """Of one network."""
    name, label = network["name"], network["label"]
    kinds = [(text, f"s{n % STYLES}") for n, text in enumerate(ALL.values())]
    yield Section(
        f"harm_{name}", f"Harm over distance: {label}" if network["dense"] else f"Harm: {label}",
        ["The share of pixels of which the predicted class is another than on the clean image, ring by ring around the "
         "patch. Distances are from the patch's edge, the larger one of rows and columns. Shaded: 95 % bootstrap "
         "intervals over images." if network["dense"] else
         "The share of images of which the predicted class is another than on the clean image."],
        legend if network["dense"] else (), list(harm_plots(results, network)), [harm_table(results, network)],
    )  # fmt: skip
    taps, shown = network["taps"], drawn(network)
    yield Section(
        f"felt_{name}", f"What activations feel: {label}",
        ["The mean change of the activations under the attack, in standard deviations of each channel over clean "
         "images, ring by ring; decimal logarithm, dropped where no activation changed. An activation's place is the "
         f"centre of its cell. The figures show {len(shown)} of {len(taps)} taps, the table all for the largest patch: "
         "from where on no activation of a tap changes at all, the patch is out of its reach, and nothing that looks "
         "there can notice."],
        [(tap, f"s{n % STYLES}") for n, tap in enumerate(shown)], list(felt_plots(results, network)),
        [felt_table(results, network)],
    )  # fmt: skip
    yield Section(
        f"seen_{name}", f"Who notices, and from where: {label}",
        ["Each detector looks at the activations of one ring, at all taps, and at nothing else. AUROC of patched "
         "images against clean ones that nobody touched, with 95 % bootstrap intervals over images; 50 is chance. "
         "The score is how far activations are from what is ordinary at their places. What notices the attack and no "
         "harmless patch of the same size says something of attacks; what notices both, only that a patch is there. "
         "The same images without a patch ought to be at 50: by how much they are not is what their choice does."],
        legend, list(seen_plots(results, network, "rings")),
        [seen_table(results, network, "rings")],
    )  # fmt: skip
    yield Section(
        f"beyond_{name}", f"Everything nearer hidden: {label}",
        ["The same for detectors that see all activations from a distance on, and none that is nearer. The first sees "
         "everything."],
        legend, list(seen_plots(results, network, "beyond")),
        [seen_table(results, network, "beyond")],
    )  # fmt: skip
    yield Section(
        f"kinds_{name}", f"The attack beside other patches: {label}",
        ["The same AUROC, patch by patch: with everything nearer hidden, the attack, what nobody optimised, and the "
         "same images without a patch, which ought to be at 50. The table has the false alarms of the same detectors; "
         "a threshold set with few images is a draw, and drives differ, which its intervals do not know of."],
        kinds, list(kind_plots(results, network)), [alarms_table(results, network)], folded=True,
    )  # fmt: skip
    yield Section(
        f"monitors_{name}", f"Whole monitors: {label}",
        ["What the configured monitors flag, each at its own threshold, set on clean images that nothing was fitted "
         "to. They see the whole image."],
        tables=[monitors_table(results, network)],
    )  # fmt: skip


# --- figures ---------------------------------------------------------------------------------------------------------


def across(results: Mapping[str, Any], beyond: bool = False) -> Axis:
    """Rings side by side, each at its number; with `beyond`, named by where they begin."""
    starts = ["0", *(f"{edge:g}" for edge in results["config"]["rings"])]
    ticks = ["all", *(f"{start}+" for start in starts)] if beyond else ["in", *starts]
    title = f"all places from here on, {ACROSS}" if beyond else f"ring, {ACROSS}"
    return Axis(-0.3, len(ticks) - 0.7, [(float(n), text) for n, text in enumerate(ticks)], title)


def harm_plots(results: Mapping[str, Any], network: Entry) -> Iterator[Plot]:
    """A figure for each kind of patch, a line for each size; none of classifiers."""
    for kind, text in KINDS.items() if network["dense"] else ():
        lines = []
        for style, patch in enumerate(results["patches"]):
            (cell,) = picked(results["cells"], {"network": network["name"], "side": patch["side"], "kind": kind})
            points = [
                Point(n, ring["mean"], ring["low"], ring["high"])
                for n, ring in enumerate(cell["rings"]) if ring is not None
            ]  # fmt: skip
            lines.append(Line(f"{patch['side']}", points, style, band=True))
        label = f"{network['label']}, {text}"
        yield Plot(label, line_chart(f"Harm over distance: {label}", "A line a size.", lines, across(results),
                                     "pixels changed, percent"))  # fmt: skip


def drawn(network: Entry) -> list[str]:
    """The taps of the figures, spread evenly over all."""
    taps = [one["tap"] for one in network["taps"]]
    return [taps[n * len(taps) // STYLES] for n in range(STYLES)] if len(taps) > STYLES else taps


def felt_plots(results: Mapping[str, Any], network: Entry) -> Iterator[Plot]:
    """A figure for each size, a line for each tap."""
    shown = drawn(network)
    for patch in results["patches"]:
        own = {"network": network["name"], "side": patch["side"], "kind": "attack"}
        (row,) = picked(results["felt"], own)
        lines = [
            Line(tap["tap"], [
                Point(n, math.log10(max(value, LEAST))) for n, value in enumerate(tap["change"]) if value
            ], shown.index(tap["tap"]), dots=True)
            for tap in row["taps"] if tap["tap"] in shown
        ]  # fmt: skip
        up = axis_over([point.y for line in lines for point in line.points] or [0.0], "log10 of the change")
        label = f"{network['label']}, {patch['side']} x {patch['side']}"
        yield Plot(label, line_chart(f"Change of activations: {label}", "A line a tap.", lines, across(results), up))


def seen_plots(results: Mapping[str, Any], network: Entry, what: str) -> Iterator[Plot]:
    """A figure for what is in the patch, a line for each size."""
    for kind in SHOWN:
        lines = [
            Line(f"{patch['side']}", areas(results, network, patch["side"], kind, what), style, band=True)
            for style, patch in enumerate(results["patches"])
        ]  # fmt: skip
        label = f"{network['label']}, {ALL[kind]}"
        yield Plot(label, line_chart(f"AUROC over distance: {label}", "A line a size.", lines,
                                     across(results, what == "beyond"), "AUROC, percent"))  # fmt: skip


def kind_plots(results: Mapping[str, Any], network: Entry) -> Iterator[Plot]:
    """One size of patch, a line for each kind."""
    for patch in results["patches"]:
        lines = [
            Line(kind, areas(results, network, patch["side"], kind, "beyond"), style % STYLES)
            for style, kind in enumerate(ALL)
        ]  # fmt: skip
        label = f"{network['label']}, {patch['side']} x {patch['side']}"
        yield Plot(label, line_chart(f"AUROC over distance: {label}", "A line a kind.", lines, across(results, True),
                                     "AUROC, percent"))  # fmt: skip


def areas(results: Mapping[str, Any], network: Entry, side: int, kind: str, what: str) -> list[Point]:
    """The AUROC of every detector that sees anything."""
    (row,) = picked(results["seen"], {"network": network["name"], "side": side, "kind": kind})
    return [
        Point(n, each["auroc"], *each["auroc_interval"]) for n, each in enumerate(row[what]) if each is not None
    ]  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------


def harm_table(results: Mapping[str, Any], network: Entry) -> Table:
    """The share changed in all and outside the patch."""
    rows: list[tuple[Cell | None, ...]] = []
    for cell in picked(results["cells"], {"network": network["name"]}):
        rows.append((
            whole(cell["side"]), words(KINDS[cell["kind"]]), mean_of(cell["damage"]),
            *([mean_of(cell["outside"])] if network["dense"] else []),
            None if cell["dead"] is None else Value(cell["dead"], fine_percent(cell["dead"])),
        ))  # fmt: skip
    changed = "pixels" if network["dense"] else "images"
    return Table(
        f"harm_{network['name']}",
        f"{network['label']}: share of {changed} whose predicted class is another than without the patch, mean over "
        "images with its 95 % bootstrap interval.",
        (Column("side"), Column("in the patch"), Column(f"{changed} changed", heat=(0.0, 1.0)),
         *([Column("outside the patch", heat=(0.0, 1.0))] if network["dense"] else []), Column("dead gradients")),
        tuple(rows),
    )  # fmt: skip


def mean_of(band: Entry | None) -> Spread | None:
    """A mean with its interval."""
    return None if band is None else Spread(band["mean"], None, 1, band["low"], band["high"])


def felt_table(results: Mapping[str, Any], network: Entry) -> Table:
    """How far the largest patch reaches at every tap, and how strongly it is felt."""
    side = results["patches"][-1]["side"]
    (row,) = picked(results["felt"], {"network": network["name"], "side": side, "kind": "attack"})
    shapes = {one["tap"]: one["shape"] for one in network["taps"]}
    return Table(
        f"felt_{network['name']}",
        f"{network['label']}, the attack with {side} x {side} pixels: the share of places where an activation changed "
        "at all, the farthest one in pixels, and the mean change in standard deviations by ring.",
        (Column("tap"), Column("cells"), Column("places reached", heat=(0.0, 1.0)), Column("farthest"),
         *(Column(name) for name in results["rings"])),
        tuple(
            (
                words(tap["tap"]), words("{1} x {2}".format(*shapes[tap["tap"]])),
                Value(tap["share"], fine_percent(tap["share"])), number(tap["farthest"], 1),
                *(None if value is None else Value(value, f"{value:.2g}") for value in tap["change"]),
            )
            for tap in row["taps"]
        ),
    )  # fmt: skip


def seen_table(results: Mapping[str, Any], network: Entry, what: str) -> Table:
    """AUROC and rate of every detector, for the attack and beside it for the others."""
    rows: list[tuple[Cell | None, ...]] = []
    for patch in results["patches"]:
        own = {"network": network["name"], "side": patch["side"]}
        of = {kind: picked(results["seen"], {**own, "kind": kind})[0][what] for kind in ALL}
        for n, name in enumerate(names_of(results, what)):
            if of["attack"][n] is None:
                continue
            rows.append((
                whole(patch["side"]), words(name), area(of["attack"][n]), Rate.of(of["attack"][n]["flagged"]),
                *(area(of[kind][n]) for kind in ALL if kind != "attack"),
            ))  # fmt: skip
    others = [Column(f"AUROC, {text}", heat=(0.5, 1.0)) for kind, text in ALL.items() if kind != "attack"]
    return Table(
        f"{'seen' if what == 'rings' else 'beyond'}_{network['name']}",
        f"{network['label']}: what a detector notices that sees {'a ring' if what == 'rings' else 'no place nearer'}, "
        f"and flagged at a nominal false-alarm rate of {nominal(results['config']['rate'])}.",
        (Column("side"), Column("sees"), Column("AUROC, attack", heat=(0.5, 1.0)), Column("attacks flagged"), *others),
        tuple(rows),
    )  # fmt: skip


def names_of(results: Mapping[str, Any], what: str) -> list[str]:
    """What detectors see."""
    if what == "rings":
        return list(results["rings"])
    return ["everything", "all outside", *(f"from {edge:g}" for edge in results["config"]["rings"])]


def area(found: Entry | None) -> Spread | None:
    """An AUROC with its interval."""
    return None if found is None else Spread(found["auroc"], None, 1, *found["auroc_interval"])


def alarms_table(results: Mapping[str, Any], network: Entry) -> Table:
    """False alarms of every detector on clean images that nothing was fitted to or calibrated with."""
    rows = [
        (whole(row["side"]), words(name), Rate.of(counted))
        for row in picked(results["false_alarms"], {"network": network["name"]})
        for what in ("rings", "beyond")
        for name, counted in zip(names_of(results, what), row[what], strict=True)
        if counted is not None and not (what == "beyond" and name == results["rings"][-1])
    ]
    rate = results["config"]["rate"]
    return Table(
        f"false_alarms_{network['name']}",
        f"{network['label']}: false alarms of the distance detectors on {results['reference']} clean images, nominal "
        f"{nominal(rate)}.",
        (Column("side of the patch"), Column("sees"), Column("false alarms", bar=1.0, asked=rate)),
        tuple(rows),
    )  # fmt: skip


def monitors_table(results: Mapping[str, Any], network: Entry) -> Table:
    """What whole monitors flag."""
    rows: list[tuple[Cell | None, ...]] = []
    for monitor in picked(results["monitors"], {"network": network["name"]}):
        own = {"network": network["name"], "monitor": monitor["monitor"]}
        (untouched,) = picked(results["judged"], {**own, "kind": CLEAN})
        for patch in results["patches"]:
            of = {kind: picked(results["judged"], {**own, "side": patch["side"], "kind": kind})[0] for kind in KINDS}
            rows.append((
                words(monitor["label"]), whole(patch["side"]), *(Rate.of(of[kind]["flagged"]) for kind in KINDS),
                Rate.of(untouched["flagged"]), Rate.of(monitor["false_alarms"]),
            ))  # fmt: skip
    return Table(
        f"monitors_{network['name']}", f"{network['label']}: images flagged, by what is in the patch.",
        (Column("monitor"), Column("side"), *(Column(text, heat=(0.0, 1.0)) for text in KINDS.values()),
         Column("the same images, no patch"), Column("all clean images")),
        tuple(rows),
    )  # fmt: skip


# --- words and pictures ----------------------------------------------------------------------------------------------


def strips_of(results: Mapping[str, Any]) -> Iterator[Thumbnails]:
    """The first image under each patch; none where pictures were left out."""
    labels = {network["name"]: network["label"] for network in results["networks"]}
    for row in results["strips"]:
        views = [(view["picture"], view["title"], view["title"]) for view in row["views"] if "picture" in view]
        if views:
            said = f", {row['said'][0]}, then {row['said'][1]}" if row["said"] else ""
            yield Thumbnails(
                f"{labels[row['network']]}, {row['side']} x {row['side']}", f"{row['image']}{said}", tuple(views)
            )


def verdict_of(results: Mapping[str, Any]) -> str:
    """What came out, for the first network and every patch."""
    network = results["networks"][0]
    told = []
    for patch in results["patches"]:
        own = {"network": network["name"], "side": patch["side"]}
        (cell,) = picked(results["cells"], {**own, "kind": "attack"})
        (seen,) = picked(results["seen"], {**own, "kind": "attack"})
        (harmless,) = picked(results["seen"], {**own, "kind": "object"})
        harm = f"changes {fine_percent(cell['damage']['mean'])} of the prediction"
        if cell["outside"] is not None:
            harm += f" ({fine_percent(cell['outside']['mean'])} outside itself)"
        told.append(
            f"A patch of {patch['side']} x {patch['side']} pixels, {fine_percent(patch['share'])} of the image, {harm}"
            f"; a detector that sees all activations has AUROC {seen['beyond'][0]['auroc']:.2f} "
            f"({harmless['beyond'][0]['auroc']:.2f} for a piece of another image in its place)"
            + far(results, seen, harmless)
        )
    failed = [gate["name"] for gate in results["gates"] if gate["verdict"] == "FAIL"]
    return f"{network['label']}. " + " ".join(told) + (f" FAIL: {'; '.join(failed)}." if failed else "")


def far(results: Mapping[str, Any], seen: Entry, harmless: Entry) -> str:
    """What the detector says that stays farthest away, of those that see anything."""
    there = [n for n, each in enumerate(seen["beyond"]) if each is not None and n > 0]
    if not there:
        return "."
    name = names_of(results, "beyond")[there[-1]]
    both = seen["beyond"][there[-1]]["auroc"], harmless["beyond"][there[-1]]["auroc"]
    where = name if name == "all outside" else f"{name} pixels away on"
    return f", one that sees {where} alone {both[0]:.2f} ({both[1]:.2f})."


def limits_of(results: Mapping[str, Any]) -> Iterator[str]:
    """What this does not say."""
    yield "The attacker does not know of the monitor. One who does may keep what it looks at as it was."
    yield (
        f"{results['images']} images: read the intervals. They take images for independent, and frames of one drive "
        "are not, so that they are too narrow. The attacked images are among the clean ones they are compared with."
    )
    yield (
        "The patch is optimised for each image by itself and pasted into it. No printing, light, distance or angle "
        "stands between, and one patch for all images would do less."
    )
    yield (
        "The centre of a cell is where an activation counts as being; what it depends on is a field around it that is "
        "far wider, and that is the point. An optimised convolution may reach a cell or two farther than its kernel."
    )
    yield (
        "The distance detectors are made to measure where a patch is felt, and are no product: their score weighs all "
        "channels and taps alike."
    )
