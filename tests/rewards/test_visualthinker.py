# SPDX-License-Identifier: Apache-2.0
"""The VisualThinker rewards agree with golden values and survive hostile completions in time."""

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from jaxvl.errors import UserError
from jaxvl.rewards import accuracy, completion_text, length, think_format, verify
from tests.rewards.timing import timed

# (completion, solution, reward). Rewards were computed by the public code of the paper with the
# math-verify it pins, 0.5.2.
ACCURACY = [
    # numbers and words in tags: equal strings only
    ("so</think><answer>3</answer>", "<answer>3</answer>", 1),
    ("<answer> 3 </answer>", "<answer>3</answer>", 1),
    ("<answer>three</answer>", "<answer>3</answer>", 0),
    ("<answer>3.0</answer>", "<answer>3</answer>", 0),
    ("<answer>3 chairs</answer>", "<answer>3 chairs</answer>", 1),
    ("3 chairs", "<answer>3 tables</answer>", 0),
    ("<answer>left</answer>", "<answer>left</answer>", 1),
    ("<answer>Left</answer>", "<answer>left</answer>", 0),
    ("<answer>٣</answer>", "<answer>3</answer>", 0),
    ("<answer>−7</answer>", "<answer>-7</answer>", 0),
    # no tags: the whole completion is compared
    ("3", "<answer>3</answer>", 1),
    ("it is 3", "<answer>3</answer>", 0),
    (" left\n", "<answer>left</answer>", 1),
    # the first tag pair on one line counts
    ("<answer>left\n</answer>", "<answer>left</answer>", 0),
    ("<answer>right</answer> no <answer>left</answer>", "<answer>left</answer>", 0),
    ("<answer>\n<answer>left</answer>", "<answer>left</answer>", 1),
    ("<answer>x<answer>left</answer></answer>", "<answer>left</answer>", 0),
    ("<answer></answer>", "<answer>left</answer>", 0),
    ("", "<answer>left</answer>", 0),
    # the last stand-alone letter
    ("<answer>(B)</answer>", "<answer>B</answer>", 1),
    ("<answer>A or B</answer>", "<answer>B</answer>", 1),
    ("<answer>A B</answer>", "<answer>B</answer>", 0),  # the space is taken by the A before it
    ("<answer>B.</answer>", "<answer>B</answer>", 0),
    ("I pick [C]", "<answer>C</answer>", 1),
    ("<answer>B</answer>", "<answer>(B)</answer>", 0),
    # mathematics
    ("$\\frac{2}{4}$", "<answer>\\frac{1}{2}</answer>", 1),
    ("<answer>0.5</answer>", "<answer>\\frac{1}{2}</answer>", 0),
    ("the answer is 0.5", "<answer>\\frac{1}{2}</answer>", 1),
    ("50%", "<answer>$\\frac{1}{2}$</answer>", 1),
    ("<answer> 3 </answer>", "<answer>$3$</answer>", 1),
    ("so it is $4$", "<answer>$3$</answer>", 0),
    ("<think> 1 + 2 = 3 </think>", "<answer>2 or 3</answer>", 1),
    ("4", "<answer>3, 4</answer>", 1),
    ("$x=3$", "x = 3", 1),
    ("it is 3 m", "3 m", 1),
]

FORMAT = [
    ("<think>a</think><answer>b</answer>", 1),
    ("<think>a</think> \n\t<answer>b</answer>", 1),
    ("<think></think><answer></answer>", 1),
    ("<think>a\nb</think>\n<answer>c\nd</answer>", 1),
    ("<think>a</think><answer>b</answer><think>c</think><answer>d</answer>", 1),
    ("<think><think>a</think></think><answer>b</answer></answer>", 1),
    ("<think>é</think>\u3000<answer>数</answer>", 1),  # \s takes the ideographic space
    ("<think>a</think><answer>b</answer>\n", 0),
    (" <think>a</think><answer>b</answer>", 0),
    ("<think>a</think> so <answer>b</answer>", 0),
    ("<think>a</think><answer>b", 0),
    ("<think>a<answer>b</answer>", 0),
    ("<think></answer>", 0),
    ("<think></think><answer></think><answer>", 0),
    ("</think><answer></answer>", 0),
    ("", 0),
]


def test_accuracy_has_the_values_of_the_public_code():
    texts, golds, expected = zip(*ACCURACY, strict=True)
    blank = [None] * len(texts)
    for literal in (True, False):
        got = accuracy(blank, list(texts), blank, solution=list(golds), literal=literal)
        assert got == list(expected)


@pytest.mark.parametrize(
    ("answer", "gold", "credited"),
    [
        ("$1.41421356$", "$\\sqrt{2}$", 0),
        ("$3.1415927$", "$\\pi$", 0),
        ("$0.3333333$", "$\\frac{1}{3}$", 0),
        ("$2.7182818$", "$e$", 0),
        ("$33.3333\\%$", "$\\frac{1}{3}$", 0),
        ("$0.5$", "$\\frac{1}{2}$", 1),
        ("$2\\sqrt{3}$", "$\\sqrt{12}$", 1),
        ("$x=3$", "$3$", 1),
        ("3 m", "$3$", 1),
        ("$1+x$", "$x+1$", 1),
    ],
)
def test_rounding_is_credited_to_the_letter_of_the_public_code_alone(answer, gold, credited):
    text = f"<think> so </think> <answer> {answer} </answer>"
    assert accuracy([""], [text], [[]], answer=[gold], literal=True) == [1]
    assert accuracy([""], [text], [[]], answer=[gold]) == [credited]
    bare = [f"it is {answer}"]  # without tags there is no answer to look at: as the public code
    assert accuracy([""], bare, [[]], answer=[gold]) == [1]


@pytest.mark.parametrize(
    ("reply", "gold", "kinds", "by_accuracy", "by_verify"),
    [
        ("<answer>3.0</answer>", "3", ["number"], 0, 1),
        ("<answer>three</answer>", "3", ["number"], 0, 1),
        ("<answer>1/2</answer>", "0.5", ["number", "math"], 0, 1),
        ("<answer>Left</answer>", "left", ["text"], 0, 1),
        ("<answer>B.</answer>", "B", ["mcq"], 0, 1),
        ("<answer>B</answer>", "(B)", ["mcq"], 0, 1),
        ("<answer>A or B</answer>", "B", ["mcq"], 1, 0),
        ("3", "3", ["number"], 1, 0),
        ("<answer>3</answer> no <answer>4</answer>", "3", ["number"], 1, 0),
    ],
)
def test_where_accuracy_and_verify_differ_as_the_docs_say(
    reply, gold, kinds, by_accuracy, by_verify
):
    assert accuracy([""], [reply], [[]], answer=[gold]) == [by_accuracy]
    assert [verify(kind, reply, gold).reward for kind in kinds] == [by_verify] * len(kinds)
    docs = (Path(__file__).parents[2] / "docs/rewards.md").read_text()
    rows = [line for line in docs.splitlines() if line.startswith("|")]
    (row,) = [line for line in rows if f"`{reply}`" in line.split("|")[1]]
    assert f"`{gold}`" in row


def test_the_column_answer_is_the_gold_and_solution_where_a_row_has_none():
    texts = ["<answer>3</answer>"] * 3
    columns = {"solution": ["<answer>4</answer>", "<answer>3</answer>", None], "answer": [3, "", 4]}
    assert accuracy([""] * 3, texts, [[]] * 3, **columns) == [1, 1, 0]
    assert accuracy([""] * 3, texts, [[]] * 3, answer=["3", "4", "3"]) == [1, 0, 1]
    assert accuracy([""] * 3, texts, [[]] * 3, solution=["<answer>3</answer>", 3, "3"]) == [1] * 3
    with pytest.raises(UserError, match="row 1 has neither"):
        accuracy([""] * 3, texts, [[]] * 3, answer=["3", None, "3"])


@pytest.mark.parametrize(
    "gold",
    [3, 3.0, np.float32(3), np.int64(3), Decimal("3.0"), b"3", "<answer> 3 </answer>", " 3\n"],
)
def test_a_gold_of_any_type_is_the_text_that_a_person_would_write(gold):
    assert accuracy([""], ["<answer>3</answer>"], [[]], answer=[gold], solution=["See."]) == [1]


@pytest.mark.parametrize("gold", [None, float("nan"), "", "  ", "<answer></answer>"])
def test_a_gold_that_is_none_is_told(gold):
    with pytest.raises(UserError, match="row 0 has neither"):
        accuracy([""], ["<answer>3</answer>"], [[]], answer=[gold], solution=[None])


def test_format_has_the_values_of_the_regex():
    texts, expected = zip(*FORMAT, strict=True)
    blank = [""] * len(texts)
    assert think_format(blank, list(texts), blank) == list(expected)
    pattern = r"<think>.*?</think>\s*<answer>.*?</answer>"
    assert [float(bool(re.fullmatch(pattern, t, re.DOTALL))) for t in texts] == list(expected)


def test_format_counts_a_tag_that_the_prompt_opened():
    text = "a</think><answer>b</answer>"
    prompts = ["..\n<think>", "..", [{"role": "user", "content": "<think>"}]]
    chat = [{"role": "assistant", "content": text}]
    assert think_format(prompts, [text, text, chat], [[]] * 3) == [1, 0, 0]


def test_a_chat_completion_is_its_content():
    chat = [{"role": "assistant", "content": "<answer>b</answer>"}]
    assert completion_text(chat) == completion_text("<answer>b</answer>")
    assert accuracy([[]], [chat], [[]], answer=["b"]) == [1]


def test_length_is_a_thousandth_a_token_up_to_the_cap():
    ids = [[5, 6, 151645], list(range(700)), []]
    blank = [""] * 3
    assert length(blank, blank, ids) == pytest.approx([0.002, 0.7, 0])
    assert length(blank, blank, ids, cap=100, special_ids={5}) == pytest.approx([0.002, 0.1, 0])


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 12_500,
        "<think>" + "</think>" * 12_500,
        "<think>" + ("</think>" + " " * 90) * 1_000,
        "<think></think>" + " " * 100_000,
        "A " * 50_000,
        "((" * 50_000 + "[" * 1_000,
        "\n" * 100_000,
        "\u0000\ud800\U0001f914" * 30_000,
        "<think>" + "x" * 100_000 + "</think><answer>y</answer>",
    ],
    ids=range(9),
)
def test_hostile_text_is_scored_in_time_linear_in_its_length(text):
    first, _ = timed(lambda: accuracy([""], [text], [[]], answer=["left"]))
    second, _ = timed(lambda: think_format([""], [text], [[]]))
    # Linear work takes about 20 ms; a quadratic search takes ten seconds or more.
    assert first + second < 1.0


@pytest.mark.parametrize("text", ["$10^{10^{10}}$", "$" + "(" * 5_000 + "$", "1+" * 50_000])
def test_mathematics_without_end_is_not_equal(text):
    assert accuracy([""], [text], [[]], answer=["$3$"]) == [0]  # in time, or this never ends
    assert accuracy([""], ["$3.0$"], [[]], answer=["$3$"]) == [1]  # the next one is served


def test_importing_rewards_is_light():
    code = (
        "import sys, jaxvl.rewards.visualthinker, jaxvl.rewards.mix;"
        "bad = {'jax', 'transformers', 'math_verify', 'sympy', 'grain'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
