# SPDX-License-Identifier: Apache-2.0
"""Targets of fine-tuning for rendered scenes: replies with thoughts of several kinds, made from the
column `about`, the things that a question is about and where they are.

Whatever the thought says, the answer is right. The same example has the same target every time.
"""

from __future__ import annotations

import zlib

import numpy as np

from jaxvl.data.example import Example


def none(example: Example) -> str:
    """The answer in its tags, without a thought."""
    return f"<answer> {example.answer} </answer>"


def form(example: Example) -> str:
    """A thought that names the things and says nothing of the image."""
    return _reply(example, [name for name, _ in _about(example)])


def short(example: Example) -> str:
    """A thought that says where the things are."""
    return _reply(example, [f"{name} {place}" for name, place in _about(example)])


def hesitant(example: Example) -> str:
    """A thought that places the first thing wrongly, takes it back and places it rightly, and in
    half of the examples places the last thing wrongly and leaves it so."""
    rng = np.random.default_rng(zlib.crc32(example.id.encode()))
    about = _about(example)
    wrong, steps = _elsewhere(rng, about[0][1]), [f"{name} {place}" for name, place in about]
    steps[0] = f"{about[0][0]} {wrong}, no, {about[0][1]}"
    if len(about) > 1 and rng.random() < 0.5:
        steps[-1] = f"{about[-1][0]} {_elsewhere(rng, about[-1][1])}"
    return _reply(example, steps)


def _about(example: Example) -> list[tuple[str, str]]:
    """(name, place) of the things that the question is about."""
    pairs = (thing.rsplit(" ", 1) for thing in example.columns["about"])
    return [(name, place) for name, place in pairs]


def _elsewhere(rng: np.random.Generator, place: str) -> str:
    """Another of the sixteen places."""
    places = [column + row for column in "abcd" for row in "1234"]
    places.remove(place)
    return str(rng.choice(places))


def _reply(example: Example, steps: list[str]) -> str:
    return f"<think> {', '.join(steps)} </think> {none(example)}"
