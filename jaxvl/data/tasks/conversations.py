# SPDX-License-Identifier: Apache-2.0
"""Conversations in TRL's format: a list of turns {"role", "content"}, content being text or a list
of parts, and the images beside them or in the parts; and in LLaVA's, {"from", "value"}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.data import places
from jaxvl.data.example import BadRow, Example
from jaxvl.data.tasks.fields import plain, shown

_ROLES = ("system", "user", "assistant", "tool")
_LLAVA = {"human": "user", "gpt": "assistant", "system": "system"}  # who speaks, as LLaVA says it
RawTurn = dict[str, Any]


def as_given(example: Example) -> list[RawTurn]:
    """The template for such data: the turns up to the answer, as they are in the file."""
    if "messages" not in example.columns:
        raise BadRow("no conversation", "there are no turns to take; set data.template=chat")
    return list(example.columns["messages"])


def turns(value: Any, name: str) -> tuple[list[RawTurn], list[Any]]:
    """The turns with their content as a list of parts {"type": "image"} and {"type": "text",
    "text"}, and the images that stood in the parts.

    Plain text is a user's turn; a turn may have LLaVA's names. `<image>` in a text is where an
    image stands; numbered markers stand in the order of their numbers. An image in a part may be in
    OpenAI's form.
    """
    if isinstance(value, str) and value.strip():
        value = [{"role": "user", "content": value}]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow("no conversation", f"`{name}` is {shown(value)}, expected a list of turns")
    pictures: list[Any] = []
    found = []
    for turn in map(_in_trls_names, value):
        if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
            raise BadRow(
                "broken conversation",
                f"`{name}` has the turn {shown(turn)}, expected a role of {', '.join(_ROLES)}",
            )
        found.append({"role": turn["role"], "content": _parts(turn.get("content"), name, pictures)})
    return found, pictures


def _in_trls_names(turn: Any) -> Any:
    who = turn.get("from") if isinstance(turn, Mapping) and "role" not in turn else None
    if isinstance(who, str) and who in _LLAVA:
        return {"role": _LLAVA[who], "content": turn.get("value")}
    return turn


def _parts(content: Any, name: str, pictures: list[Any]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return _text(content, name)
    parts = []
    for part in content if isinstance(content, Sequence) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            parts += _text(part["text"], name)
        elif kind is not None and places.is_picture_part(part):
            parts.append({"type": "image"})
            picture = places.picture_of(part)
            if picture is not None:
                pictures.append(picture)
        else:
            raise BadRow(
                "broken conversation",
                f"`{name}` has the part {shown(part)}, expected a text or an image",
            )
    return parts


def _text(value: str, name: str) -> list[dict[str, Any]]:
    """The parts of a text: an image where it has a marker."""
    numbers = [int(number) for number in places.MARKER.findall(value) if number]
    if numbers != sorted(set(numbers)):
        raise BadRow(
            "images do not fit the text",
            f"`{name}` has markers numbered {numbers}, expected each once and in order",
        )
    first, *others = places.MARKER.sub(places.IMAGE, value).split(places.IMAGE)
    parts = [{"type": "text", "text": plain(first, name)}] if first else []
    for piece in others:
        parts.append({"type": "image"})
        parts += [{"type": "text", "text": plain(piece, name)}] if piece else []
    return parts


def said(turn: RawTurn) -> str:
    """The text of a turn."""
    return "".join(part.get("text", "") for part in turn["content"])


def prompt_and_reply(found: list[RawTurn], name: str) -> tuple[list[RawTurn], str]:
    """The turns up to the last user's, and what the assistant then says ("" where nothing)."""
    users = [place for place, turn in enumerate(found) if turn["role"] == "user"]
    if not users:
        raise BadRow("broken conversation", f"`{name}` has no turn of a user")
    end = users[-1] + 1
    return found[:end], "".join(said(turn) for turn in found[end:] if turn["role"] == "assistant")


def place_images(prompt: list[RawTurn], count: int, unread: Mapping[str, Any]) -> list[RawTurn]:
    """The prompt with `count` image parts: where none is marked, all stand before the first user's
    text, as in TRL. `unread` are the columns of the row that were not read for images."""
    marked = sum(part["type"] == "image" for turn in prompt for part in turn["content"])
    if not marked and count:
        first = next(turn for turn in prompt if turn["role"] == "user")
        first["content"] = [{"type": "image"}] * count + first["content"]
    elif marked != count:
        raise places.misfit(marked, count, unread)
    return prompt
