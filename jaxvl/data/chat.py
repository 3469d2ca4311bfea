# SPDX-License-Identifier: Apache-2.0
"""Chat messages through a checkpoint's template, with nothing lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxvl.errors import UserError

Messages = Sequence[Mapping[str, Any]]
_EXPECTED = (
    "expected messages such as {'role': 'user', 'content': [{'type': 'image'}, "
    "{'type': 'text', 'text': ..}]}"
)


def render(tokenizer: Any, messages: Messages) -> str:
    """The text of `messages`, up to where the model is to answer, by the tokenizer's template.

    Messages have a role and a content: text, or parts. The template of a base checkpoint takes the
    parts alone, as a flat list. UserError for a video, for what the template cannot render, and
    where it leaves a text out, as it does with messages of the other kind.
    """
    import jinja2

    messages = list(messages)
    if not messages:
        raise UserError(f"the prompt has no messages; {_EXPECTED}")
    try:
        parts = list(_parts(messages))
        if any("video" in key for part in parts for key in (*part, part.get("type") or "")):
            raise UserError("a message has a video, and video is not supported; give its frames")
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        lost = [part["text"] for part in parts if part.get("text", "").strip() not in text]
    except (jinja2.TemplateError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"the chat template cannot render {messages!r}: {error}; {_EXPECTED}"
        ) from error
    if lost:
        raise UserError(
            f"the chat template leaves out the text {lost[0]!r:.80}; {_EXPECTED}, or for a base "
            "checkpoint's template the content alone, or give the prompt as a string"
        )
    return text


def _parts(messages: Messages) -> Iterator[Mapping[str, Any]]:
    """The parts of all contents; a message without a content is a part itself."""
    for message in messages:
        content = message.get("content", [message])
        yield from [{"text": content}] if isinstance(content, str) else content
