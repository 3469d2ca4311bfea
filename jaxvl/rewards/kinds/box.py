# SPDX-License-Identifier: Apache-2.0
"""Boxes: exactly one (x1, y1, x2, y2), worth its intersection over union with the gold box.

Coordinates are continuous and in the gold's frame. Models write boxes in different frames; which
one is declared (`FRAMES`) and never guessed from the size of the numbers.
"""

from __future__ import annotations

import re

from jaxvl.errors import UserError
from jaxvl.rewards.reasons import BAD_GOLD, MATCH, MISMATCH, SEVERAL, UNREAD

Box = tuple[float, float, float, float]
FRAMES = ("unit", "thousand", "processed", "original")

_LIST = re.compile(r"\[[^\[\]]*\]")
_CORNERS = re.compile(r"\(([^()]*)\)\s*,\s*\(([^()]*)\)")  # (x1,y1),(x2,y2): Qwen2-VL's own
_NUMBER = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?")


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
    """The one box of a text, bare or in JSON, else the reason why there is none.

    A box has four finite numbers with x1 < x2 and y1 < y2.
    """
    corners = _CORNERS.fullmatch(text)
    lists = [f"[{corners[1]},{corners[2]}]"] if corners else _LIST.findall(text)
    if len(lists) != 1:
        return SEVERAL if lists else UNREAD
    items = [item.strip() for item in lists[0][1:-1].split(",")]
    if len(items) != 4 or not all(_NUMBER.fullmatch(item) for item in items):
        return UNREAD
    x1, y1, x2, y2 = (float(item) for item in items)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else UNREAD


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


def convert(
    box: Box,
    source: str,
    target: str,
    original: tuple[int, int] | None = None,
    processed: tuple[int, int] | None = None,
) -> Box:
    """The box in another frame. Frames measure the same picture in different units:

    "unit" from 0 to 1 along each side; "thousand" from 0 to 1000 (Qwen2-VL); "processed" in pixels
    of the picture as the model was given it (Qwen2.5-VL); "original" in pixels of the file.
    `original` and `processed` are (width, height), needed where such a frame is.
    """
    sides = {"unit": (1, 1), "thousand": (1000, 1000), "processed": processed, "original": original}
    for frame in (source, target):
        if frame not in sides:
            raise UserError(f"box frame is {frame!r}; expected one of {', '.join(FRAMES)}")
        if sides[frame] is None:
            raise UserError(f"a box in the frame {frame!r} needs the size of that picture")
    (from_x, from_y), (to_x, to_y) = sides[source], sides[target]
    if source == target:
        return box
    x, y = to_x / from_x, to_y / from_y
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y
