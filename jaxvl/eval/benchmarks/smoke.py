# SPDX-License-Identifier: Apache-2.0
"""Eight rendered scenes that need no download: to see that everything works."""

from __future__ import annotations

from pathlib import Path

from jaxvl.data.example import Dropped
from jaxvl.data.scenes import Scenes
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.questions import PROTOCOLS, item
from jaxvl.eval.scoring.figures import accuracy, macro
from jaxvl.eval.scoring.marks import by_kind


def _read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    return [item(example, protocol) for example in Scenes(8, "test").load()], []


BENCHMARK = BenchmarkSpec(
    name="smoke",
    title="Eight rendered scenes",
    protocols=PROTOCOLS,
    read=_read,
    mark=by_kind,
    metrics={"accuracy": accuracy, "macro": macro("task")},
    max_new_tokens=64,
    needs_source=False,
)
