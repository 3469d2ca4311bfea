# SPDX-License-Identifier: Apache-2.0
"""How an example is put to a model: functions from `Example` to a prompt.

A prompt is a string as the model reads it, with one `<|image_pad|>` an image, or chat messages for
the checkpoint's own template. The texts of VisualThinker and of VLAA-Thinker are those of their
public code and papers, to the letter: another wording is another experiment.

Pictures stand where a question (or a choice) says `<image>`, and in front where it does not; there
are as many of the one as of the other, or the example is a BadRow.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Literal

from jaxvl.data import places
from jaxvl.data.example import Example
from jaxvl.data.tasks.conversations import as_given
from jaxvl.errors import UserError

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
LITERAL_IMAGE = "<image>"
_WORD = "\0"  # the word `<image>` of a text, which is no picture's place
BASE = (
    "A conversation between User and Assistant. The user asks a question about the image, and the "
    "Assistant solves it. The assistant first thinks about the reasoning process in the mind and "
    "then provides the user with the answer.\n"
    "User: {question} \nAssistant: Let me solve this step by step.\n<think>"
)
BASE_DIRECT = (
    "A conversation between User and Assistant. The user asks a question about the image, and the "
    "Assistant solves it.\nUser: {question} \nAssistant: "
)
INSTRUCT = (
    "{question}  Output the thinking process in <think> </think> and final answer (option) in "
    "<answer> </answer> tags."
)
INSTRUCT_EVAL = (
    "{question}\nOutput the thinking process in <think> </think> and final answer in "
    "<answer> </answer> tags."
)
INSTRUCT_DIRECT = "{question}"
VLAA_SYSTEM = (
    "You are VL-Thinking🤔, a helpful assistant with excellent reasoning ability. A user asks you "
    "a question, and you should try to solve it. You should first think about the reasoning "
    "process in the mind and then provides the user with the answer. The reasoning process and "
    "answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>"
)
# VLMEvalKit, which the paper's benchmarks were run with, lost two of its spaces.
VLAA_SYSTEM_VLMEVALKIT = VLAA_SYSTEM.replace("and <answer>", "and<answer>").replace(
    "</think> <answer> answer", "</think><answer> answer"
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
    return [_user_turn(example, with_choices(example.question, example.choices))]


def vlaa(example: Example, system: str = VLAA_SYSTEM) -> list[dict[str, Any]]:
    """VLAA-Thinker's conversation (arXiv 2504.11468): its system prompt, then images and question.

    The same in SFT, in RL and in evaluation; `system` is for `VLAA_SYSTEM_VLMEVALKIT`.
    """
    return [{"role": "system", "content": system}, *chat_question(example)]


def vlaa_flat(example: Example, system: str = VLAA_SYSTEM) -> str:
    """The same as flat text for a base checkpoint, whose own chat template knows no roles
    (VLAA-Thinker-7B-Zero). How the paper put its prompt to one is not published: the words are the
    paper's, the form is that of VisualThinker's base prompt, and nothing of the answer is begun."""
    text = f"{system}\nUser: {with_choices(example.question, example.choices)}\nAssistant: "
    pieces = places.split(text, len(example.images))
    front = "" if pieces[1:] else IMAGE * len(example.images)
    return front + IMAGE.join(pieces)


@dataclasses.dataclass(frozen=True)
class VisualThinker:
    """VisualThinker-R1-Zero's prompt (arXiv 2503.05132).

    `base` says for which kind of checkpoint. A base model reads flat text in which the answer's
    `<think>` is begun; an instruct model gets a user turn, and nothing is begun. None chooses by
    the checkpoint's name, see `is_base`.

    `form` is "train", or one of the two that its CV-Bench scripts use: "eval" asks for reasoning
    (a base model reads the training text), "direct" for the answer alone. "direct" on SAT's
    questions is also the prompt of its supervised baseline.

    `literal` keeps the word `<image>` in front of the text: SAT's files have it there, and the
    original's training and its base models' evaluation fed it to the model beside the real image.
    """

    base: bool | None = None
    form: Literal["train", "eval", "direct"] = "train"
    literal: bool = False

    def __call__(self, example: Example) -> str | list[dict[str, Any]]:
        if self.base is None:
            raise UserError("VisualThinker: base is neither true nor false; use `for_checkpoint`")
        base = {"train": BASE, "eval": BASE, "direct": BASE_DIRECT}
        instruct = {"train": INSTRUCT, "eval": INSTRUCT_EVAL, "direct": INSTRUCT_DIRECT}
        # SAT's turn begins with `<image>` and a space, and the space stays; a question that brings
        # its choices in its own text (CV-Bench's) has neither.
        content = " " * bool(example.choices) + with_choices(example.question, example.choices)
        if self.base:
            text = base[self.form].format(question=content)
            pieces = places.split(text, len(example.images))
            front = "" if pieces[1:] else IMAGE * len(example.images)
            return front + LITERAL_IMAGE * self.literal + IMAGE.join(pieces)
        return [
            _user_turn(example, instruct[self.form].format(question=_WORD * self.literal + content))
        ]

    def for_checkpoint(self, path: str) -> VisualThinker:
        """This template with `base` decided."""
        return dataclasses.replace(self, base=is_base(path)) if self.base is None else self


def is_base(path: str) -> bool:
    """Whether the last part of a checkpoint's path names a base model rather than an instruct one.

    It does where it has "Base" in it or is a bare size ("Qwen2-VL-2B"), it does not where it has
    "Instruct" in it. UserError for all other names: a guess would be another experiment.
    """
    name = PurePath(path).name
    base = "Base" in name or bool(re.fullmatch(r"Qwen\d[\d.]*-VL-\d+B", name))
    if base == ("Instruct" in name):
        raise UserError(
            f"the name of {path} does not say whether it is a base or an instruct model; "
            "set data.template.base to true or false"
        )
    return base


def for_checkpoint(template: Callable[[Example], Any], path: str) -> Callable[[Example], Any]:
    """`template`, or what it becomes for the checkpoint at `path` where it leaves that open."""
    choose = getattr(template, "for_checkpoint", None)
    return choose(path) if choose else template


def _user_turn(example: Example, text: str) -> dict[str, Any]:
    """The text with the pictures at their places, in front where it has none."""
    image = {"type": "image"}
    first, *others = places.split(text, len(example.images))
    content = [] if others else [image] * len(example.images)
    content += [_part(first)] if first or not others else []
    for piece in others:
        content += [image, *([_part(piece)] if piece else [])]
    return {"role": "user", "content": content}


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text.replace(_WORD, LITERAL_IMAGE)}


# The templates by the names that configs, the command line and the docs have for them.
FUNCTIONS: dict[str, Callable[[Example], Any]] = {
    "chat": chat_question,
    "as-given": as_given,
    "vlaa": vlaa,
    "visualthinker": VisualThinker(),
    "visualthinker-base": VisualThinker(base=True),
    "visualthinker-instruct": VisualThinker(base=False),
}
