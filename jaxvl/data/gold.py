# SPDX-License-Identifier: Apache-2.0
"""What the right answer of a row is: the one place that decides it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from jaxvl.data.example import BadRow
from jaxvl.errors import UserError

_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_AROUND = re.compile(r"\s*<answer>((?:(?!</answer>).)*)</answer>\s*", re.DOTALL | re.IGNORECASE)
_EXACT = 2**53  # below it every whole float is the integer it looks like


def text(value: Any, name: str = "answer") -> str:
    """A gold answer as text, "" where `value` is none: None, NaN, an infinity or blank text.

    Answer tags around the whole of a text are taken off. A whole number is written without a point:
    a column of integers with a gap in it becomes one of floats. Any other float has the fewest
    digits that tell it from its neighbours in float32, if it is one of those. Four numbers are a
    box. BadRow for what is no answer.
    """
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise _no_answer(value, name) from None
    if isinstance(value, str):
        around = _AROUND.fullmatch(value)
        return (around[1] if around else value).strip()
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_number, value)):
        return "[" + ", ".join(_number(each) for each in value) + "]"
    if value is not None and not _is_number(value):
        raise _no_answer(value, name)
    return "" if value is None else _number(value)


def tagged(said: str, name: str = "answer") -> str:
    """What a text holds in answer tags, all of it where it has none: the gold of a worked reply.
    BadRow where it holds different answers."""
    held = dict.fromkeys(inner.strip() for inner in _TAGS.findall(said))
    if len(held) > 1:
        found = f"`{name}` has {len(held)} different answers in answer tags: {said!r:.60}"
        raise BadRow("several answers", found)
    return next(iter(held), said)


def answer_of(row: Mapping[str, Any]) -> str:
    """The text of a row's `answer`, "" where it has none; UserError names the row."""
    return _named(row, "answer")


def of_row(row: Mapping[str, Any]) -> str:
    """The gold of a row: its `answer`, or where it has none its `solution`, as TRL calls it."""
    return _named(row, "answer") or _named(row, "solution")


def _named(row: Mapping[str, Any], name: str) -> str:
    try:
        return tagged(text(row.get(name), name), name)
    except BadRow as why:
        raise UserError(f"row {row.get('id', '?')}: {why}") from None


def _no_answer(value: Any, name: str) -> BadRow:
    return BadRow("no answer", f"`{name}` is {value!r:.60}, expected text or a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal, Fraction)) and not isinstance(value, bool)


def _number(value: int | float | Decimal | Fraction) -> str:
    if isinstance(value, (int, Fraction)):
        return str(value)
    if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
        return ""
    if abs(float(value)) < _EXACT and value == int(value):
        return str(int(value))
    if isinstance(value, Decimal):
        return format(value, "f") if abs(value.adjusted()) < 20 else str(value)
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return str(single) if float(single) == value else repr(value)
