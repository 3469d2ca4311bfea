# SPDX-License-Identifier: Apache-2.0
"""Replies that somebody has made already, in a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from jaxvl.data import files
from jaxvl.data.example import BadRow, Dropped
from jaxvl.eval.benchmark import Item, prompt_text
from jaxvl.eval.engines.replies import Reply, ReplyKey, pairs
from jaxvl.eval.mossbench import form

_IDS, _TEXTS = ("id", "index", "pid", "question_id"), ("response", "prediction", "text", "reply")
_NAMED = 5


class Recorded:
    """A model that has replied: rows of JSON, CSV or TSV with an id, a text and, where there are
    several to an item, a `sample`; or MOSSBench's own results. What has no row has no reply."""

    def __init__(self, file: Path):
        self.file = file
        self.dropped: list[Dropped] = []
        self.lacking: list[str] = []  # of what was wanted
        self.found: dict[tuple[str, int], str] = {}
        if form.is_published(file):
            self.found = {(pid, 0): text for pid, text in form.replies(file).items()}
            return
        for number, _, row in files.read([file]):
            if isinstance(row, BadRow):
                self.dropped.append(Dropped.of(str(number), row))
                continue
            id = next((str(row[name]) for name in _IDS if row.get(name) is not None), None)
            text = next((row[name] for name in _TEXTS if row.get(name) is not None), None)
            if id is None or text is None:
                found = f"its fields are {', '.join(row)}"
                self.dropped.append(Dropped(str(number), "no id or no reply", found))
                continue
            sample = str(row.get("sample") or 0)
            if not sample.isdecimal():
                found = f"its sample is {sample!r:.60}, expected a number from 0"
                self.dropped.append(Dropped(id, "sample of a wrong type", found))
            elif (id, int(sample)) in self.found:
                found = f"a reply to sample {sample} of {id} stood before; the first counts"
                self.dropped.append(Dropped(id, "reply that stands twice", found))
            else:
                self.found[id, int(sample)] = str(text)

    def replies(
        self, items: Sequence[Item], missing: Collection[ReplyKey]
    ) -> Iterator[list[Reply]]:
        """Those of the missing replies to `items` that are there, in one batch. Lengths are
        unknown."""
        wanted = pairs(items, missing)
        self.lacking += [
            item.id + (f" (sample {sample})" if sample else "")
            for item, sample in wanted
            if (item.id, sample) not in self.found
        ]
        yield [
            Reply(item, sample, text, text, "stop", None, None, prompt_text(item))
            for item, sample in wanted
            if (text := self.found.get((item.id, sample))) is not None
        ]

    def what_is_missing(self, known: Collection[str]) -> str:
        """What a person has to mend: items without a reply, and rows of none of the items whose ids
        are `known`."""
        text = (
            f"{self.file} has no reply to {len(self.lacking)} of the items, first "
            f"{', '.join(self.lacking[:_NAMED])}"
        )
        strange = list(dict.fromkeys(id for id, _ in self.found if id not in known))
        if strange:
            text += (
                f"; {len(strange)} of its ids are of no item, first {', '.join(strange[:_NAMED])}"
            )
        return (
            f"{text}. A row's id has to be its item's (docs/evaluation.md says which those are); "
            "with a mended file the same command and --force begins again"
        )
