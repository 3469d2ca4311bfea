# SPDX-License-Identifier: Apache-2.0
"""Published tables with ours on top, as `jaxvl eval report --paper` shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxvl.eval.reporting import published
from jaxvl.eval.reporting.published import Published
from jaxvl.eval.reporting.tables import Table, share

ResultsJson = dict[str, Any]
# Of MOSSBench's tables, which protocols ask what they have.
_ASKED: dict[Published, tuple[str, ...]] = {
    published.MOSSBENCH_MODELS: ("paper",),
    published.MOSSBENCH_PEOPLE: ("paper",),
    published.MOSSBENCH_PROMPTS: tuple(published.PROMPTS.values()),
    published.MOSSBENCH_STAGES: ("stages",),
}


def theirs(one: ResultsJson) -> list[Published]:
    """The published tables that have what was asked."""
    every = published.TABLES.get(one["task"], ())
    return [table for table in every if one["protocol"] in _ASKED.get(table, (one["protocol"],))]


def of_task(one: ResultsJson) -> Iterator[Table]:
    """The published tables of one benchmark."""
    for table in theirs(one):
        ours = []
        for row, figures in _rows(table, one["protocol"]).items():
            for name, mode in one["modes"].items():
                values = [share(value_of(mode, figure)) for figure in figures]
                ours.append([f"{_whose([one])}, {name}{row}", *values])
        yield _shown(table, ours)


def over_six(found: Sequence[ResultsJson]) -> Iterator[Table]:
    """The papers' tables over VLAA-Thinking's six benchmarks, where all six are there."""
    by_task = {one["task"]: one for one in found}
    if not by_task.keys() >= {task for task, _ in published.SIX.values()}:
        return
    ours = []
    for mode in ("strict", "lenient"):
        names = [(task, published.figures([column])[0]) for task, column in published.SIX.values()]
        values = [value_of(by_task[task]["modes"][mode], name) for task, name in names]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(values) else None
        whose = _whose([by_task[task] for task, _ in names])
        ours.append([f"{whose}, {mode}", *map(share, [*values, mean])])
    for table in published.WHOLE.values():
        if table[1] == (*published.SIX, "average"):
            yield _shown(table, ours)


def figure_of(mode: ResultsJson, name: str) -> dict[str, Any] | None:
    """The estimate of a named metric, or of the accuracy of a group."""
    if name in mode["metrics"]:
        return mode["metrics"][name]
    for groups in mode["groups"].values():
        if name in groups:
            return groups[name]
    return None


def value_of(mode: ResultsJson, name: str) -> float | None:
    """The same without its interval."""
    found = figure_of(mode, name)
    return found["value"] if found else None


def _rows(table: Published, protocol: str) -> dict[str, list[str]]:
    """Our figures for the columns, by what of the table they are held against."""
    columns = table[1]
    if table == published.MOSSBENCH_STAGES:
        kinds = columns[:-1]
        return {
            f", {label}": [*(f"{figure}, {kind}" for kind in kinds), figure]
            for label, figure in published.STAGES.items()
        }
    which = {of: f", {label}" for label, of in published.PROMPTS.items()}
    row = which[protocol] if table == published.MOSSBENCH_PROMPTS else ""
    return {row: published.figures(columns)}


def _whose(of: Sequence[ResultsJson]) -> str:
    """What a row of ours begins with: it stands far from the heading that says PARTIAL."""
    return "PARTIAL ours" if any(one["partial"] for one in of) else "ours"


def _shown(table: Published, ours: Sequence[list[str]]) -> Table:
    title, columns, rows = table
    return {
        "title": f"Published, not ours: {title}",
        "columns": ["model", *columns],
        "rows": [*ours, *map(list, rows)],
    }
