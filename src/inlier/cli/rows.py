"""Rows on their way out, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["csv_text"]


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """A line each; nothing is an empty cell.

    Args:
        columns: by default those of the first row.

    >>> csv_text([{"name": "a.png", "steps": None}])
    'name,steps\\na.png,\\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
