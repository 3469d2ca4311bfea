# SPDX-License-Identifier: Apache-2.0
import pytest

from jaxvl.data import templates
from jaxvl.data.example import Example

SAT = Example(
    id="1",
    question="Is the lamp left of the bed?",
    answer="yes",
    images=("a.png",),
    choices=("yes", "no"),
)
ASKED = (
    "Answer in natural language. Is the lamp left of the bed? "
    "Choose between the following options: yes or no"
)
VISION = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("choices", "end"),
    [(("a",), "options: a"), (("a", "b"), "options: a or b"), (("a", "b", "c"), "a, b or c")],
)
def test_choices_are_listed_as_sat_lists_them(choices, end):
    assert templates.with_choices("Q?", choices).endswith(end)


def test_without_choices_the_question_stays_as_it_is():
    assert templates.with_choices("Q {x}?", ()) == "Q {x}?"


def test_base_prompt_to_the_letter():
    expected = (
        VISION + "A conversation between User and Assistant. The user asks a question about the "
        "image, and the Assistant solves it. The assistant first thinks about the reasoning "
        "process in the mind and then provides the user with the answer.\n"
        f"User:  {ASKED} \nAssistant: Let me solve this step by step.\n<think>"
    )
    assert templates.visualthinker_base(SAT) == expected
    literal = templates.visualthinker_base_literal(SAT)
    assert literal == expected.replace(VISION, VISION + "<image>")


def test_a_question_with_its_choices_in_the_text_is_asked_after_one_space():
    example = Example(id="1", question="How many {chairs}? (A) 1 (B) 2", answer="(A)")
    text = templates.visualthinker_base(example)
    assert "\nUser: How many {chairs}? (A) 1 (B) 2 \nAssistant: Let me" in text


def test_instruct_turn_to_the_letter():
    text = (
        f" {ASKED}  Output the thinking process in <think> </think> and final answer (option) in "
        "<answer> </answer> tags."
    )
    content = [{"type": "image"}, {"type": "text", "text": text}]
    assert templates.visualthinker_instruct(SAT) == [{"role": "user", "content": content}]


def test_every_template_shows_every_image():
    example = Example(id="1", question="Q?", answer="", images=("a.png", "b.png"))
    for template in (templates.visualthinker_base, templates.visualthinker_base_literal):
        assert template(example).startswith(VISION * 2)
    for template in (templates.chat_question, templates.visualthinker_instruct):
        content = template(example)[0]["content"]
        assert [part["type"] for part in content] == ["image", "image", "text"]


def test_chat_question_is_the_question_with_its_choices():
    content = [{"type": "image"}, {"type": "text", "text": ASKED}]
    assert templates.chat_question(SAT) == [{"role": "user", "content": content}]
