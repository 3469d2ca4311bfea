# SPDX-License-Identifier: Apache-2.0
"""Prompts to the letter: as templates make them, and as checkpoints of both kinds render them."""

import dataclasses
import functools
import typing

import pytest

from jaxvl.config.fields import to_json
from jaxvl.data import chat, templates
from jaxvl.data.example import Example
from jaxvl.data.templates import VisualThinker
from jaxvl.data.tokenizer import train_tokenizer
from jaxvl.errors import UserError
from scripts.bench.checkpoint import CHAT_TEMPLATE

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
CV_BENCH = Example("1", "How many {chairs}? (A) 1 (B) 2", "(A)", images=("a.png",))
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
# The form of the public base checkpoints' template: parts one after the other, no roles.
FLAT = (
    "{% for part in messages %}{% if part['type'] == 'image' %}" + VISION + "{% elif 'text' in part"
    " %}{{ part['text'] }}{% endif %}{% endfor %}"
)
REASON = (
    "A conversation between User and Assistant. The user asks a question about the image, and the "
    "Assistant solves it. The assistant first thinks about the reasoning process in the mind and "
    "then provides the user with the answer.\n"
)


@functools.cache
def tokenizer():
    return train_tokenizer(["a"], vocab_size=270)


def render(messages, template=CHAT_TEMPLATE):
    tokenizer().chat_template = template
    return chat.render(tokenizer(), messages)


@pytest.mark.parametrize(
    ("choices", "end"),
    [(("a",), "options: a"), (("a", "b"), "options: a or b"), (("a", "b", "c"), "a, b or c")],
)
def test_choices_are_listed_as_sat_lists_them(choices, end):
    assert templates.with_choices("Q?", choices).endswith(end)


def test_without_choices_the_question_stays_as_it_is():
    assert templates.with_choices("Q {x}?", ()) == "Q {x}?"


def test_the_base_prompt():
    end = f"User:  {ASKED} \nAssistant: Let me solve this step by step.\n<think>"
    assert VisualThinker(base=True)(SAT) == VISION + REASON + end
    assert VisualThinker(base=True, literal=True)(SAT) == VISION + "<image>" + REASON + end


def test_the_base_prompt_is_what_the_checkpoints_flat_template_renders():
    """The original hands a flat list of parts to it."""
    end = f"User:  {ASKED} \nAssistant: Let me solve this step by step.\n<think>"
    parts = [{"type": "image"}, {"type": "text", "text": "<image>" + REASON + end}]
    assert render(parts, FLAT) == VisualThinker(base=True, literal=True)(SAT)


def test_the_base_prompts_of_cv_bench():
    """A question that brings its choices comes after one space."""
    asked = "User: How many {chairs}? (A) 1 (B) 2 \nAssistant: "
    for form in ("train", "eval"):
        text = VisualThinker(base=True, form=form, literal=True)(CV_BENCH)
        assert text == f"{VISION}<image>{REASON}{asked}Let me solve this step by step.\n<think>"
    direct = (
        "A conversation between User and Assistant. The user asks a question about the image, and "
        "the Assistant solves it.\n"
    )
    text = VisualThinker(base=True, form="direct", literal=True)(CV_BENCH)
    assert text == f"{VISION}<image>{direct}{asked}"


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.mark.parametrize(
    ("example", "template", "text"),
    [
        (
            SAT,
            VisualThinker(base=False, literal=True),
            f"<image> {ASKED}  Output the thinking process in <think> </think> and final answer "
            "(option) in <answer> </answer> tags.",
        ),
        (
            SAT,
            VisualThinker(base=False),
            f" {ASKED}  Output the thinking process in <think> </think> and final answer (option) "
            "in <answer> </answer> tags.",
        ),
        (
            CV_BENCH,
            VisualThinker(base=False, form="eval"),
            "How many {chairs}? (A) 1 (B) 2\nOutput the thinking process in <think> </think> and "
            "final answer in <answer> </answer> tags.",
        ),
        (CV_BENCH, VisualThinker(base=False, form="direct"), "How many {chairs}? (A) 1 (B) 2"),
        (SAT, VisualThinker(base=False, form="direct", literal=True), f"<image> {ASKED}"),
        (SAT, templates.chat_question, ASKED),
    ],
)
def test_instruct_prompts(example, template, text):
    turn = f"<|im_start|>user\n{VISION}{text}<|im_end|>\n<|im_start|>assistant\n"
    assert render(template(example)) == SYSTEM + turn


VLAA = (
    "You are VL-Thinking\U0001f914, a helpful assistant with excellent reasoning ability. A user "
    "asks you a question, and you should try to solve it. You should first think about the "
    "reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and{0}<answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think>{0}<answer> answer here </answer>"
)


@pytest.mark.parametrize(
    ("settings", "space"),
    [({}, " "), ({"system": templates.VLAA_SYSTEM_VLMEVALKIT}, "")],
)
def test_vlaas_prompt(settings, space):
    text = render(templates.vlaa(CV_BENCH, **settings))
    user = f"<|im_start|>user\n{VISION}{CV_BENCH.question}<|im_end|>\n<|im_start|>assistant\n"
    assert text == f"<|im_start|>system\n{VLAA.format(space)}<|im_end|>\n{user}"


@pytest.mark.parametrize("images", [(), ("a.png",), ("a.png", "b.png", "c.png")])
def test_every_template_shows_every_image_and_asks_text_alone_too(images):
    example = Example(id="1", question="Q?", answer="", images=images)
    assert VisualThinker(base=True)(example) == VISION * len(images) + VisualThinker(base=True)(
        Example(id="1", question="Q?", answer="")
    )
    for template in (templates.chat_question, VisualThinker(base=False), templates.vlaa):
        text = render(template(example))
        assert f"<|im_start|>user\n{VISION * len(images)}Q?" in text
        assert text.count(VISION) == len(images)


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("Qwen/Qwen2-VL-2B", True),
        ("/models/Qwen2-VL-7B/", True),
        ("someone/Qwen2.5-VL-3B-Base", True),
        ("Qwen/Qwen2-VL-2B-Instruct", False),
        ("/Base/Qwen2.5-VL-72B-Instruct", False),
    ],
)
def test_base_or_instruct_by_the_name(path, base):
    template = VisualThinker(form="direct", literal=True)
    chosen = templates.for_checkpoint(template, path)
    assert chosen == VisualThinker(base=base, form="direct", literal=True)


@pytest.mark.parametrize("path", ["runs/mine/hf", "Base-Instruct", "Qwen2-VL-2B-SFT"])
def test_a_name_that_does_not_say_is_not_guessed(path):
    with pytest.raises(UserError, match=f"{path} does not say .* set data.template.base"):
        templates.for_checkpoint(VisualThinker(), path)
    with pytest.raises(UserError, match="for_checkpoint"):
        VisualThinker()(SAT)


def test_an_explicit_choice_wins_over_the_name_and_functions_stay_as_they_are():
    for base in (True, False):
        template = VisualThinker(base=base)
        assert templates.for_checkpoint(template, "Qwen/Qwen2-VL-2B") == template
        assert templates.for_checkpoint(template, "Qwen/Qwen2-VL-2B-Instruct") == template
    assert templates.for_checkpoint(templates.vlaa, "any") is templates.vlaa


def test_the_choice_is_a_field_on_the_command_line():
    from jaxvl import config

    cfg = config.load("configs/jsonl.py", ["data.template.base=true", "data.template.form=direct"])
    assert cfg.data.template == VisualThinker(base=True, form="direct")
    assert to_json(cfg)["data"]["template"]["base"] is True
    forms = typing.get_type_hints(VisualThinker)["form"]
    assert typing.get_args(forms) == ("train", "eval", "direct")


def test_vlaa_as_flat_text_for_a_base_checkpoint():
    example = Example("1", "How many?", "3", ("a.png",))
    text = templates.vlaa_flat(example)
    assert text == (f"{templates.IMAGE}{templates.VLAA_SYSTEM}\nUser: How many?\nAssistant: ")
    placed = templates.vlaa_flat(dataclasses.replace(example, question="Is <image> red?"))
    assert placed.endswith(f"\nUser: Is {templates.IMAGE} red?\nAssistant: ")
    assert placed.count(templates.IMAGE) == 1
