# SPDX-License-Identifier: Apache-2.0
"""Questions of one's own, in a file or folder that `jaxvl.data.tasks.records.Records` reads with
its fields as they are: `question`, `answer`, `choices`, `image`, `id`.

A field `kind` says how a reply is marked, one of `jaxvl.rewards.verify`. Without it a question with
choices is `mcq`, one whose answer is a number is `number`, and any other is `text`. A field `task`
is what the report breaks down by.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxvl.data.example import Dropped, Example
from jaxvl.data.tasks.records import Records
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.questions import PROTOCOLS, item
from jaxvl.eval.scoring.figures import accuracy, macro
from jaxvl.eval.scoring.formats import checked
from jaxvl.eval.scoring.marks import by_kind
from jaxvl.rewards.verdict import KINDS, gold_problem


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    examples = Records(str(source)).load()
    items, dropped = [], list(examples.dropped)
    for example in examples:
        kind = _kind(example)
        if kind in KINDS:
            items.append(item(_of_its_task(example), protocol, kind))
        else:
            found = f"kind is {kind!r}; expected one of {', '.join(KINDS)}"
            dropped.append(Dropped(example.id, "unknown kind", found))
    return checked(source, items, dropped)


def _kind(example: Example) -> str:
    named = example.columns.get("kind")
    if named:
        return str(named)
    if example.choices:
        return "mcq"
    return "text" if gold_problem("number", example.answer) else "number"


def _of_its_task(example: Example) -> Example:
    """With the row's own task, where it has one, in place of the file's name."""
    return dataclasses.replace(example, task=str(example.columns.get("task") or example.task))


BENCHMARK = BenchmarkSpec(
    name="own",
    title="Questions of one's own",
    protocols=PROTOCOLS,
    read=read,
    mark=by_kind,
    metrics={"accuracy": accuracy, "macro": macro("task")},
)
