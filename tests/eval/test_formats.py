# SPDX-License-Identifier: Apache-2.0
"""Rows of published files: pictures wherever they are, options whatever they say."""

import json
import math
from pathlib import Path

import pytest

from jaxvl.data.example import BadRow
from jaxvl.errors import UserError
from jaxvl.eval.scoring import formats
from jaxvl.eval.scoring.formats import Row
from tests.data.published import picture
from tests.eval.benchmarks.published import cell, tsv


def row(**values):
    return Row(values, 1, Path("file"), (), Path())


def rows(folder, files=("*.tsv",)):
    return list(formats.rows(formats.find(folder, files), folder))


def test_a_tsvs_picture_may_be_the_index_of_another_row(tmp_path):
    table = [
        {"index": 7, "image": 1, "question": "a"},
        {"index": 8, "image": "7", "question": "b"},
        {"index": 9, "image": "70", "question": "c"},
        {"index": 10, "image": [2, 3], "question": "d"},
        {"index": "v_11", "image": "10", "question": "e"},
    ]
    tsv(tmp_path / "a.tsv", table)
    first, second, third, fourth, fifth = rows(tmp_path)
    assert first.picture("image") == second.picture("image") == (picture(1),)
    assert isinstance(third, BadRow) and str(third) == "`image` names row 70, which has none"
    assert fourth.picture("image") == fifth.picture("image") == (picture(2), picture(3))


def test_a_tsvs_pictures_may_be_files(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "images" / name).write_bytes(picture(1))
    table = [{"index": 0, "image_path": "1.jpg"}, {"index": 1, "image_path": "['1.jpg', '2.jpg']"}]
    tsv(tmp_path / "a.tsv", [*table, {"index": 2, "image_path": "3.jpg"}])
    one, two, missing = rows(tmp_path)
    paths = [str(tmp_path / "images" / name) for name in ("1.jpg", "2.jpg")]
    assert one.picture("image") == (paths[0],) and two.picture("image") == tuple(paths)
    with pytest.raises(BadRow, match="no image file"):
        missing.picture("image")


def test_options_may_say_none_and_nan(tmp_path):
    tsv(tmp_path / "a.tsv", [{"index": 0, "A": "None", "B": "nan", "C": "NA", "D": None}])
    (only,) = rows(tmp_path)
    assert only.choices() == ("None", "nan", "NA")
    assert row(A=float("nan"), B=None).choices() == ()
    with pytest.raises(BadRow, match="there is no option B"):
        row(A="a", C="c").choices()


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (["a ", 2], ("a", "2")),
        ("['a', 'b, c']", ("a", "b, c")),
        ("[]", ()),
        ([], ()),
        (None, ()),
    ],
)
def test_choices_are_a_list_or_its_text(value, choices):
    assert row(choices=value).choices("choices") == choices


@pytest.mark.parametrize("value", ["[1, 2", "__import__('os')", "{'a': 1}", "[" * 3000, 3])
def test_what_is_no_list_is_a_bad_row(value):
    with pytest.raises(BadRow):
        row(choices=value).choices("choices")


def test_fields_that_hold_nothing_are_passed_over():
    one = row(a="", b=None, c=math.nan, d=0, e="x")
    assert one.get("a", "b", "c", "e") == "x" and one.get("d") == 0
    assert one.word("a") == "" and one.text("d") == "0"
    with pytest.raises(BadRow, match="`a` is missing"):
        one.text("a", "b")
    with pytest.raises(BadRow, match="no image in a or b"):
        one.picture("a", "b")


def test_pictures_lie_below_the_folders_above_but_not_above_the_source(tmp_path):
    source = tmp_path / "source"
    file = source / "data" / "splits" / "test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"image": "1.jpg"}))
    for folder in (tmp_path, source / "images"):
        folder.mkdir(exist_ok=True)
        (folder / "1.jpg").write_bytes(picture(1))
    (only,) = rows(source, ("test.jsonl",))
    assert only.picture("image") == (str(source / "images" / "1.jpg"),)
    (source / "images" / "1.jpg").unlink()
    with pytest.raises(BadRow, match="no image file"):
        only.picture("image")


def test_the_first_layout_that_is_there_is_read(tmp_path):
    for name in ("a.tsv", "b/c.json", "b/d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert formats.find(tmp_path, ("x.json", ("c.json", "d.json"), "a.tsv")) == [
        tmp_path / "b" / "c.json",
        tmp_path / "b" / "d.json",
    ]
    assert formats.find(tmp_path / "a.tsv", ("c.json",)) == [tmp_path / "a.tsv"]
    with pytest.raises(UserError, match="has none of its files; expected .* one of x.json, y.json"):
        formats.find(tmp_path, ("x.json", ("y.json", "z.json")))
    with pytest.raises(UserError, match="does not exist"):
        formats.find(tmp_path / "gone", ("x.json",))


def test_letters():
    assert [formats.letter(gold, ["x", "y"]) for gold in ("B", "(B)", " b ")] == ["B"] * 3
    assert formats.letter_of("y", ["x", "y"]) == "B"
    for gold in ("C", "", "AB", None):
        with pytest.raises(BadRow):
            formats.letter(gold, ["x", "y"])
    assert formats.letter_of("x", ["x", "x"]) == "A"  # either is right
    with pytest.raises(BadRow):
        formats.letter_of("z", ["x", "x"])


@pytest.mark.parametrize(
    ("gold", "choices", "letters"),
    [
        ("B", ["x", "y"], "B"),
        ("(b)", ["x", "y"], "B"),
        ("A\nC", ["x", "y", "z"], "A, C"),
        ("C\nD", [], "C, D"),
        ("False", ["True", "False"], "B"),
        ("053 ^\\circ T", ["053 ^\\circ T", "082 ^\\circ T"], "A"),
        ("D", [], "D"),
    ],
)
def test_letters_of_golds_as_they_are_published(gold, choices, letters):
    assert formats.letters(gold, choices) == letters


@pytest.mark.parametrize("gold", ["C", "", "A\nC", "x and y", "no"])
def test_golds_that_are_no_option(gold):
    with pytest.raises(BadRow):
        formats.letters(gold, ["x", "y"])


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Is it? Choices: (A) yes (B) no", ("yes", "no")),
        ("How many? choice: (A) 2 (B) 1 (C) 0", ("2", "1", "0")),
        ("Choices: (A) + (B) - (C) * (D) /", ("+", "-", "*", "/")),
        ("Select from A-D. \n A) 10 B) 12 C) 14", ("10", "12", "14")),
        ("Select from (A), (B). (A) 4cm, (B) 6cm.", ("4cm", "6cm")),
        ("Select from A and B. (A) (B)", ()),
        ("The points (A) and so on", ()),
        ("(B) no (A) yes", ()),
        ("nothing", ()),
    ],
)
def test_options_inside_a_question(text, options):
    assert formats.inline(text) == options


def test_a_cell_of_pictures_is_what_the_kit_writes():
    assert cell([1, 2]).startswith("['/9j/") and len(cell(1)) > 64
