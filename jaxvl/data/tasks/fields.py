# SPDX-License-Identifier: Apache-2.0
"""What adapters read out of a row: text, answers, pictures. BadRow says what is wrong with one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.example import BadRow

MARKER = re.compile(r"[ \t]*<image\d*>")
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


def shown(value: Any) -> str:
    """A value in a message."""
    return "missing" if value is None else f"{value!r:.60}"


def text(row: Mapping[str, Any], name: str) -> str:
    """The text in a field, which has to have some."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"no {name}", f"`{name}` is {shown(value)}, expected text")
    return plain(value, name)


def plain(value: str, name: str) -> str:
    """`value`, which must not spell a special token: a tokenizer would make one of it."""
    special = _SPECIAL.search(value)
    if special:
        raise BadRow("special token in the text", f"`{name}` has the special token {special[0]}")
    return value


def answer(row: Mapping[str, Any], name: str) -> str:
    """The text or number in a field, as text without space around it."""
    value = row.get(name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number and not (isinstance(value, str) and value.strip()):
        raise BadRow("no answer", f"`{name}` is {shown(value)}, expected text or a number")
    return plain(str(value).strip(), name)


def one_of(gold: str, choices: Sequence[str]) -> str:
    """`gold`, which has to be one of the choices, or the letter of one, where there are any."""
    letters = [chr(ord("A") + index) for index in range(len(choices))]
    if choices and gold not in choices and gold.strip("()").upper() not in letters:
        raise BadRow(
            "answer is none of the choices",
            f"the answer is {shown(gold)}, neither one of the {len(choices)} choices nor the "
            "letter of one",
        )
    return gold


def pictures(value: Any, folders: Sequence[Path]) -> tuple[str | bytes, ...]:
    """Paths and bytes of one picture or a list of them; none where `value` is empty.

    A picture is a path (as given or below one of `folders`), bytes, {"bytes", "path"} as in Hugging
    Face's parquet files, or base64 text. Files have to exist; they are not opened here.
    """
    if value is None or value == "" or isinstance(value, Sequence) and not len(value):
        return ()
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_picture(item, folders) for item in values)


def _picture(value: Any, folders: Sequence[Path]) -> str | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadRow(
            "image of a wrong type", f"an image is {shown(value)}, expected a path or bytes"
        )
    if value.startswith("data:") or "." not in value[-6:] and len(value) > 64:
        try:
            return base64.b64decode(value.partition(",")[2] or value, validate=True)
        except (binascii.Error, ValueError):
            pass  # a long path without a suffix
    for folder in folders:
        path = folder / value
        try:
            if path.is_file():
                return str(path)
        except OSError:  # a name that is too long for the file system
            break
    raise BadRow("missing image file", f"no image file {shown(str(folders[0] / value))}")
