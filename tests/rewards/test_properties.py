# SPDX-License-Identifier: Apache-2.0
"""What holds for every completion, on random ones: `JAXVL_CASES=20000` asks for more of them."""

import math
import os
import random
from functools import partial

import pytest

from jaxvl.rewards import gold_problem, verify
from tests.rewards import strings
from tests.rewards.timing import timed

CASES = int(os.environ.get("JAXVL_CASES", "1500"))
CHOICES = ("left", "right", "above", "below")


def cases(seed, count=CASES):
    """(draw, kind, gold, choices) in equal shares of the kinds."""
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        kind = strings.KINDS[number % len(strings.KINDS)]
        choices = CHOICES if kind == "mcq" and draw.random() < 0.5 else None
        yield draw, kind, strings.golds(draw, kind), choices


def test_every_text_gets_a_bounded_reward_and_a_reason_always_the_same():
    for draw, kind, gold, choices in cases("total"):
        text = strings.completion(draw, draw.choice((gold, strings.noise(draw))))
        mode = draw.choice(("strict", "strict", "lenient", "visualthinker"))
        gold = gold if draw.random() < 0.9 else strings.noise(draw)
        verdict = verify(kind, text, gold, choices, mode)
        shown = (kind, text, gold, mode, verdict)
        assert 0 <= verdict.reward <= 1 and math.isfinite(verdict.reward), shown
        assert verdict.reason and isinstance(verdict.extracted + verdict.canonical, str), shown
        assert verify(kind, text, gold, choices, mode) == verdict, shown
        assert verdict.reward == 0 or verdict.reason == "match", shown
        assert verdict.reason not in ("timeout", "crash"), shown


def test_a_gold_is_worth_one_whatever_was_thought_and_however_it_is_padded():
    for draw, kind, gold, choices in cases("gold"):
        space = draw.choice(("", " ", "\n\n", "\t "))
        end = draw.choice(("", "\n", "<|im_end|>", " <|im_end|>\n<|endoftext|>"))
        text = f"{strings.thought(draw)}{space}<answer>{space}{gold}{space}</answer>{end}"
        verdict = verify(kind, text, gold, choices)
        assert verdict.reward == pytest.approx(1, abs=1e-9), (kind, text, gold, verdict)
        assert gold_problem(kind, gold, choices) == ""


def test_thinking_changes_nothing():
    for draw, kind, gold, choices in cases("thought"):
        answer = draw.choice((gold, strings.mutated(draw, gold), strings.noise(draw)))
        rest = f"<answer>{answer.replace('</think>', '')}</answer>"
        for mode in ("strict", "lenient"):
            plain = verify(kind, "</think>" + rest, gold, choices, mode)
            thought = verify(kind, strings.thought(draw) + rest, gold, choices, mode)
            assert thought == plain, (kind, rest, gold, mode)


def test_the_fast_path_is_fast():
    """Everything but mathematics, on answers after a thousand words of thinking."""
    thinking = f"<think>{'so the chair is left of the lamp, or B, or 3. ' * 100}</think>"
    times = []
    for draw, kind, gold, choices in cases("fast", 1000):
        if kind != "math":
            text = f"{thinking}<answer>{draw.choice((gold, strings.noise(draw)))}</answer>"
            times.append(timed(partial(verify, kind, text, gold, choices))[0])
    assert sorted(times)[int(0.99 * len(times))] < 0.005
