# SPDX-License-Identifier: Apache-2.0
"""A step that asks, over a file of rows: in chunks, with a journal, so that it goes on where it was
stopped and nothing is asked twice.

The journal has a line for each row that is done, in the order of the input; answers are kept by the
teacher's cache as they come. SIGTERM ends a step after the requests under way. Chunks are worked on
by an engine; the journal is written by this process alone.
"""

from __future__ import annotations

import functools
import itertools
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxvl.curate import manifest, pictures, rows
from jaxvl.curate.manifest import Manifest, ManifestPlace
from jaxvl.curate.rows import CuratedRow
from jaxvl.curate.steps import Step
from jaxvl.curate.teachers import Body, Teacher
from jaxvl.data.engine import LOCAL, MapEngine, Spans
from jaxvl.data.example import BadRow
from jaxvl.errors import UserError
from jaxvl.rewards.endpoint import chat_reply

Failed = Literal["stop", "drop"]
ROUNDS = 2  # what a server garbles once it may say right then; what gets no answer is not repeated


class CurationStopped(SystemExit):
    """The step is not finished. Exit code 143 or 130, as of a process that the signal ended."""

    def __init__(self, number: int):
        super().__init__(128 + number)


def run(
    step: Step,
    source: Path,
    out: Path,
    teacher: Callable[[], Teacher],
    failed: Failed = "stop",
    on_rows: Callable[[int], None] = lambda count: None,
    engine: MapEngine = LOCAL,
    on_counts: Callable[[Counter], None] = lambda counts: None,
) -> Manifest:
    """Does a step, or what remains of it; its manifest. `teacher` is opened only if it is needed,
    by each worker of the engine. `on_counts` is told what the teachers counted.

    A request that fails for good ends the step ("stop": nothing answered is lost, and it goes on
    when it is run again) or drops its row ("drop").
    """
    if source.resolve() == out.resolve():
        raise UserError(f"{out}: a step does not write over the rows it reads; name another file")
    place = ManifestPlace(out)
    with manifest.alone(out.parent):
        settings = step.settings() | {"failed": failed}
        identity = manifest.identity(step.name, settings, {"rows": source})
        pictures.share(source, out)
        if step.name == "caption":  # the one that sees pictures
            contents = pictures.contents(rows.read(source), step.images)
            identity["in"]["pictures"] = {"sha256": rows.digest(contents)}
        done = manifest.finished(place, identity)
        journal = place.beside("journal")
        if done is None:
            make = functools.partial(
                _Chunk, step, source.absolute(), teacher, failed, place.beside("stop").absolute()
            )
            _journal(make, journal, rows.digest(identity), engine, on_rows, on_counts)
            done = _finish(place, identity, source, journal)
        journal.unlink(missing_ok=True)
        return done


def _journal(
    make: functools.partial[_Chunk],
    journal: Path,
    of: str,
    engine: MapEngine,
    on_rows: Callable[[int], None],
    on_counts: Callable[[Counter], None],
) -> None:
    """Brings the journal to its end."""
    step, source, _, _, stop = make.args
    done, total = _sound_lines(journal, of), sum(1 for _ in rows.read(source))
    on_rows(done)
    size, missed = 4 * step.asked.concurrency, False
    spans = [(start, min(size, total - start)) for start in range(done, total, size)]
    with open(journal, "a", encoding="utf-8") as file, _Hearing(stop) as hearing:
        if not file.tell():
            file.write(json.dumps({"of": of}) + "\n")
        for found in engine.map(make, spans, model=step.asked.teacher.startswith("local:")):
            missed = missed or found is None
            if missed:  # what other workers did behind it is kept as answers alone
                continue
            on_counts(Counter(found["counts"]))
            if found["mistake"]:
                raise UserError(found["mistake"])
            file.writelines(found["lines"])
            file.flush()
            done += len(found["lines"])
            on_rows(done)
        if hearing.heard:
            raise CurationStopped(hearing.heard)


class _Chunk:
    """Does chunks of a step's rows: (first row, rows) in; lines of the journal, what the teacher
    counted and what ends the step out, or None once the file `stop` is there."""

    def __init__(
        self, step: Step, source: Path, teacher: Callable[[], Teacher], failed: Failed, stop: Path
    ):
        self.step, self.open, self.failed, self.stop = step, teacher, failed, stop
        self.spans = Spans(lambda start: rows.read(source, start))
        self.teacher: Teacher | None = None

    def __call__(self, span: Sequence[int]) -> dict[str, Any] | None:
        if self.stop.exists():
            return None
        chunk = self.spans.take(*span)
        bodies = [_body(self.step, row) for row in chunk]
        if self.teacher is None and any(isinstance(body, dict) for body in bodies):
            self.teacher = self.open()
        before = Counter(self.teacher.counts) if self.teacher else Counter()
        lines, mistake = [], ""
        try:
            replies = _ask(self.step, self.teacher, chunk, bodies, self.failed)
            entries = map(_entry, itertools.repeat(self.step), chunk, bodies, replies)
            lines = [rows.line(entry) for entry in entries]
        except UserError as error:  # what was asked until then is counted and was paid for
            mistake = str(error)
        counts = Counter(self.teacher.counts) - before if self.teacher else Counter()
        return {"lines": lines, "counts": counts, "mistake": mistake}


def _sound_lines(journal: Path, of: str) -> int:
    """The rows that a journal of this very step holds; what is half written is cut off, as is all
    from a damaged line on, and the journal of another input or other settings begun anew."""
    if not journal.is_file():
        return 0
    with open(journal, "rb+") as file:
        head, count, end = file.readline(), 0, 0
        if head != (json.dumps({"of": of}) + "\n").encode():
            file.truncate(0)
            return 0
        end = file.tell()
        for line in file:
            if not line.endswith(b"\n"):
                break
            if not _is_entry(line):
                print(
                    f"warning: {journal}, line {count + 2} is damaged; the rows from there on are "
                    "done again, from the answers that are kept",
                    file=sys.stderr,
                )
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    held = [entry.get(name) for name in ("row", "drop")] if isinstance(entry, dict) else []
    return any(isinstance(each, dict) and {"id", "source"} <= each.keys() for each in held)


def _body(step: Step, row: CuratedRow) -> Body | BadRow | None:
    try:
        return step.body(row)
    except BadRow as why:
        return why


def _ask(
    step: Step,
    teacher: Teacher | None,
    chunk: Sequence[CuratedRow],
    bodies: Sequence[Body | BadRow | None],
    failed: Failed,
) -> list[tuple[str, str] | None]:
    """(text, finish reason) for each body; None where none was asked for or none came."""
    texts: list[tuple[str, str] | None] = [None] * len(bodies)
    asked = {i: body for i, body in enumerate(bodies) if isinstance(body, dict)}
    garbled = list(asked)
    said = ""
    for _ in range(ROUNDS):
        if garbled:
            assert teacher is not None
            replies = teacher.post([asked[i] for i in garbled], lambda r: chat_reply(r) is not None)
            came = {
                i: reply for i, reply in zip(garbled, replies, strict=True) if reply is not None
            }
            texts = [chat_reply(came[i]) if i in came else text for i, text in enumerate(texts)]
            garbled = [i for i in came if texts[i] is None]
            said = rows.line(came[garbled[0]]).strip() if garbled else ""
    missing = [i for i in asked if texts[i] is None]
    if missing:
        why = (teacher.failure if teacher else "") or f"it says {said!r:.200}, no chat reply"
        lacks = (
            f"{step.name}: {len(missing)} of {len(chunk)} requests got no reply that can be read "
            f"from {step.asked.teacher} (row {chunk[missing[0]]['id']} is the first; {why})"
        )
        if failed == "stop":
            raise UserError(
                f"{lacks}. What was answered is kept: run the command again to go on, or with "
                "--failed drop to leave such rows out"
            )
        # In no file: what a server says of it differs from run to run.
        print(f"warning: {lacks}; their rows are left out", file=sys.stderr)
    return texts


def _entry(
    step: Step, row: CuratedRow, body: Body | BadRow | None, reply: tuple[str, str] | None
) -> dict[str, Any]:
    """A line of the journal: what became of a row."""
    if body is None:
        return {"row": row}
    try:
        if isinstance(body, BadRow):
            raise body
        if reply is None:
            raise BadRow("no reply", f"{step.asked.teacher} gave none that can be read")
        return {"row": step.take(row, *reply), "asked": True}
    except BadRow as why:
        drop = {"id": row["id"], "source": row["source"], "reason": why.reason, "found": str(why)}
        return {"drop": drop} | ({"asked": True} if isinstance(body, dict) else {})


def _finish(place: ManifestPlace, identity: Manifest, source: Path, journal: Path) -> Manifest:
    asked = Counter(bool(entry.get("asked")) for entry in _entries(journal))
    return manifest.finish(
        place,
        identity,
        sum(1 for _ in rows.read(source)),
        {"rows": (place.out, (e["row"] for e in _entries(journal) if "row" in e))},
        (e["drop"] for e in _entries(journal) if "drop" in e),
        asked=asked[True],
        not_asked=asked[False],
    )


def _entries(journal: Path) -> Iterator[dict[str, Any]]:
    with open(journal, encoding="utf-8") as file:
        next(file)
        yield from map(json.loads, file)


class _Hearing:
    """Hears SIGTERM and SIGINT and puts the file `stop` there, by which workers know of it; a
    second signal ends the process at once."""

    def __init__(self, stop: Path):
        self.heard, self.stop = 0, stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Hearing:
        self.stop.unlink(missing_ok=True)
        if threading.current_thread() is threading.main_thread():  # no other may hear signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.stop.unlink(missing_ok=True)

    def _hear(self, number: int, frame: Any) -> None:
        self.heard = number
        self.stop.touch()
        for heard in self._before:
            signal.signal(heard, signal.SIG_DFL)
        print("stopping after the requests under way", file=sys.stderr, flush=True)
