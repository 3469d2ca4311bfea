# SPDX-License-Identifier: Apache-2.0
"""Sources made of others: a mixture by weight, and a choice by how hard the questions were."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from jaxvl.data.example import Dropped, Example, Examples, Source
from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """A source in a mixture and its share of the prompts, in proportion to the other weights."""

    source: Source
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Prompts of several sources, dealt out in turn as often as their weights say."""

    parts: tuple[Part, ...]

    def load(self) -> MixedExamples:
        weights = [part.weight for part in self.parts]
        if not weights or not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise UserError(f"a mixture has the weights {weights}; expected numbers above 0")
        return MixedExamples([part.source.load() for part in self.parts], weights)


class MixedExamples(Sequence[Example]):
    """All parts one after the other; the pipeline deals their examples out by weight."""

    def __init__(self, parts: Sequence[Sequence[Example]], weights: Sequence[float]):
        empty = [number for number, part in enumerate(parts) if not len(part)]
        if empty:
            raise UserError(f"part {empty[0]} of the mixture has no examples")
        self.parts, self.weights = tuple(parts), tuple(weights)
        self.ends = list(itertools.accumulate(len(part) for part in parts))
        self.dropped = tuple(row for part in parts for row in getattr(part, "dropped", ()))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        part = bisect.bisect_right(self.ends, i)
        return self.parts[part][i - (self.ends[part - 1] if part else 0)]


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The examples of `source` whose mean reward in earlier runs lies between `low` and `high`.

    `runs` are run directories: every completion in their rollouts counts, told by task and id.
    `reward` names the reward function to go by ("": the weighted sum). Examples that no run has
    seen are kept or dropped as `unseen` says.
    """

    source: Source
    runs: tuple[str, ...]
    low: float = 0.0
    high: float = math.inf
    reward: str = ""
    unseen: Literal["keep", "drop"] = "keep"

    def load(self) -> Examples:
        base = self.source.load()
        means = mean_rewards(self.runs, self.reward)
        rows, dropped = [], list(getattr(base, "dropped", ()))
        for row, (task, id) in enumerate(keys(base)):
            mean = means.get((task, id))
            if (mean is None and self.unseen == "keep") or (mean is not None and self._fits(mean)):
                rows.append(row)
                continue
            reason = "not seen" if mean is None else "too hard" if mean < self.low else "too easy"
            found = "no earlier run has it" if mean is None else f"a mean reward of {mean:.3f}"
            dropped.append(Dropped(id, reason, found, setting=True))
        if not rows:
            raise UserError(
                f"no example has a mean reward from {self.low} to {self.high} in {self.runs}"
            )
        return Examples(base, dropped, rows)

    def _fits(self, mean: float) -> bool:
        return self.low <= mean <= self.high


def keys(examples: Sequence[Example]) -> Iterator[tuple[str, str]]:
    """(task, id) of every example; a prepared set knows them without reading its rows."""
    if hasattr(examples, "keys"):
        return iter(examples.keys())
    return ((example.task, example.id) for example in examples)


def mean_rewards(runs: Sequence[str], reward: str = "") -> dict[tuple[str, str], float]:
    """The mean reward of the completions to each (task, id) in the rollouts of run directories."""
    sums: dict[tuple[str, str], list[float]] = {}
    for file, row in _rollouts(runs):
        values = [_value(c, reward, file) for c in row["completions"]]
        known = [value for value in values if value is not None]
        sums.setdefault((row["task"], row["id"]), []).extend(known)
    return {key: sum(values) / len(values) for key, values in sums.items() if values}


def completions_of(
    runs: Sequence[str], reward: str = ""
) -> Iterator[tuple[tuple[str, str], str, int, float | None]]:
    """((task, id), text, tokens, reward) of every completion in the rollouts of run directories
    that ended by itself."""
    for file, row in _rollouts(runs):
        for one in row["completions"]:
            if one["finish_reason"] == "stop":
                value = _value(one, reward, file)
                yield (row["task"], row["id"]), one["text"], one["tokens"], value


def _rollouts(runs: Sequence[str]) -> Iterator[tuple[Path, dict]]:
    """Every line of the rollouts of run directories, with its file."""
    for run in runs:
        files = sorted(Path(run, "rollouts").glob("step_*.jsonl"))
        if not files:
            raise UserError(f"{run} has no rollouts/step_N.jsonl; expected a run directory")
        for file in files:
            yield from ((file, row) for row in _lines(file))


def _lines(file: Path) -> Iterator[dict]:
    r"""The objects of a file of JSON lines, which end with \n alone; what a killed run left half
    written behind the last one is ignored."""
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: broken JSON ({error})") from None


def _value(completion: dict, reward: str, file: Path) -> float | None:
    if not reward:
        return completion["reward"]
    if reward not in completion["rewards"]:
        names = ", ".join(completion["rewards"])
        raise UserError(f"{file} has no reward `{reward}`; it has {names}")
    return completion["rewards"][reward]
