# SPDX-License-Identifier: Apache-2.0
"""A teacher that knows nothing, for trying the flow: made-up replies, the same for the same
request, marked as such. Some are of the kinds that the steps drop."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

_AHA = "Wait, let me look again. "
_PLAIN = "The picture settles it. "


def answers(step: str) -> Callable[[Sequence[dict[str, Any]]], list[tuple[str, str]]]:
    """The stub's answers to the requests of a step."""
    return lambda bodies: [_STEPS[step](_number(body), _asked(body)) for body in bodies]


def _number(body: dict[str, Any]) -> int:
    data = json.dumps(body, sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:4])


def _asked(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"][-1]["text"]


def _caption(number: int, asked: str) -> tuple[str, str]:
    return f"[stub] A made-up caption, number {number}.", "stop"


def _distil(number: int, asked: str) -> tuple[str, str]:
    if number % 40 == 0:
        return f"[stub] Only an answer: {number % 10}.", "stop"
    thought = f"[stub] The caption says number {number}. {_AHA if number % 3 == 0 else _PLAIN}"
    return (
        f"<think>\n{thought}\n</think>\n\n{number % 10}",
        "length" if number % 50 == 1 else "stop",
    )


def _rewrite(number: int, asked: str) -> tuple[str, str]:
    text = asked[max(asked.rfind("<think>"), 0) :].strip()
    if number % 20 == 0:
        return "[stub] This is the text that you asked me for: " * 3 + text, "stop"
    return re.sub(r"\bThe caption says\b", "The image shows", text), "stop"


def _verify(number: int, asked: str) -> tuple[str, str]:
    return ("No" if number % 10 == 0 else "Perhaps" if number % 25 == 1 else "Yes"), "stop"


_STEPS = {"caption": _caption, "distil": _distil, "rewrite": _rewrite, "verify": _verify}
