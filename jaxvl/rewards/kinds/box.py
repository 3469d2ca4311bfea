# SPDX-License-Identifier: Apache-2.0
"""Boxes: exactly one (x1, y1, x2, y2), worth its intersection over union with the gold box.

Coordinates are continuous and in the gold's frame. Models write boxes in different frames; which
one is declared (`FRAMES`) and never guessed from the size of the numbers.
"""

from __future__ import annotations

import re

from jaxvl.errors import UserError
from jaxvl.rewards import said
from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH, SEVERAL, UNREAD

Box = tuple[float, float, float, float]
FRAMES = ("unit", "thousand", "processed", "original")

_FIGURE = r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?"
_NUMBER = re.compile(_FIGURE)
_LIST = re.compile(r"\[[^\[\]]*\]")
# (x1,y1),(x2,y2), which is Qwen2-VL's own, and [[x1,y1],[x2,y2]]
_CORNERS = re.compile(
    r"[\[({]?\s*[(\[]([^()\[\]]{1,99})[)\]]\s*(?:,|to|-|)\s*[(\[]([^()\[\]]{1,99})[)\]]\s*[\])}]?"
)
_BARE = re.compile(
    rf"\(?\s*({_FIGURE}(?:\s*,\s*|\s+){_FIGURE}(?:\s*,\s*|\s+){_FIGURE}(?:\s*,\s*|\s+){_FIGURE})\s*\)?"
)
_SIDES = (  # names of x1, y1, x2, y2, none of a width or a centre
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)
_NAMED = re.compile(
    rf"\b(x_?[12]|y_?[12]|[xy]_?min|[xy]_?max|left|top|right|bottom)[\"'\s]*[=:]\s*({_FIGURE})",
    re.I,
)
_LABEL = re.compile(r"\"(?:label|text|text_content|name|category|type)\"\s*:\s*\"[^\"]*\"")
_MARKED = re.compile(r"<\|box_start\|>([^<]{1,200})<\|box_end\|>")
# What the coordinates are called, before them: "(x1, y1) = ", "top-left corner: "
_NAMES = re.compile(
    r"[\[(]\s*x_?1\s*,\s*y_?1\s*(?:,\s*x_?2\s*,\s*y_?2\s*)?[\])]\s*[=:]|\(\s*x_?2\s*,\s*y_?2\s*\)\s*[=:]"
    r"|\b(?:(?:top|upper)[- ]left|(?:bottom|lower)[- ]right)(?: corner)?\s*(?:is|at|[=:])?\s*",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"<\|(?:object_ref|box)_(?:start|end)\|>|</?b?box>")
_OBJECT = re.compile(r"<\|object_ref_start\|>[^<]*<\|object_ref_end\|>|<ref>[^<]*</ref>")
_BEFORE = re.compile(r"[^\[({\d]*?\b(?:is|are|at|box|bbox|coordinates)\b[^\[({\d]*", re.I)


def judge(answer: str, gold: str, choices: list[str]) -> tuple[float, str, str]:
    """Reward, normal form and reason. Any overlap is a match, worth its IoU."""
    right = read(gold)
    if isinstance(right, str):
        return 0.0, "", BAD_GOLD
    found = read(answer)
    if isinstance(found, str):
        return 0.0, "", found
    value = iou(found, right)
    return value, show(found), MATCH if value > 0 else MISMATCH


def read(text: str) -> Box | str:
    """The one box of a text, bare, with names, in JSON or in the tokens of Qwen2-VL, else the
    reason why there is none.

    A box has four finite numbers with x1 < x2 and y1 < y2.
    """
    marked = _MARKED.findall(text)
    if len(marked) == 1 and not said.NEGATIVE.search(text.replace(marked[0], "")):
        text = marked[0]
    text = _TOKENS.sub("", _OBJECT.sub("", _LABEL.sub("", text))).strip().rstrip(".")
    text = _NAMES.sub("", text).strip()
    numbers = _numbers(text)
    if isinstance(numbers, str):
        return numbers
    around = re.sub(_FIGURE, " ", text)
    if said.NEGATIVE.search(around) or re.search(r"\b(?:or|either)\b|或", around, re.I):
        return UNREAD
    if len(numbers) != 4 or not all(_NUMBER.fullmatch(item) for item in numbers):
        return UNREAD
    x1, y1, x2, y2 = (float(item) for item in numbers)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else UNREAD


def _numbers(text: str) -> list[str] | str:
    """The items of the one list of coordinates in a text, or why there is none."""
    named = {name.lower().replace("_", ""): item for name, item in _NAMED.findall(text)}
    for names in _SIDES if named else ():
        if set(names) == set(named):
            once = len(_NAMED.findall(text)) == len(named)
            return [named[name] for name in names] if once else SEVERAL
    plain = text[found.end() :].strip() if (found := _BEFORE.match(text)) else text
    corners = _CORNERS.fullmatch(plain)
    if corners:
        return [item.strip() for item in f"{corners[1]},{corners[2]}".split(",")]
    bare = _BARE.fullmatch(plain)
    if bare:
        return re.split(r"[,\s]+", bare[1])
    lists = _LIST.findall(text)
    if len(lists) != 1:
        return SEVERAL if lists else UNREAD
    return [item.strip() for item in lists[0][1:-1].split(",")]


def show(box: Box) -> str:
    """The normal form of a box, which `read` reads."""
    return "[" + ", ".join(f"{x:.12g}" for x in box) + "]"


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes with positive sides, in [0, 1]."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return min(1.0, overlap / union)


def within(box: Box, frame: str, size: tuple[int, int] | None = None) -> bool:
    """Whether a box can be one of a frame: it lies within the sides, and one of "thousand" or of
    pixels is longer than a unit. `size` is the image's (width, height) where the frame has it."""
    width, height = {"unit": (1, 1), "thousand": (1000, 1000)}.get(frame) or size or (0, 0)
    inside = min(box) >= 0 and box[2] <= width and box[3] <= height
    return inside and (frame == "unit" or max(box) > 1)


def convert(
    box: Box,
    source: str,
    target: str,
    original: tuple[int, int] | None = None,
    processed: tuple[int, int] | None = None,
) -> Box:
    """The box in another frame. Frames measure the same image in different units:

    "unit" from 0 to 1 along each side; "thousand" from 0 to 1000 (Qwen2-VL); "processed" in pixels
    of the image as the model was given it (Qwen2.5-VL); "original" in pixels of the file.
    `original` and `processed` are (width, height), needed where such a frame is.
    """
    sides = {"unit": (1, 1), "thousand": (1000, 1000), "processed": processed, "original": original}

    def side(frame: str) -> tuple[int, int]:
        if frame not in sides:
            raise UserError(f"box frame is {frame!r}; expected one of {', '.join(FRAMES)}")
        found = sides[frame]
        if found is None:
            raise UserError(f"a box in the frame {frame!r} needs the size of that picture")
        return found

    (from_x, from_y), (to_x, to_y) = side(source), side(target)
    if source == target:
        return box
    x, y = to_x / from_x, to_y / from_y
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y
