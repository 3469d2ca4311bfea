# SPDX-License-Identifier: Apache-2.0
"""A gold answer has to verify against itself by the kind that its example declares."""

import pytest

from jaxvl.data.example import Example
from jaxvl.errors import UserError
from jaxvl.rewards.golds import gold_check


def example(answer, choices=(), **columns):
    return Example(id="1", question="q", answer=answer, choices=choices, columns=columns)


@pytest.mark.parametrize(
    "good",
    [
        example("3", verifier_type="digit"),
        example("C", verifier_type="mcq"),
        example("y = -5 * sin(-5 * x)", verifier_type="math"),
        example("[0.1, 0.2, 0.7, 0.5]", verifier_type="iou"),
        example("[0.1, 0.2, 0.7, 0.5]", verifier_type="bbox"),
        example("anything at all", verifier_type="open"),
        example("anything at all", verifier_type="open-ended"),
        example("anything at all"),
        example("yes, it is", ("yes, it is", "no")),
        example("B", ("left", "right")),
    ],
    ids=lambda e: e.answer[:20],
)
def test_a_sound_gold_passes(good):
    assert gold_check(good) == ""


@pytest.mark.parametrize(
    "bad",
    [
        example("three or four", verifier_type="digit"),
        example("it is obvious " * 200, verifier_type="math"),
        example("[0.5, 0.2, 0.1, 0.9]", verifier_type="iou"),
        example("[0.5, 0.2, 0.1, 0.9]", verifier_type="BBox"),
        example("E", ("left", "right"), verifier_type="MCQ"),
        example("maybe", ("yes", "no")),
    ],
    ids=lambda e: e.answer[:20],
)
def test_one_that_nothing_can_be_verified_against_is_told(bad):
    assert "does not verify against itself" in gold_check(bad)


def test_a_verifier_that_is_none_is_an_error():
    with pytest.raises(UserError, match="row 1: verifier_type is 'mth'; expected one of digit"):
        gold_check(example("3", verifier_type="mth"))
