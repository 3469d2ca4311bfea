# SPDX-License-Identifier: Apache-2.0
"""Tables of the papers with ours beside theirs, and bars of the same figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.eval.papers.curves import recipe
from jaxvl.eval.papers.given import PaperInput
from jaxvl.eval.reporting.beside import figure_of
from jaxvl.eval.reporting.published import Published
from jaxvl.eval.reporting.tables import percent
from jaxvl.observe.charts import BarChart, BarRow, bar_chart

NOT_RUN = "not run"
Value = Mapping[str, Any] | None  # an estimate as results.json has it, None: there is none


@dataclasses.dataclass(frozen=True)
class Cell:
    """A column: a metric or group of a task's results, or the mean of other cells."""

    task: str = ""
    figure: str = ""
    mean_of: tuple[Cell, ...] = ()


@dataclasses.dataclass(frozen=True)
class Unprinted:
    """A row without figures of the paper."""

    label: str
    names: tuple[str, ...]
    asked: str


@dataclasses.dataclass(frozen=True)
class Beside:
    """A published table and, for each of its rows, the names under which ours may be given and, in
    `asked`, the protocol that asks what the row has: a figure by another one says so. `base` names
    each row's model before training where figures are changes in per cent of that. `unprinted` are
    rows that the paper speaks of and does not print. Results that are no row of the paper get rows
    of their own where `others` is set."""

    title: str
    published: Published
    cells: tuple[Cell, ...]
    names: tuple[tuple[str, ...], ...]
    asked: tuple[str, ...]
    base: tuple[str, ...] = ()
    unprinted: tuple[Unprinted, ...] = ()
    others: bool = False
    bars: bool = False


@dataclasses.dataclass
class Entry:
    """A row: the paper's figures as printed (None: it has none), and ours by whose they are."""

    label: str
    paper: tuple[str, ...] | None
    ours: list[tuple[str, list[Value]]]


def section(
    beside: Beside, given: Mapping[str, PaperInput], known: Sequence[str]
) -> dict[str, Any]:
    """A section of the page: the table, bars where there are figures of ours, what is missing."""
    entries, missing = [], []
    for at, row in enumerate(beside.published[2]):
        base = beside.base[at] if beside.base else ""
        ours = []
        for name in beside.names[at]:
            values = values_of(beside.cells, given[name], beside.asked[at]) if name in given else []
            if base and values:
                values = _changes(beside.cells, values, given.get(base), beside.asked[at])
            ours += [(name, values)] if any(values) else []
        if not ours:
            missing.append(f"{row[0]}: {_why(beside.cells, beside.names[at], base, given)}")
        entries.append(Entry(row[0], row[1:], ours))
    for one in beside.unprinted:
        there = [name for name in one.names if name in given]
        found = [(name, values_of(beside.cells, given[name], one.asked)) for name in there]
        ours = [(name, values) for name, values in found if any(values)]
        if not ours:
            missing.append(f"{one.label}: {_why(beside.cells, one.names, '', given)}")
        entries.append(Entry(one.label, None, ours))
    for name, other in given.items() if beside.others else ():
        values = values_of(beside.cells, other, "")
        if name not in known and any(values):
            entries.append(Entry(name, None, [(name, values)]))
    columns = beside.published[1]
    return {
        "title": beside.title,
        "text": beside.published[0].removeprefix("the same, "),
        "tables": [table(columns, entries, bool(beside.base))],
        "bars": bars(columns, entries) if beside.bars else [],
        "missing": missing,
    }


def _why(
    cells: Sequence[Cell], names: Sequence[str], base: str, given: Mapping[str, PaperInput]
) -> str:
    """Why a row has no figure of ours."""
    there = [name for name in names if name in given]
    if not there:
        return f"{NOT_RUN} ({recipe(names[0])})"
    if base and base not in given:
        return f"a change needs the model before SFT too ({recipe(base)})"
    parts = [part for cell in cells for part in (cell, *cell.mean_of)]
    tasks = ", ".join(dict.fromkeys(part.task for part in parts if part.task))
    return f"{there[0]} is given without scored results of {tasks}"


def mode_of(one: Mapping[str, Any]) -> str:
    """How replies are read for a paper's table: by its own scorer where we have it; MOSSBench's as
    a user gets to read them; else leniently, as judge models do."""
    if "official" in one["modes"]:
        return "official"
    return "strict" if one["task"].startswith("mossbench") else "lenient"


def values_of(cells: Sequence[Cell], one: PaperInput, asked: str) -> list[Value]:
    """The figure of each cell in the results that are there, for a row that is asked so ("": for
    one that is none of the paper's)."""
    return [_value(cell, one, asked) for cell in cells]


def _value(cell: Cell, one: PaperInput, asked: str) -> Value:
    if cell.mean_of:
        return _mean(values_of(cell.mean_of, one, asked))
    results = one.of_task(cell.task)
    if not results:
        return None
    return marked(figure_of(results["modes"][mode_of(results)], cell.figure), results, asked)


def marked(value: Value, of: Mapping[str, Any], asked: str) -> Value:
    """A figure with what has to be said of it: that it is of a part of the benchmark, and by which
    protocol where that is not how the row is asked."""
    marks = ["PARTIAL"] if of["partial"] else []
    marks += [f"by {of['protocol']}"] if of["protocol"] != asked else []
    return {**value, "marks": marks} if value else None


def _mean(of: Sequence[Value]) -> Value:
    """None where one is missing; what has to be said of one has to be said of the mean."""
    parts = [value for value in of if value and value["value"] is not None]
    if len(parts) < len(of):
        return None
    return _made_of(sum(value["value"] for value in parts) / len(parts), parts)


def _made_of(value: float, parts: Sequence[Mapping[str, Any]]) -> Value:
    marks = list(dict.fromkeys(mark for part in parts for mark in part["marks"]))
    return {"value": value, "low": None, "high": None, "marks": marks}


def _changes(
    cells: Sequence[Cell], after: Sequence[Value], base: PaperInput | None, asked: str
) -> list[Value]:
    """How much of each figure of the base was lost or won, as a share of it."""
    before = values_of(cells, base, asked) if base else [None] * len(after)
    found: list[Value] = []
    for new, old in zip(after, before, strict=True):
        if new and old and new["value"] is not None and old["value"]:
            found.append(_made_of((new["value"] - old["value"]) / old["value"], [new, old]))
        else:
            found.append(None)
    return found


def table(columns: Sequence[str], entries: Sequence[Entry], change: bool = False) -> dict[str, Any]:
    """Two rows or more an entry: the paper's, and each of ours, or that it was not run. `ours` has
    the places of rows with figures of ours."""
    rows, places = [], []
    for entry in entries:
        if entry.paper is not None:
            rows.append([entry.label, "the paper", *entry.paper])
        for whose, values in entry.ours:
            label = f"ours: {whose}" if whose != entry.label else "ours"
            places.append(len(rows))
            rows.append([entry.label, label, *(shown(value, change) for value in values)])
        if not entry.ours:
            rows.append([entry.label, "ours", *[NOT_RUN] * len(columns)])
    return {"columns": ["row", "whose", *columns], "rows": rows, "ours": places}


def shown(value: Value, change: bool = False) -> str:
    """A figure for people, in per cent, with what has to be said of it."""
    if not value or value["value"] is None:
        return "-"
    text = f"{100 * value['value']:+.1f}" if change else percent(dict(value))
    return " ".join([text, *value["marks"]])


def bars(columns: Sequence[str], entries: Sequence[Entry]) -> list[BarChart]:
    """A chart a column with the figures of ours in per cent; a mark is the paper's."""
    charts = []
    for at, column in enumerate(columns):
        rows: list[BarRow] = []
        for entry in entries:
            for whose, values in entry.ours:
                label = f"{entry.label}: {whose}" if len(entry.ours) > 1 else entry.label
                rows += _bar(label, values[at], entry.paper[at] if entry.paper else "")
        chart = bar_chart(column, rows)
        charts += [chart] if chart else []
    return charts


def _bar(label: str, value: Value, paper: str) -> list[BarRow]:
    if not value or value["value"] is None:
        return []
    known = value["low"] is not None and value["high"] is not None
    interval = (100 * value["low"], 100 * value["high"]) if known else None
    label = " ".join([*value["marks"], label])
    return [(label, 100 * value["value"], interval, float(paper.split()[0]) if paper else None)]
