"""The page of collisions: how near other images come to clean ones, layer by layer, and which monitors notice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from inlier.evaluation.collisions import LAYERS
from inlier.report.document import Document, Section
from inlier.report.figures import axis_over, scatter_chart, step_chart
from inlier.report.findings import Entry
from inlier.report.markup import fine_percent, nominal
from inlier.report.parts import Plot, Thumbnails
from inlier.report.tables import Cell, Column, Rate, Spread, Table, Value, gates_table, whole, words

__all__ = ["collisions_page"]

BINS = 14
LEAST = 1e-6
"""MAPE below it counts as this, for its logarithm."""
PAPER_EPS = 5.0
"""The larger L2 norm of the paper."""
PERCENT = "\N{NO-BREAK SPACE}%"
OPTIMISERS = {"pgd": "plain steps", "adamax": "Adamax, as in the paper"}
AFTER, BEFORE = 0, 1
"""Styles of dots."""


def collisions_page(results: Mapping[str, Any]) -> Document:
    """The page of an experiment of the kind `collisions`."""
    starts = {one["name"]: one["label"] for one in results["starts"]}
    sections = [
        Section(
            "near", "How near they come",
            ["MAPE is the mean difference of the features over the largest magnitude of those wanted; 0 is a "
             "collision. Medians over all starts and targets, on images rounded to 8 bit; unrounded beside it. Of all "
             "taps it is the mean over taps. A layer that keeps fewer numbers than an image has values must have "
             "collisions; one that keeps more need not have any."],
            tables=[near_table(results, network) for network in results["networks"]],
        ),
        *(
            Section(
                f"noticed_{network['name']}", f"Who notices: {network['label']}",
                [f"At {ball_text(results, strongest(results))}: the share of the collisions that each monitor flags, "
                 "and below it their AUROC against clean images. A monitor that looks at the bottleneck alone cannot "
                 "tell a collision there from its target: 0.5, up to which clean images were the targets."],
                tables=[flagged_table(results, network), auroc_table(results, network)],
            )
            for network in results["networks"]
        ),
    ]  # fmt: skip
    keys = keys_table(results)
    if keys is not None:
        sections.append(Section(
            "keys", "Sampling keys",
            ["Keys read activations of all layers. A collision of the bottleneck leaves the layers before it as they "
             "are; one of all taps would have to be the target itself where the first layers keep all of the image. "
             "One of what a known key reads is aimed at that key; the others were not known to the attacker."],
            tables=[keys],
        ))  # fmt: skip
    sections += [
        Section(
            "histograms", "MAPE, start by start",
            [f"The decimal logarithm of MAPE in the bottleneck at {ball_text(results, paper_ball(results))}: filled "
             "the starts as they were, the line after the attack."],
            plots=list(histograms(results, starts)),
        ),
        Section(
            "scatters", "Features against the target's",
            [f"Some features of the bottleneck for the first target, at {ball_text(results, paper_ball(results))}: "
             "across the target's, upwards the other image's. On the diagonal they are equal."],
            [("after the attack", f"s{AFTER}"), ("the start as it was", f"s{BEFORE}")],
            list(scatters(results, starts)),
        ),
    ]  # fmt: skip
    strips = list(strips_of(results, starts))
    if strips:
        sections.append(Section("images", "What the images look like",
                                [f"The first target, and what collides with it, at "
                                 f"{ball_text(results, paper_ball(results))}."], pictures=strips))  # fmt: skip
    sections += [
        Section(
            "more", "Every eps and start", tables=[cells_table(results, starts), judged_table(results)], folded=True
        ),
        Section("gates", "Checks against fooling ourselves", tables=[gates_table(results["gates"])]),
    ]
    size = results["size"]
    return Document(
        title=results["title"],
        lead="A network makes a few numbers of an image. Here an X-ray, a photograph of something else, noise or a "
        "drawing is changed a little until these numbers are those of a clean image, so that whoever looks at them "
        "alone must take one for the other.",
        verdict=verdict_of(results),
        facts=[
            ("Images", f"{results['targets']} clean ones to collide with, each from {len(starts)} starts "
                       f"({', '.join(starts.values())}); {results['reference']} clean ones to compare with"),
            ("Surface", f"8-bit images of {size[1]} x {size[2]} pixels, {results['values']:,} values"),
            ("eps", "L2 norms are the paper's, for 224 x 224 x 3 values, scaled by sqrt(values / 150528): "
                    + ", ".join(ball_text(results, ball) for ball in results["balls"])),
            ("Attack", f"{OPTIMISERS[results['config']['optimiser']]}, {results['config']['steps']} that shrink, "
                       f"random starts in the ball: {results['config'].get('restarts', 1)}; the nearest iterate"),
            ("Clean images", f"{results['fitted_to']} to fit, {results['held_out'] or 'the same, cross-fitted,'} to "
                             "calibrate"),
            ("False-alarm rate", f"{nominal(results['config']['rate'])}, nominal"),
        ],
        sections=sections,
        limits=[
            "One start of each kind and few targets: read the intervals, which take the collisions for independent, "
            "and those from one start are not.",
            "An attack that finds no collision has not shown that there is none: more steps, restarts or another way "
            "of weighing the taps may find one.",
            "The two features of a figure are of the first target alone.",
        ],
        results=results,
    )  # fmt: skip


def strongest(results: Mapping[str, Any]) -> Entry:
    """The largest L2 ball, or the largest at all."""
    balls = [ball for ball in results["balls"] if ball["norm"] == "l2"] or results["balls"]
    return max(balls, key=lambda ball: float(ball["given"]))


def paper_ball(results: Mapping[str, Any]) -> Entry:
    """The larger one of the paper's, or else the strongest."""
    return next(
        (ball for ball in results["balls"] if ball["norm"] == "l2" and ball["given"] == PAPER_EPS), strongest(results)
    )


def ball_text(results: Mapping[str, Any], ball: Entry) -> str:
    """An eps as it was given, and what it came to."""
    if ball["norm"] == "linf":
        return f"Linf {ball['given']:g}/255"
    every = next(each for each in results["balls"] if each["norm"] == "l2" and each["given"] == ball["given"])
    return f"L2 {every['given']:g} (here {every['eps']:.3g})"


def inside(rows: Sequence[Entry], ball: Entry, **wanted: str) -> list[Entry]:
    """The rows of a ball that have these values too."""
    wanted = {**wanted, "norm": ball["norm"], "given": ball["given"]}
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def mape_text(value: float) -> Cell:
    """In percent, as the paper has it."""
    return Value(value, f"{100 * value:.2g}\N{NO-BREAK SPACE}%")


def near_table(results: Mapping[str, Any], network: Entry) -> Table:
    """MAPE by layer and eps, all starts together."""
    rows = []
    sizes = {layer["name"]: layer["size"] for layer in network["layers"]}
    for name, size in sizes.items():
        for ball in results["balls"]:
            cells = inside(results["cells"], ball, network=network["name"], layer=name)
            if not cells:
                continue
            rows.append((
                words(LAYERS[name]), whole(size), words(ball_text(results, ball)),
                mape_text(median(cell["before"] for cell in cells)),
                mape_text(median(cell["unrounded"] for cell in cells)),
                *(mape_text(median(cell["mape"][other] for cell in cells)) for other in sizes),
                Value(same := sum(cell["same"] for cell in cells) / len(cells), fine_percent(same)),
            ))  # fmt: skip
    return Table(
        f"near_{network['name']}",
        f"{network['label']}: median MAPE in the layer that was attacked and in the others; images have "
        f"{results['values']:,} values.",
        (
            Column("collision of"), Column("numbers"), Column("eps"), Column("MAPE before"),
            Column("after, unrounded"), *(Column(f"after, in {LAYERS[name]}") for name in sizes),
            Column("prediction as the target's"),
        ),
        tuple(rows),
    )  # fmt: skip


def monitors_of(results: Mapping[str, Any], network: Entry) -> list[Entry]:
    """The monitors of a network."""
    return [monitor for monitor in results["monitors"] if monitor["network"] == network["name"]]


def flagged_table(results: Mapping[str, Any], network: Entry) -> Table:
    """What each monitor flags of the collisions of each layer."""
    layers = [layer["name"] for layer in network["layers"]]
    rows = []
    for monitor in monitors_of(results, network):
        own = {"network": network["name"], "monitor": monitor["monitor"]}
        base = next(b for b in results["baselines"] if all(b[name] == value for name, value in own.items()))
        told = sum(base["starts"].values())
        judged = [inside(results["judged"], strongest(results), layer=name, **own)[0] for name in layers]
        rows.append((
            words(monitor["label"]), Rate.of(monitor["false_alarms"]), Rate.of(base["targets"]),
            words(f"{told} of {len(base['starts'])}"), *(Rate.of(each["flagged"]) for each in judged),
        ))  # fmt: skip
    return Table(
        f"flagged_{network['name']}", f"{network['label']}: images flagged, and collisions by what they are of.",
        (Column("monitor"), Column("clean"), Column("targets"), Column("starts, unattacked"),
         *(Column(f"of {LAYERS[name]}", heat=(0.0, 1.0)) for name in layers)),
        tuple(rows),
    )  # fmt: skip


def auroc_table(results: Mapping[str, Any], network: Entry) -> Table:
    """The same as AUROC against clean images."""
    layers = [layer["name"] for layer in network["layers"]]
    rows = []
    for monitor in monitors_of(results, network):
        own = {"network": network["name"], "monitor": monitor["monitor"]}
        base = next(b for b in results["baselines"] if all(b[name] == value for name, value in own.items()))
        judged = [inside(results["judged"], strongest(results), layer=name, **own)[0] for name in layers]
        rows.append((
            words(monitor["label"]), area(base["auroc_targets"]), area(base["auroc_starts"]), *map(area, judged),
        ))  # fmt: skip
    return Table(
        f"auroc_{network['name']}", f"{network['label']}: AUROC against clean images.",
        (Column("monitor"), Column("targets"), Column("starts, unattacked"),
         *(Column(f"of {LAYERS[name]}", heat=(0.5, 1.0)) for name in layers)),
        tuple(rows),
    )  # fmt: skip


def area(found: Entry) -> Spread:
    """An AUROC with its interval."""
    low, high = found["auroc_interval"]
    return Spread(found["auroc"], None, 1, low, high)


def keyed(results: Mapping[str, Any], network: Entry) -> list[Entry]:
    """The monitors of a network of which there are several keys, the first key first."""
    monitors = monitors_of(results, network)
    families = [monitor["family"] for monitor in monitors]
    several = next((family for family in families if families.count(family) > 1), None)
    return [monitor for monitor in monitors if monitor["family"] == several]


def keys_table(results: Mapping[str, Any]) -> Table | None:
    """The first key beside the others, for every layer and eps."""
    rows = []
    for network in results["networks"]:
        keys = keyed(results, network)
        for layer in network["layers"] if keys else ():
            for ball in results["balls"]:
                judged = [
                    found for key in keys
                    for found in inside(results["judged"], ball, network=network["name"], layer=layer["name"],
                                        monitor=key["monitor"])
                ]  # fmt: skip
                if not judged:
                    continue
                first, *others = judged
                rates = [each["flagged"]["hits"] / each["flagged"]["images"] for each in others]
                areas = [each["auroc"] for each in others]
                rows.append((
                    words(network["label"]), words(LAYERS[layer["name"]]), words(ball_text(results, ball)),
                    Rate.of(first["flagged"]), words(ranged([100 * rate for rate in rates], ".0f", PERCENT)),
                    area(first), words(ranged(areas, ".3f", "")),
                ))  # fmt: skip
    if not rows:
        return None
    return Table(
        "keys", "Collisions flagged under the first key, which is the one attacked, and under the others, with range.",
        (Column("network"), Column("collision of"), Column("eps"), Column("flagged, first key"),
         Column("flagged, other keys"), Column("AUROC, first key"), Column("AUROC, other keys")),
        tuple(rows),
    )  # fmt: skip


def ranged(values: Sequence[float], digits: str, unit: str) -> str:
    """Mean and ends."""
    mean = sum(values) / len(values)
    return f"{mean:{digits}}{unit} ({min(values):{digits}} to {max(values):{digits}}{unit})"


def bottleneck(network: Entry) -> str:
    """The layer that figures are about."""
    return str(network["layers"][0]["name"])


def histograms(results: Mapping[str, Any], starts: Mapping[str, str]) -> Iterator[Plot]:
    """A figure for each network and start."""
    for network in results["networks"]:
        for found in inside(
            results["histograms"], paper_ball(results), network=network["name"], layer=bottleneck(network)
        ):
            before, after = ([math.log10(max(v, LEAST)) for v in found[name]] for name in ("before", "mape"))
            low, high = math.floor(min(before + after)), math.ceil(max(before + after))
            edges = [low + (high - low) * n / BINS for n in range(BINS + 1)]
            label = f"{network['label']}, from {starts[found['start']]}"
            yield Plot(label, step_chart(f"MAPE: {label}", "Before, filled, and after the attack.", edges,
                                         counted(before, edges), counted(after, edges), "log10 of MAPE"))  # fmt: skip


def counted(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many lie in each bin; the last one has its right end."""
    width = edges[1] - edges[0]
    places = [min(int((value - edges[0]) / width), len(edges) - 2) for value in values]
    return [places.count(n) for n in range(len(edges) - 1)]


def scatters(results: Mapping[str, Any], starts: Mapping[str, str]) -> Iterator[Plot]:
    """A figure for each network and start."""
    for network in results["networks"]:
        for found in inside(
            results["scatters"], paper_ball(results), network=network["name"], layer=bottleneck(network)
        ):
            for start, after in found["read"].items():
                wanted, before = found["wanted"], found["start"][start]
                every = [*wanted, *after, *before]
                x, y = axis_over(every, "the target's feature"), axis_over(every, "the other image's")
                dots = [
                    (AFTER, list(zip(wanted, after, strict=True))),
                    (BEFORE, list(zip(wanted, before, strict=True))),
                ]
                label = f"{network['label']}, from {starts[start]}"
                yield Plot(label, scatter_chart(f"Features: {label}", "Across the target's, upwards the other's.", dots,
                                                x, y))  # fmt: skip


def strips_of(results: Mapping[str, Any], starts: Mapping[str, str]) -> Iterator[Thumbnails]:
    """The first target and its collisions; none where pictures were left out."""
    for network in results["networks"]:
        for strip in inside(results["strips"], paper_ball(results), network=network["name"]):
            if "target" not in strip or not strip["collisions"]:
                continue
            views = [(strip["target"], "the target", "clean image")]
            views += [
                (picture, f"from {starts[name]}", f"collision from {starts[name]}")
                for name, picture in strip["collisions"].items()
            ]
            yield Thumbnails(network["label"], f"collisions of {LAYERS[strip['layer']]}", tuple(views))


def cells_table(results: Mapping[str, Any], starts: Mapping[str, str]) -> Table:
    """Every start by itself."""
    labels = {network["name"]: network["label"] for network in results["networks"]}
    return Table(
        "cells", "MAPE in the layer that was attacked, by start: median, least and most, on 8-bit images.",
        (Column("network"), Column("collision of"), Column("eps"), Column("start"), Column("before"), Column("median"),
         Column("least"), Column("most"), Column("prediction as the target's"), Column("largest change")),
        tuple(
            (
                words(labels[cell["network"]]), words(LAYERS[cell["layer"]]), words(ball_text(results, cell)),
                words(starts[cell["start"]]), mape_text(cell["before"]), mape_text(cell["mape"][cell["layer"]]),
                mape_text(cell["least"]), mape_text(cell["most"]), Value(cell["same"], fine_percent(cell["same"])),
                Value(cell["changed"], f"{cell['changed']:.3g}"),
            )
            for cell in results["cells"]
        ),
    )  # fmt: skip


def judged_table(results: Mapping[str, Any]) -> Table:
    """Every monitor at every eps."""
    labels = {network["name"]: network["label"] for network in results["networks"]}
    names = {(m["network"], m["monitor"]): m["label"] for m in results["monitors"]}
    return Table(
        "judged", "What every monitor says of the collisions of every layer and eps, all starts together.",
        (Column("network"), Column("collision of"), Column("eps"), Column("monitor"), Column("flagged"),
         Column("AUROC")),
        tuple(
            (
                words(labels[row["network"]]), words(LAYERS[row["layer"]]), words(ball_text(results, row)),
                words(names[row["network"], row["monitor"]]), Rate.of(row["flagged"]), area(row),
            )
            for row in results["judged"]
        ),
    )  # fmt: skip


def others_told(rates: Sequence[float]) -> str:
    """What the other keys flag."""
    mean = fine_percent(sum(rates) / len(rates))
    return f"the other one {mean}" if len(rates) == 1 else f"the {len(rates)} others {mean} on average"


def verdict_of(results: Mapping[str, Any]) -> str:
    """What came out, for the first network."""
    network, ball = results["networks"][0], strongest(results)
    told = []
    for layer in network["layers"]:
        cells = inside(results["cells"], ball, network=network["name"], layer=layer["name"])
        value = median(cell["mape"][layer["name"]] for cell in cells)
        before = median(cell["before"] for cell in cells)
        told.append(f"{LAYERS[layer['name']]} {100 * before:.2g} to {100 * value:.2g}\N{NO-BREAK SPACE}%")
    parts = [f"{network['label']}, at {ball_text(results, ball)}: the median MAPE falls in {', in '.join(told)}."]
    keys = keyed(results, network)
    for layer in network["layers"] if keys else ():
        judged = [
            found for key in keys
            for found in inside(results["judged"], ball, network=network["name"], layer=layer["name"],
                                monitor=key["monitor"])
        ]  # fmt: skip
        first, *others = (each["flagged"]["hits"] / each["flagged"]["images"] for each in judged)
        parts.append(
            f"Of the collisions of {LAYERS[layer['name']]} the first key flags {fine_percent(first)}, "
            f"{others_told(others)}."
        )
    failed = [gate["name"] for gate in results["gates"] if gate["verdict"] == "FAIL"]
    return " ".join(parts + ([f"FAIL: {'; '.join(failed)}."] if failed else []))
