# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking as it is published: every source, its answers in one form, the reply to learn."""

import json
import re

import pytest

from jaxvl.data.tasks.vlaa import SOURCES, TYPES, VLAA, completion, normal_answer
from jaxvl.errors import UserError
from jaxvl.rewards.golds import gold_check
from jaxvl.rewards.vlaa import verifier_of
from tests.data.published import GRPO_ROWS, sft_row, write_vlaa


def test_every_source_is_read_with_its_reward_and_answer(tmp_path):
    """The reward room routes by the same names, and every answer verifies against itself."""
    examples = VLAA(str(write_vlaa(tmp_path))).load()
    assert examples.dropped == ()
    found = {e.task: (e.columns["verifier_type"], e.answer) for e in examples}
    assert found == {
        "clevr_math": ("digit", "3"),
        "geoqa170k": ("mcq", "C"),
        "synthesis": ("math", "y = -5 * sin(-5 * x)"),
        "arxivqa": ("mcq", "B"),
        "docvqa": ("open", "May 1"),
        "vizwiz": ("open", "a can"),
        "allava_laion": ("open", "It is central."),
        "coco": ("iou", "[0.1, 0.2, 0.7, 0.5]"),
        "vg": ("iou", "[0.0, 0.25, 0.5, 1.0]"),
    }
    assert all(e.columns["source"] == e.task for e in examples)
    assert set(found) == set(SOURCES) and {kind for kind, _ in found.values()} == set(TYPES)
    for example in examples:
        assert verifier_of(example.columns) == example.columns["verifier_type"]
        assert gold_check(example) == ""
    assert [e.id for e in examples] == [f"grpo-{n}" for n in range(9)]
    assert [e.question for e in examples] == [row["question"] for row in GRPO_ROWS]
    assert examples[6].images == (str(tmp_path / "images/allava_laion/images/100760552.jpeg"),)


def test_replies_to_learn_keep_their_thinking(tmp_path):
    examples = VLAA(str(write_vlaa(tmp_path, "sft")), "sft").load()
    assert [e.answer for e in examples][:2] == ["3", "C"]
    expected = sft_row(GRPO_ROWS[0])["answer"]
    assert completion(examples[0]) == expected and expected.startswith("<think>")
    assert "verifier_type" not in examples[0].columns


def test_sources_are_chosen_and_the_others_listed(tmp_path):
    source = VLAA(str(write_vlaa(tmp_path)), sources=("coco", "vg"))
    loaded = source.load()
    assert [e.task for e in loaded] == ["coco", "vg"]
    assert len(loaded.dropped) == 7 and all(row.setting for row in loaded.dropped)
    with pytest.raises(UserError, match="no `cocoa`"):
        VLAA(str(tmp_path), sources=("cocoa",)).load()


@pytest.mark.parametrize(
    ("gold", "question", "letter"),
    [
        ("A", "Q?", "A"),
        ("A)", "Q?\nA) x\nB) y", "A"),
        ("(a)", "Q?\nA) x\nB) y", "A"),
        ("B) It decreases.", "Q?\nA) x\nB) It decreases.", "B"),
        ("[c]", "Q?\n(A) x\n(B) y\n(C) z", "C"),
        ("D.", "Q?\nChoices:\nA: 1\nD: 2", "D"),
    ],
)
def test_an_option_is_its_letter(gold, question, letter):
    assert normal_answer("mcq", gold, question) == letter


POINTS = {"text_question": "The function y = a * sin(-5 * x) goes through the points (pi/10,5)."}
LINE = {"text_question": "The function y = a * x + b passes (0,1), (1,-3). What is it?"}


@pytest.mark.parametrize(
    ("gold", "question", "meta", "formula"),
    [
        ("\\frac{1}{2}", "What is x?", None, "\\frac{1}{2}"),
        ("Step 1: ..\n\n†Answer: 12.", "What is x?", None, "12"),
        ("y = 2 * x", "What is the function's equation?", POINTS, "y = 2 * x"),
        ("a = 5", "What is the function's equation?", POINTS, "y = 5 * sin(-5 * x)"),
        ("a = -5", "What is the equation?", POINTS, "y = (-5) * sin(-5 * x)"),
        ("†Answer: a = -4, b = 1.", "Find the equation.", LINE, "y = (-4) * x + 1"),
        ("a = -4 and b = 1", "Find the equation.", LINE, "y = (-4) * x + 1"),
        ("a = -5", "What is a?", POINTS, "a = -5"),
    ],
)
def test_a_formula_is_the_whole_function_where_that_is_asked_for(gold, question, meta, formula):
    assert normal_answer("math", gold, question, meta) == formula


BAD = [
    ({"gt": "many"}, "answer of a wrong form"),
    ({"gt": None}, "no answer"),
    ({"gt": [], "verifier_type": "open"}, "no answer"),
    ({"gt": "2.5"}, "answer of a wrong form"),
    ({"verifier_type": "mcq", "gt": "A cat"}, "answer of a wrong form"),
    ({"verifier_type": "mcq", "question": "Q?\nA) x\nB) y", "gt": "C"}, "answer of a wrong form"),
    ({"verifier_type": "iou", "gt": "[0.5, 0.2, 0.1, 0.9]"}, "answer of a wrong form"),
    ({"verifier_type": "iou", "gt": "[5, 20, 100, 90]"}, "answer of a wrong form"),
    ({"verifier_type": "iou", "gt": "[0,0,1,1],[0,0,1,1]"}, "answer of a wrong form"),
    ({"image": "clevr_math/none.png"}, "missing image file"),
    ({"image": None}, "no image"),
    ({"image": "/"}, "no image"),
    ({"question": ""}, "no question"),
    ({"question": "<|vision_start|>"}, "special token in the text"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=range(len(BAD)))
def test_a_row_that_cannot_be_used_is_listed(tmp_path, change, reason):
    write_vlaa(tmp_path, more=[{**GRPO_ROWS[0], **change}])
    loaded = VLAA(str(tmp_path)).load()
    assert len(loaded) == 9
    assert [(row.id, row.reason) for row in loaded.dropped] == [("grpo-9", reason)]


@pytest.mark.parametrize(
    "answer",
    ["It is 3.", "<think>a</think> 3", "<answer>3</answer>", "<think>a</think><answer> </answer>"]
    + ["<think>a</think><answer>3</answer><answer>3</answer>"],
)
def test_a_reply_without_one_answer_is_listed(tmp_path, answer):
    write_vlaa(tmp_path, "sft", more=[{**sft_row(GRPO_ROWS[0]), "answer": answer}])
    loaded = VLAA(str(tmp_path), "sft").load()
    assert [row.reason for row in loaded.dropped] == ["reply of a wrong form"]


def test_a_verifier_type_that_is_not_known_is_an_error_until_it_is_explained(tmp_path):
    row = {**GRPO_ROWS[4], "verifier_type": "rm"}
    write_vlaa(tmp_path, more=[row])
    with pytest.raises(UserError, match=re.escape("types=('rm=open',)")):
        VLAA(str(tmp_path)).load()
    assert VLAA(str(tmp_path), types=("rm=open",)).load()[9].columns["verifier_type"] == "open"
    (tmp_path / "images" / "new").mkdir()
    (tmp_path / "images" / "new" / "a.png").write_bytes(b"x")
    rows = [{"image": "new/a.png", "question": "Q?", "gt": "3"}]
    (tmp_path / "VLAA-Thinking-GRPO-25K.json").write_text(json.dumps(rows[0]))
    with pytest.raises(UserError, match="of new has the verifier type ``"):
        VLAA(str(tmp_path)).load()


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="VLAA-Thinking-SFT-126K.json"):
        VLAA(str(tmp_path), "sft").load()
