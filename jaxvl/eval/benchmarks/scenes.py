# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes of the held-out side, 50 of each of the four tasks: for models that were trained
on the training side, as the quickstart's. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from jaxvl.data.example import Dropped
from jaxvl.data.scenes import TASKS, Scenes
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.questions import PROTOCOLS, item
from jaxvl.eval.scoring.figures import accuracy, macro
from jaxvl.eval.scoring.marks import by_kind

EACH = 50


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    examples = Scenes(EACH * len(TASKS), "test", compositions=True).load()
    return [item(example, protocol) for example in examples], []


BENCHMARK = BenchmarkSpec(
    name="scenes",
    title="Rendered scenes, held out by layout and composition",
    protocols=PROTOCOLS,
    read=read,
    mark=by_kind,
    metrics={"accuracy": accuracy, "macro": macro("task")},
    max_new_tokens=64,
    needs_source=False,
)
