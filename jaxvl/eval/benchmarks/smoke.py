# SPDX-License-Identifier: Apache-2.0
"""Eight rendered scenes that need no download: to see that everything works."""

from __future__ import annotations

from pathlib import Path

from jaxvl.data.example import Dropped, Example
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question, vlaa
from jaxvl.eval.benchmark import BenchmarkSpec, Grade, Item
from jaxvl.eval.scoring.figures import accuracy, macro
from jaxvl.rewards.verdict import verify

_TEMPLATES = {"plain": chat_question, "vlaa": vlaa}


def _item(example: Example, protocol: str) -> Item:
    return Item(
        id=example.id,
        prompt=_TEMPLATES[protocol](example),
        images=example.images,
        gold=example.answer,
        choices=example.choices,
        groups={"task": example.task},
    )


def _read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    return [_item(example, protocol) for example in Scenes(8, "test").load()], []


def _mark(item: Item, reply: str, mode: str) -> Grade:
    verdict = verify(item.kind, reply, item.gold, item.choices, mode)
    return Grade(verdict.reward, verdict.extracted, verdict.canonical, verdict.reason)


BENCHMARK = BenchmarkSpec(
    name="smoke",
    title="Eight rendered scenes",
    protocols={"plain": "the question alone", "vlaa": "with VLAA-Thinker's system prompt"},
    read=_read,
    mark=_mark,
    metrics={"accuracy": accuracy, "macro": macro("task")},
    max_new_tokens=64,
    needs_source=False,
)
