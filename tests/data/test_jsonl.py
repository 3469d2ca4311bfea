# SPDX-License-Identifier: Apache-2.0
"""A user's file becomes examples; every row that does not is counted and explained."""

import json
import warnings
from pathlib import Path

import pytest

from jaxvl.data.tasks.jsonl import Jsonl
from jaxvl.errors import UserError


@pytest.fixture
def write(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "images" / name).write_bytes(b"x")

    def write(*rows):
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / "toy.jsonl").write_bytes(b"\n".join(lines))
        return str(tmp_path / "toy.jsonl")

    return write


def load(path, **fields):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Jsonl(path, **fields).load()


def test_fields_images_and_columns_are_read(write):
    path = write(
        {"id": 7, "question": "How many?", "answer": 3, "image": "images/1.jpg", "level": 2},
        b"",
        {"question": "Left?", "answer": "no ", "image": ["images/1.jpg", "images/2.jpg"]},
        {"question": "Text only", "answer": "x", "image": None},
    )
    one, two, three = load(path)
    folder = Path(path).parent
    assert (one.id, one.answer, one.task, one.columns) == ("7", "3", "toy", {"level": 2})
    assert one.images == (str(folder / "images/1.jpg"),)
    assert (two.id, two.answer, len(two.images), three.images) == ("3", "no", 2, ())


def test_names_of_fields_and_the_image_folder_are_set(write):
    path = write({"n": "a", "q": "Q?", "gold": "B", "opts": [1, 2], "pics": "2.jpg"})
    folder = Path(path).parent / "images"
    fields = dict(id="n", question="q", answer="gold", choices="opts", image="pics")
    (row,) = load(path, images=str(folder), task="mine", **fields)
    assert (row.id, row.question, row.answer, row.choices) == ("a", "Q?", "B", ("1", "2"))
    assert (row.images, row.task, row.columns) == ((str(folder / "2.jpg"),), "mine", {})


def test_math_vision_rows_are_read(write):
    common = {"solution": None, "level": 2, "subject": "logic", "image": "images/1.jpg"}
    path = write(
        {"id": "1", "question": "Which number?\n<image1>", "options": [], "answer": "60", **common},
        {
            "id": "33",
            "question": "When the ant <image1> walks from <image2>, where?\n<image6>\n<image7>",
            "options": ["A", "B", "C"],
            "answer": "C",
            **common,
        },
    )
    one, two = load(path, choices="options")
    assert (one.question, one.choices, one.answer) == ("Which number?", (), "60")
    assert (two.question, two.answer) == ("When the ant walks from, where?", "C")
    assert one.columns == {"solution": None, "level": 2, "subject": "logic"}
    assert load(path, choices="options", keep_markers=True)[0].question.endswith("\n<image1>")


GOOD = {"question": "q", "answer": "a"}
BAD = [
    (b'{"question": "q", ', "broken JSON"),
    (b'{"question": "\xff"}', "broken JSON"),
    (b"[" * 100_000, "broken JSON"),
    (b"[1]", "a JSON list, expected an object"),
    ({"answer": "a"}, "`question` is missing, expected text"),
    ({"question": " ", "answer": "a"}, "`question` is ' '"),
    ({"question": "q"}, "`answer` is missing, expected text or a number"),
    ({"question": "q", "answer": ["a"]}, "`answer` is ['a']"),
    ({"question": "q", "answer": True}, "`answer` is True"),
    ({**GOOD, "choices": "a,b"}, "`choices` is 'a,b', expected a list"),
    ({**GOOD, "choices": ["x", "y"], "answer": "C"}, "neither one of the 2 choices"),
    ({**GOOD, "image": 3}, "`image` is 3, expected a path"),
    ({**GOOD, "image": "images/3.jpg"}, "no image file"),
]


@pytest.mark.parametrize("row, words", BAD, ids=range(len(BAD)))
def test_a_row_that_cannot_be_used_is_explained(write, row, words):
    path = write(GOOD, row, GOOD)
    with pytest.warns(UserWarning, match="1 of 3 rows cannot be used and are left out") as caught:
        assert len(Jsonl(path).load()) == 2
    assert "line 2: " in str(caught[0].message) and words in str(caught[0].message)
    with pytest.raises(UserError, match="1 of 3 rows cannot be used"):
        Jsonl(path, strict=True).load()


def test_many_bad_rows_are_counted_and_the_first_listed(write):
    path = write(GOOD, *[{"question": "q"}] * 9)
    with pytest.warns(UserWarning, match="9 of 10 rows") as caught:
        Jsonl(path).load()
    assert "line 6" in str(caught[0].message) and "line 7" not in str(caught[0].message)
    assert "and 4 more" in str(caught[0].message)


def test_nothing_to_read_is_an_error(write, tmp_path):
    with pytest.raises(UserError, match="no file"):
        Jsonl(str(tmp_path / "none.jsonl")).load()
    with pytest.raises(UserError, match="0 of 0 rows"):
        Jsonl(write()).load()
    with pytest.raises(UserError, match="1 of 1 rows"):
        Jsonl(write({"question": "q"})).load()


def test_limit_counts_examples(write):
    assert len(load(write(GOOD, GOOD, GOOD), limit=2)) == 2
