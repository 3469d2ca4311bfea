# SPDX-License-Identifier: Apache-2.0
"""VSR, visual spatial reasoning (arXiv 2205.00363): is a sentence about a photograph true?

As published: test.jsonl of a split (`zeroshot`, 1,222 sentences, is taken where there are two) with
the photographs of COCO in `images/` or `trainval2017/`. No harness has it: the wording is ours, in
the form of SAT's sentence.
"""

from __future__ import annotations

from pathlib import Path

from jaxvl.data.example import BadRow, Dropped
from jaxvl.data.tasks.fields import shown
from jaxvl.data.templates import with_choices
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring import figures, formats, marks, protocols
from jaxvl.eval.scoring.formats import Row

_OWN = "vsr"
_FILES = ("zeroshot/test.jsonl", "test.jsonl", "test*.parquet")
_CHOICES = ("true", "false")


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    return formats.collect(source, _FILES, lambda row: [_item(row, protocol)])


def _item(row: Row, protocol: str) -> Item:
    label = row.get("label")
    if label not in (0, 1, "0", "1"):
        raise BadRow("no label", f"`label` is {shown(label)}, expected 0 or 1")
    statement = row.text("caption", "text")
    question = f"Is the following statement about the image true or false? {statement}"
    wordings = {_OWN: with_choices(question, _CHOICES)}
    return Item(
        id=str(row.number),
        gold=_CHOICES[1 - int(label)],
        choices=_CHOICES,
        kind="text",
        groups={"relation": row.word("relation")},
        **protocols.asked(protocol, wordings, row.picture("image")),
    )


BENCHMARK = BenchmarkSpec(
    name="vsr",
    title="VSR",
    protocols=protocols.offered(vsr="our own wording, in the form of SAT's sentence"),
    read=read,
    mark=marks.by_kind,
    metrics={"accuracy": figures.accuracy},
)
