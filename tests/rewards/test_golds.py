# SPDX-License-Identifier: Apache-2.0
"""A gold answer has to verify against itself by the kind that its example declares, and to earn
something from the rewards of its run."""

from functools import partial

import pytest

from jaxvl.config import Reward
from jaxvl.data.example import BadRow, Example
from jaxvl.data.intake import ExampleFilter
from jaxvl.errors import UserError
from jaxvl.rewards import Mixed, accuracy, cosine, judged, length, think_format, verified
from jaxvl.rewards.golds import credit_check, gold_check


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


def kind(kind, weight=1.0, **how):
    return Reward(partial(verified, kind=kind, **how), weight, f"{kind}{how.get('mode', '')}")


def untouched(*arguments, **columns):
    raise AssertionError("nobody is asked about a gold")


ACCURACY, MIXED = Reward(accuracy), Reward(Mixed(scorer=untouched), name="mixed")
FORM = (Reward(think_format), Reward(partial(length, cap=3)))
OWN = Reward(untouched, name="own")
TWO_LINES = "left\nright"


@pytest.mark.parametrize(
    ("rewards", "bad", "words"),
    [
        ((ACCURACY,), example(""), "`accuracy` (there is none)"),
        ((ACCURACY, *FORM), example(TWO_LINES), "not stand between answer tags on one line"),
        ((kind("text", mode="visualthinker"),), example(TWO_LINES), "on one line"),
        ((kind("number"),), example("left"), "`number` (as a number: bad_gold)"),
        ((kind("number"),), example(""), "`number` (as a number: there is none)"),
        ((kind("number", mode="lenient"),), example("5 or 6"), "as a number"),
        ((kind("mcq"),), example("E", ("a", "b")), "as a mcq"),
        ((kind("bbox"),), example("[0.5, 0.2, 0.1, 0.9]"), "as a bbox"),
        ((kind("math"),), example("it is obvious " * 200), "as a math"),
        ((Reward(partial(cosine, kind="number", limit=9)),), example("left"), "`cosine` (as a"),
        ((MIXED,), example("left", verifier_type="digit"), "`mixed` (as a number"),
        ((MIXED,), example("", verifier_type="open"), "`mixed` (there is none)"),
        ((MIXED,), example("A cat", source="vg/1.jpg"), "as a bbox"),
        (
            (kind("number"), kind("bbox")),
            example("left"),
            "`number` (as a number: bad_gold), `bbox`",
        ),
        ((kind("number"), OWN), example("left"), "`number`"),
        ((kind("number"), kind("text", 0.0)), example("left"), "`number`"),
    ],
)
def test_an_answer_that_no_reward_of_the_run_credits_is_a_bad_row(rewards, bad, words):
    with pytest.raises(BadRow) as caught:
        ExampleFilter(credit=credit_check(rewards)).open(bad)
    assert caught.value.reason == "no reward for its answer"
    assert str(caught.value).startswith("the answer ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("rewards", "good"),
    [
        ((ACCURACY, *FORM), example("left")),
        ((ACCURACY,), example("B", ("a", "b"))),
        ((ACCURACY,), example("$\\frac{1}{2}$")),
        ((kind("number"),), example("3 cm")),
        ((kind("text"),), example(TWO_LINES)),
        ((kind("mcq"),), example("b", ("a", "b"))),
        ((kind("bbox"),), example("[10, 20, 30, 40]")),
        ((kind("math"),), example("2\\sqrt{3}")),
        ((kind("number"), kind("text")), example("left")),  # one of them does
        ((MIXED,), example("a cat", verifier_type="open")),
        ((MIXED,), example("3", source="CLEVR_Math/1.jpg")),
        ((Reward(Mixed(only=("digit",))), Reward(accuracy)), example("x", verifier_type="open")),
        ((Reward(Mixed(only=("digit",))), OWN), example("", verifier_type="mcq")),
        ((OWN, *FORM), example("")),  # nothing is known of these
        ((kind("number", 0.0), OWN), example("left")),  # counts for nothing
        ((Reward(partial(judged, scorer=untouched)),), example("anything")),
    ],
)
def test_one_that_some_reward_credits_passes(rewards, good):
    assert ExampleFilter(credit=credit_check(rewards)).open(good) == good


def test_a_verifier_that_is_none_is_an_error_of_the_whole_run():
    with pytest.raises(UserError, match="row 1: verifier_type is 'mth'") as caught:
        credit_check((MIXED,))(example("3", verifier_type="mth"))
    assert not isinstance(caught.value, BadRow)
