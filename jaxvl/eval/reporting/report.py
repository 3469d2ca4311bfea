# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval report`: scored benchmarks as tables. All figures come from results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.example import Dropped, summary
from jaxvl.errors import UserError
from jaxvl.eval.engines.predictions import folders
from jaxvl.eval.reporting import beside, tables
from jaxvl.eval.reporting.tables import Table, percent, share
from jaxvl.eval.scoring.score import read_results

ResultsJson = dict[str, Any]
LENGTHS = ("all", "right", "wrong", "thinking", "answer")
CSV = ("task", "protocol", "partial", "mode", "figure", "group", "value", "low", "high", "count")


def load(results: Path, by: str = "") -> list[ResultsJson]:
    """results.json of every benchmark in a directory; `by` keeps that breakdown alone."""
    found = [read_results(folder) for folder in folders(results)]
    if by:
        named = {name for one in found for name in one["modes"]["lenient"]["groups"]}
        if by not in named:
            raise UserError(f"nothing is broken down by {by!r}; expected one of {sorted(named)}")
        for one in found:
            for part in (*one["modes"].values(), *one["judge"].values(), one["length"]):
                part["groups"] = {k: v for k, v in part.get("groups", {}).items() if k == by}
    return found


def to_markdown(found: Sequence[ResultsJson], paper: bool = False) -> str:
    """All tables; the papers' rows too where `paper` is set."""
    parts = ["# Evaluation", "", *notes(found, paper), "", tables.markdown(overview(found))]
    for one in found:
        parts += [f"## {heading(one)}", ""]
        parts += [tables.markdown(table) for table in details(one, paper)]
    if paper:
        parts += [tables.markdown(table) for table in beside.over_six(found)]
    return "\n".join(parts).rstrip() + "\n"


def to_json(found: Sequence[ResultsJson], paper: bool = False) -> str:
    """results.json of all benchmarks in one object."""
    whole: dict[str, Any] = {one["task"]: one for one in found}
    if paper:
        rows = {one["task"]: beside.theirs(one) for one in found}
        whole["published, not ours"] = {name: of for name, of in rows.items() if of}
    return json.dumps(whole, indent=1) + "\n"


def to_csv(found: Sequence[ResultsJson]) -> str:
    """A row a figure: see CSV for the columns. Values are shares, not per cent, and mean numbers
    of tokens."""
    return tables.to_csv(CSV, [row for one in found for row in _figures(one)])


def heading(one: ResultsJson) -> str:
    """The title of a result, which says first if it is of a part of the benchmark."""
    return ("PARTIAL: " if one["partial"] else "") + one["title"]


def notes(found: Sequence[ResultsJson], paper: bool = False) -> list[str]:
    """What has to be said beside the figures; with `paper`, beside the papers' too."""
    said = [
        "Figures are rule-scored, in per cent, with 95% intervals: Wilson's, clusters heeded, for "
        "plain means, those of a cluster bootstrap for other metrics."
    ]
    for one in found:
        if one["partial"]:
            said.append(
                f"PARTIAL: {one['task']} has {one['replies']} of "
                f"{one['replies'] + one['missing']} replies, to {one['answered']} of "
                f"{one['items']} items."
            )
        if unread := [Dropped(**row) for row in one["dropped"] if not row["setting"]]:
            said.append(f"{one['task']}: rows that could not be read: {summary(unread, 0)}.")
        if paper and not beside.theirs(one):
            said.append(
                f"{one['task']}: no published figure is known of what protocol {one['protocol']} "
                "asks, so none stands beside ours."
            )
    return said


def headline(one: ResultsJson, mode: str) -> tuple[str, dict[str, Any]]:
    """The first of a benchmark's metrics: its name and its estimate."""
    return next(iter(one["modes"][mode]["metrics"].items()))


def overview(found: Sequence[ResultsJson], columns: int | None = None) -> Table:
    """A row a benchmark; the first `columns` alone are for a console."""
    names = ["task", "protocol", "n", "figure", "lenient", "strict", "format", "unparsed"]
    names += ["truncated", "unscorable", "time-outs", "chance", "majority", "detectable"]
    rows = []
    for one in found:
        lenient = one["modes"]["lenient"]
        name, value = headline(one, "lenient")
        row = [("PARTIAL " if one["partial"] else "") + one["task"], one["protocol"]]
        row += [_count(one)]
        row += [name, percent(value), percent(headline(one, "strict")[1])]
        row += [share(one["format"]["value"]), share(lenient["unparsed"])]
        row += [share(one["truncated"]["value"]), share(lenient["unscorable"])]
        row += [lenient["timeouts"], share(one["chance"])]
        row += [share((one["majority"] or {}).get("value")), share(one["detectable"])]
        rows.append(row[:columns])
    return {"title": "Benchmarks", "columns": names[:columns], "rows": rows}


def _count(one: ResultsJson) -> str:
    """Items answered, of how many there are with those that could not be read, times samples."""
    unread = sum(not row["setting"] for row in one["dropped"])
    of = f" of {one['items'] + unread}" if unread or one["partial"] else ""
    return f"{one['answered']}{of}" + (f" x {one['samples']}" if one["samples"] > 1 else "")


def details(one: ResultsJson, paper: bool = False) -> Iterator[Table]:
    """The tables of one benchmark."""
    modes, lenient = one["modes"], one["modes"]["lenient"]
    title = f"Protocol {one['protocol']}: {one['protocol_is']}"
    rows = [
        [name, *(percent(mode["metrics"][name]) for mode in modes.values())]
        for name in lenient["metrics"]
    ]
    yield {"title": title, "columns": ["metric", *modes], "rows": rows}
    if paper:
        yield from beside.of_task(one)
    for name, groups in lenient["groups"].items():
        rows = [
            [group, of["count"], *(percent(mode["groups"][name][group]) for mode in modes.values())]
            for group, of in groups.items()
        ]
        yield {"title": f"By {name}", "columns": [name, "replies", *modes], "rows": rows}
    if lenient["sampled"]:
        yield _sampled(lenient["sampled"])
    if one["judge"]:
        rows = [
            [name, of["replies"], of["missing"], percent(of["accuracy"]), percent(of["agreement"])]
            for name, of in one["judge"].items()
        ]
        columns = ["judge", "verdicts", "none", "mean verdict", "agrees with the rules"]
        yield {"title": "Judged, beside the rules", "columns": columns, "rows": rows}
        yield from _by_judge(one["judge"])
    yield from _behaviour(one)


def _by_judge(judges: dict[str, Any]) -> Iterator[Table]:
    """The metrics and the breakdowns by the verdicts of judges, on the replies that each judged."""
    first = next(iter(judges.values()))
    rows = [
        [name, *(percent(of["metrics"][name]) for of in judges.values())]
        for name in first["metrics"]
    ]
    yield {"title": "By judges", "columns": ["metric", *judges], "rows": rows}
    for name in dict.fromkeys(name for of in judges.values() for name in of["groups"]):
        found = [of["groups"].get(name, {}) for of in judges.values()]
        rows = [
            [group, *(percent(of.get(group)) for of in found)]
            for group in dict.fromkeys(group for of in found for group in of)
        ]
        yield {"title": f"By judges, by {name}", "columns": [name, *judges], "rows": rows}


def of_samples(found: Sequence[ResultsJson]) -> Table:
    """What several replies to each item are worth, of the benchmarks that have several."""
    rows = [
        [("PARTIAL " if one["partial"] else "") + one["task"], *row]
        for one in found
        if one["modes"]["lenient"]["sampled"]
        for row in _sampled(one["modes"]["lenient"]["sampled"])["rows"]
    ]
    title = "Several replies to an item, lenient"
    return {"title": title, "columns": ["task", "figure", "value"], "rows": rows}


def _sampled(of: ResultsJson) -> Table:
    rows = [[f"avg@{of['n']}", percent(of["avg"])]]
    rows += [[f"pass@{k}", percent(value)] for k, value in of["pass"].items()]
    rows += [[f"maj@{k}", percent(value)] for k, value in of["majority"].items()]
    title = f"Sampled: {of['n']} replies each, {of['items']} items, lenient"
    return {"title": title, "columns": ["figure", "value"], "rows": rows}


def _behaviour(one: ResultsJson) -> Iterator[Table]:
    if one["letters"]:
        rows = [[letter, of["said"], of["right"]] for letter, of in one["letters"].items()]
        columns = ["letter", "said", "right"]
        yield {"title": "Letters said, and how often right", "columns": columns, "rows": rows}
    if one["length"].get("all"):
        yield from _lengths(one["length"])
    rows = [
        [name, share(of["anywhere"]), share(of["whole"])]
        + [", ".join(f"{word} {share(value)}" for word, value in of["each"].items() if value)]
        for name, of in one["words"].items()
    ]
    rows.append(["replies that end in a loop", share(one["repetitive"]), "", ""])
    columns = ["list", "anywhere", "as a whole word", "each, anywhere"]
    yield {"title": "Words of reflection, share of replies", "columns": columns, "rows": rows}


def _lengths(of: dict[str, Any]) -> Iterator[Table]:
    def rows(named: dict[str, Any]) -> list[list[Any]]:
        return [
            [name, part["count"], *(f"{part[figure]:.0f}" for figure in ("mean", "median", "p95"))]
            + [share(part.get("cut"))]
            for name, part in named.items()
            if part
        ]

    columns = ["number", "mean", "median", "p95", "truncated"]
    whole = {name: of[name] for name in LENGTHS}
    yield {"title": "Length in tokens", "columns": ["replies", *columns], "rows": rows(whole)}
    for name, groups in of["groups"].items():
        title = f"Length in tokens by {name}"
        yield {"title": title, "columns": [name, *columns], "rows": rows(groups)}
    tenths = [[span(part), part["count"], share(part["accuracy"])] for part in of["tenths"]]
    columns = ["tokens", "replies", "lenient"]
    yield {"title": "Accuracy by length", "columns": columns, "rows": tenths}


def span(part: dict[str, Any]) -> str:
    """The lengths in a part of the replies."""
    low, high = part["from"], part["to"]
    return f"{low}" if low == high else f"{low} to {high}"


def _figures(one: ResultsJson) -> Iterator[list[Any]]:
    def row(mode: str, figure: str, group: str, of: Any) -> list[Any]:
        of = of if isinstance(of, dict) else {"value": of, "low": "", "high": "", "count": ""}
        start = [one["task"], one["protocol"], one["partial"], mode, figure, group]
        return start + [of.get(name, "") for name in ("value", "low", "high", "count")]

    for mode, of in one["modes"].items():
        yield row(mode, "accuracy", "", of["accuracy"])
        for name in ("unparsed", "unscorable", "timeouts"):
            yield row(mode, name, "", of[name])
        for name, value in of["metrics"].items():
            yield row(mode, name, "", value)
        for by, groups in of["groups"].items():
            for group, value in groups.items():
                yield row(mode, f"accuracy by {by}", group, value)
        for name in ("pass", "majority"):
            for k, value in of["sampled"].get(name, {}).items():
                yield row(mode, f"{name}@{k}", "", value)
    by_group = one["length"].get("groups", {})
    parts = [("", name, one["length"].get(name)) for name in LENGTHS]
    parts += [(f" by {by}", group, of) for by in by_group for group, of in by_group[by].items()]
    for by, group, of in parts:
        if of:
            yield row("", f"tokens{by}", group, {"value": of["mean"], "count": of["count"]})
    for name in ("format", "truncated", "chance", "majority", "repetitive"):
        if one[name] is not None:
            yield row("", name, "", one[name])
