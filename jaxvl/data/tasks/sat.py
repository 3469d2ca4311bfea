# SPDX-License-Identifier: Apache-2.0
"""SAT, spatial questions in simulated rooms (Ray et al., arXiv 2412.07755; MIT licence): the data
of VisualThinker-R1-Zero.

As published: `array/SAT` (SAT_train.parquet, images in `image_bytes`) and `array/SAT-v2`
(data/train-*.parquet, images in `images`). The JSON that VisualThinker's scripts make of the
former (SAT_train_15000.json, with its folder of images) is read too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from jaxvl.data import files, hub, places
from jaxvl.data.example import BadRow, Example, FilteredRow, ReadRow, RowSource
from jaxvl.data.tasks import conversations, fields

_ASKED = "Answer in natural language. "
_OPTIONS = " Choose between the following options: "


@dataclasses.dataclass(frozen=True)
class SAT(RowSource):
    """The rows of a split at `path` (a file, a folder or hf://datasets/array/SAT).

    Choices stand in an order drawn from (seed, row): as published the answer is often the first.
    `single_image` leaves out questions about two images. `first` takes the first so many rows of
    those that can be used (0: all), and `within` looks at the first so many rows of the files alone
    (0: at all). Rows name files below the folder of their file or `path` alone, unless
    `allow_outside`. Ids are the split and the row, counted from 0: "train-17".
    """

    path: str
    split: str = "train"
    first: Annotated[int, Ge(0)] = 0
    single_image: bool = True
    seed: Annotated[int, Ge(0)] = 0
    within: Annotated[int, Ge(0)] = 0
    allow_outside: bool = False

    def files(self) -> list[Path]:
        return hub.find(self.path, self.split)

    def rows(self, start: int = 0) -> Iterator[ReadRow]:
        # How many rows before `start` can be used shows when they are read.
        usable, skip = 0, 0 if self.first else start
        for number, file, raw in files.read(self.files(), skip + 1):
            if (self.within and number > self.within) or (self.first and usable == self.first):
                return
            id = f"{self.split}-{number - 1}"
            try:
                if isinstance(raw, BadRow):
                    raise raw
                row: Example | BadRow = self._example(raw, id, number - 1, file)
                usable += 1
            except BadRow as why:
                row = why
            if number > start:
                yield id, row

    def _example(self, raw: Mapping[str, Any], id: str, row: int, file: Path) -> Example:
        pictures = raw.get("image_bytes", raw.get("images"))
        if self.single_image and isinstance(pictures, Sequence) and len(pictures) > 1:
            raise FilteredRow("several images", f"the question is about {len(pictures)} images")
        if "messages" in raw:
            question, gold, choices, marked = _spoken(raw["messages"])
        else:
            marked = 0
            question, gold = fields.text(raw, "question"), fields.answer(raw, "correct_answer")
            choices = self._shuffled(raw.get("answers"), row)
        if gold not in [choice.strip() for choice in choices]:
            raise BadRow(
                "answer is none of the choices",
                f"the answer {fields.shown(gold)} is none of {fields.shown(choices)}",
            )
        root = None if self.allow_outside else hub.root(self.path, file)
        images = fields.pictures(pictures, [file.parent], root)
        if not images:
            raise BadRow("no image", "the row has no image")
        if marked not in (0, len(images)):
            raise places.misfit(marked, len(images))
        (question, *choices), images = places.fit([question, *choices], images, {})
        return Example(
            id=id,
            question=question,
            answer=gold,
            images=images,
            choices=tuple(choices),
            task="sat",
            columns={"question_type": raw.get("question_type") or ""},
        )

    def _shuffled(self, choices: Any, row: int) -> list[str]:
        if not isinstance(choices, list) or not choices:
            raise BadRow(
                "choices of a wrong type",
                f"`answers` is {fields.shown(choices)}, expected a list of texts",
            )
        order = np.random.default_rng([self.seed, row]).permutation(len(choices))
        return [fields.plain(str(choices[place]), "answers") for place in order]


def paper(path: str, seed: int = 0, first: int = 0) -> SAT:
    """What VisualThinker-R1-Zero was trained on: of the first 15,000 rows of the train split those
    with one image, or exactly the `first` of them. Its order of choices was drawn without a seed
    and cannot be had again."""
    return SAT(path, "train", first=first, seed=seed, within=15_000)


def static(path: str, seed: int = 0) -> SAT:
    """The static split: about 127,000 questions, each about one image."""
    return SAT(path, "static", seed=seed)


def _spoken(messages: Any) -> tuple[str, str, list[str], int]:
    """Question, answer and choices of a conversation in VisualThinker's JSON, and the number of
    places for images in it.

    Its sentence lists the choices as `a, b or c`. Where a choice has a comma or an "or" of its own,
    the answer tells how to cut; joined again, the choices always give the same sentence.
    """
    turns, _ = conversations.turns(messages, "messages")
    prompt, gold = conversations.prompt_and_reply(turns, "messages")
    said = conversations.said(prompt[-1]).strip().removeprefix(_ASKED)
    question, found, listed = said.rpartition(_OPTIONS)
    if not found:
        raise BadRow("no choices", f"the user's turn {fields.shown(said)} lists no options")
    marked = sum(part["type"] == "image" for turn in prompt for part in turn["content"])
    return question, gold, _cut(listed, gold), marked


def _cut(listed: str, gold: str) -> list[str]:
    """The choices in `a, b or c`, of which `gold` is one where the text allows it."""
    pieces = listed.split(" or ")
    ways = []
    for end in range(len(pieces) - 1, 0, -1):
        first, last = " or ".join(pieces[:end]), " or ".join(pieces[end:])
        ways.append([*first.split(", "), last])
        if f", {gold}, " in f", {first}, ":  # the answer may hold commas
            before, _, after = f", {first}, ".partition(f", {gold}, ")
            others = [part.strip(", ") for part in (before, after)]
            cut = [other.split(", ") if other else [] for other in others]
            ways.append([*cut[0], gold, *cut[1], last])
    return next((way for way in ways if gold in way), ways[0] if ways else [listed])
