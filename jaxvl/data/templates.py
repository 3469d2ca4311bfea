# SPDX-License-Identifier: Apache-2.0
"""How an example is put to a model: functions from `Example` to a prompt.

A prompt is a string as the model reads it, with one `<|image_pad|>` an image, or chat messages for
the checkpoint's own template. The VisualThinker texts are those of its public training code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxvl.data.example import Example

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
LITERAL_IMAGE = "<image>"
BASE = (
    "A conversation between User and Assistant. The user asks a question about the image, and the "
    "Assistant solves it. The assistant first thinks about the reasoning process in the mind and "
    "then provides the user with the answer.\n"
    "User: {question} \nAssistant: Let me solve this step by step.\n<think>"
)
INSTRUCT = (
    "{question}  Output the thinking process in <think> </think> and final answer (option) in "
    "<answer> </answer> tags."
)


def with_choices(question: str, choices: Sequence[str]) -> str:
    """SAT's sentence: the question and `a, b or c`; without choices the question alone."""
    if not choices:
        return question
    *first, last = choices
    listed = f"{', '.join(first)} or {last}" if first else last
    return f"Answer in natural language. {question} Choose between the following options: {listed}"


def chat_question(example: Example) -> list[dict[str, Any]]:
    """One user turn: the images, then the question with its choices."""
    return _user_turn(example, with_choices(example.question, example.choices))


def visualthinker_base(example: Example) -> str:
    """VisualThinker's prompt for base models, with `<think>` begun."""
    return IMAGE * len(example.images) + _base_text(example)


def visualthinker_base_literal(example: Example) -> str:
    """`visualthinker_base` as its code really fed it: the words `<image>` stay in the text."""
    return IMAGE * len(example.images) + LITERAL_IMAGE + _base_text(example)


def visualthinker_instruct(example: Example) -> list[dict[str, Any]]:
    """VisualThinker's user turn for instruct models; tags are asked for, nothing is begun."""
    return _user_turn(example, INSTRUCT.format(question=_sat_content(example)))


def _base_text(example: Example) -> str:
    return BASE.format(question=_sat_content(example))


def _sat_content(example: Example) -> str:
    """The question as VisualThinker has it once `<image>` is cut out of SAT's user turn.

    SAT's begins with the space that followed `<image>`; a question that brings its own choices in
    its text (CV-Bench) has none.
    """
    space = " " if example.choices else ""
    return space + with_choices(example.question, example.choices)


def _user_turn(example: Example, text: str) -> list[dict[str, Any]]:
    images = [{"type": "image"} for _ in example.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
