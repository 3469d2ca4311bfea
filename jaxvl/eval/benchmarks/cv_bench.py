# SPDX-License-Identifier: Apache-2.0
"""CV-Bench (Cambrian-1, arXiv 2406.16860): 2,638 questions of seeing, about 2D and 3D.

As published: nyu-visionx/CV-Bench (test.parquet, or test.jsonl with img/), and VLMEvalKit's two
TSVs. VisualThinker-R1-Zero reports the micro average of its own scorer, which is the mode
"official"; Cambrian's figure weighs the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxvl.data.example import Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Grade, Item, Scored
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN
from jaxvl.rewards import pool
from jaxvl.rewards.kinds.phrase import fold
from jaxvl.rewards.reasons import MATCH, MISMATCH

_FILES = (
    "test.parquet",
    ("test_2d.parquet", "test_3d.parquet"),
    "test*.parquet",
    "test.jsonl",
    "CV-Bench-[23]D.tsv",
)
# What the official scorer looks for beside numbers, formulas and the texts of the choices.
_STRINGS = [*"ABCDEF", *"abcdef", *map("({})".format, "abcdef"), *map("({})".format, "ABCDEF")]

SOURCES = ("ADE20K", "COCO", "Omni3D")  # the last is the 3D part


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    choices = row.choices("choices")
    question, asked = row.text("question"), row.text("prompt")
    space = row.text("type", "split")
    wordings = {
        KIT: asked,
        QWEN: protocols.qwen_choice(question, choices),
        LMMS: protocols.lmms_note("\n" + asked, choices),
    }
    return Item(
        id=f"{space}-{row.word('idx', 'index') or row.number}",
        gold=formats.letter(row.text("answer"), choices),
        choices=choices,
        groups={
            "task": row.text("task", "category"),
            "source": row.text("source"),
            "type": space,
        },
        **protocols.asked(protocol, wordings, row.picture("image", "filename")),
    )


def mark(item: Item, reply: str, mode: str) -> Grade:
    """See `BenchmarkSpec`."""
    return _official(item, reply) if mode == "official" else marks.by_kind(item, reply, mode)


def _official(item: Item, reply: str) -> Grade:
    """The verdict of VisualThinker's public script, its quirks included.

    The first `<answer>` of a reply (without a line break in it), else the whole reply, is searched
    by math-verify for LaTeX, a number, a letter or the text of a choice; any hit on the letter or
    the text of the right choice counts. The article "a" is option A for it, "left or right" is
    "left", and "Left" nothing.
    """
    answer = _first_answer(reply) or reply
    text = item.choices[formats.LETTERS.index(item.gold)]
    golds = [text.lower(), text, item.gold, item.gold.lower()]
    golds += [f"({item.gold.lower()})", f"({item.gold})"]
    outcome = pool.among(golds, answer, [*_STRINGS, *item.choices])
    said = {MATCH: item.gold, MISMATCH: fold(answer)}.get(outcome, "")
    return Grade(float(outcome == MATCH), answer, said, outcome)


def _first_answer(reply: str) -> str:
    r"""The group of `<answer>\s*(.*?)\s*</answer>`, found without backtracking; "" without."""
    start = reply.find("<answer>")
    while start >= 0:
        end = reply.find("</answer>", start)
        if end < 0:
            return ""
        inner = reply[start + len("<answer>") : end].strip()
        if "\n" not in inner:
            return inner
        start = reply.find("<answer>", start + 1)
    return ""


def _by_source(group: Sequence[Scored]) -> tuple[float, ...]:
    """Right and all replies to questions from each of SOURCES."""
    found = []
    for name in SOURCES:
        values = [one.mark.value or 0.0 for one in group if one.item.groups["source"] == name]
        found += [sum(values), len(values)]
    return tuple(found)


def _two_d(*sums: float) -> float | None:
    """The mean of the two sources of the 2D part, as VLMEvalKit reports that part."""
    ade, coco = figures.ratio(*sums[:2]), figures.ratio(*sums[2:4])
    return None if ade is None or coco is None else (ade + coco) / 2


def _cambrian(*sums: float) -> float | None:
    """1/2 ((ADE20K + COCO)/2 + Omni3D), of the sources' accuracies."""
    flat, deep = _two_d(*sums), figures.ratio(*sums[4:])
    return None if flat is None or deep is None else (flat + deep) / 2


BENCHMARK = BenchmarkSpec(
    name="cv_bench",
    title="CV-Bench",
    protocols=protocols.offered(KIT, QWEN, LMMS),
    read=read,
    mark=mark,
    metrics={
        "accuracy": figures.accuracy,
        "cambrian": figures.Sums(_by_source, _cambrian),
        "2D": figures.Sums(_by_source, _two_d),
        "3D": figures.among("type", "3D"),
    },
    modes=("strict", "lenient", "official"),
)
