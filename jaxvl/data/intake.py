# SPDX-License-Identifier: Apache-2.0
"""What a run may train on: the examples of its source, test sets kept out, and the account of the
rows that cannot be used."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxvl.data import gold, test_sets
from jaxvl.data.example import BadRow, Dropped, Example, Source, summary
from jaxvl.data.image import check_shape, load_image
from jaxvl.data.tasks import fields
from jaxvl.errors import UserError

Check = Callable[[Example], str]


class ExampleFilter:
    """Lets examples in that can be used and are not of a test set.

    `check` says why an example cannot be used ("" where it can), `credit` why its answer earns
    nothing from the run's rewards. Test data stays out, unless `trial` is set and its licence
    allows it: then `on_trial` is called once with the benchmark's name, by one thread at a time.
    """

    def __init__(
        self,
        check: Check | None = None,
        trial: bool = False,
        digests: Sequence[str] = (),
        on_trial: Callable[[str], None] = lambda name: None,
        credit: Check | None = None,
    ):
        self.check, self.trial, self.on_trial, self.credit = check, trial, on_trial, credit
        self.digests = test_sets.Digests(digests)
        self._lock = threading.Lock()  # rows are opened in several threads
        self._told: set[str] = set()

    def admit(self, source: Source) -> None:
        """UserError for a source that names a benchmark."""
        for benchmark in test_sets.named(source):
            why = self._refuse(benchmark, f"the source names the benchmark {benchmark.name}")
            if why:
                raise UserError(why)

    def open(self, example: Example) -> Example:
        """The example with its images decoded, its answer and choices as text; BadRow says why it
        stays out."""
        # A source of one's own may leave these as they were found.
        if not isinstance(example.answer, str):
            example = dataclasses.replace(example, answer=gold.text(example.answer))
        if example.choices is None or not all(isinstance(each, str) for each in example.choices):
            choices = fields.options(example.choices or (), "choices")
            example = dataclasses.replace(example, choices=choices)
        if self.credit:  # a target of fine-tuning keeps its tags
            example = dataclasses.replace(example, answer=gold.tagged(example.answer))
        images = tuple(load_image(image) for image in example.images)
        for image in images:
            check_shape(image.height, image.width)
        why = self.check(example) if self.check else ""
        if why:
            raise BadRow("fails the check", why)
        why = self.credit(example) if self.credit else ""
        if why:
            raise BadRow("no reward for its answer", why)
        benchmark = self.digests.find(example.question, images)
        if benchmark is not None:
            why = self._refuse(benchmark, f"the question or a picture is one of {benchmark.name}")
            if why:
                raise BadRow(f"of the test set {benchmark.name}", why)
        return dataclasses.replace(example, images=images)

    def _refuse(self, benchmark: test_sets.TestSet, found: str) -> str:
        if benchmark.never:
            return f"{found}: its licence forbids training on it, and no setting allows it"
        if not self.trial:
            cure = (
                "a trial on it is marked as one (run.trial=true; in `jaxvl data prepare` --trial)"
            )
            return f"{found}: train on other data; {cure}"
        with self._lock:
            if benchmark.name not in self._told:
                self.on_trial(benchmark.name)
                self._told.add(benchmark.name)
        return ""


class DropLog:
    """Which rows of a dataset could not be used: found when it was loaded, or when they were drawn.

    `write(step, line)` gets a line for each, as often as it was drawn; `lines` are those that are
    written already. Rows that a setting leaves out are listed and do not count as bad.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        max_bad: float,
        write: Callable[[int, dict[str, Any]], None],
        lines: Sequence[Mapping[str, Any]] = (),
    ):
        self.max_bad, self.write, self.count = max_bad, write, len(examples)
        self.bad: dict[Dropped, None] = {}  # in the order they were found
        for line in lines:
            row = {field.name: line[field.name] for field in dataclasses.fields(Dropped)}
            self._note(Dropped(**row))
        dropped = getattr(examples, "dropped", ())
        self.shared = _shared_ids(examples)
        self.wanted = [row for row in dropped if row.setting]
        self.rows = len(examples) + len(dropped) - len(self.wanted)
        if not lines:
            for row in dropped:
                if not row.setting:
                    self.add(0, row)
        self.check()

    def add(self, step: int, row: Dropped, position: int | None = None) -> None:
        """List a row that was left out in a step (0: before the first)."""
        self._note(row)
        self.write(step, {"position": position, **dataclasses.asdict(row)})

    def _note(self, row: Dropped) -> None:
        if not row.setting:
            self.bad[row] = None

    def check(self) -> None:
        """UserError where more than the share `max_bad` of the rows are bad."""
        if len(self.bad) > self.max_bad * self.rows:
            raise UserError(
                f"{len(self.bad)} of {self.rows} rows cannot be used, more than the share "
                f"data.max_bad = {self.max_bad}: {summary(list(self.bad))}"
            )

    def notes(self) -> list[str]:
        """What to tell a person before the first step."""
        notes = [f"{self.count} examples"]
        if self.wanted:
            notes.append(f"{len(self.wanted)} left out by settings: {summary(self.wanted, 0)}")
        if self.bad:
            notes.append(f"{len(self.bad)} cannot be used: {summary(list(self.bad))}")
        if self.shared:
            id, count = self.shared.most_common(1)[0]
            notes.append(
                f"{len(self.shared)} ids stand for several examples ({id!r:.60} for {count}): "
                "messages and rollouts name an example by its id"
            )
        return notes


def _shared_ids(examples: Sequence[Example]) -> Counter[str]:
    """How many examples have an id, of those ids that several have; of examples in memory alone."""
    base = getattr(examples, "base", examples)
    ids = Counter[str]()
    if isinstance(base, list):
        ids.update(one.id for one in {id(one): one for one in base}.values())
    return Counter({id: count for id, count in ids.items() if count > 1})
