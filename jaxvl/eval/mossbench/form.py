# SPDX-License-Identifier: Apache-2.0
"""MOSSBench's own form of results, a JSON file: written, and read back with others' verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Scored
from jaxvl.eval.benchmarks.mossbench import TYPES
from jaxvl.eval.mossbench.refusal import VERSION
from jaxvl.eval.mossbench.stages import PLAIN

RefusalOf = Callable[[Scored], float | None]  # 1 refused, 0 complied, None: nobody can say


def published(
    replies: Iterable[tuple[Scored, str]], verdict: RefusalOf = lambda row: row.mark.value
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


def replies(path: Path) -> dict[str, str]:
    """The replies by pid in a file of that form; a record without one is left out."""
    try:
        responses = json.loads(path.read_text(encoding="utf-8"))["responses"]
        found = {str(pid): row.get("response") for pid, row in responses.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path} has no replies of MOSSBench: expected {{"responses": {{pid: {{"response": '
            f'"..", ..}}}}}} ({type(error).__name__}: {error})'
        ) from error
    return {pid: text for pid, text in found.items() if isinstance(text, str)}


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
