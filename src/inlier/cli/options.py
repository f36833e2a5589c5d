"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from inlier.calibration import Rule
    from inlier.cross_fitting import Blocks
    from inlier.monitor import Fusion

__all__ = [
    "BatchSizeOption", "BlocksOption", "ConfidenceOption", "FoldsOption", "JsonOption", "MonitorArgument", "RateOption",
    "RuleOption", "blocks_from", "fusion_from", "rule_from",
]  # fmt: skip

BatchSizeOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Images a forward pass.")]
MonitorArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="MONITOR", help="A monitor file from inlier fit.")]
RateOption: TypeAlias = Annotated[
    float, typer.Option("--false-alarm-rate", help="Share of clean images that may be flagged.")
]
RuleOption: TypeAlias = Annotated[
    str, typer.Option("--rule", help="order_statistic, high_probability or robust; see the docs on calibration.")
]
ConfidenceOption: TypeAlias = Annotated[float, typer.Option(help="Of the rule high_probability.")]
BlocksOption: TypeAlias = Annotated[
    str, typer.Option(help="What stays together in cross-fitting: auto, group, or so many neighbouring images.")
]
FoldsOption: TypeAlias = Annotated[int, typer.Option(min=2, help="How many times to cross-fit.")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def blocks_from(text: str) -> Blocks:
    """`auto`, `group` or a number."""
    if text == "auto":
        return "auto"
    if text == "group":
        return "group"
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise ValueError(f"--blocks is auto, group or a number of images, not {text!r}")


def rule_from(text: str) -> Rule:
    """A rule's name as its type; `Calibration` refuses unknown ones."""
    return text  # type: ignore[return-value]


def fusion_from(text: str) -> Fusion:
    """A fusion's name as its type; `Monitor` refuses unknown ones."""
    return text  # type: ignore[return-value]
