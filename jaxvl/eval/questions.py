# SPDX-License-Identifier: Apache-2.0
"""Examples of a dataset as items of an evaluation, for rendered scenes and one's own data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxvl.data.example import Example
from jaxvl.data.templates import VisualThinker, chat_question, vlaa
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item

# A protocol's template, and what it is.
_PROTOCOLS: dict[str, tuple[Callable[[Example], Any], str]] = {
    "plain": (chat_question, "the question alone"),
    "vlaa": (vlaa, "with VLAA-Thinker's system prompt"),
    "visualthinker-base": (VisualThinker(True), "VisualThinker's text for base models"),
    "visualthinker-base-direct": (VisualThinker(True, "direct"), "the same without reasoning"),
    "visualthinker-instruct": (VisualThinker(False, "eval"), "its words for instruct models"),
    "visualthinker-instruct-direct": (VisualThinker(False, "direct"), "the question alone"),
}
PROTOCOLS = {name: about for name, (_, about) in _PROTOCOLS.items()}


def item(example: Example, protocol: str, kind: str = "mcq") -> Item:
    """An example as it is asked by one of PROTOCOLS, its reply marked as one of `kind`."""
    if protocol not in PROTOCOLS:
        raise UserError(f"the protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    return Item(
        id=example.id,
        prompt=_PROTOCOLS[protocol][0](example),
        images=example.images,
        gold=example.answer,
        choices=example.choices,
        kind=kind,
        groups={"task": example.task},
    )
