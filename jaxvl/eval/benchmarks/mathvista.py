# SPDX-License-Identifier: Apache-2.0
"""MathVista's testmini (arXiv 2310.02255): 1,000 problems, with choices or a typed free answer.

As published: AI4Math/MathVista (data/testmini-*.parquet), testmini.json with images/, and
VLMEvalKit's MathVista_MINI.tsv. Its official scoring maps any text to the most similar choice; here
nothing is mapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.example import BadRow, Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Item, Metric
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN

SKILLS = (
    "algebraic reasoning",
    "arithmetic reasoning",
    "geometry reasoning",
    "logical reasoning",
    "numeric commonsense",
    "scientific reasoning",
    "statistical reasoning",
)
_FILES = ("testmini*.parquet", "MathVista_MINI.tsv", "testmini.json", "annot_testmini.json")
_KINDS = {"integer": "number", "float": "number", "list": "math", "text": "text"}
_HINT = "Hint: Please answer the question "
_HINTS = {
    "choice": "and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the "
    "end.",
    "float1": "requiring a floating-point number with one decimal place and provide the final "
    "value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float2": "requiring a floating-point number with two decimal places and provide the final "
    "value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], "
    "[1.2, 1.3, 1.4], at the end.",
}
_LMMS = {
    "choice": protocols.LMMS_LETTER,
    "integer": "Answer the question using a single integer number.",
    "float1": "Answer the question using a single floating-point number with one decimal place.",
    "float2": "Answer the question using a single floating-point number with two decimal places.",
    "list": "Answer the question using a Python list.",
}


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    free = row.text("question_type") == "free_form"
    choices = () if free else row.choices("choices")
    about = row.values.get("metadata")
    about = about if isinstance(about, Mapping) else row.values
    answer_type = row.text("answer_type")
    places = int(float(row.word("precision") or 0))
    gold = row.text("answer")
    form = f"{answer_type}{places}" if answer_type == "float" else answer_type
    query, lmms = _wordings(row, choices, "choice" if choices else form)
    return Item(
        id=row.word("pid", "index") or str(row.number),
        gold=_gold(gold, answer_type, places) if free else formats.letter_of(gold, choices),
        choices=choices,
        kind=_kind(answer_type) if free else "mcq",
        groups={
            "task": str(about.get("task") or ""),
            "question": row.text("question_type"),
            "answer": answer_type,
        },
        extra={"skills": _skills(about.get("skills"))},
        **protocols.asked(
            protocol,
            {KIT: query, QWEN: protocols.qwen_open(query), LMMS: lmms},
            row.picture("decoded_image", "image"),
        ),
    )


def _wordings(row: Row, choices: Sequence[str], form: str) -> tuple[str, str]:
    """The official query, which VLMEvalKit asks, and lmms-eval's `format` task."""
    question, unit = row.text("question"), row.word("unit")
    ready = row.word("query") or (question if question.startswith("Hint:") else "")
    question += f" (Unit: {unit})" if unit else ""
    listed = f"\nChoices:\n{protocols.lettered(choices, '({}) {}')}" if choices else ""
    query = ready or f"{_HINT}{_HINTS.get(form, '')}\nQuestion: {question}{listed}"
    lines = (question, protocols.lettered(choices), _LMMS.get(form, ""))
    return query, "\n".join(line for line in lines if line)


def _kind(answer_type: str) -> str:
    if answer_type not in _KINDS:
        raise BadRow("unknown answer type", f"`answer_type` is {answer_type}")
    return _KINDS[answer_type]


def _gold(gold: str, answer_type: str, places: int) -> str:
    """A float to its number of decimals, by which a reply is held to it; others as they are."""
    try:
        return f"{float(gold):.{places}f}" if answer_type == "float" else gold
    except ValueError as error:
        raise BadRow("answer of a wrong form", f"the answer {gold!r:.60} is no number") from error


def _skills(value: Any) -> list[str]:
    return formats.listed(value) if isinstance(value, str) else list(value or ())


def skill(name: str) -> Metric:
    """The accuracy of the problems that need a skill; one may need several."""
    return figures.share(lambda one: name in one.item.extra["skills"])


BENCHMARK = BenchmarkSpec(
    name="mathvista",
    title="MathVista (testmini)",
    protocols=protocols.offered(KIT, QWEN, LMMS),
    read=read,
    mark=marks.by_kind,
    metrics={"accuracy": figures.accuracy, **{name: skill(name) for name in SKILLS}},
)
