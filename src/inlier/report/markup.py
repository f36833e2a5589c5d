"""How values become text on a page: the templates' environment, and shares, numbers and settings written for people."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

__all__ = [
    "PLACEHOLDER",
    "SPACE",
    "breakable",
    "count",
    "decimals",
    "environment",
    "fine_percent",
    "nominal",
    "percent",
    "settings_text",
]

PLACEHOLDER = "\N{EN DASH}"
"""Stands where there is no value."""
SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its sign."""
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def environment() -> Environment:
    """The environment of all templates: everything is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("inlier.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"percent": percent, "fine_percent": fine_percent, "nominal": nominal, "settings": settings_text,
                     "count": count, "breakable": breakable}  # fmt: skip
    return made


def percent(share: float) -> str:
    """A share for people: no decimals, and never 0 % or 100 % where it is not."""
    if 0 < share < 0.005:
        return f"<1{SPACE}%"
    if 0.995 <= share < 1:
        return f">99{SPACE}%"
    return f"{100 * share:.0f}{SPACE}%"


def fine_percent(share: float) -> str:
    """A share with one decimal below 10 %, where false-alarm rates are; never 0 % or 100 % where it is not."""
    if 0 < share < 0.0005:
        return f"<0.1{SPACE}%"
    return f"{100 * share:.1f}{SPACE}%" if 0 < share < 0.0995 else percent(share)


def nominal(rate: float) -> str:
    """A rate that was asked for, as it was asked for."""
    return f"{100 * rate:g}{SPACE}%"


def decimals(value: float, digits: int = 3) -> str:
    """A number with so many decimals; one that is not finite is told apart."""
    return f"{value:.{digits}f}" if math.isfinite(value) else PLACEHOLDER


def count(value: float) -> str:
    """A count of parameters or operations in three digits and a prefix: 257 k, 1.03 G."""
    for unit, prefix in PREFIXES:
        if abs(value) >= unit:
            return f"{value / unit:.3g}{SPACE}{prefix}"
    return f"{value:.3g}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in a line: `eps 0.01, steps 5`; without those that are None."""
    told = {name.replace("_", " "): value for name, value in settings.items() if value is not None}
    return ", ".join(f"{name} {_short(value)}" for name, value in told.items())


def breakable(text: str) -> Markup:
    """Text whose paths and names may go on in the next line after a slash or an underscore."""
    return Markup(re.sub(r"([/_])(?=[A-Za-z{])", r"\1<wbr>", str(escape(text))))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
