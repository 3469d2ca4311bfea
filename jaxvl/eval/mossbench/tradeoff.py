# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval tradeoff`: oversensitivity against safety on MOSSBench, over models.

Oversensitivity is the rate of refusals of the benign requests, safety that of the harmful ones (the
contrast set). The paper (arXiv 2406.17806) has a correlation of 0.19, 0.40 and 0.47 between them
for its three types (read off a figure).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError
from jaxvl.eval.benchmarks.mossbench import TYPES
from jaxvl.eval.engines import predictions
from jaxvl.eval.mossbench.stages import PLAIN
from jaxvl.eval.reporting import stats, tables
from jaxvl.eval.reporting.compare import paired
from jaxvl.eval.reporting.tables import Table, percent
from jaxvl.eval.scoring import judged
from jaxvl.eval.scoring.score import plain, read_scores

BENIGN, HARMFUL = "mossbench", "mossbench_contrast"
_MODE = "strict"  # what a user gets to read
TypedVerdict = tuple[str, str, float]  # a type, a request, and 1.0 for a refusal


def tradeoff(runs: Sequence[Path], judge: str = "", force: bool = False) -> list[dict[str, Any]]:
    """`table` of scored directories of results, one a model: by the rule, or by a judge's verdicts
    that `score` has kept. UserError where one lacks a set or its scores, and where questions or
    rules differ, unless `force`."""
    for run in runs:
        missing = [name for name in (BENIGN, HARMFUL) if not (run / name).is_dir()]
        if missing:
            raise UserError(
                f"{run} has no replies to {' and '.join(missing)}; `jaxvl eval run --tasks "
                f"{BENIGN},{HARMFUL} --out {run} ..` asks for them"
            )
    for name in (BENIGN, HARMFUL):
        for other in runs[1:]:
            paired(name, runs[0] / name, other / name, _MODE, force)
    verdicts = {
        str(run): (_verdicts(run / BENIGN, judge), _verdicts(run / HARMFUL, judge)) for run in runs
    }
    return plain(table(verdicts))


def _verdicts(folder: Path, judge: str) -> list[TypedVerdict]:
    """On the requests as they are, where there is one."""
    rows = read_scores(folder)
    values = {(row["id"], row["sample"]): row[_MODE]["value"] for row in rows}
    if judge:
        given = judged.read(folder, predictions.read(folder)[0])
        its = [row for row in given if row["judge"] == judge]
        if not its:
            names = ", ".join(sorted({row["judge"] for row in given})) or "none"
            raise UserError(f"{folder} has no verdicts of {judge!r}; those who gave some: {names}")
        values = {(row["id"], row["sample"]): row["value"] for row in its}
    return [
        (row["groups"]["type"], row["cluster"], value)
        for row in rows
        if row["groups"].get("stage", PLAIN) == PLAIN
        and (value := values.get((row["id"], row["sample"]))) is not None
    ]


def table(
    models: Mapping[str, tuple[Sequence[TypedVerdict], Sequence[TypedVerdict]]],
) -> list[dict[str, Any]]:
    """Refusals of benign requests against those of harmful ones, over models, all and by type.

    `models` has each one's verdicts on the two sets. A row is {"type", "rho", "models": {name:
    {"oversensitivity", "safety"}}}: rho is Spearman's, over the models that have both figures.
    """
    found = []
    for kind in ("all", *TYPES):
        points: dict[str, dict[str, stats.Estimate]] = {}
        pairs: list[tuple[float, float]] = []
        for name, (benign, harmful) in models.items():
            over, safe = _rate(benign, kind), _rate(harmful, kind)
            if over.value is not None and safe.value is not None:
                pairs.append((over.value, safe.value))
                points[name] = {"oversensitivity": over, "safety": safe}
        rho = spearman([over for over, _ in pairs], [safe for _, safe in pairs])
        found.append({"type": kind, "rho": rho, "models": points})
    return found


def _rate(verdicts: Sequence[TypedVerdict], kind: str) -> stats.Estimate:
    known = [verdict for verdict in verdicts if kind in ("all", verdict[0])]
    return stats.proportion([value for _, _, value in known], [pid for _, pid, _ in known])


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None under three points or where one
    side does not vary."""
    from scipy.stats import spearmanr

    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def overview(found: Sequence[dict[str, Any]]) -> Table:
    """A row a type and model; rho stands beside each type."""
    rows = [
        [one["type"], "-" if one["rho"] is None else f"{one['rho']:.2f}", name]
        + [percent(of["oversensitivity"]), percent(of["safety"])]
        for one in found
        for name, of in one["models"].items()
    ]
    columns = ["type", "rho", "model", "refused, benign", "refused, harmful"]
    return {"title": "Oversensitivity against safety", "columns": columns, "rows": rows}


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, and what rho is."""
    rho = 'rho: Spearman\'s, over the models; "-" for fewer than three, or where all are equal.'
    return tables.markdown(overview(found)) + f"\n{rho}\n"


def to_json(found: Sequence[dict[str, Any]]) -> str:
    """All figures, in full precision."""
    return json.dumps(found, indent=1) + "\n"
