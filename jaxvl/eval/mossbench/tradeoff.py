# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval tradeoff`: oversensitivity against safety on MOSSBench, over models.

Oversensitivity is the rate of refusals of the benign requests, safety that of the harmful ones (the
contrast set). The paper (arXiv 2406.17806) has a correlation of 0.19, 0.40 and 0.47 between them
for its three types (read off a figure).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError
from jaxvl.eval.benchmarks.mossbench import TYPES
from jaxvl.eval.engines import predictions
from jaxvl.eval.reporting import stats, tables
from jaxvl.eval.reporting.compare import paired
from jaxvl.eval.reporting.tables import Table, percent
from jaxvl.eval.scoring import judged
from jaxvl.eval.scoring.score import plain, read_results, read_scores

BENIGN, HARMFUL = "mossbench", "mossbench_contrast"
_SETS = ("oversensitivity", "safety")
_MODE = "strict"  # what a user gets to read
TypedVerdict = tuple[str, str, float]  # a type, a request, and 1.0 for a refusal
# Of what replies were made with, what may be another for the second set of a model.
_OF_A_SET = {"task", "dataset", "replies", "url"}


@dataclasses.dataclass(frozen=True)
class _Judged:
    """Of one set of a model: the requests that were asked and judged, or that nobody could judge,
    with their type, their cluster and the verdicts on them; and whether there are others."""

    requests: dict[str, tuple[str, str, list[float]]]
    partial: bool

    def verdicts(self, among: Collection[str]) -> list[TypedVerdict]:
        return [
            (kind, cluster, value)
            for id, (kind, cluster, values) in self.requests.items()
            for value in values
            if id in among
        ]


def tradeoff(runs: Sequence[Path], judge: str = "", force: bool = False) -> list[dict[str, Any]]:
    """`table` of scored directories of results, one a model: by the rule, or by a judge's verdicts
    that `score` has kept, on the requests that all of them have. UserError where one lacks a set or
    its scores, and where questions or rules differ, unless `force`."""
    for run in runs:
        missing = [name for name in (BENIGN, HARMFUL) if not (run / name).is_dir()]
        if missing:
            raise UserError(
                f"{run} has no replies to {' and '.join(missing)}; `jaxvl eval run --tasks "
                f"{BENIGN},{HARMFUL} --out {run} ..` asks for them"
            )
        if not force:
            _check_alike(run)
    verdicts: dict[str, list[list[TypedVerdict]]] = {str(run): [] for run in runs}
    partial = set()
    for name in (BENIGN, HARMFUL):
        for other in runs[1:]:
            paired(name, runs[0] / name, other / name, _MODE, force)
        found = {str(run): _judged(run / name, judge) for run in runs}
        shared = set.intersection(*(set(one.requests) for one in found.values()))
        if not shared:
            raise UserError(
                f"{name}: no request that all of {', '.join(found)} have a verdict on"
                + (f" by {judge}" if judge else "")
                + "; ask and judge the same ones"
            )
        for model, one in found.items():
            verdicts[model].append(one.verdicts(shared))
            if one.partial or len(one.requests) > len(shared):
                partial.add(model)
    return plain(table({run: (of[0], of[1]) for run, of in verdicts.items()}, partial))


def _check_alike(run: Path) -> None:
    """UserError where the two sets of a directory were not asked alike."""
    both = [_made_with(run / name) for name in (BENIGN, HARMFUL)]
    differing = [
        f"{name} is {both[0].get(name)!r} for {BENIGN} and {both[1].get(name)!r} for {HARMFUL}"
        for name in dict.fromkeys([*both[0], *both[1]])
        if name not in _OF_A_SET and both[0].get(name) != both[1].get(name)
    ]
    if differing:
        raise UserError(
            f"{run}: its two sets were not asked alike: {'; '.join(differing)}. Ask both so, or "
            "--force takes them all the same"
        )


def _made_with(folder: Path) -> dict[str, Any]:
    found = read_results(folder)["settings"]
    # The stages put each request plainly too, and that reply is the one that counts here.
    return found | {"protocol": "paper"} if found["protocol"] == "stages" else found


def _judged(folder: Path, judge: str) -> _Judged:
    """What there is on the requests as they are."""
    # Of the stages only a plain request has a type.
    rows = [row for row in read_scores(folder) if "type" in row["groups"]]
    by_rule = {(row["id"], row["sample"]): row[_MODE]["value"] for row in rows}
    values = by_rule
    if judge:
        given = judged.read(folder, predictions.read(folder)[0])
        its = [row for row in given if row["judge"] == judge]
        if not its:
            names = ", ".join(sorted({row["judge"] for row in given})) or "none"
            raise UserError(f"{folder} has no verdicts of {judge!r}; those who gave some: {names}")
        values = {(row["id"], row["sample"]): row["value"] for row in its}
    requests: dict[str, tuple[str, str, list[float]]] = {}
    partial = read_results(folder)["partial"]
    for row in rows:
        key = row["id"], row["sample"]
        value = values.get(key)
        if value is None and by_rule[key] is not None:
            partial = True  # there is a reply, and the judge has not said what it is
            continue
        of = requests.setdefault(row["id"], (row["groups"]["type"], row["cluster"], []))
        of[2].extend([] if value is None else [value])
    return _Judged(requests, partial)


def table(
    models: Mapping[str, tuple[Sequence[TypedVerdict], Sequence[TypedVerdict]]],
    partial: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Refusals of benign requests against those of harmful ones, over models, all and by type.

    `models` has each one's verdicts on the two sets, and those in `partial` are of a part of the
    requests. A row is {"type", "rho", "models": {name: {"oversensitivity", "safety", "partial"}}}:
    rho is Spearman's, over the models that have both figures.
    """
    found = []
    for kind in ("all", *TYPES):
        points: dict[str, dict[str, Any]] = {}
        pairs: list[tuple[float, float]] = []
        for name, (benign, harmful) in models.items():
            over, safe = _rate(benign, kind), _rate(harmful, kind)
            if over.value is not None and safe.value is not None:
                pairs.append((over.value, safe.value))
                part = name in partial
                points[name] = {"oversensitivity": over, "safety": safe, "partial": part}
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
        [one["type"], "-" if one["rho"] is None else f"{one['rho']:.2f}"]
        + [("PARTIAL " if of["partial"] else "") + name]
        + [cell for set_ in _SETS for cell in (percent(of[set_]), of[set_]["count"])]
        for one in found
        for name, of in one["models"].items()
    ]
    columns = ["type", "rho", "model", "refused, benign", "n", "refused, harmful", "n"]
    return {"title": "Oversensitivity against safety", "columns": columns, "rows": rows}


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, and what has to be said of it."""
    told = (
        'rho: Spearman\'s, over the models; "-" for fewer than three, or where all are equal. n: '
        "verdicts; of the requests of a set those count that every model has. PARTIAL: a model was "
        "asked, or judged, on other requests too, or not on all there are."
    )
    return tables.markdown(overview(found)) + f"\n{told}\n"


def to_json(found: Sequence[dict[str, Any]]) -> str:
    """All figures, in full precision."""
    return json.dumps(found, indent=1) + "\n"
