# SPDX-License-Identifier: Apache-2.0
"""Intervals and tables of the evaluation."""

import math

import numpy as np
import pytest

from jaxvl.data.example import Example
from jaxvl.eval import score


def test_wilson_against_known_values():
    # Newcombe (1998), table 1: 81/263 and 0/20.
    assert score.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert score.wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_one_sample_a_question_is_wilsons_interval():
    hits = np.arange(100)[:, None] < 37
    got = score.rate(hits)
    low, high = score.wilson(0.37, 100)
    # The sample variance divides by 99: the interval is wider by half a percent.
    assert (got.value, got.count) == (0.37, 100)
    assert got.low == pytest.approx(low, abs=1e-3) and got.high == pytest.approx(high, abs=1e-3)


def test_copies_of_a_sample_do_not_narrow_the_interval():
    hits = np.arange(100)[:, None] < 37
    one, eight = score.rate(hits), score.rate(np.repeat(hits, 8, axis=1))
    assert eight.count == 800 and eight.value == one.value
    assert (eight.low, eight.high) == pytest.approx((one.low, one.high))


def test_independent_samples_do():
    rng = np.random.default_rng(0)
    hits = rng.random((500, 8)) < 0.4
    got = score.rate(hits)
    width = 2 * 1.96 * math.sqrt(0.24 / 4000)
    assert got.high - got.low == pytest.approx(width, rel=0.1)  # 500 questions: 3% noise


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        p_Q1 = rng.beta(2, 3, size=(80, 1))  # questions differ, samples of one are kin
        got = score.rate(rng.random((80, 4)) < p_Q1)
        covered += got.low <= 0.4 <= got.high
    assert 0.92 <= covered / 400 <= 0.98  # two deviations of a share of 400 are 0.022


def test_only_counted_samples_count_and_none_is_unknown():
    hits = np.array([[1, 1], [0, 1]])
    assert score.rate(hits, np.array([[True, False], [True, False]])).value == 0.5
    nothing = score.rate(hits, np.zeros((2, 2), bool))
    assert nothing.value is None and (nothing.low, nothing.high, nothing.count) == (0, 1, 0)


def test_agreement_of_all_is_not_certainty():
    got = score.rate(np.ones((20, 4)))
    assert got.high == 1.0 and got.low == pytest.approx(score.wilson(1.0, 20)[0])


def examples():
    rows = [("left", ("left", "right"))] * 3 + [("right", ("left", "right"))]
    rows += [("2", ("1", "2", "3", "4"))] * 2
    return [
        Example(str(i), "?", answer, choices=choices, task="count" if answer == "2" else "relation")
        for i, (answer, choices) in enumerate(rows)
    ]


def test_guessing():
    got = score.guessing(examples())
    assert got.chance.value == pytest.approx((4 * 0.5 + 2 * 0.25) / 6)
    assert got.majority.value == pytest.approx((3 + 2) / 6)
    assert score.guessing([Example("0", "?", "17")]) is None


def test_accuracy_inside_of_well_formed_replies():
    good = "<think> a </think> <answer> left </answer>"
    texts = [[good, "left"], [good, "right"], ["right", "left"]]
    texts += [["<think> </think> <answer> left </answer>", "right"], ["2", "2"], ["1", "2"]]
    got = score.result(examples(), [""] * 6, texts)
    assert got.accuracy.value == pytest.approx(8 / 12)
    assert got.format.value == pytest.approx(3 / 12)
    assert got.accuracy_in_format.value == pytest.approx(2 / 3)
    assert got.accuracy_in_format.count == 3
    assert got.by_task["count"].value == pytest.approx(3 / 4)
