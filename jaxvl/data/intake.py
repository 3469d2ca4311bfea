# SPDX-License-Identifier: Apache-2.0
"""What a run may train on: the examples of its source, test sets kept out, and the account of the
rows that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxvl.data import test_sets
from jaxvl.data.example import BadRow, Dropped, Example, Source, summary
from jaxvl.data.image import check_shape, load_image
from jaxvl.errors import UserError

FILE = "bad_rows.jsonl"
_SHOWN = 5

Check = Callable[[Example], str]


class Gate:
    """Lets examples in that can be used and are not of a test set.

    `check` says why an example cannot be used ("" where it can). Test data stays out, unless
    `trial` is set and its licence allows it: then `on_trial` is called with the benchmark's name.
    """

    def __init__(
        self,
        check: Check | None = None,
        trial: bool = False,
        digests: Sequence[str] = (),
        on_trial: Callable[[str], None] = lambda name: None,
    ):
        self.check, self.trial, self.on_trial = check, trial, on_trial
        self.digests = test_sets.Digests(digests)

    def admit(self, source: Source) -> None:
        """UserError for a source that names a benchmark."""
        for benchmark in test_sets.named(source):
            why = self._refuse(benchmark, f"the source names the benchmark {benchmark.name}")
            if why:
                raise UserError(why)

    def open(self, example: Example) -> Example:
        """The example with its pictures decoded; BadRow says why it stays out."""
        images = tuple(load_image(image) for image in example.images)
        for image in images:
            check_shape(image.height, image.width)
        why = self.check(example) if self.check else ""
        if why:
            raise BadRow("fails the check", why)
        benchmark = self.digests.find(example.question, images)
        if benchmark is not None:
            why = self._refuse(benchmark, f"the question or a picture is one of {benchmark.name}")
            if why:
                raise BadRow(f"of the test set {benchmark.name}", why)
        return dataclasses.replace(example, images=images)

    def _refuse(self, benchmark: test_sets.Benchmark, found: str) -> str:
        if benchmark.never:
            return f"{found}: its licence forbids training on it, and no setting allows it"
        if not self.trial:
            return f"{found}: train on other data; a trial on it is marked as one (run.trial=true)"
        self.on_trial(benchmark.name)
        return ""


class Intake:
    """The examples that a run draws from, opened through a gate, and the account of the others.

    `file` gets a line for every row that cannot be used, found when the source was loaded or when
    it was drawn, each row once; a run that is resumed (`go_on`) adds to it. More of them than the
    share `max_bad` of all rows is an error. A trial on test data marks the folder of `file`.
    `open` and `drop` are called in the threads of the pipeline.
    """

    def __init__(
        self,
        source: Source,
        file: str | Path,
        *,
        max_bad: float = 0.05,
        check: Check | None = None,
        trial: bool = False,
        digests: Sequence[str] = (),
        go_on: bool = False,
    ):
        self.file, self.max_bad = Path(file), max_bad
        self.lock = threading.Lock()
        self.contaminated: set[str] = set()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        gate = Gate(check, trial, digests, self._mark)
        gate.admit(source)
        self.open = gate.open
        if not go_on:
            self.file.unlink(missing_ok=True)
        self.listed = _read(self.file)
        self.bad: dict[tuple[str, str], Dropped] = {}
        self.examples = source.load()
        dropped = getattr(self.examples, "dropped", ())
        self.wanted = [row for row in dropped if row.setting]
        found = [row for row in dropped if not row.setting]
        self.rows = len(self.examples) + len(found)
        for row in found:
            self._add(row)
        self._check_share()

    def notes(self) -> list[str]:
        """What to tell a person before the first step."""
        notes = [f"{len(self.examples)} examples"]
        if self.wanted:
            notes.append(f"{len(self.wanted)} left out by settings: {summary(self.wanted, 0)}")
        if self.bad:
            bad = list(self.bad.values())
            notes.append(f"{len(bad)} cannot be used: {summary(bad, _SHOWN)}")
        if self.contaminated:
            names = ", ".join(sorted(self.contaminated))
            notes.append(f"a trial on test data ({names}): results on it mean nothing")
        return notes

    def drop(self, id: str, why: BadRow) -> None:
        """Count and list a row that was drawn and cannot be used; UserError above the share."""
        with self.lock:
            self._add(Dropped.of(id, why))
            self._check_share()

    def _mark(self, name: str) -> None:
        with self.lock:
            if name not in self.contaminated:
                self.contaminated.add(name)
                test_sets.mark(self.file.parent, [name])

    def _add(self, row: Dropped) -> None:
        key = (row.id, row.reason)
        if row.setting or key in self.bad:
            return
        self.bad[key] = row
        if key not in self.listed:
            with open(self.file, "a", encoding="utf-8") as file:
                line = {"id": row.id, "reason": row.reason, "found": row.found}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _check_share(self) -> None:
        if len(self.bad) > self.max_bad * self.rows:
            raise UserError(
                f"{len(self.bad)} of {self.rows} rows cannot be used, more than the share "
                f"data.max_bad = {self.max_bad}: {summary(list(self.bad.values()), _SHOWN)}\n"
                f"all of them are in {self.file}"
            )


def _read(file: Path) -> set[tuple[str, str]]:
    """(id, reason) of the rows that are listed already; a line that was cut short goes."""
    if not file.is_file():
        return set()
    whole = file.read_bytes().rpartition(b"\n")
    file.write_bytes(whole[0] + whole[1])
    rows = [json.loads(line) for line in whole[0].splitlines()]
    return {(row["id"], row["reason"]) for row in rows}
