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
from jaxvl.data.image import load_image
from jaxvl.errors import UserError

FILE = "bad_rows.jsonl"
_SHOWN = 5

Check = Callable[[Example], str]


class Intake:
    """Opens examples one by one, in the threads of the pipeline, and keeps the account.

    `file` gets a line for every row that cannot be used, found when the source was loaded or when
    it was drawn, each row once; a run that is resumed (`go_on`) adds to it. More of them than the
    share `max_bad` of all rows is an error. `check` says why an example cannot be used ("" where it
    can). Rows of test sets cannot, unless `trial` is set and the licence allows it; then
    `contaminated` has their names, and so has the mark in the folder of `file`.
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
        self.file, self.max_bad, self.check, self.trial = Path(file), max_bad, check, trial
        self.digests = test_sets.Digests(digests)
        self.lock = threading.Lock()
        self.contaminated: set[str] = set()
        for benchmark in test_sets.named(source):
            self._allow(benchmark, f"the source names the benchmark {benchmark.name}")
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

    def open(self, example: Example) -> Example:
        """The example with its pictures decoded, after every check; BadRow says which it fails."""
        images = tuple(load_image(image) for image in example.images)
        if self.check is not None:
            why = self.check(example)
            if why:
                raise BadRow("fails the check", why)
        benchmark = self.digests.find(example.question, images)
        if benchmark is not None:
            self._allow(benchmark, f"the question or a picture is one of {benchmark.name}", BadRow)
        return dataclasses.replace(example, images=images)

    def _allow(self, benchmark: test_sets.Benchmark, found: str, error: type = UserError) -> None:
        """Raise `error` for test data, unless this is a trial, which is then marked as one."""
        if self.trial and not benchmark.never:
            with self.lock:
                if benchmark.name not in self.contaminated:
                    self.contaminated.add(benchmark.name)
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    test_sets.mark(self.file.parent, [benchmark.name])
            return
        if benchmark.never:
            cure = "its licence forbids training on it, and no setting allows it"
        else:
            cure = "train on other data, or set run.trial=true, which marks the run and its exports"
        if error is BadRow:
            raise BadRow(f"of the test set {benchmark.name}", f"{found}; {cure}")
        raise error(f"{found}; {cure}")

    def drop(self, id: str, why: BadRow) -> None:
        """Count and list a row that was drawn and cannot be used; UserError above the share."""
        with self.lock:
            self._add(Dropped.of(id, why))
            self._check_share()

    def _add(self, row: Dropped) -> None:
        key = (row.id, row.reason)
        if row.setting or key in self.bad:
            return
        self.bad[key] = row
        if key not in self.listed:
            self.file.parent.mkdir(parents=True, exist_ok=True)
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
