# SPDX-License-Identifier: Apache-2.0
"""Right answers in every way in which they are said are credited, and what says that something is
not the answer is not: `JAXVL_CASES=20000` asks for more of them."""

import os
import random

import pytest

from jaxvl.rewards import verify
from tests.rewards import ways

CASES = int(os.environ.get("JAXVL_CASES", "400"))


@pytest.mark.parametrize("kind", ways.RIGHT)
def test_the_right_answer_is_credited_however_it_is_said(kind):
    wrong = [
        (gold, answer, options)
        for gold, answer, options in ways.cases(kind, ways.RIGHT, CASES)
        if verify(kind, f"<answer>{answer}</answer>", gold, options).reward < 1 - 1e-9
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", ways.WRONG)
def test_what_says_that_it_is_not_the_answer_earns_nothing(kind):
    wrong = [
        (gold, answer, options)
        for gold, answer, options in ways.cases(kind, ways.WRONG, CASES)
        if verify(kind, f"<answer>{answer}</answer>", gold, options).reward > 0
    ]
    assert wrong == []


REASONS = (
    "The lamp is further from the camera than the chair.",
    "Looking at the shadows, the chair is to the left of the lamp.",
    "Option A is too small, and (C) does not touch the table.",
    "It is not on the left, as the picture shows.",
    "The image shows a chair, a lamp and a table with 3 legs.",
    "The car is not beneath the cat.",
)
STYLES = (  # of one content: an option, and perhaps a reason
    "({letter})",
    "({letter}) {text}",
    "{letter}. {text}",
    "({letter}) {text}\n\n{reason}",
    "**{letter}. {text}**\n\n{reason}",
    "{letter}\n{reason}",
    "The correct answer is ({letter}) {text}. {reason}",
    "{reason}\n\nThe answer is {letter}.",
    "{reason} So the correct option is ({letter}).",
    "{reason}\n\nFinal answer: **{letter}**",
    "{reason}\n\\boxed{{{letter}}}",
    "<s> ({letter}) {text}. {reason}</s>",
    "<think>{reason}</think><answer>{letter}</answer>",
)


@pytest.mark.parametrize("options", [("left", "right", "on top", "below"), ("yes", "no")])
def test_replies_that_say_the_same_get_the_same_verdict(options):
    """The letter alone, the reason behind it, and the letter last: one accuracy on one content."""
    draw = random.Random(0)
    for number in range(120):
        letter, gold = (draw.choice("ABCD"[: len(options)]) for _ in range(2))
        text, reason = options["ABCD".index(letter)], draw.choice(REASONS)
        marks = {
            style: verify(
                "mcq",
                style.format(letter=letter, text=text, reason=reason),
                gold,
                options,
                "lenient",
            ).reward
            for style in STYLES
        }
        assert set(marks.values()) == {float(letter == gold)}, (number, letter, reason, marks)
