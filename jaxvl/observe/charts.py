# SPDX-License-Identifier: Apache-2.0
"""Bar charts as numbers for an SVG: the drawing itself is the template's."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

WIDTH = 380
TOP, BOTTOM = 8, 24  # margins


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar: its label and text, its middle and height, the lower and the higher of its ends, the
    ends of its interval and the place of a mark beside it (None: it has none)."""

    label: str
    text: str
    y: float
    height: float
    start: float
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
BarRow = tuple[str, float, tuple[float, float] | None, float | None]


def bar_chart(title: str, rows: Sequence[BarRow], top: float = 0.0) -> BarChart | None:
    """Bars of (label, value, interval, mark) rows, from 0 on; the axis has 0 and `top` at least."""
    if not rows:
        return None
    seen = [value for _, value, _, _ in rows]
    seen += [end for _, _, interval, _ in rows for end in interval or ()]
    seen += [mark for *_, mark in rows if mark is not None]
    ticks = _ticks(min(0.0, *seen), max(0.0, top, *seen) or float(min(seen) == 0))
    scale = (WIDTH - LABELS - AFTER) / (ticks[-1] - ticks[0])

    def to_x(value: float) -> float:
        return round(LABELS + (value - ticks[0]) * scale, 1)

    bars = tuple(
        Bar(
            label if len(label) <= 22 else label[:21] + "\u2026",
            f"{label}: {show(value)}"
            + (f" [{show(interval[0])}, {show(interval[1])}]" if interval else ""),
            TOP + BAR * (at + 0.5),
            BAR - 8,
            to_x(min(0.0, value)),
            to_x(max(0.0, value)),
            (to_x(interval[0]), to_x(interval[1])) if interval else None,
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
