# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval seeds`: how far trainings of one method are apart that differ by their seed.

The interval of one model knows which items it was asked by chance, not how its training fell out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError
from jaxvl.eval.engines.predictions import folders
from jaxvl.eval.reporting import tables
from jaxvl.eval.reporting.compare import paired
from jaxvl.eval.reporting.tables import Table, share
from jaxvl.eval.scoring.score import read_results


def spread(runs: Sequence[Path], mode: str = "lenient", force: bool = False) -> list[dict]:
    """The figures of scored runs, a dict a task that all of them have.

    UserError where data, prompts, rules or the items answered differ, unless `force`.
    """
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise UserError("between runs: expected two or more directories of results, all different")
    found = [{folder.name: folder for folder in folders(run)} for run in runs]
    names = [name for name in found[0] if all(name in of for of in found)]
    if not names:
        each = "; ".join(f"{run} has {', '.join(of)}" for run, of in zip(runs, found, strict=True))
        raise UserError(f"no benchmark is in all of them: {each}")
    return [_task(name, [of[name] for of in found], mode, force) for name in names]


def _task(name: str, runs: Sequence[Path], mode: str, force: bool) -> dict[str, Any]:
    for other in runs[1:]:
        _, rows, _ = paired(name, runs[0], other, mode, force)
        alone = sorted(rows[0].keys() ^ rows[1].keys())
        if alone and not force:
            raise UserError(
                f"{name}: {len(alone)} items have a mark in only one of {runs[0]} and {other}, "
                f"first {alone[0]}. Answer them all, or --force takes each run as it is"
            )
    results = [read_results(run) for run in runs]
    of_runs = [one["modes"][mode]["metrics"] for one in results]
    return {
        "task": name,
        "mode": mode,
        "partial": any(one["partial"] for one in results),
        "runs": [str(run.parent) for run in runs],
        "metrics": {
            metric: _figures([of[metric]["value"] for of in of_runs]) for metric in of_runs[0]
        },
    }


def _figures(values: Sequence[float | None]) -> dict[str, Any]:
    """Values of a metric in runs: their mean and the standard deviation between runs."""
    known = [value for value in values if value is not None]
    return {
        "values": list(values),
        "mean": statistics.fmean(known) if known else None,
        "deviation": statistics.stdev(known) if len(known) > 1 else None,
        "lowest": min(known, default=None),
        "highest": max(known, default=None),
    }


def overview(found: Sequence[dict[str, Any]]) -> Table:
    """A row a figure, in per cent."""
    rows = [
        [("PARTIAL " if one["partial"] else "") + one["task"], metric]
        + [share(of[name]) for name in ("mean", "deviation", "lowest", "highest")]
        + [" ".join(map(share, of["values"]))]
        for one in found
        for metric, of in one["metrics"].items()
    ]
    columns = ["task", "figure", "mean", "deviation", "lowest", "highest", "each run"]
    title = f"{len(found[0]['runs'])} runs, {found[0]['mode']}: what is between them"
    return {"title": title, "columns": columns, "rows": rows}


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, and whose results it is of."""
    runs = ", ".join(found[0]["runs"])
    return tables.markdown(overview(found)) + f"\nIn this order: {runs}.\n"


def to_json(found: Sequence[dict[str, Any]]) -> str:
    """All figures, in full precision."""
    return json.dumps(found, indent=1) + "\n"
