# SPDX-License-Identifier: Apache-2.0
"""How a benchmark's question is worded and put to a model: the harnesses' ways and the papers'.

A benchmark gives its question in each harness's wording; a paper's protocol puts its own prompt
around the first of them. The texts are the published ones to the letter: another wording is
another experiment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.data.example import Example
from jaxvl.data.templates import VLAA_SYSTEM, VisualThinker
from jaxvl.errors import UserError
from jaxvl.eval.scoring.formats import LETTERS

KIT, QWEN, LMMS, REASONING = "vlmevalkit", "vlmevalkit-qwen", "lmms-eval", "lmms-eval-reasoning"
VLAA = "vlaa"
VISUALTHINKER = {
    "visualthinker-base": VisualThinker(base=True, form="eval", literal=True),
    "visualthinker-base-direct": VisualThinker(base=True, form="direct", literal=True),
    "visualthinker-instruct": VisualThinker(base=False, form="eval"),
    "visualthinker-instruct-direct": VisualThinker(base=False, form="direct"),
}
_ABOUT = {
    KIT: "VLMEvalKit's prompt of the data set",
    QWEN: "VLMEvalKit's prompt for Qwen2-VL, with which its leaderboard's rows were made",
    LMMS: "lmms-eval's prompt",
    REASONING: "lmms-eval's reasoning task: a system prompt that asks for <think> and <answer>",
}
_PAPERS = {
    VLAA: "VLAA-Thinker's system prompt, then the first wording; the paper ran it with at most "
    "262144 pixels and 800 new tokens",
    "visualthinker-base": "VisualThinker-R1-Zero's flat text for base models, <think> begun",
    "visualthinker-base-direct": "the same without reasoning",
    "visualthinker-instruct": "VisualThinker's request for <think> and <answer> in a user's turn",
    "visualthinker-instruct-direct": "the question alone",
}
REASONING_SYSTEM = (
    "You are a helpful assistant. When the user asks a question, your response must include two "
    "parts: first, the reasoning process enclosed in <think>...</think> tags, then the final "
    "answer enclosed in <answer>...</answer> tags.Please provide a clear, concise response within "
    "<answer> </answer> tags that directly addresses the question."
)
_SYSTEMS = {VLAA: VLAA_SYSTEM, REASONING: REASONING_SYSTEM}
_CHINESE = re.compile("[\u4e00-\u9fff]")

# Text that follows the images, or parts: text, and where images stand their numbers from 0.
Wording = str | list[str | int]


def offered(*wordings: str, **own: str) -> dict[str, str]:
    """The protocols of a benchmark that has these wordings, the first first, each with what it is;
    `own` describes a wording that no harness has."""
    return {**own, **{name: _ABOUT[name] for name in wordings}, **_PAPERS}


def asked(protocol: str, wordings: Mapping[str, Wording], images: Sequence[Any]) -> dict[str, Any]:
    """The fields `prompt` and `images` of an item: chat messages, or text for a base model.

    A wording that places the images itself shows those that it names, in its order.
    """
    if protocol not in (*wordings, *_PAPERS):
        known = ", ".join([*wordings, *_PAPERS])
        raise UserError(f"the protocol is {protocol!r}; expected one of {known}")
    wording = wordings.get(protocol, next(iter(wordings.values())))
    if protocol in VISUALTHINKER:
        text = wording if isinstance(wording, str) else _marked(wording)
        example = Example("", text, "", tuple(images))
        return {"prompt": VISUALTHINKER[protocol](example), "images": example.images}
    parts = [*range(len(images)), wording] if isinstance(wording, str) else wording
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    turns = [{"role": "user", "content": content}]
    if protocol in _SYSTEMS:
        turns.insert(0, {"role": "system", "content": _SYSTEMS[protocol]})
    return {"prompt": turns, "images": tuple(images[n] for n in parts if isinstance(n, int))}


def _marked(parts: Sequence[str | int]) -> str:
    """Parts as text, with `<image n>` where an image stands among them."""
    return "".join(part if isinstance(part, str) else f"<image {part + 1}>" for part in parts)


def lettered(choices: Sequence[str], form: str = "{}. {}", between: str = "\n") -> str:
    """The choices with their letters."""
    return between.join(map(form.format, LETTERS, choices))


def kit_choice(question: str, choices: Sequence[str], hint: str = "", ask: bool = True) -> str:
    """VLMEvalKit's prompt of a question with options; `ask` is its last line."""
    text = f"Hint: {hint}\n" * bool(hint) + f"Question: {question}\n"
    if choices:
        text += f"Options:\n{lettered(choices)}\n"
        text += "Please select the correct answer from the options above. \n" * ask
    return text


def qwen_choice(question: str, choices: Sequence[str], hint: str = "") -> str:
    """The same as VLMEvalKit puts it to Qwen2-VL."""
    text = kit_choice(question, choices, hint, ask=False)
    if choices:
        english = "Please select the correct answer from the options above."
        text += "请直接回答选项字母。" if _CHINESE.search(text) else english
    return text.rstrip()


def qwen_open(question: str) -> str:
    """An open question as VLMEvalKit puts it to Qwen2-VL."""
    return f"{question}\nPlease try to answer the question with short words or phrases if possible."


def lmms_note(prompt: str, choices: Sequence[str]) -> str:
    """lmms-eval's note in front of CV-Bench's and BLINK's own prompts."""
    letters = ", ".join(LETTERS[: len(choices)])
    note = f"Note: You only need to respond with {letters} without providing any additional "
    return f"{note}information.\n{prompt}"


LMMS_LETTER = "Answer with the option's letter from the given choices directly."
