# SPDX-License-Identifier: Apache-2.0
"""One place decides what the right answer of a row is."""

import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxvl.data import gold
from jaxvl.data.example import BadRow, Example
from jaxvl.data.intake import ExampleFilter
from jaxvl.data.tasks.records import Records


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (1e22, "1e+22"),
        (0.1, "0.1"),
        (float(np.float32(0.1)), "0.1"),  # what a float32 column of a parquet file gives
        (1 / 3, "0.3333333333333333"),
        (np.float32(0.1), "0.1"),
        (np.int8(7), "7"),
        (np.array(3.0), "3"),
        (Decimal("3.00"), "3"),
        (Decimal("0.50"), "0.50"),
        (Decimal("1e-400"), "1E-400"),
        (Fraction(1, 2), "1/2"),
        (b" left", "left"),
        (np.str_("left "), "left"),
        ("<answer> left </answer>", "left"),
        (" <Answer>\nleft\n</Answer>\n", "left"),
        ("3.0", "3.0"),  # text is as it was written
        ("a < b", "a < b"),
        ([10, 20, 30.0, 40], "[10, 20, 30, 40]"),
        (np.array([0.25, 0.5, 0.75, 1]), "[0.25, 0.5, 0.75, 1]"),
    ],
    ids=repr,
)
def test_an_answer_is_the_text_that_a_person_would_write(value, text):
    assert gold.text(value) == text


NONE = [None, math.nan, math.inf, np.float32("nan"), np.array(np.nan), Decimal("NaN")]
NONE += [Decimal("sNaN"), "", " \n", b"", "<answer></answer>", "\n<answer> </answer>"]


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_none_is_none_in_any_form(value):
    assert gold.text(value) == gold.of_row({"answer": value}) == ""
    assert gold.of_row({"answer": value, "solution": "<answer>4</answer>"}) == "4"


ODD = [True, np.bool_(False), ["a"], [1, 2, 3], [1, 2, 3, None], {"a": 1}, {1}, 1 + 0j, b"\xff"]
ODD += [np.datetime64("2020-01-01"), object()]


@pytest.mark.parametrize("value", ODD, ids=lambda x: type(x).__name__)
def test_what_is_no_answer_is_a_bad_row(value):
    with pytest.raises(BadRow, match="`answer`"):
        gold.text(value)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("<think>so</think>\n<answer> left </answer>", "left"),
        ("<answer>a</answer>, that is <answer>a </answer>", "a"),
        ("It is <ANSWER>3</ANSWER>.", "3"),
        ("<answer>3", "<answer>3"),
        ("left", "left"),
    ],
)
def test_the_gold_of_a_reply_stands_in_its_tags_and_a_target_keeps_them(tmp_path, reply, right):
    assert gold.tagged(reply) == gold.of_row({"answer": reply}) == right
    (example,) = records(tmp_path, {"answer": reply})
    assert (
        example.answer == ExampleFilter().open(example).answer == reply
    )  # fine-tuning learns all of it
    assert ExampleFilter(credit=lambda example: "").open(example).answer == right
    choices = [right, "other"]
    assert records(tmp_path, {"answer": reply, "choices": choices})[0].answer == right


def test_different_answers_in_tags_are_a_bad_row(tmp_path):
    reply = "<answer>a</answer> or <answer>b</answer>"
    (example,) = records(tmp_path, {"answer": reply})
    with pytest.raises(BadRow, match="`answer` has 2 different answers in answer tags"):
        ExampleFilter(credit=lambda example: "").open(example)
    assert ExampleFilter().open(example).answer == reply


def records(tmp_path, *rows, **settings):
    path = tmp_path / "toy.jsonl"
    path.write_text("".join(json.dumps({"question": "q", **row}) + "\n" for row in rows))
    return Records(str(path), **settings).load()


def test_a_column_of_integers_with_a_gap_stays_one(tmp_path):
    """As pandas leaves it in parquet, JSON lines and CSV."""
    table = pa.table({"question": ["q"] * 4, "answer": pa.array([3.0, None, math.nan, 12.0])})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,answer\nq,3.0\nq,\nq,nan\nq,12.0\n")
    rows = [{"answer": value} for value in (3.0, None, math.nan, 12.0)]
    for loaded in (
        Records(str(tmp_path / "a.parquet")).load(),
        Records(str(tmp_path / "a.csv")).load(),
        records(tmp_path, *rows),
    ):
        assert [example.answer for example in loaded] == ["3", "12"]
        assert [(row.id, row.reason) for row in loaded.dropped] == [
            ("2", "no answer"),
            ("3", "no answer"),
        ]


def test_a_row_without_an_answer_may_have_it_in_the_tags_of_its_solution(tmp_path):
    loaded = records(
        tmp_path,
        {"solution": "<answer> 4 </answer>"},
        {"solution": "<think>2 + 2</think><answer>4</answer>"},
        {"answer": "5", "solution": "<answer>4</answer>"},
        {"answer": None, "solution": "<answer>4</answer>"},  # a gap in the column that is named
        {"solution": "We add them up."},
        {"solution": None},
    )
    assert [example.answer for example in loaded] == ["4", "4", "5"]
    assert [row.reason for row in loaded.dropped] == ["no answer"] * 3
    named = records(tmp_path, {"solution": "4", "answer": "5"}, answer="solution")
    assert named[0].answer == "4"


@pytest.mark.parametrize(
    ("choices", "answer", "found"),
    [
        (None, "a", ("a", ())),
        ([], "a", ("a", ())),
        ([None, None], "a", ("a", ())),
        (["a", "b", None, None], "b", ("b", ("a", "b"))),
        (["a", "b", math.nan], "B", ("B", ("a", "b"))),
        ([3.0, 4.0], 3.0, ("3", ("3", "4"))),
        (["3.0", "4.0"], 3.0, ("3.0", ("3.0", "4.0"))),
        ([3, 4], "3.0", ("3", ("3", "4"))),
        (["nan", "bread"], "nan", ("nan", ("nan", "bread"))),
        ([True, False], "True", ("True", ("True", "False"))),
    ],
)
def test_choices_may_have_gaps_at_their_end(tmp_path, choices, answer, found):
    (example,) = records(tmp_path, {"answer": answer, "choices": choices})
    assert (example.answer, example.choices) == found


@pytest.mark.parametrize(
    "choices", ["a", {"A": "a"}, [None, "a"], ["a", None, "b"], ["a", math.nan, "b"], [["a"]], 3]
)
def test_choices_that_cannot_be_lettered_are_a_bad_row(tmp_path, choices):
    loaded = records(tmp_path, {"answer": "a", "choices": choices}, {"answer": "a"})
    (bad,) = loaded.dropped
    assert bad.reason in ("choices of a wrong type", "no answer") and "`choices`" in bad.found


def test_a_gap_between_fields_of_choices_is_a_bad_row(tmp_path):
    rows = [{"answer": "B", "x": "1", "y": "2"}, {"answer": "B", "x": "1", "z": "2"}]
    loaded = records(tmp_path, *rows, choices=("x", "y", "z"))
    assert [example.choices for example in loaded] == [("1", "2")]
    assert "`x, y, z` is ['1', None, '2']" in loaded.dropped[0].found


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), Decimal(3)])
def test_an_example_of_ones_own_source_leaves_the_gate_with_text(value):
    assert ExampleFilter().open(Example("1", "q", value)).answer == "3"
    assert ExampleFilter().open(Example("1", "q", None)).answer == ""
    with pytest.raises(BadRow, match="`answer` is True"):
        ExampleFilter().open(Example("1", "q", True))


@pytest.mark.parametrize(
    ("choices", "found"),
    [(None, ()), ((), ()), ([2.0, 3], ("2", "3")), (("a", None), ("a",)), (["a", "b"], ["a", "b"])],
)
def test_so_do_its_choices(choices, found):
    assert ExampleFilter().open(Example("1", "q", "a", choices=choices)).choices == found
    with pytest.raises(BadRow, match="`choices` is .* one that is missing moves the letters"):
        ExampleFilter().open(Example("1", "q", "a", choices=("a", None, "b")))
