# SPDX-License-Identifier: Apache-2.0
"""Rewards of length and repetition against their formulas, point by point."""

import math

import pytest

from jaxvl.errors import UserError
from jaxvl.rewards import cosine, repetition, soft_overlong
from jaxvl.rewards.shaping import repeated


def ids(*lengths):
    return [list(range(length)) for length in lengths]


def test_soft_overlong_falls_over_the_margin_in_tokens():
    tokens = ids(0, 79, 80, 85, 90, 100, 101, 5000)
    texts = ["a" * 9999] * len(tokens)  # characters do not count
    got = soft_overlong(texts, texts, tokens, limit=100, margin=20)
    assert got == pytest.approx([0, 0, 0, -0.25, -0.5, -1, -1, -1])
    with pytest.raises(UserError, match="margin = 0; expected 1 to limit = 100"):
        soft_overlong([""], [""], [[]], limit=100, margin=0)


def test_cosine_goes_from_its_first_value_to_its_last():
    right, wrong = "<answer>3</answer>", "<answer>4</answer>"
    tokens = ids(0, 50, 99, 100, 0, 50, 99, 100)
    texts = [right] * 4 + [wrong] * 4
    settings = {"right": (2.0, 1.0), "wrong": (-10.0, 0.0), "exceeded": -12.0}
    got = cosine([""] * 8, texts, tokens, kind="number", limit=100, answer=["3"] * 8, **settings)
    late = math.cos(math.pi * 0.99)  # next to -1
    expected = [2, 1.5, 1.5 + 0.5 * late, -12, -10, -5, -5 - 5 * late, -12]
    assert got == pytest.approx(expected)


def test_repetition_is_the_share_of_n_grams_seen_before():
    assert repeated([5, 5, 5, 5, 5], 2) == 0.75
    assert repeated([1, 2, 3, 1, 2, 3], 3) == 0.25
    assert repeated([1, 2], 3) == repeated([], 1) == 0
    got = repetition([""] * 2, [""] * 2, [[5] * 5, [1, 2, 3]], size=2, penalty=-2.0)
    assert got == [-1.5, 0]
