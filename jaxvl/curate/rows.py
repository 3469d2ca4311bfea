# SPDX-License-Identifier: Apache-2.0
"""Rows of the pipeline: JSON lines of objects, and the images that lie beside them.

A row has `id`, `source` (of which `image` is the first folder, below `images/` beside the file),
`image`, `question`, `gt` and `verifier_type`; on the way it gains `caption`, `ds_answer` (what the
teacher wrote), `answer` (rewritten) and `verified`. `only` is "rl" where a row is for reinforcement
learning alone. `meta` holds what a step may use: `text_question`, `rationale`, `scene`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvl.data import files
from jaxvl.data.example import BadRow
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError

CuratedRow = dict[str, Any]


def read(path: Path, start: int = 0) -> Iterator[CuratedRow]:
    """The rows of a file that a step wrote, from number `start` (from 0) on; UserError names the
    first that is none, or that has the id of another."""
    if not path.is_file():
        raise UserError(f"there is no {path}; expected rows that `jaxvl curate metadata` wrote")
    ids: set[str] = set()
    for number, _, row in files.read([path], start + 1):
        wrong = _wrong(row, ids)
        if isinstance(row, BadRow) or wrong:
            raise UserError(
                f"{path}, row {number}: {wrong}; rows are made by `jaxvl curate metadata`"
            )
        ids.add(row["id"])
        yield row


def _wrong(row: files.Raw, ids: Container[str]) -> str:
    """What keeps it from being a row of the pipeline, after rows with these ids; "" if nothing."""
    if isinstance(row, BadRow):
        return str(row)
    for name in ("question", "source", "id"):
        if not isinstance(row.get(name), str) or not row[name]:
            return f"`{name}` is {fields.shown(row.get(name))}, expected text"
    if not isinstance(row.get("meta", {}), dict):
        return f"`meta` is {fields.shown(row['meta'])}, expected an object"
    return f"a second row has the id {row['id']!r:.60}" if row["id"] in ids else ""


def line(row: Mapping[str, Any]) -> str:
    """A row as a line, the same bytes for the same row."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write(path: Path, lines: Iterable[str]) -> None:
    """A whole file or none: it takes the place of what was there when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".half")
    with open(half, "w", encoding="utf-8") as file:
        file.writelines(lines)
    os.replace(half, path)


def digest(value: Any) -> str:
    """Of anything that JSON can hold, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
