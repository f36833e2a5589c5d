"""The file of an evaluation's results: strict JSON, which reports, sign-off sheets and tables are written from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlier.files import write_bytes

__all__ = ["FORMAT", "RESULTS", "shortened", "write_results"]

FORMAT = 1
"""The format of results that this version writes and reads."""
RESULTS = "results.json"
DIGITS = 6
"""Significant ones of every number; there are too few images for more to mean anything."""


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json, a line for each entry of its lists, whole or not at all.

    Raises:
        ValueError: a number is nan or infinite, which strict JSON has no word for.
    """
    lines = []
    for name, value in results.items():
        if isinstance(value, list) and value:
            told = "[\n" + ",\n".join(json.dumps(entry, allow_nan=False) for entry in value) + "\n]"
        else:
            told = json.dumps(value, allow_nan=False)
        lines.append(f"{json.dumps(name)}: {told}")
    write_bytes(folder / RESULTS, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def shortened(value: Any) -> Any:
    """The value with `DIGITS` significant digits in every real number."""
    if isinstance(value, Mapping):
        return {str(name): shortened(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
