# SPDX-License-Identifier: Apache-2.0
"""LogicVista (arXiv 2407.04973): 448 questions of logic about diagrams; one has no answer.

As published: the repository's dataset.json with images/, lscpku/LogicVista (parquet) and
VLMEvalKit's LogicVista.tsv. The options stand in the image or in the question; some questions
have two right letters, and both must be given. One answer is a number, which the kit's judge, who
answers in capital letters, never matches.
"""

from __future__ import annotations

import re
from pathlib import Path

from jaxvl.data.example import BadRow, Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import LETTERS, Row
from jaxvl.eval.scoring.protocols import KIT, QWEN, REASONING

_FILES = ("test*.parquet", "LogicVista.tsv", "dataset.json")
_ANSWER = re.compile(r"[A-J](?:,[A-J])*|[0-9]")
# "A-D", "A to F", "1-5", and "A, B, C, or D": the last of them is the last option.
_RANGE = re.compile(r"\b(A|1)\s*(?:-|–|to|through)\s*([B-J]|[2-9])\b")
_LIST = re.compile(r"\bA\s*,\s*B(?:\s*,\s*[C-J])*(?:\s*,?\s*(?:or|and)\s+[C-J])?\b")


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    question, answer = row.text("question"), row.word("answer")
    gold = "".join(answer.split()).strip(",")
    if not _ANSWER.fullmatch(gold):
        raise BadRow("no answer", f"`answer` is {answer!r:.60}, expected letters or a digit")
    skill = row.get("skill")
    return Item(
        id=row.word("id", "index", "imagename") or str(row.number),
        gold=gold.replace(",", ", "),
        choices=_choices(question, gold),
        groups={"skill": ", ".join(skill) if isinstance(skill, list) else _plain(skill)},
        **protocols.asked(
            protocol,
            {
                KIT: question,
                QWEN: protocols.qwen_open(question),
                REASONING: question.strip(),
            },
            row.picture("image", "imagename"),
        ),
    )


def _choices(question: str, gold: str) -> tuple[str, ...]:
    """The options where the question has them or says how they are called ("A-D"), else ()."""
    given = formats.inline(question)
    if given and set(gold.split(",")) <= set(LETTERS[: len(given)]):
        return given
    said = _RANGE.search(question) or _LIST.search(question)
    if not said:
        return ()
    labels = "123456789" if said[0][0] == "1" else LETTERS
    called = tuple(labels[: labels.index(said[0][-1]) + 1])
    return called if set(gold.split(",")) <= set(called) else ()


def _plain(skill: str | None) -> str:
    """A skill that stands in a cell as a list's text, or as itself."""
    return re.sub(r"[\[\]'\"]", "", skill or "")


BENCHMARK = BenchmarkSpec(
    name="logicvista",
    title="LogicVista",
    protocols=protocols.offered(KIT, QWEN, REASONING),
    read=read,
    mark=marks.by_kind,
    metrics={"accuracy": figures.accuracy},
)
