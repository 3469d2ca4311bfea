# SPDX-License-Identifier: Apache-2.0
"""Chat messages through a checkpoint's template, with nothing lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxvl import arguments
from jaxvl.data import places
from jaxvl.data.template_probe import LONGEST
from jaxvl.errors import UserError

ROLES = ("system", "user", "assistant", "tool", "developer")
Messages = Sequence[Mapping[str, Any]]
_EXPECTED = (
    "expected messages such as {'role': 'user', 'content': [{'type': 'image'}, "
    "{'type': 'text', 'text': ..}]}"
)


def render(tokenizer: Any, messages: Messages, ask: bool = True) -> str:
    """The text of `messages` by the tokenizer's template, up to where the model is to answer
    (without `ask`: up to where they end).

    Messages have a role and a content: text, or parts. The template of a base checkpoint takes the
    parts alone, as a flat list. UserError for a video, for what the template cannot render, and
    where it leaves a text out, as it does with messages of the other kind.
    """
    messages = list(messages)
    if not messages:
        raise UserError(f"the prompt has no messages; {_EXPECTED}")
    _check(messages)
    try:
        parts = list(_parts(messages))
        if any("video" in key for part in parts for key in (*part, part.get("type") or "")):
            raise UserError("a message has a video, and video is not supported; give its frames")
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        lost = list(_lost(parts, text))
    except UserError:
        raise
    except Exception as error:  # a template is a program, which may raise anything
        why = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the chat template cannot render {messages!r:.400}: {why:.300}; {_EXPECTED}"
        ) from error
    if len(text) > LONGEST:
        raise UserError(
            f"the chat template makes {len(text)} characters of {messages!r:.400}; expected at "
            f"most {LONGEST}; take it from the published checkpoint"
        )
    if lost:
        raise UserError(
            f"the chat template leaves out the text {lost[0]!r:.80}; {_EXPECTED}, or for a base "
            "checkpoint's template the content alone, or give the prompt as a string (a template "
            "that makes text, as jaxvl.data.templates.vlaa_flat does of VLAA's)"
        )
    return text


def _check(messages: Messages) -> None:
    """UserError for what templates pass over in silence: a role that none knows, parts of no kind
    that is read."""
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UserError(f"message {number} is {message!r:.80}; {_EXPECTED}")
        if "content" in message and message.get("role") not in ROLES:
            raise UserError(
                f"message {number} has the role {message.get('role')!r:.40}; expected one of "
                f"{', '.join(ROLES)}"
            )
        content = message.get("content", [message])
        if not isinstance(content, (str, list, tuple)):
            raise UserError(f"message {number} has the content {content!r:.80}; {_EXPECTED}")
        for part in content if not isinstance(content, str) else ():
            known = isinstance(part, Mapping) and (
                isinstance(part.get("text"), str)
                or places.is_picture_part(part)
                or any("video" in key for key in (*part, str(part.get("type"))))  # said by `render`
            )
            if not known:
                raise UserError(f"message {number} has the part {part!r:.80}; {_EXPECTED}")


def with_images(messages: Messages, images: Sequence[Any]) -> tuple[Messages, list[Any]]:
    """The messages with `{"type": "image"}` for every image in them, in whatever form it is
    there, and the images in order: those in the messages, and `images` for the places that have
    none. Where `images` has one for every place, they are the images. BadRow where places and
    images differ in number.
    """
    if not isinstance(messages, (list, tuple)):
        kind = arguments.found(messages)
        raise UserError(f"a prompt is {kind}; expected text, or a list of messages")
    held: list[Any] = []
    bare = [_bare(message, held) for message in messages]
    if len(images) != len(held):
        if sum(picture is None for picture in held) != len(images):
            raise places.misfit(len(held), len(images) + sum(x is not None for x in held))
        beside = iter(images)
        images = [next(beside) if picture is None else picture for picture in held]
    return bare, list(images)


def _bare(message: Any, held: list[Any]) -> Any:
    """A message or part without its images, each of which (None: a place alone) `held` gets."""
    if places.is_picture_part(message):
        held.append(places.picture_of(message))
        return {"type": "image"}
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list | tuple):
        return {**message, "content": [_bare(part, held) for part in content]}
    return message


def _lost(parts: Sequence[Mapping[str, Any]], text: str) -> Iterator[str]:
    """The texts of `parts` that are not in `text`; quick where they stand in their order."""
    at = 0
    for part in parts:
        wanted = part.get("text", "").strip()
        found = text.find(wanted, at)
        if found >= 0:
            at = found + len(wanted)
        elif wanted not in text:
            yield part["text"]


def _parts(messages: Messages) -> Iterator[Mapping[str, Any]]:
    """The parts of all contents; a message without a content is a part itself."""
    for message in messages:
        content = message.get("content", [message])
        yield from [{"text": content}] if isinstance(content, str) else content
