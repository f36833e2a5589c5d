"""Figures put points where the numbers say, describe themselves, and take their colours from the page."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from inlier.report.figures import (
    Axis,
    Line,
    Point,
    axis_over,
    diverging,
    interval_bar,
    line_chart,
    scatter_chart,
    step_chart,
)


def parsed(svg):
    return ElementTree.fromstring(str(svg))


def points_of(line):
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def chart(*lines, **more):
    return parsed(line_chart("a <title>", "told & said", lines, "x", "y", **more))


def test_corners_of_the_axes_are_corners_of_the_frame():
    (line,) = chart(Line("a", [Point(0, 0), Point(0.5, 0.5), Point(1, 1)])).findall("polyline")
    (left, bottom), middle, (right, top) = points_of(line)
    axis = next(e for e in chart().findall("line") if e.get("class") == "axis")
    assert (float(axis.get("x1")), float(axis.get("y1"))) == (left, bottom)
    assert float(axis.get("x2")) == right
    assert middle == pytest.approx(((left + right) / 2, (bottom + top) / 2))
    assert top < bottom


def test_points_beyond_the_axes_stay_in_the_frame():
    (line,) = chart(Line("a", [Point(-3, -3), Point(7, 7)])).findall("polyline")
    (inside,) = chart(Line("a", [Point(0, 0), Point(1, 1)])).findall("polyline")
    assert points_of(line) == points_of(inside)


def test_the_first_line_is_drawn_on_top_and_each_has_a_style_of_its_own():
    lines = [Line(name, [Point(0, 0), Point(1, 1)], style) for style, name in enumerate("abc")]
    assert [e.get("class") for e in chart(*lines).findall("polyline")] == ["s2", "s1", "s0"]


def test_a_dot_stands_on_its_interval():
    drawn = chart(Line("a", [Point(0.5, 0.4, 0.2, 0.7)], dots=True))
    (dot,) = drawn.findall("circle")
    (bar,) = [e for e in drawn.findall("line") if e.get("class") == "s0 spread"]
    assert float(bar.get("y2")) < float(dot.get("cy")) < float(bar.get("y1"))
    assert bar.get("x1") == dot.get("cx")


def test_a_figure_is_described_and_no_text_of_it_is_markup():
    drawn = chart(asked=0.05)
    assert drawn.find("title").text == "a <title>"
    assert drawn.find("desc").text == "told & said"
    assert drawn.get("role") == "img"
    assert [e for e in drawn.findall("line") if e.get("class") == "asked"]


def test_no_figure_has_a_colour_of_its_own():
    svg = str(line_chart("t", "d", [Line("a", [Point(0, 0)], dots=True)], "x", "y")) + str(
        step_chart("t", "d", [0, 1, 2], [1, 2], [2, 1], "x") + interval_bar(0.1, 0, 0.2, 1, 0.05)
    )
    assert not re.search(r"#[0-9a-f]{3,6}|rgb|fill=|stroke=|style=", svg)


def test_histograms_are_as_high_as_their_own_highest_bin_and_close_at_the_bottom():
    behind, before = parsed(step_chart("t", "d", [0, 1, 2], [1, 4], [50, 100], "x")).findall("polyline")
    assert points_of(behind)[3:] == points_of(before)[3:]
    assert points_of(behind)[1] != points_of(before)[1]  # a quarter, and a half
    assert points_of(behind)[0][1] == points_of(behind)[-1][1]


def test_a_histogram_of_nothing_is_flat():
    behind, _ = parsed(step_chart("t", "d", [0, 1, 2], [0, 0], [0, 1], "x")).findall("polyline")
    assert len({y for _, y in points_of(behind)}) == 1


def test_an_axis_of_ones_own_places_its_ticks():
    drawn = parsed(line_chart("t", "d", [], Axis(0, 4, [(1, "one"), (3, "three")], "n"), "y"))
    places = {e.text: float(e.get("x")) for e in drawn.findall("text")}
    assert places["three"] - places["one"] == pytest.approx((360 - 46 - 10) / 2)


def test_an_interval_bar_is_in_percent_of_its_axis():
    drawn = parsed(interval_bar(0.05, 0.02, 0.1, 0.2, 0.05, others=(0.1, 5.0)))
    assert [c.get("cx") for c in drawn.findall("circle")] == ["50.0%", "100.0%", "25.0%"]
    rail, bar, asked = drawn.findall("line")
    assert (rail.get("x1"), rail.get("x2")) == ("0%", "100%")
    assert (bar.get("x1"), bar.get("x2")) == ("10.0%", "50.0%")
    assert asked.get("x1") == "25.0%"
    assert len(parsed(interval_bar(0.05, 0, 0.1, 1, None)).findall("line")) == 2


def test_below_zero_is_blue_above_is_red_and_zero_is_nearly_white():
    source = diverging([[-2.0, 0.0, 2.0, float("nan")]])
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))), int)[0]
    assert pixels[0, 2] > pixels[0, 0]
    assert pixels[2, 0] > pixels[2, 2]
    assert pixels[1].min() > 240
    assert (pixels[3] == pixels[1]).all()


def test_one_scale_for_several_matrices_makes_weak_ones_pale():
    strong, weak = diverging([[1.0]], most=1.0), diverging([[0.1]], most=1.0)
    assert strong != weak
    assert diverging([[0.1]]) == strong
    assert diverging([[0.0]]) == diverging([[0.0]], most=1.0)


def test_a_band_goes_along_the_lower_ends_and_back_along_the_upper_ones():
    line = Line("a", [Point(0.0, 0.5, 0.25, 0.75), Point(1.0, 0.5, 0.0, 1.0)], band=True)
    drawn = parsed(line_chart("t", "d", [line], "x", "y"))
    corners = points_of(drawn.find("polygon"))
    middle = points_of(drawn.find("polyline"))
    assert [x for x, _ in corners] == [middle[0][0], middle[1][0], middle[1][0], middle[0][0]]
    low, lowest, highest, high = (y for _, y in corners)
    assert highest < high < middle[0][1] < low < lowest  # a page counts downwards
    assert parsed(line_chart("t", "d", [Line("a", line.points)], "x", "y")).find("polygon") is None


def test_equal_features_lie_on_the_diagonal():
    axis = axis_over([-1.0, 3.0], "feature")
    drawn = parsed(scatter_chart("t", "d", [(0, [(2.0, 2.0), (-1.0, 2.0)]), (1, [(0.0, 1.0)])], axis, axis))
    diagonal = [line for line in drawn.findall("line") if line.get("class") == "axis"][-1]
    ends = [float(diagonal.get(name)) for name in ("x1", "y1", "x2", "y2")]
    behind, before = drawn.findall("g")
    assert (behind.get("class"), before.get("class")) == ("dots s1", "dots s0")
    on, off = ([float(dot.get(name)) for name in ("cx", "cy")] for dot in before)
    slope = (ends[3] - ends[1]) / (ends[2] - ends[0])
    assert on[1] == pytest.approx(ends[1] + slope * (on[0] - ends[0]), abs=0.2)
    assert off[1] == pytest.approx(on[1])
    assert off[0] < on[0]


@pytest.mark.parametrize("values", [[0.0, 1.0], [-3.2, 17.0], [5.0, 5.0], [0.0, 0.0], [1e-4, 3e-4], []])
def test_an_axis_over_values_holds_them_all_at_round_ticks(values):
    axis = axis_over(values, "t")
    assert axis.start < axis.end
    assert all(axis.start <= value <= axis.end for value in values)
    places = [place for place, _ in axis.ticks]
    assert places == pytest.approx([places[0] + n * (places[1] - places[0]) for n in range(len(places))])
    assert 2 <= len(axis.ticks) <= 7
