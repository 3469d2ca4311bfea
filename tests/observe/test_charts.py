# SPDX-License-Identifier: Apache-2.0
"""Charts keep every point inside the frame, gaps as gaps, and long runs small."""

import re

import pytest

from jaxvl.observe import charts
from jaxvl.observe.charts import BOTTOM, HEIGHT, LEFT, POINTS, RIGHT, TOP, WIDTH, line_chart, show


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


@pytest.mark.parametrize(
    "values",
    [[3.0], [0.0, 0.0], [-5, 5, 0], [1e-9, 2e-9], [1e12, -1e12], [2.0] * 500, [*range(1000)]],
    ids=range(7),
)
def test_points_and_ticks_lie_inside_the_frame(values):
    chart = line_chart("t", list(range(1, len(values) + 1)), {"a": values})
    drawn = points(chart.lines[0].path) + points(chart.lines[0].smooth)
    assert len(points(chart.lines[0].path)) == min(len(values), POINTS) == len(chart.strips)
    for x, y in drawn:
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
    assert all(TOP <= y <= HEIGHT - BOTTOM for y, _ in chart.y_ticks)
    assert 2 <= len(chart.y_ticks) <= 7
    assert len({label for _, label in chart.y_ticks}) == len(chart.y_ticks)


def test_larger_values_are_higher_and_hover_texts_name_all_series():
    chart = line_chart("t", [5, 6], {"a": [0.0, 1.0], "b": [1.0, None]})
    (x0, y0), (x1, y1) = points(chart.lines[0].path)
    assert x0 < x1 and y0 > y1
    assert chart.strips[1][2] == "step 6\na: 1\nb: -"


def test_gaps_lift_the_pen_and_lone_points_are_dots():
    path = line_chart("t", [1, 2, 3, 4], {"a": [1.0, None, 2.0, 3.0]}).lines[0].path
    assert path.count("M") == 2 and path.count("h0.1") == 1 and path.count("L") == 1


def test_nothing_to_draw_is_no_chart():
    assert line_chart("t", [], {"a": []}) is None
    assert line_chart("t", [1], {"a": [None]}) is None
    assert line_chart("t", [1], {}) is None


def test_numbers_are_short():
    numbers = [None, 0, 1, 0.5, 12345.6, 1e-6, 0.00123, -2.5e9, 100.0]
    expected = ["-", "0", "1", "0.5", "12,346", "1e-6", "0.00123", "-2.5e9", "100"]
    assert [show(number) for number in numbers] == expected


def test_bars_lie_on_the_axis_with_their_intervals_and_marks():
    rows = [("a", 0.5, (0.25, 0.75), 0.1), ("a label that is much too long", 1.0, None, None)]
    chart = charts.bar_chart("shares", rows, top=1.0)
    ticks = {label: x for x, label in chart.x_ticks}
    first, second = chart.bars
    assert ticks["0"] == chart.left and second.end == ticks["1"] and first.end == ticks["0.5"]
    assert first.interval == pytest.approx(
        [chart.left + (first.end - chart.left) * share for share in (0.5, 1.5)], abs=0.1
    )
    assert first.text == "a: 0.5 [0.25, 0.75]" and second.interval is second.mark is None
    assert len(second.label) == 22 and second.text.startswith("a label that is much too long")
    assert second.y - first.y == charts.BAR and chart.height > second.y
    assert charts.bar_chart("nothing", []) is None
    assert charts.bar_chart("zeros", [("a", 0.0, None, None)]).bars[0].end == chart.left
