# SPDX-License-Identifier: Apache-2.0
"""ScienceQA's test split (arXiv 2209.09513): 4,241 school questions with options, 2,017 of them
with an image ("IMG", the usual figure for vision-language models).

As published: ScienceQA-FULL or -IMG (parquet, also test-*.parquet alone), the repository's
problems.json with images/test/ID/image.png, and VLMEvalKit's ScienceQA_TEST.tsv (images only).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from jaxvl.data.example import Dropped, FilteredRow
from jaxvl.eval.benchmark import BenchmarkSpec, Item, Scored
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import LETTERS, Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN

_FILES = (
    "ScienceQA-FULL/test*.parquet",
    "ScienceQA-IMG/test*.parquet",
    "test*.parquet",
    "ScienceQA_TEST.tsv",
    "problems.json",
)


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    if row.word("split") not in ("", "test"):
        raise FilteredRow("another split", f"the split is {row.word('split')}")
    question, choices, hint = row.text("question"), row.choices("choices"), row.word("hint")
    answer = row.get("answer")
    images = _images(row)
    lmms = f"{question}\n{protocols.lettered(choices)}\n{protocols.LMMS_LETTER}"
    return Item(
        id=row.word("id", "index") or str(row.number),
        gold=formats.letter(_letter(answer), choices),
        choices=choices,
        groups={
            "subject": row.word("subject", "l2-category"),
            "grade": _band(row.word("grade")),
            "image": "yes" if images else "no",
        },
        **protocols.asked(
            protocol,
            {
                KIT: protocols.kit_choice(question, choices, hint),
                QWEN: protocols.qwen_choice(question, choices, hint),
                LMMS: f"Context: {hint}\n" * bool(hint) + lmms,
            },
            images,
        ),
    )


def _letter(answer: object) -> object:
    """The letter of an index from 0; what is none as it is."""
    if not isinstance(answer, int) or isinstance(answer, bool):
        return answer
    return LETTERS[answer] if 0 <= answer < len(LETTERS) else answer


def _images(row: Row) -> tuple[str | bytes, ...]:
    """The image, where there is one; the repository names it by its file in a folder by id."""
    image = row.get("image")
    if image is None:
        return ()
    if row.file.name == "problems.json":
        named = {"image": f"test/{row.text('id')}/{image}"}
        row = dataclasses.replace(row, values=named)
    return row.picture("image")


def _band(grade: str) -> str:
    """The paper's two bands of grades, from "grade7"."""
    number = re.fullmatch(r"grade(\d+)", grade)
    return "" if not number else "1-6" if int(number[1]) <= 6 else "7-12"


def full(scored: Sequence[Scored]) -> float | None:
    """The accuracy over all questions; None where only those with images were asked."""
    without = any(one.item.groups["image"] == "no" for one in scored)
    return figures.accuracy(scored) if without else None


BENCHMARK = BenchmarkSpec(
    name="scienceqa",
    title="ScienceQA (test)",
    protocols=protocols.offered(KIT, QWEN, LMMS),
    read=read,
    mark=marks.by_kind,
    metrics={"IMG": figures.among("image", "yes"), "full": full},
)
