"""The tables of an evaluation, made of its results by picking and sorting alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from inlier.report.findings import ATTACKS, JOINT, Entry, Findings, counted, label_of, rates_of
from inlier.report.markup import decimals, nominal, settings_text
from inlier.report.tables import Cell, Column, Rate, Spread, Table, gates_table, number, quantity, share, whole, words

__all__ = ["evaluation_tables", "told_value"]

CHANGES = ("perturbation", *ATTACKS)
KINDS = {
    "clean": "unchanged", "perturbation": "natural change", "attack": "attack", "universal": "universal attack",
    "joint": "attack on network and monitor", "control": "harmless control", "ood": "foreign images",
}  # fmt: skip
METRICS = (
    ("auroc", "AUROC", (0.5, 1.0)),
    ("aupr", "AUPR", (0.5, 1.0)),
    ("fpr95", "FPR95", (1.0, 0.0)),
)
PUBLISHED = "What is published was measured elsewhere, on other images and another network, and is no target here."
AXES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of the axes on which rates are drawn."""


def evaluation_tables(found: Findings) -> dict[str, Table]:
    """Every table that the results have values for, by name and in the order of the report."""
    made = [
        targets(found), tried(found), false_alarms(found), held_out(found), controls(found),
        *matrices(found), attacks(found), joint_attacks(found), gates_table(found.all("gates")), *damages(found),
        *comparison(found), pooled(found), *ablations(found), success(found), *foreign(found), cost(found),
    ]  # fmt: skip
    kept = [table.filled() for table in made]
    return {table.name: table for table in kept if table is not None}


def main_label(found: Findings) -> str:
    return "the monitor" if found.main is None else label_of(found.main)


def at(found: Findings) -> str:
    return "" if found.rate is None else f" at a nominal false-alarm rate of {nominal(found.rate)}"


def targets(found: Findings) -> Table:
    """What was aimed at, and whether it was met."""
    return Table(
        "targets",
        "What was aimed at, and what was observed.",
        tuple(map(Column, ("target", "wanted", "observed", "met"))),
        tuple(
            (words(t["text"]), words(told_value(t.get("wanted"))), words(told_value(t.get("value"))),
             words("met" if t.get("met") else "missed"))
            for t in found.all("targets")
        ),
    )  # fmt: skip


def told_value(value: object) -> str:
    """A value of a target, whatever it is: a number, words, or several of them."""
    if isinstance(value, list | tuple):
        return " to ".join(map(told_value, value))
    if isinstance(value, float):
        return decimals(value)
    return "" if value is None else str(value)


def tried(found: Findings) -> Table:
    """Every set, and how much it changes the prediction."""
    return Table(
        "tried",
        "What was tried. Changed pixels: mean share of pixels that the network answers differently than for the "
        "unchanged image. Largest change of a channel: in grey levels from 0 to 1.",
        tuple(
            map(
                Column,
                ("set", "kind", "settings", "images", "changed pixels", "images with 10 % or more changed", "mIoU",
                 "largest change of a channel"),
            )
        ),
        tuple(
            (
                words(label_of(s)), words(KINDS.get(s["kind"], s["kind"])), words(settings_of(s)), whole(s["images"]),
                share(s.get("changed")), whole(s.get("changed_images")), number(s.get("miou")),
                number(s.get("linf"), 4),
            )
            for s in found.sets()
        ),
    )  # fmt: skip


def settings_of(tried: Entry) -> str:
    severity = tried.get("severity")
    parts = ["" if severity is None else f"severity {severity}", settings_text(tried.get("settings") or {})]
    return ", ".join(filter(None, parts))


def false_alarms(found: Findings) -> Table:
    """Observed false alarms of the main monitor in every group of clean test images, at each nominal rate."""
    rows: dict[tuple[str, str], dict[float, list[Entry]]] = {}
    for rate in rates_of(found.main):
        for s, group, _, counts in found.by_group(found.main, rate):
            rows.setdefault((label_of(s), group), {}).setdefault(rate, []).append(counts)
    several = len({label for label, _ in rows}) > 1
    return Table(
        "false_alarms",
        f"False alarms of {main_label(found)} observed on unchanged test images, at each nominal rate.",
        rate_columns("images of", [[row.get(r) for r in rates_of(found.main)] for row in rows.values()], found),
        tuple(
            (
                words(f"{group}{known(found, group)}" + (f" ({label})" if several else "")),
                *(first_and_others(row.get(rate)) for rate in rates_of(found.main)),
            )
            for (label, group), row in rows.items()
        ),
    )


def known(found: Findings, group: str) -> str:
    """Says of a group whether the monitor was fitted to other images of it, where that is known."""
    if not found.fitted_groups:
        return ""
    return ", fitted to others of it" if group in found.fitted_groups else ", never seen"


def first_and_others(counts: Sequence[Entry] | None) -> Rate | None:
    return Rate.of(counts[0], counts[1:]) if counts else None


def rate_columns(title: str, rows: Sequence[Sequence[Sequence[Entry] | None]], found: Findings) -> tuple[Column, ...]:
    """A heading and a column for each nominal rate, each with an axis that holds all its intervals."""
    columns = [Column(title)]
    for n, rate in enumerate(rates_of(found.main)):
        highest = max([rate, *(c["interval"][1] for row in rows if row[n] for c in row[n] or ())])
        columns.append(Column(f"nominal {nominal(rate)}", bar=next(a for a in AXES if a >= highest), asked=rate))
    return tuple(columns)


def held_out(found: Findings) -> Table:
    """The same for groups of the fit that were left out of fit and threshold."""
    rows: dict[str, dict[float, list[Entry]]] = {}
    for rate in rates_of(found.main):
        for group, _, counts in found.held_out(found.main, rate):
            rows.setdefault(group, {}).setdefault(rate, []).append(counts)
    return Table(
        "held_out",
        f"False alarms of {main_label(found)} on each group of the fit when fit and threshold are made without it.",
        rate_columns("group left out", [[row.get(r) for r in rates_of(found.main)] for row in rows.values()], found),
        tuple(
            (words(group), *(first_and_others(row.get(rate)) for rate in rates_of(found.main)))
            for group, row in rows.items()
        ),
    )


def controls(found: Findings) -> Table:
    """Changes that do no harm, on which alarms are false alarms; nothing without a threshold."""
    rates = rates_of(found.main)
    rows = [
        (s, [[c for r in found.rows(found.main, s) if (c := counted(r.get("flagged"), rate))] for rate in rates])
        for s in found.sets("control")
    ]
    columns = rate_columns("harmless change", [row for _, row in rows], found)
    return Table(
        "controls",
        f"Harmless changes: how often {main_label(found)} flags them. The nominal rate is what should be seen.",
        (columns[0], Column("changed pixels"), *columns[1:]),
        tuple((words(label_of(s)), share(s.get("changed")), *map(first_and_others, row)) for s, row in rows if rates),
    )


def matrices(found: Findings) -> Iterator[Table]:
    """Natural changes by severity: what is flagged of all images, and of those that the change harms."""
    sets = found.sets("perturbation")
    severities = sorted({s["severity"] for s in sets if s.get("severity") is not None})
    plain = [None] if any(s.get("severity") is None for s in sets) else []
    steps: list[int | None] = [*plain, *severities]
    by_change: dict[str, dict[int | None, Entry]] = {}
    for s in sets:
        by_change.setdefault(s.get("change") or label_of(s), {})[s.get("severity")] = s
    headings = tuple(Column("as is" if n is None else f"severity {n}", heat=(0.0, 1.0)) for n in steps)
    for name, which, of in (
        ("caught", "flagged", "all images"),
        ("caught_changed", "flagged_changed", "the images on which 10 % or more of the predicted pixels changed"),
    ):
        yield Table(
            name,
            f"Natural changes: share of {of} that {main_label(found)} flags{at(found)}.",
            (Column("change"), *headings),
            tuple(
                (
                    words(change.replace("_", " ")),
                    *(flagged(found, by[step], which) if step in by else None for step in steps),
                )
                for change, by in by_change.items()
            ),
        )


def flagged(found: Findings, s: Entry, which: str = "flagged", monitor: Entry | None = None) -> Rate | None:
    rows = found.rows(monitor or found.main, s)
    counts = [counted(row.get(which), found.rate) for row in rows]
    return Rate.of(counts[0], counts[1:]) if counts else None


def attacks(found: Findings) -> Table:
    """Attacks: what they change, what is flagged, and the verdict; nothing without a threshold."""
    return Table(
        "attacks",
        f"Attacks by somebody who does not know of the monitor: what {main_label(found)} flags{at(found)}.",
        (
            Column("attack"), Column("settings"), Column("changed pixels"),
            Column("flagged, of all images", heat=(0.0, 1.0)),
            Column("flagged, of images with 10 % or more changed", heat=(0.0, 1.0)), Column("verdict"),
        ),
        tuple(
            (
                words(label_of(s)), words(settings_of(s)), share(s.get("changed")), flagged(found, s),
                flagged(found, s, "flagged_changed"), words(found.attack_verdict(s)),
            )
            for s in found.sets(*ATTACKS)
            if found.rate is not None
        ),
    )  # fmt: skip


def joint_attacks(found: Findings) -> Table:
    """Attacks on network and monitor: a row for the monitor that each was made against, and for the others."""
    return Table(
        "joint",
        "Attacks by somebody who knows the network and one monitor, its key too, and wants an error without an alarm: "
        f"what each monitor flags{at(found)}. Those that an attack was not made against are shown what was made for "
        "another.",
        (
            Column("attack"), Column("made against"), Column("shown to"), Column("changed pixels"),
            Column("flagged, of all images", heat=(0.0, 1.0)),
            Column("flagged, of images with 10 % or more changed", heat=(0.0, 1.0)),
        ),
        tuple(
            (
                words(label_of(s)), words(str((s.get("settings") or {}).get("monitor"))), words(label_of(m)),
                share(s.get("changed")), of_all, flagged(found, s, "flagged_changed", m),
            )
            for s in found.sets(JOINT)
            for m in found.compared
            if (of_all := flagged(found, s, "flagged", m)) is not None
        ),
    )  # fmt: skip


def damages(found: Findings) -> Iterator[Table]:
    """What is flagged of the images on which a change did so much damage, whatever the change was."""
    yield damage(
        found, "damage", "against_damage", "changed pixels",
        "by the share of predicted pixels that the change altered", nominal,
    )  # fmt: skip
    yield damage(
        found, "loss", "against_loss", "mean IoU lost",
        "by what the change took from the image's mean IoU against its labels, in points of 100", points,
    )  # fmt: skip


def damage(found: Findings, name: str, of: str, column: str, told: str, edge: Callable[[float], str]) -> Table:
    compared = {m["name"]: label_of(m) for m in found.compared}
    columns: dict[str, list[Entry]] = {}
    for entry in found.all(of):
        if entry["monitor"] in compared and float(entry["rate"]) == found.rate:
            columns.setdefault(entry["monitor"], entry["bins"])  # the first seed's
    names = [name for name in compared if name in columns]
    bins = columns[names[0]] if names else []
    return Table(
        name,
        f"Share of images flagged{at(found)}, {told}.",
        (Column(column), *(Column(compared[name], heat=(0.0, 1.0)) for name in names)),
        tuple(
            (
                words(f"{edge(b['from'])} to {edge(b['to'])}" if b["from"] >= 0 else f"less than {edge(b['to'])}"),
                *(binned(columns[name][n]) for name in names),
            )
            for n, b in enumerate(bins)
        ),
    )


def points(value: float) -> str:
    return f"{100 * value:g}"


def binned(entry: Entry) -> Rate | None:
    return Rate.of({"hits": entry["flagged"], "images": entry["images"], "interval": entry.get("interval")})


def comparison(found: Findings) -> Iterator[Table]:
    """The paper's Table 3: every metric for every change and monitor, mean and spread over keys; and, where nothing is
    flagged because there is no threshold, how harmless changes rank."""
    of_paper, more = (found.sets(*CHANGES, paper=paper) for paper in (True, False))
    beyond = "; changes beyond the paper's." if of_paper else "."
    for tag, sets, of in (("paper", of_paper, "; the paper's changes."), ("more", more, beyond)):
        for name, title, heat in METRICS:
            papers = dict.fromkeys(detector for s in sets for detector in found.published(s).get(name, {}))
            yield Table(
                f"{name}_{tag}",
                f"{title} of each change against the unchanged images{of}" + (f" {PUBLISHED}" if papers else ""),
                (
                    Column("change"),
                    *(Column(f"{detector}, as published", heat=heat) for detector in papers),
                    *(Column(label_of(m), heat=heat) for m in found.compared),
                ),
                tuple(
                    (
                        words(label_of(s)),
                        *(number(found.published(s).get(name, {}).get(detector)) for detector in papers),
                        *(metric(found, m, s, name) for m in found.compared),
                    )
                    for s in sets
                ),
            )
    if found.rate is None:
        yield Table(
            "auroc_controls",
            "AUROC of each harmless change against the unchanged images; about one half is what should be seen.",
            (Column("harmless change"), *(Column(label_of(m)) for m in found.compared)),
            tuple(
                (words(label_of(s)), *(metric(found, m, s, "auroc") for m in found.compared))
                for s in found.sets("control")
            ),
        )


def metric(found: Findings, monitor: Entry, s: Entry, name: str) -> Spread | None:
    return Spread.of(found.summary(monitor, s["name"]), found.row(monitor, s), name, s["images"])


def pooled(found: Findings) -> Table:
    """All the paper's changes at once, under one threshold: what the paper leaves for later work."""
    return Table(
        "pooled",
        "All the paper's changes at once against the unchanged images, with one threshold for all; a row a key or "
        "draw.",
        (
            Column("monitor"), Column("key or draw"), Column("AUROC", heat=(0.5, 1.0)), Column("AUPR"),
            Column("FPR95", heat=(1.0, 0.0)),
        ),
        tuple(
            (
                words(label_of(m)), whole(row["seed"]), Spread.of(None, row, "auroc", row.get("images")),
                number(row.get("aupr")), number(row.get("fpr95")),
            )
            for m in found.compared
            for row in found.all("pooled")
            if row["monitor"] == m["name"]
        ),
    )  # fmt: skip


def ablations(found: Findings) -> Iterator[Table]:
    """One factor at a time: AUROC on each of the paper's changes."""
    sets = found.sets(*CHANGES, paper=True)
    for family, monitors in found.ablations.items():
        varied = [m for m in (found.varied,) if m is not None and m not in monitors]
        one = all(len(m["seeds"]) == 1 for m in monitors)  # then only the first key of what they differ from compares

        def cell(monitor: Entry, name: str, row: Entry | None, one: bool = one) -> Spread | None:
            return Spread.of(None if one else found.summary(monitor, name), row, "auroc")

        yield Table(
            "ablation_" + "_".join(family.lower().split()),
            f"Ablation of {family}: AUROC on the paper's changes, "
            f"{'under the first key' if one else 'mean and deviation over keys'}; then on all at once."
            + "".join(f" The others differ from {label_of(m)} in what they are named after." for m in varied),
            (
                Column("monitor"),
                *(Column(label_of(s), heat=(0.5, 1.0)) for s in sets),
                Column("all at once", heat=(0.5, 1.0)),
            ),
            tuple(
                (
                    words(label_of(m)),
                    *(cell(m, s["name"], found.row(m, s)) for s in sets),
                    cell(m, "paper", first_pooled(found, m)),
                )
                for m in [*varied, *monitors]
            ),
        )  # fmt: skip


def first_pooled(found: Findings, monitor: Entry) -> Entry | None:
    return next((row for row in found.all("pooled") if row["monitor"] == monitor["name"]), None)


def success(found: Findings) -> Table:
    """The paper's Table 1, left: how far each change moves the prediction."""
    sets = [s for s in found.sets(*CHANGES, paper=True) if s.get("aacc") is not None]
    beside = any(found.published(s) for s in sets)
    return Table(
        "attack_success",
        "How far each change moves the prediction away from that for the unchanged image (the paper's Table 1). AAcc: "
        "share of pixels whose class differs. AIoU: one minus the mean intersection over union."
        + (f" {PUBLISHED}" if beside else ""),
        (
            Column("change"), Column("AAcc"), Column("AIoU"),
            *((Column("AAcc, as published"), Column("AIoU, as published")) if beside else ()), Column("images"),
        ),
        tuple(
            (
                words(label_of(s)), number(s.get("aacc")), number(s.get("aiou")),
                *((number(found.published(s).get("aacc")), number(found.published(s).get("aiou"))) if beside else ()),
                whole(s["images"]),
            )
            for s in sets
        ),
    )  # fmt: skip


def foreign(found: Findings) -> Iterator[Table]:
    """Images from elsewhere: what is flagged, and how well they are told apart without a threshold."""
    sets, monitors = found.sets("ood"), found.compared
    yield Table(
        "foreign_flagged",
        f"Foreign images: the share that is flagged{at(found)}.",
        (Column("images"), *(Column(label_of(m), heat=(0.0, 1.0)) for m in monitors)),
        tuple((words(label_of(s)), *(flagged(found, s, monitor=m) for m in monitors)) for s in sets),
    )
    yield Table(
        "foreign_auroc",
        "Foreign images: AUROC against the unchanged test images.",
        (Column("images"), *(Column(label_of(m), heat=(0.5, 1.0)) for m in monitors)),
        tuple((words(label_of(s)), *(metric(found, m, s, "auroc") for m in monitors)) for s in sets),
    )


def cost(found: Findings) -> Table:
    """The paper's Table 2: parameters, operations and time; the network first."""
    network = found.results.get("network") or {}
    rows: list[tuple[Cell | None, ...]] = []
    if network:
        rows.append(
            (
                words(f"{network.get('name', 'network')} alone"), quantity(network.get("parameters")),
                quantity(network.get("flops")), number(network.get("milliseconds"), 1), number(1.0, 2), number(1, 2),
            )
        )  # fmt: skip
    for m in found.monitors:
        c = m.get("cost")
        if c:
            rows.append(
                (
                    words(label_of(m)), quantity(c.get("parameters")), quantity(c.get("flops")),
                    number(c.get("milliseconds"), 1), number(c.get("overhead"), 2), number(c.get("passes"), 2),
                )
            )  # fmt: skip
    return Table(
        "cost",
        "What one image costs. Parameters (trainable) and operations (a multiply-add counts as two) of a monitor are "
        "those it adds to the network; time is of network and monitor together, for the first clean image, at which "
        "a monitor that looks twice where it doubts may look once. Milliseconds were measured one monitor after the "
        "other, multiples of the network's own time in turns with it: compare these. Passes are the mean over clean "
        "images.",
        tuple(map(Column, ("", "parameters", "operations", "milliseconds", "time, network alone = 1", "passes"))),
        tuple(rows),
    )
