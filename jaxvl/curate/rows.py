# SPDX-License-Identifier: Apache-2.0
"""Rows of the pipeline: JSON lines of objects, and the images that lie beside them.

A row has `id`, `source` (of which `image` is the first folder, below `images/` beside the file),
`image`, `question`, `gt` and `verifier_type`; on the way it gains `caption`, `ds_answer` (what the
teacher wrote), `answer` (rewritten) and `verified`. `only` is "rl" where a row is for reinforcement
learning alone. `meta` holds what a step may use: `text_question`, `rationale`, `scene`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxvl.data import files
from jaxvl.data.example import BadRow
from jaxvl.data.image import load_image
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


def share_images(source: Path, target: Path) -> None:
    """Lets the images beside the file `source` be found beside the file `target` as well."""
    theirs, ours = source.parent / "images", target.parent / "images"
    if theirs.is_dir() and not ours.exists():
        half = ours.with_name("images.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(theirs, half, copy_function=link)
        half.rename(ours)


def link(file: str | Path, target: str | Path) -> None:
    """Have a file at another place too, without a copy where the file system allows. No symbolic
    link: those are not followed out of the folder of a dataset."""
    try:
        os.link(os.path.realpath(file), target)
    except OSError:  # another file system, or one without such links
        shutil.copyfile(file, target)


def picture(row: CuratedRow, folder: Path) -> Path:
    """Where a row's image is, below `folder`; BadRow where it has none or it is elsewhere."""
    name = row.get("image")
    if not isinstance(name, str) or not name.strip("/"):
        raise BadRow("no image", f"`image` is {fields.shown(name)}, expected a path")
    name = name.lstrip("/")  # as the published files are read
    if ".." in Path(name).parts:
        raise BadRow("image outside the folder", f"`image` is {name!r:.60}")
    (found,) = fields.pictures(name, [folder], folder)
    return Path(os.fsdecode(found))  # of a path it is a path


def data_url(path: Path, max_side: int) -> str:
    """An image as an endpoint takes it: the file itself where it is small, else a smaller PNG."""
    image = load_image(path)  # says what is wrong with a broken one
    data = path.read_bytes()
    kind = "jpeg" if data[:2] == b"\xff\xd8" else "png" if data[:4] == b"\x89PNG" else ""
    if not kind or max(image.size) > max_side:
        image.thumbnail((max_side, max_side))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        kind, data = "png", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
