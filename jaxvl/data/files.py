# SPDX-License-Identifier: Apache-2.0
"""Files of rows in the formats that datasets are published in, read one row at a time.

Parquet, arrow (what `save_to_disk` of Hugging Face's datasets writes), JSON lines, JSON (a list of
objects, or an object of objects), CSV and TSV. A `.json` file of JSON lines is read as such.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data import tables
from jaxvl.data.example import BadRow
from jaxvl.data.strict_json import DuplicateKey, loads
from jaxvl.errors import UserError

_BATCH = 32  # rows of a parquet file in memory at a time: they may hold images
_DEEPEST = 64  # objects and lists within one another: what reads a row goes through them by calls
# What a compressed file begins with, and what makes it whole.
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"(\xb5/\xfd": "unzstd",
    b"PK\3\4": "unzip",
}
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a character of two: alone it is none

Raw = dict[str, Any] | BadRow


def read(files: Sequence[Path], start: int = 1) -> Iterator[tuple[int, Path, Raw]]:
    """(number, file, row) of every row from number `start` on, through all files.

    Rows count from 1 over all files; an empty line is none. A row that cannot be read is a BadRow;
    UserError names a file that cannot be.
    """
    number = 0
    for file in files:
        for row in _rows(file, start - 1 - number):
            number += 1
            if number >= start and row is not None:
                yield number, file, row


def sha256(file: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def replace(file: Path, data: bytes) -> None:
    """As a whole: who is killed leaves no half, and a copy by hard links stays as it is."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, file)
    except OSError:
        with contextlib.suppress(OSError):  # what is told is why the file itself was not written
            part.unlink()
        raise


def _rows(file: Path, skip: int) -> Iterator[Raw | None]:
    """Every row of a file; None for some or all of the first `skip`, where that is quicker."""
    try:
        _check_text(file)
        if file.suffix == ".parquet":
            yield from _parquet(file, skip)
        elif file.suffix == ".arrow":
            yield from _arrow(file)
        elif file.suffix == ".jsonl":
            yield from _json_lines(file, skip)
        elif file.suffix == ".json":
            yield from _json(file, skip)
        else:
            yield from tables.read(file, "\t" if file.suffix == ".tsv" else ",")
    except UserError:
        raise
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # pyarrow's: ValueErrors
        raise UserError(f"{file} cannot be read: {error}") from error


def _check_text(file: Path) -> None:
    """UserError where what should be text is compressed, or written in units of 16 or 32 bits, as
    some spreadsheets save it."""
    if file.suffix in (".parquet", ".arrow"):
        return
    with open(file, "rb") as opened:
        first = opened.read(6)
    for magic, tool in _COMPRESSED.items():
        if first.startswith(magic):
            begins = f"{file} is compressed (it begins with {magic.hex(' ')})"
            raise UserError(f"{begins}; expected text: {tool} {file.name}")
    first = first[:4]
    if first[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in first:
        raise UserError(
            f"{file} is text in UTF-16 or UTF-32 (it begins with {first.hex(' ')}); expected "
            f"UTF-8: iconv -f UTF-16 -t UTF-8 {file.name}"
        )


def _check_columns(file: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"{file}: the column {twice[0]!r} is there {names.count(twice[0])} times; rename or "
            "remove all but one"
        )


def _parquet(file: Path, skip: int) -> Iterator[Raw | None]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, memory_map=True) as parquet:
        _check_columns(file, parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if skip >= rows:
                skip -= rows
                yield from [None] * rows
                continue
            skip = 0
            for batch in parquet.iter_batches(_BATCH, row_groups=[group]):
                batch.validate(full=True)
                yield from batch.to_pylist()


def _arrow(file: Path) -> Iterator[Raw]:
    import pyarrow

    with pyarrow.memory_map(str(file)) as source:
        stream = pyarrow.ipc.open_stream(source)
        _check_columns(file, stream.schema.names)
        for batch in stream:
            batch.validate(full=True)  # a place behind the file's end would end the process
            for start in range(0, batch.num_rows, _BATCH):
                yield from batch.slice(start, _BATCH).to_pylist()


def _json_lines(file: Path, skip: int) -> Iterator[Raw | None]:
    with open(file, "rb") as opened:
        for number, line in enumerate(line for line in opened if line.strip()):
            yield None if number < skip else _object(line)


def _json(file: Path, skip: int) -> Iterator[Raw | None]:
    with open(file, "rb") as opened:
        line = next((line for line in opened if line.strip()), b"")
        more = any(line.strip() for line in opened)
    first = _object(line)
    if isinstance(first, dict) and (more or not _all_objects(first)):
        yield from _json_lines(file, skip)
        return
    data = file.read_bytes()
    try:
        value = loads(data)
    except ValueError:
        if not more or line.strip() in (b"{", b"["):
            raise
        yield from _json_lines(file, skip)  # lines of which the first is broken
        return
    if isinstance(value, dict) and _all_objects(value):
        value = [{"id": key, **row} for key, row in value.items()]
    if not isinstance(value, list):
        raise UserError(f"{file}: expected a list of objects, or an object of objects")
    suspect = bool(_HALF.search(data))
    for row in value:
        yield _checked(row, suspect)


def _all_objects(value: dict[str, Any]) -> bool:
    return bool(value) and all(isinstance(row, dict) for row in value.values())


def _object(line: bytes) -> Raw:
    try:
        row = loads(line)
    except DuplicateKey as error:
        return BadRow("key that stands twice", str(error))
    except (ValueError, RecursionError) as error:
        return BadRow("broken JSON", f"broken JSON: {error}")
    return _checked(row, bool(_HALF.search(line)))


def _checked(row: Any, suspect: bool) -> Raw:
    """The row, where it is an object of which every text, if that is `suspect`, can be written as
    UTF-8."""
    if not isinstance(row, dict):
        return BadRow("broken JSON", f"a JSON {type(row).__name__}, expected an object")
    if _too_deep(row):
        return BadRow("nested too deeply", f"more than {_DEEPEST} objects and lists in one another")
    if suspect:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return BadRow("broken text", f"half of a character in {error.object!r:.60}")
    return row


def _too_deep(row: dict[str, Any]) -> bool:
    inside: list[Any] = [row]
    for _ in range(_DEEPEST):
        items = [x for each in inside for x in (each.values() if isinstance(each, dict) else each)]
        inside = [item for item in items if isinstance(item, dict | list)]
        if not inside:
            return False
    return True
