# SPDX-License-Identifier: Apache-2.0
"""MMMU's validation split (arXiv 2311.16502): 900 questions of 30 subjects, most with options.

As published: MMMU/MMMU and lmms-lab's copy (validation-*.parquet), and VLMEvalKit's
MMMU_DEV_VAL.tsv. Images stand in the text where `<image n>` does. The official parser takes an
option at random where it reads none, and lmms-eval's loses every open answer; here nothing is
drawn, and an open answer is right where it equals any of the golds.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from jaxvl.data.example import BadRow, Dropped, FilteredRow
from jaxvl.eval.benchmark import BenchmarkSpec, Grade, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row
from jaxvl.eval.scoring.protocols import KIT, LMMS, QWEN

DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine "
    "Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science "
    "Electronics Energy_and_Power Materials Mechanical_Engineering",
}
_OF = {subject: name for name, subjects in DISCIPLINES.items() for subject in subjects.split()}
_FILES = ("validation*.parquet", "MMMU_DEV_VAL.tsv")
_IMAGES = tuple(f"image_{n}" for n in range(1, 8))
_MARKER = re.compile(r"<image (\d)>")
_DECIMAL = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_open = marks.any_gold(marks.by_kind)
_SUBJECT = re.compile(r"(validation|dev|test)_(.+)_\d+")


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    id = row.text("id", "index")
    named = _SUBJECT.fullmatch(id)
    split = row.word("split") or (named[1] if named else "validation")
    if split != "validation":
        raise FilteredRow("another split", f"the split is {split}")
    subject = named[2] if named else row.word("category")
    choices, answer = row.choices("options"), row.text("answer")
    golds = formats.listed(answer) if answer.startswith("[") and not choices else [answer]
    numbers = all(_DECIMAL.fullmatch(str(gold)) for gold in golds)
    golds = [_to_two_decimals(str(gold)) for gold in golds]
    return Item(
        id=id,
        gold=formats.letter(answer, choices) if choices else golds[0],
        choices=choices,
        kind="mcq" if choices else "number" if numbers else "text",
        groups={
            "subject": subject,
            "discipline": _OF.get(subject.replace(" ", "_"), ""),
            "question": "choice" if choices else "open",
        },
        extra={} if choices else {"golds": golds},
        **protocols.asked(protocol, _wordings(row, choices), row.pictures("image", *_IMAGES)),
    )


def _wordings(row: Row, choices: tuple[str, ...]) -> dict[str, protocols.Wording]:
    question = row.text("question")
    kit = protocols.kit_choice(question, choices, row.word("hint"))
    if choices:
        lmms = f"{question}\n{protocols.lettered(choices)}\n\n{protocols.LMMS_LETTER}"
    else:
        lmms = f"{question}\n\nAnswer the question using a single word or phrase."
    count = len(row.pictures("image", *_IMAGES))
    return {
        KIT: _interleaved(kit, count),
        QWEN: protocols.qwen_choice(question, choices, row.word("hint")),
        LMMS: _interleaved(lmms, count),
    }


def _interleaved(text: str, count: int) -> protocols.Wording:
    """The text cut where images stand; as it is, to follow them, where it marks none."""
    pieces = _MARKER.split(text)
    parts: list[str | int] = []
    for place, piece in enumerate(pieces):
        if place % 2 and not 1 <= int(piece) <= count:
            raise BadRow("no image", f"the text has <image {piece}>, the row {count} images")
        if place % 2 or piece:
            parts.append(int(piece) - 1 if place % 2 else piece)
    return parts if len(pieces) > 1 else text


def _to_two_decimals(gold: str) -> str:
    """A decimal as the official rule compares it: a reply is held to its places."""
    return f"{Decimal(gold.replace(',', '')):.2f}" if _DECIMAL.fullmatch(gold) else gold


def mark(item: Item, reply: str, mode: str) -> Grade:
    """See `BenchmarkSpec`."""
    return (marks.by_kind if item.choices else _open)(item, reply, mode)


BENCHMARK = BenchmarkSpec(
    name="mmmu",
    title="MMMU (validation)",
    protocols=protocols.offered(KIT, QWEN, LMMS),
    read=read,
    mark=mark,
    metrics={"accuracy": figures.accuracy, "macro": figures.macro("subject")},
)
