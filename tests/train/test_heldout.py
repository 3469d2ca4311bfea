# SPDX-License-Identifier: Apache-2.0
"""The held-out set of a run: its scores, guessing, and its own limits on pixels."""

import dataclasses
from typing import Any

import pytest

from jaxvl.config import Eval
from jaxvl.data.example import Example
from jaxvl.data.prompts import Processor
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question
from jaxvl.train import heldout
from jaxvl.train.heldout import evaluate
from jaxvl.vlm import Completion
from tests.train.test_prompts import BASE


@dataclasses.dataclass
class Parrot:
    """Says "left", and notes with which limits it was shown pictures."""

    processor: Processor
    seen: list[Any]

    def generate(self, prompts, images, n, **how):
        settings = self.processor.image
        self.seen.append((settings.min_pixels, settings.max_pixels))
        answer = Completion("<answer> left </answer>", [1], [0.0], "stop")
        return [[answer] * n for _ in prompts]


def test_pixels_of_the_held_out_set_win_over_the_models():
    vlm = Parrot(Processor.from_pretrained(BASE), [])
    examples: list[Example] = list(Scenes(4, "test").load())
    for limits in ({}, {"max_pixels": 6272}):
        evaluate(vlm, examples, Eval(Scenes(4), samples=2, **limits), chat_question, 4)
    assert vlm.seen == [(3136, 12544)] * 2 + [(3136, 6272)] * 2  # greedy and sampled, twice


def examples():
    rows = [("left", ("left", "right"))] * 3 + [("right", ("left", "right"))]
    rows += [("2", ("1", "2", "3", "4"))] * 2
    return [
        Example(str(i), "?", answer, choices=choices, task="count" if answer == "2" else "relation")
        for i, (answer, choices) in enumerate(rows)
    ]


def test_guessing():
    got = heldout.guessing(examples())
    assert got.chance.value == pytest.approx((4 * 0.5 + 2 * 0.25) / 6)
    assert got.majority.value == pytest.approx((3 + 2) / 6)
    assert heldout.guessing([Example("0", "?", "17")]) is None


def test_accuracy_inside_of_well_formed_replies():
    good = "<think> a </think> <answer> left </answer>"
    texts = [[good, "left"], [good, "right"], ["right", "left"]]
    texts += [["<think> </think> <answer> left </answer>", "right"], ["2", "2"], ["1", "2"]]
    got = heldout.result(examples(), [""] * 6, texts)
    assert got.accuracy.value == pytest.approx(8 / 12)
    assert got.format.value == pytest.approx(3 / 12)
    assert got.accuracy_in_format.value == pytest.approx(2 / 3)
    assert got.accuracy_in_format.count == 3
    assert got.by_task["count"].value == pytest.approx(3 / 4)
