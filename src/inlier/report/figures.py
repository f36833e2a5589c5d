"""Figures as inline SVG that takes its colours from the page: light, readable without scripts, described in words.

A figure is drawn on a canvas as wide as a narrow screen and so is legible there at its own size; wider screens put
several side by side. Line styles differ in dash as well as in colour.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from PIL import Image

__all__ = [
    "STYLES", "Axis", "Line", "Point", "axis_over", "diverging", "interval_bar", "line_chart", "scatter_chart",
    "step_chart",
]  # fmt: skip

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 42
LONG = 100
"""From here on numbers at ticks have no decimals."""
CROWDED = 6
"""More ticks than these are written smaller."""
STYLES = 6
"""How many line styles the page's style sheet has; further lines begin anew."""
# A difference as a colour, from below to above zero: position, red, green, blue.
BELOW_AND_ABOVE = (
    (-1.0, 33, 102, 172), (-0.4, 103, 169, 207), (0.0, 247, 247, 247), (0.4, 239, 138, 98), (1.0, 178, 24, 43),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A point of a line, and its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Points that belong together.

    Args:
        label: what the line is.
        points: in the order in which they are joined.
        style: number of its line style, from 0; the same thing has the same one in all figures of a page.
        dots: whether each point is also drawn as a dot.
        band: whether the points' intervals are shaded.
    """

    label: str
    points: Sequence[Point]
    style: int = 0
    dots: bool = False
    band: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear axis from one value to another."""

    start: float
    end: float
    ticks: Sequence[tuple[float, str]]
    title: str

    def share(self, value: float) -> float:
        return (min(max(value, self.start), self.end) - self.start) / (self.end - self.start)


def shares(title: str) -> Axis:
    """An axis from 0 to 1 in percent."""
    return Axis(0.0, 1.0, [(n / 4, f"{25 * n}") for n in range(5)], title)


def line_chart(
    title: str, description: str, lines: Sequence[Line], x: Axis | str, y: Axis | str, asked: float | None = None
) -> Markup:
    """Lines over two axes; an axis given as a title goes from 0 to 100 %.

    Args:
        title, description: read out instead of the figure.
        lines: at most a handful.
        x, y: axes.
        asked: a nominal rate, drawn as a vertical line.
    """
    across, up = (shares(axis) if isinstance(axis, str) else axis for axis in (x, y))
    parts = list(_frame(across, up))
    if asked is not None:
        at = _x(across, asked)
        parts.append(f'<line class="asked" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for line in reversed(lines):  # the first one on top
        style = f"s{line.style % STYLES}"
        if line.band:
            ends = [(p.x, p.low) for p in line.points] + [(p.x, p.high) for p in reversed(line.points)]
            places = " ".join(f"{_x(across, a):.1f},{_y(up, b):.1f}" for a, b in ends if b is not None)
            parts.append(f'<polygon class="{style} band" points="{places}"/>')
        places = " ".join(f"{_x(across, p.x):.1f},{_y(up, p.y):.1f}" for p in line.points)
        parts.append(f'<polyline class="{style}" points="{places}"/>')
        for p in line.points if line.dots else ():
            at = _x(across, p.x)
            if p.low is not None and p.high is not None:
                parts.append(
                    f'<line class="{style} spread" x1="{at:.1f}" x2="{at:.1f}" '
                    f'y1="{_y(up, p.low):.1f}" y2="{_y(up, p.high):.1f}"/>'
                )
            parts.append(f'<circle class="{style}" cx="{at:.1f}" cy="{_y(up, p.y):.1f}" r="3.5"/>')
    return _svg(title, description, parts)


def step_chart(
    title: str, description: str, edges: Sequence[float], behind: Sequence[float], before: Sequence[float], x: str
) -> Markup:
    """Two histograms over the same bins, each as high as its own highest bin: one filled behind, one as a line.

    Args:
        title, description: read out instead of the figure.
        edges: of the bins, one more than bins.
        behind, before: counts.
        x: the title of the axis.
    """
    start, end = edges[0], edges[-1]
    across = Axis(start, end, [(v, _tick(v)) for v in (start, (start + end) / 2, end)], x)
    up = Axis(0.0, 1.05, [], "images")
    parts = list(_frame(across, up))
    for style, counts in (("behind", behind), ("s0", before)):
        most = max(counts, default=0) or 1
        corners = [(edges[0], 0.0)]
        for left, right, number in zip(edges, edges[1:], counts, strict=False):
            corners += [(left, number / most), (right, number / most)]
        corners.append((end, 0.0))
        places = " ".join(f"{_x(across, a):.1f},{_y(up, b):.1f}" for a, b in corners)
        parts.append(f'<polyline class="{style}" points="{places}"/>')
    return _svg(title, description, parts)


def scatter_chart(
    title: str, description: str, groups: Sequence[tuple[int, Sequence[tuple[float, float]]]], x: Axis, y: Axis
) -> Markup:
    """Small dots over two axes of one range, with the diagonal on which both are equal.

    Args:
        title, description: read out instead of the figure.
        groups: the number of a style, and dots (x, y); the first group on top.
        x, y: axes.
    """
    parts = list(_frame(x, y))
    ends = [(_x(x, at), _y(y, at)) for at in (max(x.start, y.start), min(x.end, y.end))]
    parts.append('<line class="axis" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends[0], *ends[1]))
    for style, dots in reversed(groups):
        drawn = "".join(f'<circle cx="{_x(x, a):.1f}" cy="{_y(y, b):.1f}" r="1.8"/>' for a, b in dots)
        parts.append(f'<g class="dots s{style % STYLES}">{drawn}</g>')
    return _svg(title, description, parts)


def axis_over(values: Sequence[float], title: str) -> Axis:
    """An axis that holds all values, with about four ticks at round numbers.

    >>> axis_over([0.3, 7.9], "x").ticks
    [(0.0, '0'), (2.0, '2'), (4.0, '4'), (6.0, '6'), (8.0, '8')]
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999))
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    ticks = [round(step * n, 10) for n in range(first, max(last, first + 1) + 1)]
    return Axis(ticks[0], ticks[-1], [(tick, _tick(tick)) for tick in ticks], title)


def interval_bar(
    rate: float, low: float, high: float, most: float, asked: float | None, others: Sequence[float] = ()
) -> Markup:
    """A rate as a dot on its interval, on an axis from 0 to `most`; rates of other keys as small dots."""

    def at(value: float) -> str:
        return f"{100 * min(value / most, 1):.1f}%"

    parts = [
        '<line class="rail" x1="0%" x2="100%" y1="9" y2="9"/>',
        f'<line x1="{at(low)}" x2="{at(high)}" y1="9" y2="9"/>',
    ]
    if asked is not None:
        parts.append(f'<line class="asked" x1="{at(asked)}" x2="{at(asked)}" y1="1" y2="17"/>')
    parts += [f'<circle class="other" cx="{at(value)}" cy="9" r="2.5"/>' for value in others]
    parts.append(f'<circle cx="{at(rate)}" cy="9" r="4.5"/>')
    return Markup(f'<svg class="interval" height="18" aria-hidden="true">{"".join(parts)}</svg>')


def diverging(matrix: Sequence[Sequence[float]], most: float | None = None) -> str:
    """A matrix as a picture in a data URL: white at 0, blue below, red above.

    Args:
        matrix: rows of numbers.
        most: the absolute value with the fullest colour; by default the largest of the matrix.
    """
    values = np.nan_to_num(np.asarray(matrix, np.float64))
    values = (values / (most or np.abs(values).max() or 1.0)).clip(-1, 1)
    positions, *channels = zip(*BELOW_AND_ABOVE, strict=True)
    pixels = np.stack([np.interp(values, positions, channel) for channel in channels], -1).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= LONG else f"{value:.3g}"


def _svg(title: str, description: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def _frame(across: Axis, up: Axis) -> Iterator[str]:
    """Grid, ticks and titles."""
    bottom = HEIGHT - BOTTOM
    for value, text in up.ticks:
        at = _y(up, value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    tight = ' class="tight"' if len(across.ticks) > CROWDED else ""
    for value, text in across.ticks:
        at = _x(across, value)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        anchor = "end" if at + 4 * len(text) > WIDTH else "middle"
        yield f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="{anchor}"{tight}>{escape(text)}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    middle = (TOP + bottom) / 2
    yield (
        f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(across.title)}</text>"
    )
    yield (
        f'<text class="name" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(up.title)}</text>"
    )


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)
