# SPDX-License-Identifier: Apache-2.0
"""What other harnesses are known to get wrong, held to what is right here, and VisualThinker's own
CV-Bench scorer, whose verdicts are reproduced with their quirks."""

import pytest

from jaxvl.eval.benchmark import Item
from jaxvl.eval.benchmarks import (
    cv_bench,
    dynamath,
    logicvista,
    mathvision,
    mathvista,
    mmmu,
    sat,
    scienceqa,
    wemath,
)


def item(gold, *choices, kind="mcq", **extra):
    return Item("1", [], (), gold, choices, kind, extra=extra)


SPACE = item("A", "left", "right")
COUNT = item("C", "3", "5", "4", "1")
THING = item("A", "box", "desk")


@pytest.mark.parametrize(
    ("asked", "reply", "official", "ours"),
    [
        (SPACE, "(A)", 1, 1),
        (SPACE, "The answer is (A).", 1, 1),
        (SPACE, "<answer>\n(A)\n</answer>", 1, 1),
        (SPACE, "Left", 0, 1),  # it minds the case of a choice's text
        (SPACE, "left or right", 1, 0),  # the first of two
        (SPACE, "A person stands at the right", 1, 0),  # an article
        (THING, "the desk is a thing", 1, 0),
        (THING, "box and desk", 1, 0),
        (COUNT, "There are 4 organs", 1, 1),
        (COUNT, "<answer>4</answer>", 1, 1),
        (COUNT, "four", 0, 1),
        (SPACE, "right", 0, 0),
        (SPACE, "The answer is B", 0, 0),
        (SPACE, "", 0, 0),
        (SPACE, "<answer>left\nor so</answer> right", 0, 0),  # a block is on one line, or none
    ],
)
def test_cv_benchs_scorers(asked, reply, official, ours):
    assert cv_bench.mark(asked, reply, "official").value == official
    assert cv_bench.mark(asked, reply, "lenient").value == ours
    tagged = ours if "<answer>" in reply else 0
    assert cv_bench.mark(asked, reply, "strict").value == tagged


def test_the_official_scorer_takes_any_text_quickly():
    for reply in ("<answer>" * 5000, "\n" * 20_000 + "<answer>" + " " * 20_000, "[" * 5000):
        assert cv_bench.mark(SPACE, reply, "official").value == 0


def both(judge, asked, reply):
    """The mark of a reply on its own (lenient) and in tags (strict), which have to agree."""
    values = {
        judge.mark(asked, reply, "lenient").value,
        judge.mark(asked, f"<answer>{reply}</answer>", "strict").value,
    }
    assert len(values) == 1
    return values.pop()


FLOAT = item("2.0944", kind="math")
TEXT = item("May", kind="text")
CHOICE = item("C", "larger", "equal", "smaller")


@pytest.mark.parametrize(
    ("asked", "reply", "right"),
    [
        (TEXT, "", 0),  # "" is in every gold
        (TEXT, "a", 0),
        (TEXT, "may", 1),
        (FLOAT, "²", 0),  # ends the kit's parser with an error
        (FLOAT, "2.0953", 1),  # 0.001 off
        (FLOAT, "2.0955", 0),
        (FLOAT, "2.094 or 2.095", 0),
        (CHOICE, "Answer: C", 1),  # the kit finds A, C and E in it
        (CHOICE, "B. equal", 0),
        (CHOICE, "C. smaller", 1),
        (CHOICE, "C and A", 0),
    ],
)
def test_dynamaths_rules(asked, reply, right):
    assert both(dynamath.BENCHMARK, asked, reply) == right


@pytest.mark.parametrize(
    ("asked", "answer", "right"),
    [
        (FLOAT, '"2.094"', 1),
        (FLOAT, "2.094", 1),
        (CHOICE, '"C"', 1),
        (CHOICE, '"(C) smaller"', 1),
        (TEXT, '"Ma\\"y"', 0),
        (TEXT, '"June"', 0),
        (FLOAT, "null", 0),
    ],
)
def test_dynamaths_json_is_read_in_both_modes(asked, answer, right):
    reply = f'{{"solution": "I see 7 and 9.\\nSo it is.", "short answer": {answer}}}'
    for said in (reply, f"<think>hm</think> <answer>{reply}</answer>", f"```json\n{reply}\n```"):
        for mode in ("strict", "lenient"):
            assert dynamath.mark(asked, said, mode).value == right
    twice = reply + reply.replace(answer, '"A"')
    assert dynamath.mark(asked, twice, "strict").value == 0


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("2", 1),
        ("__import__('os').system('true')", 0),  # nothing is run
        ("2.0001", 0),
        ("2.004", 0),  # to two decimals it would be
        ("2 or 3", 0),
        ("4/2", 1),
    ],
)
def test_mathvision_runs_nothing_and_rounds_nothing(reply, right):
    assert both(mathvision.BENCHMARK, item("2", kind="math"), reply) == right
    rounded = mathvision.mark(item("2", kind="math"), reply, "rounded").value
    assert rounded == (1 if reply in ("2.0001", "2.004") else right)


def test_mathvision_rounds_numbers_and_nothing_else_where_that_is_asked_for():
    third, root = item("\\frac{1}{3}", kind="math"), item("\\sqrt{2}", kind="math")
    assert mathvision.mark(third, "\\boxed{0.33}", "rounded").value == 1
    assert mathvision.mark(third, "\\boxed{0.34}", "rounded").value == 0
    assert mathvision.mark(root, "1.41", "rounded").value == 0
    assert mathvision.mark(SPACE, "The answer is A.", "rounded").value == 1


def test_mathvista_maps_nothing_to_the_nearest_choice():
    clock = item("B", "2:15", "2:30", "3:00")
    assert both(mathvista.BENCHMARK, clock, "2:3") == 0
    assert both(mathvista.BENCHMARK, clock, "2:30") == 1
    tenth = item("1.2", kind="number")
    assert [both(mathvista.BENCHMARK, tenth, x) for x in ("1.2", "1.24", "1.26", "12")] == [
        1,
        1,
        0,
        0,
    ]
    assert both(mathvista.BENCHMARK, item("4", kind="number"), "4.4") == 0
    pair = item("[0, 4]", kind="math")
    assert [both(mathvista.BENCHMARK, pair, x) for x in ("[0,4]", "[4, 0]", "[0, 4, 1]")] == [
        1,
        0,
        0,
    ]


OPEN = item("13.50", kind="number", golds=["13.50"])  # as the reader writes 13.5
NAMES = item("Hamlet", kind="text", golds=["Hamlet", "Prince Hamlet"])
FOUR = item("B", "$6", "$7", "$8", "$9")


@pytest.mark.parametrize(
    ("asked", "reply", "right"),
    [
        (OPEN, "13.5", 1),  # lmms-eval compares its characters one by one
        (OPEN, "13.504", 1),  # to two decimals, as the official rule
        (OPEN, "13.51", 0),
        (OPEN, "1", 0),
        (NAMES, "Hamlet", 1),
        (NAMES, "prince hamlet.", 1),
        (NAMES, "H", 0),
        (FOUR, "I cannot tell.", 0),  # a choice is never drawn
        (FOUR, "$7", 1),
        (FOUR, "B or C", 0),
    ],
)
def test_mmmu(asked, reply, right):
    assert both(mmmu.BENCHMARK, asked, reply) == right


@pytest.mark.parametrize(
    ("gold", "reply", "right"),
    [
        ("A, C", "A, C", 1),
        ("A, C", "C and A", 1),
        ("A, C", "A", 0),
        ("A", "A, C", 0),
        ("3", "3", 1),  # no capital letter will do
        ("3", "C", 0),
        ("G", "G", 1),
    ],
)
def test_logicvistas_golds_are_sets_and_one_is_a_number(gold, reply, right):
    assert both(logicvista.BENCHMARK, item(gold), reply) == right


def test_a_reasoned_reply_is_judged_by_its_end():
    """lmms-eval takes the first letter of a reply: T of "The answer is B", A of "Answer: C"."""
    for asked in (SPACE, COUNT):
        assert cv_bench.mark(asked, f"Answer: {asked.gold}", "lenient").value == 1
        assert cv_bench.mark(asked, f"The answer is {asked.gold}.", "lenient").value == 1
        wrong = f"The answer is {'B' if asked.gold != 'B' else 'A'}."
        assert cv_bench.mark(asked, wrong, "lenient").value == 0


def test_words_are_no_letters():
    tower = item("E", "a", "b", "c", "d", "e tower")
    assert both(scienceqa.BENCHMARK, tower, "Eiffel Tower") == 0
    assert both(wemath.BENCHMARK, item("A", "8", "6"), "A triangle has three sides") == 0


def test_sat_takes_a_choice_only_as_a_whole():
    asked = item("left", "left", "right", kind="text")
    replies = {"left": 1, "Left.": 1, "the left": 0, "left or right": 0, "A": 0, "lef": 0}
    assert {reply: both(sat.BENCHMARK, asked, reply) for reply in replies} == replies
