# SPDX-License-Identifier: Apache-2.0
"""Bars lie on their axis, and numbers are short."""

import pytest

from jaxvl.observe import charts
from jaxvl.observe.charts import show


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
