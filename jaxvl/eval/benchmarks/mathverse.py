# SPDX-License-Identifier: Apache-2.0
"""MathVerse (arXiv 2403.14624), testmini, the version whose question stands in the image: 788.

As published: CaraJ/MathVerse-lmmseval and AI4Math/MathVerse (parquet, or testmini.json with its
images), and VLMEvalKit's MathVerse_MINIVOnly.tsv. Rows of the other versions are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jaxvl.data.example import Dropped, FilteredRow
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import LETTERS, Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN

_FILES = (
    "vision_only*.parquet",
    "testmini*.parquet",
    "MathVerse_MINIVOnly.tsv",
    "MathVerse_MINI_Vision_Only*.tsv",
    "testmini.json",
)
_COT = "vlmevalkit-cot"
_OPTION = re.compile(r"^\s*([A-H])\s*[:.]\s*(.*\S)\s*$", re.MULTILINE)


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    # A TSV of VLMEvalKit holds one version only.
    version = row.word("problem_version") or "Vision Only" * ("index" in row.values)
    if version != "Vision Only":
        raise FilteredRow("another version", f"the version is {version or 'not named'}")
    many = row.text("question_type") == "multi-choice"
    choices = _choices(row.word("question_for_eval")) if many else ()
    about = row.values.get("metadata")
    about = about if isinstance(about, Mapping) else row.values
    asked = row.text("query_wo", "question")
    gold = row.text("answer")
    return Item(
        id=row.word("sample_index", "index") or str(row.number),
        gold=formats.letters(gold, choices) if many else gold,
        choices=choices,
        kind="mcq" if many else "math",
        cluster=row.word("problem_index"),
        groups={
            "subject": str(about.get("subject") or ""),
            "subfield": str(about.get("subfield") or ""),
            "question": "choice" if many else "free",
        },
        **protocols.asked(
            protocol,
            {
                KIT: row.word("question") or asked,
                _COT: row.word("query_cot") or asked,
                QWEN: protocols.qwen_open(row.word("question") or asked),
                LMMS: asked,
            },
            row.picture("image"),
        ),
    )


def _choices(question: str) -> tuple[str, ...]:
    """The options that the written-out question lists as "A:..", () where it lists none."""
    found = _OPTION.findall(question)
    in_order = "".join(letter for letter, _ in found) == LETTERS[: len(found)]
    return tuple(text for _, text in found) if in_order else ()


BENCHMARK = BenchmarkSpec(
    name="mathverse",
    title="MathVerse (testmini, vision only)",
    protocols={
        **protocols.offered(KIT, QWEN, LMMS),
        _COT: "VLMEvalKit's prompt that asks for reasoning first",
    },
    read=read,
    mark=marks.by_kind,
    metrics={"accuracy": figures.accuracy},
)
