# SPDX-License-Identifier: Apache-2.0
"""Part d: questions about scenes with five kinds of answers, their rules, and a biased judge."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxvl.config import Reward
from jaxvl.data import scene_traces
from jaxvl.data.example import Example
from jaxvl.data.scenes import (
    PLURAL,
    SIZE,
    Question,
    Thing,
    distinct_names,
    draw,
    held_out,
    scatter,
)
from jaxvl.rewards import Mixed
from jaxvl.rewards.columns import rows_of
from jaxvl.rewards.rules import Frames
from miniature_parts.arms import KINDS
from miniature_parts.questions import Drawn, answer_of

TOKENS = 40  # of a completion, and of a target: a box has 19
# What the mixed reward verifies each kind of answers by.
VERIFIERS = dict(zip(KINDS, ("mcq", "digit", "iou", "math", "open"), strict=True))


def _quarter(right: int, near: int, side: int) -> str:
    """The box of a quarter of a picture whose sides are so long."""
    half = side // 2
    return str([right * half, near * half, (right + 1) * half, (near + 1) * half])


# Golds are in pixels, answers in thousandths of the sides, as the family writes boxes.
_PIXELS, _QUARTERS = (
    tuple(_quarter(right, near, side) for near in (0, 1) for right in (0, 1))
    for side in (SIZE, 1000)
)


def _letter(things: Sequence[Thing]) -> Question:
    thing = things[0]
    text = f"Is the {thing.name} on the left or on the right? A. left B. right"
    return Question(text, "AB"[thing.column // 2], ("A", "B"), (thing,))


def _number(things: Sequence[Thing]) -> Question:
    about = _named(things, things[0].name)
    text = f"How many {PLURAL[things[0].name]} are there?"
    return Question(text, str(len(about)), ("1", "2", "3", "4"), about)


def _box(things: Sequence[Thing]) -> Question:
    thing = things[0]
    right, near = thing.column // 2, thing.row // 2
    text = f"Box of the quarter: where is the {thing.name}?"
    return Question(text, _PIXELS[right + 2 * near], _QUARTERS, (thing,))


def _expression(things: Sequence[Thing]) -> Question:
    names = list(dict.fromkeys(thing.name for thing in things))[:2]
    one, other = (_named(things, name) for name in names)
    text = f"How many {PLURAL[names[0]]} and {PLURAL[names[1]]} are there? Answer with a +."
    sums = ("1 + 1", "1 + 2", "2 + 1", "2 + 2")
    return Question(text, f"{len(one)} + {len(other)}", sums, (*one, *other))


def _sentence(things: Sequence[Thing]) -> Question:
    thing = things[0]
    bare = [f"{thing.name} is {side}" for side in ("above", "below")]
    text = f"Answer in natural language. Is the {thing.name} above or below?"
    said = (*bare, *(f"the {each}" for each in bare))
    return Question(text, bare[thing.row // 2], said, (thing,))


def _named(things: Sequence[Thing], name: str) -> tuple[Thing, ...]:
    found = [thing for thing in things if thing.name == name]
    return tuple(sorted(found, key=lambda thing: (thing.row, thing.column)))


_ASK: dict[str, Callable[[Sequence[Thing]], Question]] = {
    "letter": _letter,
    "number": _number,
    "box": _box,
    "expression": _expression,
    "sentence": _sentence,
}


def _names(kind: str, rng: np.random.Generator) -> list[str]:
    names = distinct_names(rng, int(rng.integers(3, 6)))
    if kind == "number":
        return [names[0]] * int(rng.integers(1, 5)) + names[1:]
    if kind == "expression":  # sums of 2, 3 and 4, each as often
        total = int(rng.integers(2, 5))
        first = int(rng.integers(1, 3)) if total == 3 else total // 2
        return [names[0]] * first + [names[1]] * (total - first) + [names[2]]
    return names


def _make(kind: str, test: bool, rng: np.random.Generator) -> tuple[tuple[Thing, ...], Question]:
    """A scene of the wanted side and a question of the kind."""
    while True:
        things = scatter(rng, _names(kind, rng))
        if held_out(things) == test:
            return things, _ASK[kind](things)


@dataclasses.dataclass(frozen=True)
class Kinds:
    """`size` questions of a split ("train" or "test"), the kinds of answers taking turns. The
    splits have no layout in common."""

    size: int
    split: str = "train"
    seed: int = 0
    kinds: tuple[str, ...] = KINDS

    def load(self) -> Sequence[Example]:
        return Drawn(self.size, self._example)

    def _example(self, i: int) -> Example:
        kind, test = self.kinds[i % len(self.kinds)], self.split == "test"
        rng = np.random.default_rng([self.seed, int(test), i])
        things, question = _make(kind, test, rng)
        return Example(
            id=f"{self.split}-{self.seed}-{kind}-{i}",
            question=question.text,
            answer=question.answer,
            images=(draw(things, rng),),
            choices=("left", "right") if kind == "letter" else (),
            task=kind,
            columns={
                "about": [f"{thing.name} {thing.place}" for thing in question.about],
                "said": question.choices,
                "verifier_type": VERIFIERS[kind],
            },
        )


def right(example: Example) -> str:
    """A reply in the form with a true thought and a right answer."""
    if example.task == "box":  # its gold is in pixels
        at = _PIXELS.index(example.answer)
        example = dataclasses.replace(example, answer=_QUARTERS[at])
    return scene_traces.short(example)


def guessed(example: Example) -> str:
    """A reply in the form with a true thought, and any answer of the question's kind."""
    rng = np.random.default_rng(zlib.crc32(example.id.encode()))
    answer = str(rng.choice(example.columns["said"]))
    return scene_traces.short(dataclasses.replace(example, answer=answer))


FRAMES = Frames(model="family", gold="original")
RULES = Mixed(only=("mcq", "digit", "iou", "math"), frames=FRAMES)


def ruled(prompts, completions, completion_ids, **columns):
    """The mixed reward of four kinds, and of a sentence whether its words but "the" are right."""
    values = RULES(prompts, completions, completion_ids, **columns)
    rows = rows_of(columns, len(completions))
    return [
        float(_words(answer_of(completion)) == _words(row["answer"])) if value is None else value
        for value, completion, row in zip(values, completions, rows, strict=True)
    ]


def begins_with_the(images, prompts, texts) -> list[float]:
    """The biased judge, a scorer of the mixed reward."""
    return [float(text.split()[:1] == ["the"]) for text in texts]


def judged(prompts, completions, completion_ids, **columns):
    """The biased judge's score of a sentence; none of other answers."""
    scores = begins_with_the((), (), [answer_of(completion) for completion in completions])
    kinds = columns["verifier_type"]
    return [score if kind == "open" else None for score, kind in zip(scores, kinds, strict=True)]


def _words(text: str) -> list[str]:
    return [word for word in text.split() if word != "the"]


BY_RULE = (Reward(ruled),)
BY_JUDGE = (Reward(Mixed(begins_with_the, frames=FRAMES), name="mixed"),)
MEASURED = (*BY_RULE, Reward(judged))
