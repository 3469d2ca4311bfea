# SPDX-License-Identifier: Apache-2.0
"""SAT's test split (arXiv 2412.07755): 150 questions about real photographs, one or two a question.

The evaluation is circular, as its authors ask: a question is put once with every rotation of its
choices, and counts in the figure `circular` where all are answered right.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxvl.data.example import Dropped, Example
from jaxvl.data.tasks.sat import SAT
from jaxvl.data.templates import VisualThinker, with_choices
from jaxvl.eval.benchmark import BenchmarkSpec, Item
from jaxvl.eval.scoring import figures, marks, protocols
from jaxvl.eval.scoring.formats import LETTERS, checked
from jaxvl.eval.scoring.protocols import LMMS

_OWN = "sat"
_HINT = (
    "When multiple images are provided, You want to realize that when camera moves left, the "
    "objects in the image move right, and vice versa. And when you are asked about the movement "
    "of the same object captured in different images, you can compare the position of the object "
    "relative to other objects in the image to answer the question."
)
# Trained and tested in one form, with the word `<image>` that stands in the training data.
_TEMPLATES = {
    "visualthinker-base": VisualThinker(base=True, form="train", literal=True),
    "visualthinker-base-direct": VisualThinker(base=True, form="direct", literal=True),
    "visualthinker-instruct": VisualThinker(base=False, form="train", literal=True),
    "visualthinker-instruct-direct": VisualThinker(base=False, form="direct", literal=True),
}


def read(source: Path, protocol: str) -> tuple[list[Item], list[Dropped]]:
    """See `BenchmarkSpec`."""
    examples = SAT(str(source), "test", single_image=False).load()
    items = [
        _item(example, turn, protocol)
        for example in examples
        for turn in range(len(example.choices))
    ]
    return checked(source, items, list(examples.dropped))


def _item(example: Example, turn: int, protocol: str) -> Item:
    choices = example.choices[turn:] + example.choices[:turn]
    turned = dataclasses.replace(example, choices=choices)
    wordings = {
        _OWN: with_choices(example.question, choices),
        LMMS: f"{example.question.strip()}\n{_HINT}\n\n{protocols.lettered(choices)}\n\n"
        "Only output the letter of the correct option and nothing else.",
    }
    asked = protocols.asked(protocol, wordings, example.images)
    if protocol in _TEMPLATES:
        asked["prompt"] = _TEMPLATES[protocol](turned)
    lettered = protocol == LMMS
    return Item(
        id=f"{example.id}/{turn}",
        gold=LETTERS[choices.index(example.answer)] if lettered else example.answer,
        choices=choices,
        kind="mcq" if lettered else "text",
        cluster=example.id,
        groups={"question": example.columns["question_type"]},
        **asked,
    )


BENCHMARK = BenchmarkSpec(
    name="sat",
    title="SAT (test, circular)",
    protocols=protocols.offered(LMMS, sat="SAT's own sentence, answered in natural language"),
    read=read,
    mark=marks.by_kind,
    metrics={"circular": figures.all_right, "accuracy": figures.accuracy},
)
