# SPDX-License-Identifier: Apache-2.0
"""Where images stand in a text or in messages, and that there are as many images as places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.data.example import BadRow

IMAGE = "<image>"  # an image's place in a question; the other forms become it
MARKER = re.compile(r"<(?:image|img|imagehere|image_placeholder)[ _]?(\d*)>", re.IGNORECASE)
_CUT = re.compile(rf"[ \t]*{MARKER.pattern}", re.IGNORECASE)
_LEADING = re.compile(rf"\s*(?:{IMAGE}\s*)*")
_LIKELY = re.compile(r"(?:^|_)(?:image|img|picture|pic|photo|figure|screenshot)s?(?:_|\d|$)", re.I)
_FILE = re.compile(r"\.(?:png|jpe?g|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_PARTS = ("image", "image_url", "input_image")
_HOLDERS = ("image", "image_url", "url", "path", "base64", "data", "bytes", "source")


def fit(
    texts: Sequence[str], images: tuple[Any, ...], unread: Mapping[str, Any]
) -> tuple[list[str], tuple[Any, ...]]:
    """The texts of a row (the question first) with `<image>` where its images stand, and these.

    Markers that all stand in front of the question are taken off: images without a place stand
    there. Numbered ones (`<image2>`) bring their image, the first time they name it; where there
    is one image alone, several numbers name parts of it and are cut out. BadRow where there are
    not as many images as places; `unread` are the columns that were not read for any.
    """
    found = [number for text in texts for number in MARKER.findall(text)]
    numbers = list(dict.fromkeys(int(number) for number in found if number))
    if found and all(found) and sorted(numbers) == list(range(1, len(images) + 1)):
        images = tuple(images[number - 1] for number in numbers)
        texts = _first_mentions(texts)
    elif found and all(found) and len(images) == 1:
        return [_CUT.sub("", text).strip() for text in texts], images
    elif found and len(found) != len(images):
        raise misfit(len(found), len(images), unread)
    elif any(found):
        raise BadRow(
            "images do not fit the text",
            f"the text's places are numbered {numbers} for {len(images)} pictures, expected 1 to "
            f"{len(images)}",
        )
    else:
        texts = [MARKER.sub(IMAGE, text) for text in texts]
    question, *others = texts
    leading = _LEADING.match(question)
    lead = leading[0] if leading else ""
    if lead.count(IMAGE) == sum(text.count(IMAGE) for text in texts):
        question = question[len(lead) :]
    return [question.strip(), *others], images


def _first_mentions(texts: Sequence[str]) -> list[str]:
    seen: set[str] = set()

    def place(match: re.Match) -> str:
        if match[1] in seen:
            return f"image {match[1]}"
        seen.add(match[1])
        return IMAGE

    return [MARKER.sub(place, text) for text in texts]


def misfit(places: int, pictures: int, unread: Mapping[str, Any] | None = None) -> BadRow:
    """What is wrong where a text has places for other than its images."""
    likely = [name for name, value in (unread or {}).items() if value and is_likely(name)]
    hint = ""
    if likely and places > pictures:
        hint = f"; the column `{likely[0]}` is not read and may hold them: data.source.image names "
        hint += "the columns with pictures"
    return BadRow(
        "images do not fit the text",
        f"places for pictures in the text ({IMAGE}): {places}, pictures: {pictures}; expected as "
        f"many of one as of the other{hint}",
    )


def is_likely(name: str) -> bool:
    """Whether a column of this name may hold images."""
    return bool(_LIKELY.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)))


def blind(unread: Mapping[str, Any]) -> str:
    """The column among those that were not read that holds an image, "" where none does."""
    return next((name for name, x in unread.items() if is_likely(name) and _is_picture(x)), "")


def _is_picture(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_picture(value.get(name)) for name in ("bytes", "path"))
    if isinstance(value, list):
        return any(_is_picture(item) for item in value)
    if isinstance(value, str):
        return value.startswith("data:image/") or bool(_FILE.search(value))
    return isinstance(value, bytes) and bool(value)


def is_picture_part(part: Any) -> bool:
    """Whether a part of a message is an image, in transformers' or OpenAI's form."""
    if not isinstance(part, Mapping):
        return False
    if part.get("type") is not None:
        return part["type"] in _PARTS
    return any(part.get(name) is not None for name in ("image", "image_url"))


def picture_of(part: Mapping[str, Any]) -> Any:
    """What a part says its image is: a path, a URL, bytes or a PIL image; None where it is but a
    place."""
    holder = next((part[name] for name in _HOLDERS if part.get(name) is not None), None)
    if isinstance(holder, Mapping):  # {"image_url": {"url": ..}}, {"image": {"bytes": ..}}
        return picture_of(holder)
    bare = part.get("base64") is holder or part.get("data") is holder
    return f"data:;base64,{holder}" if bare and isinstance(holder, str) else holder


def split(text: str, pictures: int) -> list[str]:
    """The pieces of a text between its places, which are as many as its images: one piece where
    it has no place."""
    pieces = text.split(IMAGE)
    if len(pieces) > 1 and len(pieces) - 1 != pictures:
        raise misfit(len(pieces) - 1, pictures)
    return pieces
