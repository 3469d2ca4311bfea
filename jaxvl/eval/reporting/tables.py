# SPDX-License-Identifier: Apache-2.0
"""Tables for people: {"title", "columns", "rows"}, on the console, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

Table = dict[str, Any]


def show(table: Table) -> None:
    """Prints a table."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=Text(table["title"]), title_justify="left")
    for name in table["columns"]:
        grid.add_column(Text(name), no_wrap=True)
    for row in table["rows"]:
        grid.add_row(*(Text(str(cell)) for cell in row))
    # A log file has no width: the table is wider than 80 columns and must not be cut there.
    Console(width=None if Console().is_terminal else 160).print(grid)


def markdown(table: Table) -> str:
    """A heading and a pipe table."""
    rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([f"### {table['title']}", "", *lines, ""])


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]], delimiter: str = ",") -> str:
    """A CSV file with a header."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerows([columns, *rows])
    return file.getvalue()


def percent(estimate: dict[str, Any] | None) -> str:
    """An estimate of a share as "57.8 [55.9, 59.7]"; "-" where there is none."""
    if not estimate or estimate["value"] is None:
        return "-"
    if estimate["low"] is None or estimate["high"] is None:
        return share(estimate["value"])
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def share(value: float | None) -> str:
    """A share in per cent."""
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
