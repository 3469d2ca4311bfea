# SPDX-License-Identifier: Apache-2.0
"""A chart in a notebook that grows while a run goes on."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.errors import UserError

SECONDS = 1.0  # between two drawings


class LiveChart:
    """A callback of `jaxvl.train` that draws `metrics` over the steps, one beside the other, in the
    cell that called it. Those that a run does not have are left out."""

    def __init__(self, metrics: Sequence[str] = ("reward", "completions/mean_length", "loss")):
        if not self.possible():
            raise UserError("a live chart needs ipykernel and matplotlib: install jaxvl[notebook]")
        self.metrics = tuple(metrics)
        self.seen: dict[str, list[Any]] = {}
        self._display: Any = None
        self._drawn, self._behind = -SECONDS, False

    @staticmethod
    def possible() -> bool:
        """Whether what it draws with is installed."""
        return all(importlib.util.find_spec(name) for name in ("matplotlib", "IPython"))

    def on_step(self, step: int, metrics: Mapping[str, Any], rollouts: Sequence[Any] = ()) -> None:
        for name in self.metrics:
            if isinstance(metrics.get(name), (int, float)):
                self.seen.setdefault(name, []).append((step, metrics[name]))
                self._behind = True
        if self._behind and time.monotonic() - self._drawn > SECONDS:
            self.draw()

    def on_end(self) -> None:
        if self._behind:  # the last steps took less than what is between two drawings
            self.draw()

    def draw(self) -> None:
        """Put the chart of what is known in the place of the last."""
        from IPython import display

        drawn = display.SVG((drawing(self.seen, "svg") or b"").decode())
        if self._display is None:
            self._display = display.display(drawn, display_id=True)
        else:
            self._display.update(drawn)
        self._drawn, self._behind = time.monotonic(), False


def drawing(series: Mapping[str, Sequence[tuple[int, float]]], form: str) -> bytes | None:
    """Points (step, value) by metric, one chart beside the other, as a file of `form` ("svg" or
    "png"); None where there are none, or matplotlib is not installed."""
    if not series or not importlib.util.find_spec("matplotlib"):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(series), 2.2), layout="constrained")
    axes = figure.subplots(1, len(series), squeeze=False)[0]
    for axis, (name, points) in zip(axes, series.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format=form)
    return file.getvalue()
