# SPDX-License-Identifier: Apache-2.0
"""MathVision, MATH-V (arXiv 2402.14804): 3,040 competition problems, the whole test set.

As published: MathLLMs/MathVision (data/test-*.parquet), test.jsonl with images/, and VLMEvalKit's
MathVision.tsv. The kits' rules accept 2.004 for 2, or run a reply as code; here a free answer is
right where it is equal (`jaxvl.rewards`, kind "math").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxvl.data.example import Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Grade, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import FileLayout, Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN
from jaxvl.rewards.kinds import number

_FILES = ("test-*.parquet", "test.parquet", "test.jsonl", "MathVision.tsv")

_LMMS = 'Please solve the problem step by step and put your answer in one "\\boxed{}".'
_LMMS_CHOICE = "Answer the question with the option's letter from the given choices directly."


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return read_files(source, protocol, _FILES)


def read_files(
    source: Path, protocol: str, layouts: Sequence[FileLayout]
) -> tuple[list[Item], list[Dropped]]:
    """The problems in the files of one of `layouts`."""
    return formats.collect(source, layouts, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    choices = row.choices("options", "choices")
    question = row.text("question")
    kit = question
    if choices and "index" not in row.values:
        # A TSV has its question ready; elsewhere the options stand apart from it.
        kit += f"\nChoices:\n{protocols.lettered(choices, '({}) {}')}"
    lmms = _LMMS + question
    if choices:
        lmms += f"\nChoices: {protocols.lettered(choices)}\n{_LMMS_CHOICE}"
    gold = row.text("answer")
    return Item(
        id=row.word("id", "index") or str(row.number),
        gold=formats.letter(gold, choices) if choices else gold,
        choices=choices,
        kind="mcq" if choices else "math",
        groups={
            "subject": row.word("subject", "category"),
            "level": row.word("level"),
            "question": "choice" if choices else "free",
        },
        **protocols.asked(
            protocol,
            {KIT: kit, QWEN: protocols.qwen_open(kit), LMMS: lmms},
            row.picture("decoded_image", "image"),
        ),
    )


def mark(item: Item, reply: str, mode: str) -> Grade:
    """In the mode "rounded" a number counts that is the gold's to two decimals, in a reply that is
    read as in "lenient": lmms-eval's rule, for figures that are set beside its."""
    if mode != "rounded":
        return marks.by_kind(item, reply, mode)
    gold = number.read(item.gold) if item.kind == "math" else ""
    if isinstance(gold, number.Number) and not gold.unit:
        item = dataclasses.replace(item, gold=f"{float(gold.value):.2f}")
    return marks.by_kind(item, reply, "lenient")


BENCHMARK = BenchmarkSpec(
    name="mathvision",
    title="MathVision (test)",
    protocols=protocols.offered(KIT, QWEN, LMMS),
    read=read,
    mark=mark,
    metrics={"accuracy": figures.accuracy, "macro": figures.macro("subject")},
    modes=("strict", "lenient", "rounded"),
)
