# SPDX-License-Identifier: Apache-2.0
"""What adapters read out of a row: text, answers, images. BadRow says what is wrong with one."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data import gold
from jaxvl.data.example import BadRow
from jaxvl.data.image import is_url, read_url

_NAMED = 6  # fields of a row, in a message
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


def shown(value: Any) -> str:
    """A value in a message."""
    return "missing" if value is None else f"{value!r:.60}"


def text(row: Mapping[str, Any], name: str, setting: str = "") -> str:
    """The text in a field, which has to have some; `setting` is what names the field."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        there = _there(row, name, setting)
        raise BadRow(f"no {name}", f"`{name}` is {shown(value)}, expected text{there}")
    return plain(value, name)


def _there(row: Mapping[str, Any], name: str, setting: str) -> str:
    """Of a row that lacks a field, what it has instead, and what names the field."""
    if name in row or not setting:
        return ""
    near = difflib.get_close_matches(name, map(str, row), 1)
    fields = near or [str(each) for each in row][:_NAMED]
    more = ", .." if len(row) > len(fields) and not near else ""
    has = ", ".join(f"`{each:.40}`" for each in fields)
    return f"; the row has {has or 'no field'}{more}, and {setting} names the field to read"


def plain(value: str, name: str) -> str:
    """`value`, which must not spell a special token: a tokenizer would make one of it."""
    special = _SPECIAL.search(value)
    if special:
        raise BadRow("special token in the text", f"`{name}` has the special token {special[0]}")
    return value


def answer(row: Mapping[str, Any], name: str, setting: str = "") -> str:
    """The gold answer in a field, as `gold.text` has it; `setting` is what names the field."""
    value = row.get(name)
    found = gold.text(value, name)
    if not found:
        there = _there(row, name, setting)
        raise BadRow("no answer", f"`{name}` is {shown(value)}, expected text or a number{there}")
    return plain(found, name)


def options(values: Any, name: str) -> tuple[str, ...]:
    """The texts of choices, in their order; those that are missing at the end are left off."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, (list, tuple)):
        found = f"`{name}` is {shown(values)}, expected a list"
        raise BadRow("choices of a wrong type", found)
    values = list(values)
    if values and all(isinstance(value, str) and not value.strip() for value in values):
        raise BadRow("choices of a wrong type", f"`{name}` is {shown(values)}, expected texts")
    while values and missing(values[-1]):
        values.pop()
    if any(map(missing, values)):
        found = f"`{name}` is {shown(values)}: one that is missing moves the letters of the others"
        raise BadRow("choices of a wrong type", found)
    return tuple(plain(_option(value, name), name) for value in values)


def missing(value: Any) -> bool:
    """Whether a field of a row says nothing: a null, NaN or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _option(value: Any, name: str) -> str:
    return str(value).strip() if isinstance(value, (str, bool)) else gold.text(value, name)


def one_of(found: str, choices: Sequence[str]) -> str:
    """The gold answer, which has to be one of the choices, or the letter of one, where there are
    any. A number may be written in another way than its choice, which is then taken."""
    found = gold.tagged(found) if choices else found
    if found in ("nan", "NaN") and found not in choices:
        raise BadRow("no answer", f"the answer is {found!r}, which stands for a missing value")
    letters = [chr(ord("A") + index) for index in range(len(choices))]
    if not choices or found in choices or found.strip("()").upper() in letters:
        return found
    same = [choice for choice in choices if _value(choice) == _value(found) is not None]
    if len(same) != 1:
        raise BadRow(
            "answer is none of the choices",
            f"the answer is {shown(found)}, neither one of the {len(choices)} choices nor the "
            "letter of one",
        )
    return same[0]


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def pictures(value: Any, folders: Sequence[Path], root: Path | None) -> tuple[str | bytes, ...]:
    """Paths and bytes of one image or a list of them; none where `value` is empty.

    An image is a path that starts at one of `folders`, bytes, {"bytes", "path"} as in Hugging
    Face's parquet files, a data: URL or base64 text. Files have to exist; they are not opened here.
    A row names files below `root` alone (None: any): not by an absolute path, by `..` or through a
    symbolic link does it reach another.
    """
    if value is None or value == "" or (isinstance(value, Sequence) and not len(value)):
        return ()
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_picture(item, folders, root) for item in values)


def _picture(value: Any, folders: Sequence[Path], root: Path | None) -> str | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadRow(
            "image of a wrong type", f"an image is {shown(value)}, expected a path or bytes"
        )
    if is_url(value):
        value = read_url(value)
        if isinstance(value, bytes):
            return value
    if "." not in value[-6:] and len(value) > 64:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass  # a long path without a suffix
    for folder in folders:
        path = folder / value
        try:
            there = path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            break
        if there:
            _check_inside(path, root)
            return str(path)
    raise BadRow("missing image file", f"no image file {shown(str(folders[0] / value))}")


def _check_inside(path: Path, root: Path | None) -> None:
    """BadRow unless a file is below `root`, or is what the hub's cache has for one there."""
    if root is None:
        return
    owned, file = [root.resolve()], path.resolve()
    for folder in (root.absolute(), *root.absolute().parents):
        blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else None
        if blobs and blobs.is_dir() and not blobs.is_symlink():  # what a snapshot links to
            owned.append(blobs.resolve())
    if not any(file.is_relative_to(folder) for folder in owned):
        raise BadRow(
            "image file outside its folder",
            f"the image file {shown(str(path))} is not below {root}: move it there; a source of "
            "training data takes files from anywhere with data.source.allow_outside=true",
        )
