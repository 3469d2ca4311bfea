# SPDX-License-Identifier: Apache-2.0
"""One question about images: what every dataset is turned into, and what is said of a row that
cannot become one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    """A question, its images and its answer.

    `images` holds PIL images, paths or the bytes of image files, in the order they are shown.
    `choices` is empty for an open question. `columns` carries anything else a dataset has; reward
    functions receive it by name. `id` tells the examples of a `task` apart.
    """

    id: str
    question: str
    answer: str
    images: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    task: str = ""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class BadRow(UserError):
    """Why a row cannot be used. It is left out, counted by `reason` (a few words, the same for
    every row of its kind) and listed with the message, which says what was found in this one."""

    def __init__(self, reason: str, found: str):
        super().__init__(found)
        self.reason = reason


class FilteredRow(BadRow):
    """A sound row that a setting leaves out: counted and listed as the bad ones are, but it does
    not count against the share of rows that may be bad."""


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A row that was left out; `setting` where a setting wanted it so."""

    id: str
    reason: str
    found: str
    setting: bool = False

    @classmethod
    def of(cls, id: str, why: BadRow) -> Dropped:
        return cls(id, why.reason, str(why), isinstance(why, FilteredRow))


ReadRow = tuple[str, Example | BadRow]  # a row's id, and what became of it


class Source(Protocol):
    """A dataset as a config names it: a frozen dataclass whose `load` gives random access.

    Where the sequence has an attribute `dropped`, those rows count as rows of the dataset.
    """

    def load(self) -> Sequence[Example]:
        """All examples, of which each is read when it is asked for."""


class Examples(Sequence[Example]):
    """Examples of `base` at `rows` (all where None), and the rows that were left out on the way."""

    def __init__(
        self,
        base: Sequence[Example],
        dropped: Sequence[Dropped] = (),
        rows: Sequence[int] | None = None,
    ):
        self.base, self.dropped = base, tuple(dropped)
        self.rows = range(len(base)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        return self.base[self.rows[i]]


class RowSource:
    """A source that reads files row by row; its subclasses are frozen dataclasses.

    `rows(start)` gives every row of the dataset once and in order, from the row `start` on. It
    raises UserError only for what is wrong with a file as a whole.
    """

    def rows(self, start: int = 0) -> Iterator[ReadRow]:
        """Every row's id and its example, or the BadRow that says why it is left out."""
        raise NotImplementedError

    def files(self) -> list[Any]:
        """The files that hold the rows, for checksums; images beside them are not listed."""
        raise NotImplementedError

    def load(self) -> Examples:
        """All usable rows, kept in memory with the bytes of their images where the files hold
        them. For more than a few gigabytes: `jaxvl data prepare`."""
        return collect(self.rows(), _shown(self))


def _shown(source: RowSource) -> str:
    """A source as it would be written in a config: what stands at its default is left out."""
    if not dataclasses.is_dataclass(source):
        return repr(source)
    given = {
        field.name: getattr(source, field.name)
        for field in dataclasses.fields(source)
        if getattr(source, field.name) != field.default
    }
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"{type(source).__name__}({words})"


def collect(rows: Iterable[ReadRow], what: str) -> Examples:
    """The examples among `rows`; UserError where there is none, which says why `what` has none."""
    examples: list[Example] = []
    dropped: list[Dropped] = []
    for id, row in rows:
        if isinstance(row, BadRow):
            dropped.append(Dropped.of(id, row))
        else:
            examples.append(row)
    if not examples:
        raise UserError(f"{what} has no usable row: {summary(dropped) or 'it has no rows at all'}")
    return Examples(examples, dropped)


def summary(dropped: Sequence[Dropped], listed: int = 5) -> str:
    """Counts by reason, the commonest first, and the first few rows of it, for messages."""
    counts: dict[str, int] = {}
    for row in dropped:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{count} {reason}" for reason, count in by_count)
    rows = "".join(f"\n  row {row.id}: {row.found}" for row in dropped[:listed])
    more = f"\n  and {len(dropped) - listed} more" if 0 < listed < len(dropped) else ""
    return text + rows + more
