# SPDX-License-Identifier: Apache-2.0
"""DynaMath (arXiv 2411.00836): 501 questions, each in ten variants made by a program.

As published: DynaMath/DynaMath_Sample (sample_variant1..10, parquet), the repository's
trial*/dataset.json with image/, and VLMEvalKit's DynaMath.tsv. A number may be 0.001 off, as in the
kit; its rule for text (any part of the gold, "" included) is not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from jaxvl.data.example import BadRow, Dropped
from jaxvl.eval.benchmark import BenchmarkSpec, Grade, Item, Scored
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row
from jaxvl.eval.scoring.protocols import KIT, QWEN, REASONING
from jaxvl.rewards import extract

_FILES = ("sample_variant*.parquet", "DynaMath.tsv", "trial*/dataset.json", "dataset.json")
_NO_PROMPT = "vlmevalkit-noprompt"
_KINDS = {"float": "math", "multiple choice": "mcq", "text": "text"}
_GUIDE = (
    "\n## Answer Instruction Please provide an answer to the question outlined above. Your "
    "response should adhere to the following JSON format, which includes two keys: 'solution' and "
    "'short answer'. The 'solution' key can contain detailed steps needed to solve the question, "
    "and the 'short answer' key should provide a concise response. {inst}\n\n"
    'Example of expected JSON response format:\n\n{{\n    "solution": "[Detailed step-by-step '
    'explanation]",\n    "short answer": "[Concise Answer]"\n}}'
)
_INST = {
    # The kit's own spelling.
    "multiple choice": "Provide the corresponing choice option in the 'short answer' key, such as "
    "'A', 'B', 'C', or 'D'.",
    "float": "Format the answer as a three-digit floating-point number and provide it in the "
    "'short answer' key.",
    "text": "Float numbers in the answer should be formatted as three-digit floating-point "
    "numbers.",
}
_SHORT = re.compile(r'"short answer"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([-+\d.eE/]+))', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')
_number = marks.within(Fraction(1, 1000))


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    question, answer_type = row.text("question"), row.text("answer_type")
    if answer_type not in _KINDS:
        raise BadRow("unknown answer type", f"`answer_type` is {answer_type}")
    choices = formats.inline(question) if answer_type == "multiple choice" else ()
    number, variant = row.text("qid", "id"), _variant(row)
    asked = f"## Question\n {question}"
    gold = row.text("ground_truth", "answer")
    return Item(
        id=f"{number}/{variant}",
        gold=formats.letter(gold, choices) if choices else gold,
        choices=choices,
        kind=_KINDS[answer_type],
        cluster=number,
        groups={
            "answer": answer_type,
            "subject": row.word("subject"),
            "level": row.word("knowledge_level", "level"),
            "variant": variant,
        },
        **protocols.asked(
            protocol,
            {
                KIT: asked + _GUIDE.format(inst=_INST[answer_type]),
                _NO_PROMPT: asked,
                QWEN: protocols.qwen_open(question),
                REASONING: question.strip(),
            },
            row.picture("decoded_image", "image"),
        ),
    )


def _variant(row: Row) -> str:
    """The number of the variant: a field, or in the name of the file or of its folder."""
    named = re.search(r"(?:variant|trial)_?(\d+)", f"{row.file.parent.name}/{row.file.name}")
    return row.word("varid") or (named[1] if named else "1")


def mark(item: Item, reply: str, mode: str) -> Grade:
    """The answer may be the "short answer" of the JSON that the kit asks for, in either mode."""
    judge = _number if item.kind == "math" else marks.by_kind
    return judge(item, _short_answer(reply), mode)


def _short_answer(reply: str) -> str:
    """The one short answer as an answer block; a reply that has none, or several, as it is."""
    text = extract.reply(reply)
    blocks = extract.blocks(text) or [text]
    found = [quoted or bare for quoted, bare in _SHORT.findall(blocks[0])]
    if len(blocks) != 1 or len(found) != 1:
        return reply
    # Only quotes and backslashes are unescaped: a \frac is meant as it stands.
    answer = _ESCAPED.sub(r"\1", found[0])
    return f"<answer>{answer}</answer>"


def _parts(group: Sequence[Scored]) -> tuple[float, ...]:
    values = [one.mark.value or 0.0 for one in group]
    return figures.right(group), 1, sum(values), len(values)


def _robustness(worst: float, questions: int, right: float, replies: int) -> float | None:
    return (worst / questions) / (right / replies) if right else None


BENCHMARK = BenchmarkSpec(
    name="dynamath",
    title="DynaMath",
    protocols={
        **protocols.offered(KIT, QWEN, REASONING),
        _NO_PROMPT: "VLMEvalKit's prompt without the request for JSON",
    },
    read=read,
    mark=mark,
    # The worst case is the share of questions of which every variant is right; the robustness is
    # the worst case as a share of the average.
    metrics={
        "average": figures.accuracy,
        "worst case": figures.all_right,
        "robustness": figures.Sums(_parts, _robustness),
    },
)
