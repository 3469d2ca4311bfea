# SPDX-License-Identifier: Apache-2.0
"""A held-out set has limits on pixels of its own."""

import dataclasses
from typing import Any

from jaxvl.config import Eval
from jaxvl.data.example import Example
from jaxvl.data.prompts import Processor
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question
from jaxvl.eval.heldout import evaluate
from jaxvl.vlm import Completion
from tests.test_loop import BASE


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
