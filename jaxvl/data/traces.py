# SPDX-License-Identifier: Apache-2.0
"""What a model has written in earlier runs, to be learnt from: all of it, or what was right and
short."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

from annotated_types import Ge

from jaxvl.data.example import Dropped, Example, Examples, Source
from jaxvl.data.mixture import completions_of, keys
from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Traces:
    """The examples of `source` with completions from the rollouts of run directories, in the column
    `completion` (a target of fine-tuning: `jaxvl.data.tasks.vlaa.completion`).

    Taken are those that ended by themselves, are worth at least `low` to the reward named `reward`
    ("": the weighted sum), and have at most `longest` tokens (0: any number). Of a question's, the
    shortest, or `every` one of them, as examples of their own; equal texts are one. A completion
    goes on from its prompt, so the template has to be that of the run.
    """

    source: Source
    runs: tuple[str, ...]
    low: float = -math.inf
    longest: Annotated[int, Ge(0)] = 0
    reward: str = ""
    every: bool = False

    def load(self) -> Examples:
        base = self.source.load()
        texts: dict[tuple[str, str], dict[str, int]] = {}
        for key, text, tokens, value in completions_of(self.runs, self.reward):
            short = not self.longest or tokens <= self.longest
            if short and value is not None and value >= self.low:
                texts.setdefault(key, {}).setdefault(text, tokens)
        rows, dropped = [], list(getattr(base, "dropped", ()))
        for row, (task, id) in enumerate(keys(base)):
            found = sorted(texts.get((task, id), {}).items(), key=lambda one: (one[1], one[0]))
            rows += [
                (row, n, text) for n, (text, _) in enumerate(found[: None if self.every else 1])
            ]
            if not found:
                dropped.append(Dropped(id, "no trace", "no completion is taken", setting=True))
        if not rows:
            raise UserError(
                f"no completion in {', '.join(self.runs)} to an example of the source is worth "
                f"{self.low:g} or more and fits in longest={self.longest} tokens"
            )
        return Examples(_Traced(base, rows), dropped)


class _Traced(Sequence[Example]):
    """Rows of `base`, each with the text of a completion."""

    def __init__(self, base: Sequence[Example], rows: list[tuple[int, int, str]]):
        self.base, self.rows = base, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        row, number, text = self.rows[i]
        example = self.base[row]
        columns = {**example.columns, "completion": text}
        id = f"{example.id}#{number}" if number else example.id
        return dataclasses.replace(example, id=id, columns=columns)

    def keys(self) -> Iterator[tuple[str, str]]:
        return ((example.task, example.id) for example in self)
