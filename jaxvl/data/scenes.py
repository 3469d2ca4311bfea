# SPDX-License-Identifier: Apache-2.0
"""Rendered spatial questions in the style of SAT and CV-Bench, drawn with Pillow from a seed.

A scene is a floor of 4 x 4 places seen from the front. Columns a to d run from left to right, rows
1 to 4 from far to near; what is nearer is drawn lower and larger. The floor is lit from the left
and fades with distance, as a real one is, so that a patch of it tells where it is.

Train and held-out scenes never coincide: which side a layout belongs to is a hash of the layout.
Nor, where it is wanted, do their compositions: the task and the names that a question is about.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge
from PIL import Image, ImageDraw

from jaxvl.data.example import Example
from jaxvl.errors import UserError

SIZE = 112  # pixels, square
CELL = SIZE // 4
# A thing's outline and colour. Plurals are regular but for those with a second word.
KINDS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "apple": ("circle", (205, 30, 40)),
    "plum": ("circle", (125, 45, 160)),
    "egg": ("oval", (250, 245, 235)),
    "lemon": ("oval", (245, 215, 20)),
    "book": ("square", (25, 70, 200)),
    "box": ("square", (120, 75, 35)),
    "cone": ("triangle", (245, 125, 20)),
    "hat": ("triangle", (20, 20, 20)),
    "leaf": ("diamond", (30, 140, 45)),
    "kite": ("diamond", (240, 90, 170)),
}
PLURAL = {name: f"{name}s" for name in KINDS} | {"box": "boxes", "leaf": "leaves"}
TASKS = ("relation", "count", "depth", "distance")


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object on the floor: column 0 to 3 (left to right), row 0 to 3 (far to near)."""

    name: str
    column: int
    row: int

    @property
    def place(self) -> str:
        """Column a to d and row 1 to 4: "a1" is far left."""
        return f"{'abcd'[self.column]}{self.row + 1}"


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a scene, of whose `choices` the `answer` is one."""

    text: str
    answer: str
    choices: tuple[str, ...]
    about: tuple[Thing, ...]  # the things one has to look at, in the order they are named


def draw(things: Sequence[Thing], rng: np.random.Generator) -> Image.Image:
    """The picture of a scene; `rng` moves things a little within their places."""
    across = np.linspace(0, 1, SIZE)
    floor_YX3 = np.empty((SIZE, SIZE, 3))
    floor_YX3[..., 0] = 225 - 110 * across[None, :]
    floor_YX3[..., 1] = 170
    floor_YX3[..., 2] = 225 - 120 * across[:, None]
    image = Image.fromarray(floor_YX3.astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for thing in sorted(things, key=lambda thing: thing.row):  # the nearer hides the farther
        dx, dy = rng.uniform(-3, 3, 2)
        x, y = (thing.column + 0.5) * CELL + dx, (thing.row + 0.5) * CELL + dy
        _draw_thing(canvas, thing.name, x, y, radius=7 + 1.2 * thing.row)
    return image


def _draw_thing(canvas: ImageDraw.ImageDraw, name: str, x: float, y: float, radius: float) -> None:
    outline, color = KINDS[name]
    left, right, top, low = x - radius, x + radius, y - radius, y + radius
    if outline == "circle":
        canvas.ellipse((left, top, right, low), fill=color)
    elif outline == "oval":
        canvas.ellipse((left, y - 0.65 * radius, right, y + 0.65 * radius), fill=color)
    elif outline == "square":
        canvas.rectangle((left, top, right, low), fill=color)
    elif outline == "triangle":
        canvas.polygon([(x, top), (left, low), (right, low)], fill=color)
    else:
        canvas.polygon([(x, top), (right, y), (x, low), (left, y)], fill=color)


def scatter(rng: np.random.Generator, names: Sequence[str]) -> tuple[Thing, ...]:
    """Things of the given names in places of their own."""
    cells = rng.permutation(16)[: len(names)]
    return tuple(
        Thing(name, int(cell % 4), int(cell // 4)) for name, cell in zip(names, cells, strict=True)
    )


def distinct_names(rng: np.random.Generator, number: int) -> list[str]:
    """Names, no two alike."""
    return [str(name) for name in rng.permutation(list(KINDS))[:number]]


def held_out(things: Sequence[Thing]) -> bool:
    """Whether a layout belongs to the held-out side (one in four does)."""
    return _one_in_four(";".join(sorted(f"{thing.name}@{thing.place}" for thing in things)))


def new_composition(task: str, question: Question) -> bool:
    """Whether the names that a question of a task is about belong together on the held-out side
    alone (one composition in four does)."""
    return _one_in_four(f"{task}: {', '.join(sorted(thing.name for thing in question.about))}")


def _one_in_four(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 4 == 0


def _ask_relation(rng, things):
    one, other = _pick(rng, things, 2)
    if rng.random() < 0.5 and one.column != other.column:
        answer, choices = ("left" if one.column < other.column else "right"), ("left", "right")
        text = f"Is the {one.name} to the left or to the right of the {other.name}?"
    elif one.row != other.row:
        answer, choices = ("above" if one.row < other.row else "below"), ("above", "below")
        text = f"Is the {one.name} above or below the {other.name}?"
    else:
        return None
    return Question(text, answer, choices, (one, other))


def _ask_count(rng, things):
    name = things[0].name  # `_names_for` puts what is to be counted in front
    about = sorted((t for t in things if t.name == name), key=lambda t: (t.row, t.column))
    text = f"How many {PLURAL[name]} are there?"
    return Question(text, str(len(about)), ("1", "2", "3", "4"), tuple(about))


def _ask_depth(rng, things):
    one, other = _pick(rng, things, 2)
    if one.row == other.row:
        return None
    nearer = one if one.row > other.row else other
    text = f"Which is nearer to the camera, the {one.name} or the {other.name}?"
    return Question(text, nearer.name, (one.name, other.name), (one, other))


def _ask_distance(rng, things):
    anchor, one, other = _pick(rng, things, 3)

    def gap(thing):
        return (thing.column - anchor.column) ** 2 + (thing.row - anchor.row) ** 2

    low, high = sorted((gap(one), gap(other)))
    if high < 2 * low:  # too close to call by eye
        return None
    nearer = one if gap(one) < gap(other) else other
    text = f"Which is closer to the {anchor.name}, the {one.name} or the {other.name}?"
    return Question(text, nearer.name, (one.name, other.name), (anchor, one, other))


def _pick(rng: np.random.Generator, things: Sequence[Thing], number: int) -> list[Thing]:
    """Things that a name alone tells from all others."""
    names = [thing.name for thing in things]
    single = [thing for thing in things if names.count(thing.name) == 1]
    return [single[i] for i in rng.permutation(len(single))[:number]]


_ASK: dict[str, Callable] = {
    "relation": _ask_relation,
    "count": _ask_count,
    "depth": _ask_depth,
    "distance": _ask_distance,
}


def _names_for(task: str, rng: np.random.Generator) -> list[str]:
    if task != "count":
        return distinct_names(rng, int(rng.integers(3, 6)))
    counted, *others = distinct_names(rng, int(rng.integers(2, 5)))
    return [counted] * int(rng.integers(1, 5)) + others


def ask(task: str, rng: np.random.Generator, things: Sequence[Thing]) -> Question | None:
    """A question about a scene with three or more single things (count: any scene), or None where
    the answer is not clear."""
    return _ASK[task](rng, things)


def make_scene(
    task: str, test: bool, rng: np.random.Generator, compositions: bool = False
) -> tuple[tuple, Question]:
    """A scene of the wanted split with a question that has a clear answer; with `compositions` the
    question's composition is of that split too."""
    while True:
        things = scatter(rng, _names_for(task, rng))
        if held_out(things) != test:
            continue
        question = ask(task, rng, things)
        if question is None or (compositions and new_composition(task, question) != test):
            continue
        return things, question


@dataclasses.dataclass(frozen=True)
class Scenes:
    """`size` questions of a split ("train" or "test"), the tasks taking turns.

    The splits have no layout in common, and with `compositions` no composition either.
    """

    size: Annotated[int, Ge(1)]
    split: str = "train"
    seed: Annotated[int, Ge(0)] = 0
    tasks: tuple[str, ...] = TASKS
    compositions: bool = False

    def load(self) -> _SceneList:
        if self.split not in ("train", "test"):
            raise UserError(f"scenes: split {self.split!r}, expected 'train' or 'test'")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise UserError(f"scenes: tasks {self.tasks}, expected some of {TASKS}")
        return _SceneList(self)


def _listed(things: Sequence[Thing]) -> list[str]:
    return [f"{thing.name} {thing.place}" for thing in things]


class _SceneList(Sequence[Example]):
    """Draws example `i` when it is asked for; the same `i` is the same picture every time."""

    def __init__(self, spec: Scenes):
        self.spec = spec

    def __len__(self) -> int:
        return self.spec.size

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        spec = self.spec
        task = spec.tasks[i % len(spec.tasks)]
        rng = np.random.default_rng([spec.seed, int(spec.split == "test"), i])
        things, question = make_scene(task, spec.split == "test", rng, spec.compositions)
        return Example(
            id=f"{spec.split}-{spec.seed}-{i}",
            question=question.text,
            answer=question.answer,
            images=(draw(things, rng),),
            choices=question.choices,
            task=task,
            columns={"things": _listed(things), "about": _listed(question.about)},
        )
