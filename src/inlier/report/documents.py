"""Which page tells of the results of each kind of experiment: a function from results to a `Document`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inlier.registry import Entry, Registry
from inlier.report.document import Document

__all__ = ["DOCUMENTS"]

DOCUMENTS: Registry[Callable[[Mapping[str, Any]], Document]] = Registry(
    "document",
    {
        "attack": Entry("inlier.report.attack_page:attack_document", "what chosen attackers made of a monitor"),
        "network": Entry("inlier.report.network_page:network_page", "what an attack made of a network alone"),
        "stress": Entry("inlier.report.stress_page:stress_document", "a suite of attackers on a monitor, and gates"),
        "collisions": Entry("inlier.report.collisions_page:collisions_page", "collisions and who notices"),
        "curves": Entry("inlier.report.curves_page:curves_page", "robustness curves"),
        "hardening": Entry("inlier.report.hardening_page:hardening_page", "what hardening a network costs and brings"),
        "keys": Entry("inlier.report.keys_page:keys_page", "what a secret sampling key is worth"),
        "patches": Entry("inlier.report.patches_page:patches_page", "harm and alarms over the distance from a patch"),
    },
)
