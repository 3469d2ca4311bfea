# SPDX-License-Identifier: Apache-2.0
"""The outer shape of an answer in LaTeX: lists, sets, tuples, intervals, equations.

Shapes are compared here, bracket by bracket and part by part; a parser that reads (1, 2) now as a
pair, now as an open interval, sees the parts only.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from jaxvl.rewards.extract import closing

PARTS = 12  # more parts than this are not compared

_VARIABLE = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_(?:\{\s*\w{1,3}\s*\}|\w))?'?")
_EQUATION = re.compile(r"(?<![<>!=\\])=(?!=)")
_SEPARATOR = re.compile(r"[,;]|\b(?:or|and)\b")
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\lt(?![a-zA-Z])|\\gt(?![a-zA-Z])|<|>")
_ARITHMETIC = re.compile(r"\\(?:times|cdot|div|frac|sqrt|pm|pi|left|right|degree)(?![a-zA-Z])")
_PLAIN = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")


@dataclasses.dataclass(frozen=True)
class Node:
    r"""`kind` is "leaf", "set" (unordered parts) or "tuple" (ordered, with its two brackets).

    `variable` is the left side of "x = ..", "x \in .." or of an inequality, else "". `text` is the
    LaTeX of the whole node, with it.
    """

    kind: str
    text: str
    parts: tuple[Node, ...] = ()
    brackets: str = ""
    variable: str = ""

    @property
    def bare(self) -> str:
        """A leaf's text without its variable."""
        return sides(self.text)[1] if self.variable else self.text


def sides(text: str) -> list[str]:
    """What stands left and right of each equals sign that is in no bracket."""
    return _split(text, _EQUATION)


def parse(text: str) -> Node:
    """The shape of an answer in LaTeX."""
    text = _french(text.strip().strip(",;").strip())
    both = _both(text)
    if both:
        return both
    items = _split(text, _SEPARATOR)
    if len(items) > 1:
        return _set(text, [parse(item) for item in items])
    if text.startswith("\\{") and text.endswith("\\}"):
        return Node("set", text, _parts(text[2:-2]))
    if text[:1] == "{" and closing(text, 0) == len(text) - 1:
        inner = _parts(text[1:-1])
        return Node("set", text, inner) if len(inner) > 1 else parse(text[1:-1])
    pieces = _split(text, re.compile(r"\\cup(?![a-zA-Z])"))
    if len(pieces) > 1:
        return Node("set", text, tuple(parse(piece) for piece in pieces))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        parts = _parts(text[1:-1])
        if len(parts) > 1 and _closes_last(text):
            return Node("tuple", text, parts, text[0] + text[-1])
    return _with_variable(text) or Node("leaf", text)


def _french(text: str) -> str:
    """]0, 1] and [0, 1[ as (0, 1] and [0, 1)."""
    turned = (text[:1] == "]" and text[-1:] in "[])") or (text[-1:] == "[" and text[:1] in "[](")
    if not turned or len(text) < 4 or any(bracket in text[1:-1] for bracket in "[]"):
        return text
    return text[0].replace("]", "(") + text[1:-1] + text[-1].replace("[", ")")


def _both(text: str) -> Node | None:
    """`x > 1 and x < 2`: the interval between the bounds, empty where they are the wrong way."""
    halves = _split(text, re.compile(r"\band\b|\\(?:wedge|land)(?![a-zA-Z])"))
    if len(halves) != 2 or not all(_RELATION.search(half) for half in halves):
        return None
    low, high = (_interval(half) for half in halves)
    if low is None or high is None or low.variable != high.variable:
        return None
    if low.parts[0].text == "-\\infty":
        low, high = high, low
    if high.parts[0].text != "-\\infty" or low.parts[1].text != "\\infty":
        return None
    parts, brackets = (low.parts[0], high.parts[1]), low.brackets[0] + high.brackets[1]
    return Node("tuple", text, parts, brackets, low.variable)


def _with_variable(text: str) -> Node | None:
    r"""`x = ..`, `x \in ..`, `a < x < b`, `.. \pm ..`; None for anything else."""
    belongs = re.match(rf"({_VARIABLE.pattern})\s*\\in(?![a-zA-Z])\s*(.+)", text)
    if belongs:
        return dataclasses.replace(parse(belongs[2]), variable=belongs[1])
    left, *right = sides(text) or [""]
    if len({float(side) for side in (left, *right) if _PLAIN.fullmatch(side)}) > 1:
        return None  # 5 = 6
    if len(right) == 1 and _VARIABLE.fullmatch(right[0]) and not _VARIABLE.fullmatch(left):
        return _with_variable(f"{right[0]} = {left}")  # 5 = x
    if right and not _has_letters(left + "".join(right)):
        return parse(right[-1])  # 2 + 3 = 5 says 5
    if len(right) > 1 and _VARIABLE.fullmatch(left) and not _has_letters("".join(right[:-1])):
        return _with_variable(f"{left} = {right[-1]}")  # A = 2 * 3 = 6 says A = 6
    tuple_left = re.fullmatch(r"\([^()]*,[^()]*\)", left)
    if len(right) == 1 and (_VARIABLE.fullmatch(left) or tuple_left):
        inner = parse(right[0])
        if inner.variable:
            return None
        name = "" if tuple_left else _compact(left)
        return dataclasses.replace(inner, text=text if name else right[0], variable=name)
    if not right and len(_PLUS_MINUS.findall(text)) == 1:
        before, after = _PLUS_MINUS.split(text)
        plus = f"{before}+{after}" if before.strip() else after
        return Node("set", text, (Node("leaf", plus.strip()), Node("leaf", f"{before}-{after}")))
    return None if right else _interval(text)


def _has_letters(text: str) -> bool:
    """Whether an expression has variables: letters that are no command of arithmetic."""
    return bool(re.search(r"[a-zA-Z]", _ARITHMETIC.sub("", text)))


def _interval(text: str) -> Node | None:
    """An inequality of one variable with its bounds, as the interval that it means."""
    signs = [
        sign.lstrip("\\").replace("lt", "<").replace("gt", ">") for sign in _RELATION.findall(text)
    ]
    terms = [term.strip() for term in _RELATION.split(text)]
    if len(signs) not in (1, 2) or not all(terms):
        return None
    if any(sign in (">", "ge") for sign in signs):
        if any(sign in ("<", "le") for sign in signs):
            return None
        terms, signs = terms[::-1], [{">": "<", "ge": "le"}[sign] for sign in signs[::-1]]
    if len(terms) == 3:
        low, middle, high = terms
        left, right = signs
    elif _VARIABLE.fullmatch(terms[0]):
        (middle, high), low, left, right = terms, "-\\infty", "<", signs[0]
    else:
        (low, middle), high, left, right = terms, "\\infty", signs[0], "<"
    if not _VARIABLE.fullmatch(middle):
        return None
    brackets = ("[" if left == "le" else "(") + ("]" if right == "le" else ")")
    return Node("tuple", text, (Node("leaf", low), Node("leaf", high)), brackets, _compact(middle))


def _set(text: str, parts: list[Node]) -> Node:
    """A list; where its parts are "x = 1, x = 2" or "x = 1, 2" the variable is the list's."""
    names = {part.variable for part in parts}
    if len(names - {""}) == 1 and parts[0].variable and len(parts) > 1:
        name = parts[0].variable
        return Node("set", text, tuple(_without(part) for part in parts), variable=name)
    return Node("set", text, tuple(parts))


def _without(node: Node) -> Node:
    if node.kind == "leaf" and node.variable:
        return Node("leaf", node.bare)
    return dataclasses.replace(node, variable="")


def equal(gold: Node, found: Node, same: Callable[[str, str], bool]) -> bool:
    """Whether two nodes mean the same; `same(gold, found)` compares the texts of two leaves."""
    if gold.variable and found.variable and gold.variable != found.variable:
        return False
    if gold.kind == found.kind == "leaf":
        if any(
            len(sides(node.bare)) > 1 for node in (gold, found)
        ):  # not "x = ..", but "x + y = .."
            both = all(len(sides(node.text)) > 1 for node in (gold, found))
            return both and same(gold.text, found.text)
        return same(gold.bare, found.bare)
    if gold.kind != found.kind:
        return _alone(gold, found, same)
    if gold.brackets != found.brackets or len(gold.parts) != len(found.parts):
        return False
    if len(gold.parts) > PARTS:
        return False
    if gold.kind == "tuple":
        return all(equal(a, b, same) for a, b in zip(gold.parts, found.parts, strict=True))
    left = list(found.parts)
    for part in gold.parts:
        match = next((other for other in left if equal(part, other, same)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _alone(gold: Node, found: Node, same: Callable[[str, str], bool]) -> bool:
    """A set of one part against that part."""
    for one, other, swap in ((gold, found, False), (found, gold, True)):
        if one.kind == "set" and len(one.parts) == 1 and "\\emptyset" not in one.text:
            part = _without(one.parts[0])
            return equal(other, part, same) if swap else equal(part, other, same)
    return False


def _parts(text: str) -> tuple[Node, ...]:
    return tuple(parse(item) for item in _split(text, _SEPARATOR))


def _split(text: str, separator: re.Pattern) -> list[str]:
    """The pieces between separators that stand in no bracket, without empty ones."""
    depth, start, pieces = 0, 0, []
    starts = {match.start(): match.end() for match in separator.finditer(text)}
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if not depth and index in starts and index >= start:
            pieces.append(text[start:index])
            start = starts[index]
    return [piece.strip() for piece in [*pieces, text[start:]] if piece.strip()]


def _closes_last(text: str) -> bool:
    """Whether the first bracket, of either kind, is closed by the last one: "(1, 2]"."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if not depth:
            return index == len(text) - 1
    return False


def _compact(text: str) -> str:
    return re.sub(r"[\s{}]", "", text)
