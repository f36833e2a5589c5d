"""The page of an attack on a network alone: how much of its prediction changes, over eps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inlier.report.attack_page import curve, eps_cell, eps_text
from inlier.report.document import Document, Section
from inlier.report.markup import percent
from inlier.report.tables import Column, Rate, Table, number, share, words

__all__ = ["network_page"]

MOST = "changed_0.3"


def network_page(results: Mapping[str, Any]) -> Document:
    """The page of `inlier attack` on a network."""
    settings, rows, norm = results["settings"], results["rows"], results["settings"]["norm"]
    several = [row | {"attack": settings["attack"]} for row in rows if row["eps"] is not None]
    radii = [row["eps"] for row in several]
    table = Table(
        "by_eps",
        "What became of the prediction, and how large the changes are, as the file holds them: means over images, and "
        "the largest of any.",
        (
            Column("eps"), Column("mean share changed"), Column("30 % changed", bar=1.0), Column("50 % changed"),
            Column("L0"), Column("L1"), Column("L2"), Column("Linf"), Column("largest Linf"),
        ),
        tuple(
            (
                words("its own") if row["eps"] is None else eps_cell(row["eps"], norm), share(row["damage"]),
                Rate.of(row[MOST]), Rate.of(row["changed_0.5"]), number(row["norms"]["L0"], 0),
                number(row["norms"]["L1"], 1), number(row["norms"]["L2"], 2), number(row["norms"]["Linf"], 4),
                number(row["largest"], 4),
            )
            for row in rows
        ),
    )  # fmt: skip
    tables = [table]
    if rows[0].get("beside"):
        tables.append(collision_table(rows, norm))
    plots = []
    if len(radii) > 1:
        title = "images with 30 % changed, percent"
        plots = [curve("changed", several, [settings["attack"]], MOST, radii, norm, title)]
    last, collides = rows[-1], bool(rows[-1].get("beside"))
    names = ("steps", "restarts", "target", "low_resolution", "patch", "taps")
    chosen = {name: settings[name] for name in names if settings.get(name) not in (None, 1)}
    return Document(
        title=results["title"],
        lead="Images were changed on purpose so that "
        + ("the network has the features of other images for them." if collides else "the network errs on them.")
        + " No monitor was asked.",
        verdict=verdict_of(last, norm),
        facts=[
            ("Attack", settings["attack"]), ("Images", f"{last['images']}"),
            ("Norm", "Linf" if norm == "linf" else "L2, over all values of an image"),
            *((name.replace("_", " ").capitalize(), f"{value}") for name, value in chosen.items()),
        ],
        sections=[Section("damage", "What became of the prediction", plots=plots, tables=tables)],
        limits=[
            "These are changes from the network's own prediction on the clean image, whether that was right or wrong.",
            "One attack with these steps: a stronger one changes more.",
        ],
        results=results,
    )  # fmt: skip


def verdict_of(row: Mapping[str, Any], norm: str) -> str:
    """What came out at the largest eps."""
    at = "" if row["eps"] is None else f" at eps {eps_text(row['eps'], norm)}"
    if row.get("beside"):
        told = row["beside"]
        return (
            f"Features came from a MAPE of {told['mape_before']:.4f} to {told['mape']:.4f}{at} (0 is a collision); "
            f"{percent(told['same'])} of the prediction is that of the images collided with, "
            f"{percent(told['same_before'])} was before (medians)."
        )
    return (
        f"{percent(row['damage'])} of the prediction changed on average{at}, and 30\N{NO-BREAK SPACE}% or more of it "
        f"on {row[MOST]['hits']} of {row[MOST]['images']} images, as 8-bit files hold them."
    )


def collision_table(rows: Sequence[Mapping[str, Any]], norm: str) -> Table:
    """How near features came to those that were wanted."""
    return Table(
        "features",
        "Features against those of the images to collide with: MAPE, the mean difference over the largest of those "
        "wanted (0 is a collision), and the share of the prediction that is theirs. Medians over images.",
        (Column("eps"), Column("MAPE before"), Column("MAPE"), Column("predicted alike before"),
         Column("predicted alike")),
        tuple(
            (eps_cell(row["eps"], norm), number(row["beside"]["mape_before"], 4), number(row["beside"]["mape"], 4),
             share(row["beside"]["same_before"]), share(row["beside"]["same"]))
            for row in rows
        ),
    )  # fmt: skip
