# SPDX-License-Identifier: Apache-2.0
"""Line and bar charts as numbers for an SVG: the drawing itself is the template's."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 8, 24  # margins
POINTS = 160  # at most, a line; longer ones are averaged
_SMOOTH_FROM = 40  # points from which a running mean is drawn over the raw line

Values = Sequence[float | None]


@dataclasses.dataclass(frozen=True)
class Line:
    """A series: its name, its SVG path, and that of its running mean ("" where it is short)."""

    name: str
    path: str
    smooth: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """What a template needs: lines, (position, label) ticks, and (x, width, text) hover strips."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    strips: tuple[tuple[float, float, str], ...]


def line_chart(title: str, steps: Sequence[int], series: Mapping[str, Values]) -> Chart | None:
    """A chart of several series over the same steps; None is a gap, no value at all no chart."""
    bins = _bins(len(steps))
    xs = [_mean(steps[part]) for part in bins]
    ys = {name: [_mean(values[part]) for part in bins] for name, values in series.items()}
    known = [y for values in ys.values() for y in values if y is not None]
    if not known:
        return None
    y_ticks = _ticks(min(known), max(known))
    low, high = min(y_ticks[0], *known), max(y_ticks[-1], *known)
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def to_x(step: float) -> float:
        return round(LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def to_y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def path(values: Values) -> str:
        points = zip(xs, values, strict=True)
        return _path([(to_x(x), None if y is None else to_y(y)) for x, y in points])

    lines = [
        Line(name, path(values), path(_running(values)) if len(values) >= _SMOOTH_FROM else "")
        for name, values in ys.items()
    ]
    width = (WIDTH - LEFT - RIGHT) / len(xs)
    strips = [
        (round(max(to_x(x) - width / 2, LEFT), 1), round(width, 2), _hover(steps[part], index, ys))
        for index, (x, part) in enumerate(zip(xs, bins, strict=True))
    ]
    x_ticks = [tick for tick in _ticks(first, last) if first <= tick <= last and tick % 1 == 0]
    return Chart(
        title,
        tuple(lines),
        tuple((to_x(tick), show(tick)) for tick in x_ticks),
        tuple((to_y(tick), show(tick)) for tick in y_ticks),
        tuple(strips),
    )


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar: its label and text, its middle and height, its end, the ends of its interval and the
    place of a mark beside it (None: it has none)."""

    label: str
    text: str
    y: float
    height: float
    end: float
    interval: tuple[float, float] | None
    mark: float | None


@dataclasses.dataclass(frozen=True)
class BarChart:
    """Bars from left to right, one below the other, and (position, label) ticks."""

    title: str
    bars: tuple[Bar, ...]
    height: float
    left: float
    x_ticks: tuple[tuple[float, str], ...]


BAR, LABELS, AFTER = 22, 150, 20  # pixels of a row, of the labels, behind the last tick
Row = tuple[str, float, tuple[float, float] | None, float | None]


def bar_chart(title: str, rows: Sequence[Row], top: float = 0.0) -> BarChart | None:
    """Bars of (label, value, interval, mark) rows; the axis goes to `top` at least."""
    if not rows:
        return None
    highest = max(max(value, interval[1] if interval else value) for _, value, interval, _ in rows)
    ticks = _ticks(0.0, max(highest, top) or 1.0)

    def to_x(value: float) -> float:
        return round(LABELS + value / ticks[-1] * (WIDTH - LABELS - AFTER), 1)

    bars = tuple(
        Bar(
            label if len(label) <= 22 else label[:21] + "\u2026",
            f"{label}: {show(value)}"
            + (f" [{show(interval[0])}, {show(interval[1])}]" if interval else ""),
            TOP + BAR * (at + 0.5),
            BAR - 8,
            to_x(value),
            (to_x(max(0.0, interval[0])), to_x(interval[1])) if interval else None,
            None if mark is None else to_x(mark),
        )
        for at, (label, value, interval, mark) in enumerate(rows)
    )
    height = TOP + BAR * len(rows) + BOTTOM
    return BarChart(title, bars, height, LABELS, tuple((to_x(tick), show(tick)) for tick in ticks))


def show(value: float | None) -> str:
    """A number for people: three digits, thousands with commas; "-" for None."""
    if value is None:
        return "-"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.3g}").replace("e+", "e")


def _bins(count: int) -> list[slice]:
    """Slices of equal size, but for rounding: one a point up to POINTS of them."""
    parts = min(count, POINTS)
    edges = [count * index // parts for index in range(parts + 1)] if parts else [0]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _running(values: Values, reach: int = 5) -> list[float | None]:
    """The mean of each point and its neighbours up to `reach` away; gaps stay."""
    return [
        None if value is None else _mean(values[max(0, index - reach) : index + reach + 1])
        for index, value in enumerate(values)
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from at most `low` to at least `high`."""
    if high == low:
        low, high = (
            (low - 0.5, high + 0.5) if low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
        )
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(start, stop + 1)]


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """An SVG path through the points, lifted at gaps; a point alone is drawn as a dot."""
    parts, pen = [], "M"
    for index, (x, y) in enumerate(points):
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x} {y}")
        alone = pen == "M" and (index + 1 == len(points) or points[index + 1][1] is None)
        parts.append("h0.1" if alone else "")
        pen = "L"
    return "".join(parts)


def _hover(steps: Sequence[int], index: int, ys: Mapping[str, Values]) -> str:
    which = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return "\n".join([which, *(f"{name}: {show(values[index])}" for name, values in ys.items())])
