# SPDX-License-Identifier: Apache-2.0
"""What a paper's page is made of: runs and scored results, each under the name of the paper's row
that it stands for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data.reflection import WORDS
from jaxvl.errors import UserError
from jaxvl.eval.engines import predictions
from jaxvl.eval.scoring import score
from jaxvl.eval.scoring.score import read_results
from jaxvl.observe import browse, curves
from jaxvl.observe.metrics import FILE

ResultsJson = dict[str, Any]
Series = tuple[Sequence[int], Sequence[float]]  # steps and values
# Of VLAA-Thinking's figure 7; its list for data is longer (`WORDS`).
IN_TRAINING = ("alternatively", "double-check", "i should check", "wait")
COUNTED = tuple(dict.fromkeys((*IN_TRAINING, *WORDS["VisualThinker"], *WORDS["VLAA-Thinking"])))


@dataclasses.dataclass
class PaperInput:
    """A run directory (None: results alone) and results of benchmarks by task and protocol."""

    name: str
    run: Path | None = None
    results: dict[tuple[str, str], ResultsJson] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def curves(self) -> dict[str, Any]:
        """Steps and columns of the run, see `curves.curves`; without a run there are none."""
        none: dict[str, Any] = {"steps": [], "metrics": {}, "config": {}, "notes": []}
        return curves.curves(self.run) if self.run else none

    @functools.cached_property
    def words(self) -> tuple[list[int], dict[str, list[int]], list[int]]:
        """Steps with rollouts; for each word how many completions of a step have it, anywhere and
        in any case; and how many completions there are."""
        steps, total = [], []
        counts: dict[str, list[int]] = {word: [] for word in COUNTED}
        rollouts = browse.Rollouts(self.run) if self.run else None
        for step, files in rollouts.files().items() if rollouts else ():
            texts = [
                browse.text_of(one.get("text")).lower()
                for line in browse.read(files)[0]
                for one in line.get("completions") or []
            ]
            steps.append(step)
            total.append(len(texts))
            for word, column in counts.items():
                column.append(sum(word in text for text in texts))
        return steps, counts, total

    @functools.cached_property
    def columns(self) -> dict[str, Series]:
        """The metrics of a run, each with the steps that have it; among them, as `words/wait`, the
        share of a step's completions that have a word."""
        steps = self.curves["steps"]
        found: dict[str, Series] = {}
        for name, column in self.curves["metrics"].items():
            known = [(step, x) for step, x in zip(steps, column, strict=True) if x is not None]
            found[name] = [step for step, _ in known], [x for _, x in known]
        steps, counts, total = self.words
        for word, column in counts.items() if steps else ():
            shares = [n / max(of, 1) for n, of in zip(column, total, strict=True)]
            found[f"words/{word}"] = steps, shares
        return found

    def of_task(self, task: str, protocol: str = "") -> ResultsJson | None:
        """The results of a task, by the protocol if one is named. UserError where there are several
        to choose from."""
        found = {
            key: one
            for key, one in self.results.items()
            if key[0] == task and protocol in ("", key[1])
        }
        if len(found) > 1:
            asked = ", ".join(sorted(key[1] for key in found))
            raise UserError(
                f"{self.name} has results of {task} by several protocols ({asked}); give the "
                f"directory of the one that is meant, as {self.name}=DIR"
            )
        return next(iter(found.values()), None)


def read(words: Sequence[str | Path]) -> dict[str, PaperInput]:
    """By name what `DIR` or `NAME=DIR` words lead to; the name of a DIR is its own.

    A DIR holds a run, results (TASK/results.json), a run with results in a folder of its own
    (RUN/eval), or several of these. Words of one name are put together. UserError for a directory
    with neither or with results of several models, for two runs of one name, and for two results of
    one task and protocol.
    """
    found: dict[str, PaperInput] = {}
    for word in map(str, words):
        name, _, path = word.rpartition("=") if not Path(word).exists() else ("", "", word)
        folder = Path(path)
        if not path or not folder.is_dir():
            found_there = f"{folder} is no directory" if path else "it names no directory"
            raise UserError(f"{word!r}: {found_there}; expected DIR or NAME=DIR")
        _take(found.setdefault(name or folder.resolve().name, PaperInput(name)), folder)
    for name, one in found.items():
        one.name = name
    return found


def _take(into: PaperInput, folder: Path) -> None:
    """Adds what a directory holds."""
    run = (folder / FILE).is_file()
    if run and into.run:
        raise UserError(f"{into.run} and {folder} are two runs of one name; give one, or NAME=DIR")
    into.run = folder if run else into.run
    replies = sorted(
        file.parent
        for pattern in ("*", "*/*")
        for file in folder.glob(f"{pattern}/{predictions.SETTINGS}")
    )
    if not run and not replies:
        raise UserError(
            f"{folder} holds neither a run ({FILE}) nor results of `jaxvl eval` (TASK/"
            f"{score.RESULTS})"
        )
    _check_one_model(folder, replies)
    for place in replies:
        if not (place / score.RESULTS).is_file():
            into.notes.append(f"{place} is not scored yet: jaxvl eval score {place.parent}")
            continue
        one = read_results(place)
        key = one["task"], one["protocol"]
        if key in into.results:
            raise UserError(
                f"{folder} has results of {key[0]} by protocol {key[1]} twice, the second in "
                f"{place}; give the directory of one"
            )
        into.results[key] = one
        if one["partial"]:
            into.notes.append(f"{place}: PARTIAL, {one['answered']} of {one['items']} items")


def _check_one_model(folder: Path, replies: Sequence[Path]) -> None:
    """UserError where a directory has replies of several models: they would be one row."""
    models: dict[str, Path] = {}
    for place in replies:
        decides = predictions.read_settings(place)["decides"]
        models.setdefault(str(decides["model"]), place.parent)
    if len(models) > 1:
        listed = ", ".join(f"{model} in {place}" for model, place in models.items())
        raise UserError(
            f"{folder} has results of several models ({listed}); give the directory of each, as "
            "NAME=DIR"
        )


def check_names(found: Mapping[str, PaperInput], known: Sequence[str]) -> list[str]:
    """What there is to say of names that are no row of the paper."""
    others = [name for name in found if name not in known]
    if not others:
        return []
    return [
        f"{', '.join(others)}: no row of this paper has this name, so it stands under its own name "
        f"where the paper compares; NAME=DIR says which row is meant, of {', '.join(known)}"
    ]
