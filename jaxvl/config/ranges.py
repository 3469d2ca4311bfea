# SPDX-License-Identifier: Apache-2.0
"""The range of a number, as the markers of its annotation say it: `Annotated[int, Ge(1)]`.

The markers are those of annotated-types: Ge, Gt, Le, Lt, and Interval of several. A number that may
be any is marked `ANY`: that there is no range is then a decision. No field takes what float32, or
for whole numbers int32, cannot hold.
"""

from __future__ import annotations

import operator
import types
import typing
from typing import Annotated, Any, Literal

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

ANY = Interval()
FLOAT32 = 3.4028234663852886e38  # the largest
INT32 = 2**31 - 1
_TESTS = {
    Gt: ("gt", "above", operator.gt),
    Ge: ("ge", "at least", operator.ge),
    Lt: ("lt", "below", operator.lt),
    Le: ("le", "at most", operator.le),
}


def is_union(kind: Any) -> bool:
    """Whether an annotation is `A | B` or `Optional[A]`."""
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def markers(kind: Any) -> list[Any]:
    """The markers of an `Annotated` that say a range, groups of them taken apart."""
    found = []
    for marker in typing.get_args(kind)[1:]:
        found += list(marker) if isinstance(marker, GroupedMetadata) else [marker]
    return [marker for marker in found if type(marker) in _TESTS]


def in_range(value: Any, kind: Any) -> bool:
    """Whether `value`, which is of the type that the annotation says, is in its range."""
    if typing.get_origin(kind) is not Annotated:
        return True
    tests = ((*_TESTS[type(marker)], marker) for marker in markers(kind))
    within = all(test(value, getattr(marker, name)) for name, _, test, marker in tests)
    return within and held(value)


def held(value: Any) -> bool:
    """Whether arrays of the type that numbers of this kind have there can hold it."""
    return abs(value) <= (INT32 if isinstance(value, int) else FLOAT32)


def range_words(kind: Any) -> str:
    """The range that an annotation sets, for people: "at least 1", "above 0 and at most 1", "any",
    "at least 1, or -1", "each at least 1"; "" for what is no number."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        tests = ((*_TESTS[type(marker)], marker) for marker in markers(kind))
        return " and ".join(f"{text} {getattr(m, name)}" for name, text, _, m in tests) or "any"
    if origin is Literal:
        return " or ".join(str(arg) for arg in args if type(arg) in (int, float))
    if origin is tuple:
        each = range_words(args[0])
        return f"each {each}" if each else ""
    if is_union(kind):
        return ", or ".join(filter(None, map(range_words, args)))
    return ""
