# SPDX-License-Identifier: Apache-2.0
"""Figures of curves: lines of runs over steps, with what the paper has at the same heights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from jaxvl.eval.papers.given import PaperInput, Series

# In the order in which they are looked for. The first is VisualThinker's own scorer's; the others
# stand in where no benchmark was asked, and the title says which it is.
ACCURACY = (
    "eval/cv_bench/accuracy_official",
    "eval/*/accuracy_lenient",
    "eval_accuracy/greedy",
    "eval_*/greedy",
    "audit/accuracy",
)
LENGTH = ("completions/mean_length",)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A row of the paper as a line, or as one for each of `names` that is given."""

    label: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart of the first of `metrics` that all of the paper's rows have (one of a row's runs is
    enough), else that one of them has; with `each` a chart a run, with a line for every metric that
    matches. Per cent where `share`. `levels` are the paper's, and are drawn beside the first metric
    alone."""

    title: str
    metrics: tuple[str, ...]
    each: bool = False
    share: bool = False
    levels: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
    """`published` says what the paper shows. Runs that are no row of the paper are drawn too where
    `others` is set."""

    title: str
    published: str
    lines: tuple[Arm, ...]
    panels: tuple[Panel, ...]
    others: bool = False


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A run as a line. What a run of one of the paper's rows, `arm`, lacks is told."""

    label: str
    run: PaperInput
    arm: str = ""


def draw(figure: Figure, given: Mapping[str, PaperInput], known: Sequence[str]) -> dict[str, Any]:
    """A section of the page: charts, and by name what is missing for the others."""
    missing, lines = [], []
    for line in figure.lines:
        runs = [given[name] for name in line.names if name in given and given[name].run]
        for run in runs:
            label = line.label if len(runs) == 1 else f"{line.label}: {run.name}"
            lines.append(_Drawn(label, run, line.label))
        if not runs:
            missing.append(f"{line.label}: {why_no_run(line.names, given)}")
    if figure.others:
        others = [(name, one) for name, one in given.items() if name not in known and one.run]
        lines += [_Drawn(name, one) for name, one in others]
    charts = []
    for panel in figure.panels:
        names = _metrics(panel, lines)
        wanted = "rollouts" if "words/" in panel.metrics[0] else ", ".join(panel.metrics)
        missing += [
            f"{panel.title}: {one.run.run} has no {wanted}"
            for one in lines
            if one.arm and not set(names) & set(one.run.columns)
        ]
        lines_of = [[one] for one in lines] if panel.each else [lines]
        charts += [chart for each in lines_of if (chart := _chart(panel, names, each))]
    return {
        "title": figure.title,
        "text": figure.published,
        "charts": charts,
        "missing": list(dict.fromkeys(missing)),
    }


def why_no_run(names: Sequence[str], given: Mapping[str, PaperInput]) -> str:
    """Why there is no run under any of a row's names."""
    there = next((name for name in names if name in given), "")
    if there:
        return f"{there} is given without a run, which curves and rollouts are of"
    return f"not run ({recipe(names[0])})"


def recipe(name: str) -> str:
    """Where what has this name comes from: a recipe, or the evaluation of a checkpoint."""
    if not name.startswith(("visualthinker", "vlaa")):
        return f"evaluate the checkpoint with jaxvl eval run .. --out DIR, and give {name}=DIR"
    folder = (
        "configs" if name.removesuffix("_sft") in ("visualthinker", "vlaa") else "configs/papers"
    )
    return f"{folder}/{name}.py"


def _chart(panel: Panel, names: Sequence[str], lines: Sequence[_Drawn]) -> dict[str, Any] | None:
    """A line for each run and metric; None where there is none."""
    scale = 100.0 if panel.share else 1.0
    drawn = []
    for line in lines:
        columns = line.run.columns
        for name in (name for name in names if name in columns):
            label = _part(name, panel.metrics) if panel.each else line.label
            drawn.append(_line(label, columns[name], scale))
    if not drawn:
        return None
    if names == [panel.metrics[0]]:
        ends = [step for one in drawn for step in (one["steps"][0], one["steps"][-1])]
        span = sorted({min(ends), max(ends)})
        for label, height in panel.levels:
            name = f"paper: {label}"
            drawn.append({"name": name, "steps": span, "values": [height] * len(span), "paper": 1})
    unit = " (%)" if panel.share else ""
    return {
        "title": f"{panel.title}{unit}: {lines[0].label if panel.each else names[0]}",
        "lines": drawn,
    }


def _line(name: str, series: Series, scale: float) -> dict[str, Any]:
    steps, values = series
    scaled = [float(f"{scale * value:.6g}") for value in values]
    return {"name": name, "steps": list(steps), "values": scaled}


def _metrics(panel: Panel, lines: Sequence[_Drawn]) -> list[str]:
    """Names of the metrics to draw: of the paper's rows where there are any."""
    arms: dict[str, set[str]] = {}
    shown = [line for line in lines if line.arm] or lines
    for line in shown:
        arms.setdefault(line.arm or line.label, set()).update(line.run.columns)
    every = dict.fromkeys(name for line in shown for name in line.run.columns)
    matching = [name for pattern in panel.metrics for name in every if fnmatchcase(name, pattern)]
    if panel.each:
        return matching
    common = [name for name in matching if all(name in of for of in arms.values())]
    return (common or matching)[:1]


def _part(name: str, patterns: Sequence[str]) -> str:
    """What of a metric's name a pattern leaves open: `open` of `mixed/open/reward`."""
    for pattern in patterns:
        head, star, tail = pattern.partition("*")
        if star and fnmatchcase(name, pattern):
            return name[len(head) : len(name) - len(tail)]
    return name.rpartition("/")[2]
