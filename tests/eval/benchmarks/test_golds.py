# SPDX-License-Identifier: Apache-2.0
"""Golds verify against themselves, or the reader says which do not."""

import dataclasses

import pytest

from jaxvl.eval.scoring.marks import unverified
from jaxvl.eval.tasks import open_task
from jaxvl.train.benchmarks import headline
from tests.eval.benchmarks import published
from tests.eval.benchmarks.test_readers import EVERY, benchmark, read

# As MathVerse publishes them, of every form there: none may be lost.
VERSE = (
    *("Volume $=904.78 \\mathrm{~cm}^{3}$", "Area of sector $=6 \\pi \\mathrm{cm}^{2}$"),
    *("Center $=(20,10)$", "Slope $=-\\frac{1}{2}$", "diameter $=10 \\mathrm{~m}$", "118掳T"),
    *("S.A. of rectangular prism $=4371.46 \\mathrm{~mm}^{2}$", "56.55 units $^{3}$"),
    *("\\frac{1225\\pi }{2} \\text { units }^2", "Volume $=452.389$ cubic units"),
    *("Surface area $=2 \\pi(R+r)(L+R-r)$ square units", "Weekly water intake $=15.5$ Litres"),
    *("domain: [-4, 0) and range: (-3, 1]", "When x<=3 $f(x)=-x+1$, when x>3, $f(x)=x-5$"),
    "\\text { increasing on }(-\\infty, 1) \\cup(3,4) \\text {, decreasing on }(1,3)",
    "Complete the statement.Every point on the circle is exactly 5 units away from (0,0).",
)
BAD = ("\\frac{1}{0}", "1/0", "1/(0)", "9^{9^{9}}", "x" + "^1x" * 41)


@pytest.mark.parametrize(("name", "layout"), EVERY, ids=" ".join)
def test_the_golds_of_every_format_verify(name, layout, tmp_path):
    items, _ = read(name, layout, tmp_path)
    assert unverified(items) == []


def test_golds_of_mathverse_are_met_by_themselves(tmp_path):
    rows = [published.verse_row(n, gold) for n, gold in enumerate(VERSE, 1)]
    published.parquet(tmp_path / "testmini.parquet", rows)
    task = open_task("mathverse", str(tmp_path))
    assert task.gold_note == f"0 of {len(VERSE)} golds do not verify against themselves"
    for item in task.items:
        mark = benchmark("mathverse").mark(item, f"<answer>{item.gold}</answer>", "strict")
        assert mark.value == 1, item.gold


@pytest.mark.parametrize(
    ("gold", "choices", "right", "wrong"),
    [
        ("C\nD", ("1", "2", "3", "4"), "C and D", "C"),
        ("False", ("True", "False"), "B", "A"),
        ("053 ^\\circ T", ("053 ^\\circ T", "082 ^\\circ T"), "A", "B"),
        ("B", ("1", "2"), "(B) 2", "(A) 1"),
        ("A\nC", ("1", "2", "3"), "A, C", "A, B, C"),
    ],
)
def test_a_gold_may_be_letters_or_the_text_of_an_option(gold, choices, right, wrong, tmp_path):
    published.parquet(tmp_path / "testmini.parquet", [published.verse_row(1, gold, choices)])
    (item,), dropped = benchmark("mathverse").read(tmp_path, "vlmevalkit")
    values = [
        benchmark("mathverse").mark(item, f"<answer>{reply}</answer>", "strict").value
        for reply in (right, wrong)
    ]
    assert not dropped and values == [1, 0]


def test_an_option_that_is_there_twice_is_right_by_either_letter(tmp_path):
    rows = [published.vista_row(781, "text", "18", choices=["9", "12", "18", "18"])]
    published.parquet(tmp_path / "testmini-0.parquet", rows, as_path=("image",))
    (item,), dropped = benchmark("mathvista").read(tmp_path, "vlmevalkit")
    for reply, value in (("C", 1), ("D", 1), ("18", 1), ("(D) 18", 1), ("B", 0), ("12", 0)):
        got = benchmark("mathvista").mark(item, f"<answer>{reply}</answer>", "strict")
        assert got.value == value, reply
    assert not dropped


def test_golds_that_nothing_can_be_verified_against_are_named(tmp_path):
    rows = [published.verse_row(n, gold) for n, gold in enumerate((*BAD, "5"), 1)]
    published.parquet(tmp_path / "testmini.parquet", rows)
    task = open_task("mathverse", str(tmp_path))
    bad = [item.id for item in task.items[: len(BAD)]]
    assert task.gold_note == (
        f"{len(BAD)} of {len(BAD) + 1} golds do not verify against themselves: {', '.join(bad)}"
    )
    many = dataclasses.replace(task, items=[task.items[0]] * 11)
    assert many.gold_note.endswith(", ..")


def test_the_headline_says_in_which_mode_replies_were_read():
    found = {"eval/smoke/accuracy_lenient": 0.625, "eval/smoke/accuracy_strict": 0.5}
    assert headline("smoke", found) == ("smoke: accuracy 0.625 (lenient mode), 0.500 (strict mode)")
