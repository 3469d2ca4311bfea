# SPDX-License-Identifier: Apache-2.0
"""Rows of CSV and TSV, of which a broken one costs no other."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.example import BadRow
from jaxvl.errors import UserError

_LONGEST_CELL = 2**28  # of CSV and TSV, which hold images as text
_LONGEST_ROW = (
    1000  # lines that a row of CSV or TSV may take: a quote left open takes all there are
)
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def read(file: Path, delimiter: str) -> Iterator[dict[str, Any] | BadRow]:
    """Rows below a header; an empty cell is None, a column without a name is left out.

    A quote that is not closed, or closed within a cell, costs the line that it stands in: the next
    line begins a row again. UserError where the header is none: another delimiter, a name twice.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        lines = _Lines(opened)
        header: list[str] | None = None
        while (first := lines.take()) is not None:
            cells, more = _cells(first, lines, delimiter)
            if not cells:
                continue
            if header is None:
                header = _header(file, first, cells, delimiter)
            elif isinstance(cells, str):
                yield BadRow("broken row", f"{cells}: {first!r:.80}")
            elif len(cells) != len(header):
                lines.give_back(more)
                found = f"a row of {len(cells)} cells does not fit the header of {len(header)}"
                yield BadRow("broken row", f"{found}: {first!r:.80}")
            else:
                yield _row(header, cells)


def _header(file: Path, line: str, cells: list[str] | str, delimiter: str) -> list[str]:
    """The names of the columns."""
    if isinstance(cells, str):
        raise UserError(f"{file} cannot be read: its header {line!r:.80}: {cells}")
    if not _is_utf8(cells):
        raise UserError(f"{file} cannot be read: its header {line!r:.80} is not UTF-8 text")
    for other, name in _DELIMITERS.items():
        columns = [cell.strip() for cell in next(csv.reader([line], delimiter=other))]
        if other != delimiter and len(columns) > len(cells):
            raise UserError(
                f"{file}: its header {line.strip()!r:.120} has {name} between columns "
                f"({', '.join(columns)}); expected {_DELIMITERS[delimiter]}: a .csv has commas, a "
                ".tsv tabs; save or name it so"
            )
    names = [cell.strip() for cell in cells]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        places = ", ".join(str(at) for at, name in enumerate(names, 1) if name == twice[0])
        raise UserError(
            f"{file}: the column {twice[0]!r} stands more than once in its header (columns "
            f"{places} of {len(names)}): rename or remove all but one"
        )
    return names


def _row(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | BadRow:
    row = {name: cell or None for name, cell in zip(header, cells, strict=True) if name}
    if not _is_utf8(cells):
        shown = next(cell for cell in cells if not _is_utf8([cell]))
        return BadRow("broken text", f"a cell is not UTF-8 text: {shown!r:.80}")
    return row


def _is_utf8(cells: Sequence[str]) -> bool:
    """Whether no byte had to be escaped when the file was decoded."""
    try:
        for cell in cells:
            cell.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Lines:
    """Lines of a text file, some of which may be given back to be taken again."""

    def __init__(self, opened: Iterator[str]):
        self.opened = opened
        self.waiting: deque[str] = deque()

    def take(self) -> str | None:
        return self.waiting.popleft() if self.waiting else next(self.opened, None)

    def give_back(self, lines: Sequence[str]) -> None:
        self.waiting.extendleft(reversed(lines))


def _cells(first: str, lines: _Lines, delimiter: str) -> tuple[list[str] | str, list[str]]:
    """The cells of the row that begins with the line `first`, and the other lines that it took;
    where its quotes are wrong, what is wrong with them, and no line is taken."""
    more: list[str] = []

    def text() -> Iterator[str]:
        yield first
        while len(more) < _LONGEST_ROW and (line := lines.take()) is not None:
            more.append(line)
            yield line

    try:
        return next(csv.reader(text(), delimiter=delimiter, strict=True), []), more
    except csv.Error as error:
        lines.give_back(more)
        return f"a quote that is not as it should be ({error})", []
