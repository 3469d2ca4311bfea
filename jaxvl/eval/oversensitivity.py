# SPDX-License-Identifier: Apache-2.0
"""What MOSSBench reports besides rates: oversensitivity against safety, and its own JSON form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Scored
from jaxvl.eval.benchmarks.mossbench import TYPES, refusals
from jaxvl.eval.refusal import VERSION
from jaxvl.eval.stages import PLAIN

Verdict = Callable[[Scored], float | None]  # 1 refused, 0 complied, None: nobody can say


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None under three points or where one
    side does not vary."""
    if len(x) < 3:
        return None
    a, b = _ranks(np.asarray(x, float)), _ranks(np.asarray(y, float))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def tradeoff(
    runs: Mapping[str, tuple[Sequence[Scored], Sequence[Scored]]],
) -> list[dict[str, Any]]:
    """Refusals of benign requests against those of harmful ones, over models, all and by type.

    `runs` has each model's replies to `mossbench` and to `mossbench_contrast`. A row is {"type",
    "rho", "models": {name: {"oversensitivity", "safety"}}}: rho is Spearman's, over the models that
    have both figures. The paper has 0.19, 0.40 and 0.47 for its three types (read off a figure).
    """
    table = []
    for kind in ("all", *TYPES):
        models = {}
        for name, (benign, harmful) in runs.items():
            over, safe = (refusals(_of_type(rows, kind)) for rows in (benign, harmful))
            if over is not None and safe is not None:
                models[name] = {"oversensitivity": over, "safety": safe}
        points = list(models.values())
        rho = spearman([p["oversensitivity"] for p in points], [p["safety"] for p in points])
        table.append({"type": kind, "rho": rho, "models": models})
    return table


def _of_type(rows: Sequence[Scored], kind: str) -> list[Scored]:
    return [row for row in rows if kind in ("all", row.item.groups.get("type"))]


def published(
    replies: Iterable[tuple[Scored, str]], verdict: Verdict = lambda row: row.mark.value
) -> dict[str, Any]:
    """Results in the form of the benchmark's own results.json, of (scored, reply) pairs.

    Sample 0 of the plain requests. `rejected` is 0, 1 or None: the rule's verdict, or a judge's
    where `verdict` gives that; `reject_reasoning` names the rule and its version.
    """
    responses = {}
    rejected: dict[str, list[int]] = {"Total": [], **{name: [] for name in TYPES}}
    for row, reply in replies:
        if row.sample or row.item.extra.get("stage", PLAIN) != PLAIN:
            continue
        value = verdict(row)
        value = None if value is None else int(value)
        pid = row.item.cluster
        responses[pid] = {
            "pid": pid,
            "image_path": row.item.extra["image_path"],
            "question": row.item.extra["question"],
            "response": reply,
            "rejected": value,
            "reject_reasoning": f"{VERSION}: {row.mark.reason}",
            "metadata": row.item.extra["metadata"],
            "evaluator_desc": "",
        }
        if value is not None:
            rejected["Total"].append(value)
            rejected[row.item.groups["type"]].append(value)
    rates = {name: sum(v) / len(v) if v else None for name, v in rejected.items()}
    return {"responses": responses, "reject Rate": rates}


def is_published(path: Path) -> bool:
    """Whether a file begins as one of that form does."""
    with open(path, "rb") as file:
        start = file.read(200)
    first = b"".join(start.partition(b":")[0].split())
    return path.suffix == ".json" and first == b'{"responses"'


def verdicts(path: Path) -> dict[str, float | None]:
    """Verdicts by pid in a file of that form, which a person or another judge has filled in."""
    try:
        responses = json.loads(path.read_text(encoding="utf-8"))["responses"]
        found = {str(pid): row["rejected"] for pid, row in responses.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path} has no results of MOSSBench: expected {{"responses": {{pid: {{"rejected": 0 '
            f"or 1, ..}}}}}} ({type(error).__name__}: {error})"
        ) from error
    wrong = {pid: value for pid, value in found.items() if value not in (0, 1, None)}
    if wrong:
        pid, value = next(iter(wrong.items()))
        raise UserError(f"{path}: `rejected` of {pid} is {value!r}; expected 0, 1 or null")
    return {pid: None if value is None else float(value) for pid, value in found.items()}
