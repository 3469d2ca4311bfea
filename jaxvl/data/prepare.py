# SPDX-License-Identifier: Apache-2.0
"""`jaxvl data prepare`: a dataset as it is published, checked row by row and written as ArrayRecord
shards with a manifest of what went in, what came out and what did not.

The folder that comes out holds the shards with tensorflow-datasets' own description of them,
`keys.json` (task and id of every example, in order) and, written last, `manifest.json`. Until then
`parts/` holds the pieces: one folder a shard and one JSON file for every shard that is complete, so
that a preparation that was killed goes on with the next one. The same source gives the same bytes,
interrupted or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxvl.data.engine import LOCAL, MapEngine, Spans
from jaxvl.data.example import BadRow, Dropped, Example, ReadRow, RowSource, summary
from jaxvl.data.files import sha256
from jaxvl.data.intake import Check, ExampleFilter
from jaxvl.data.locks import held
from jaxvl.errors import UserError

MANIFEST, KEYS = "manifest.json", "keys.json"
_SHARD = 512  # rows of a source that go into one shard; they are in memory together


def prepare(
    name: str,
    source: RowSource,
    out: str | Path,
    *,
    check: Check | None = None,
    trial: bool = False,
    digests: Sequence[str] = (),
    shard: int = _SHARD,
    on_rows: Callable[[int], None] = lambda rows: None,
    engine: MapEngine = LOCAL,
) -> dict[str, Any]:
    """Writes `source` into the folder `out` and returns the manifest; goes on where it was stopped.

    Every image is decoded once, `check` is called with every example, and rows of test sets stay
    out (see `ExampleFilter`). `on_rows` is called with the number of rows done so far. UserError
    where `out` holds something else, or where no row is usable.
    """
    out, parts = Path(out), Path(out, "parts")
    marks: set[str] = set()
    gate = ExampleFilter(check, trial, digests, marks.add)
    gate.admit(source)
    named = sorted(marks)
    plan = {
        "name": name,
        "source": describe(source),
        "files": [_file(path) for path in source.files()],
        "rows_a_shard": shard,
        "trial": trial,
        "test_data": named,
    }
    if _planned(out, plan):
        return read_manifest(out)
    there = {int(path.stem): _read(path) for path in parts.glob("*.json")}
    make = functools.partial(
        _Shards, source, parts.absolute(), shard, check, trial, tuple(digests), engine.workers
    )
    # Workers begin somewhere in the middle, and leave gaps when they are stopped.
    rows = sum(1 for _ in source.rows()) if engine.workers else None
    numbers = itertools.count() if rows is None else range(-(-rows // shard))
    missing = (number for number in numbers if number not in there)
    for number, piece in engine.map(make, missing):
        if not piece["rows"]:
            break
        there[number] = piece
        on_rows(sum(piece["rows"] for piece in there.values()))
    pieces = [there[number] for number in sorted(there)]
    if not any(piece["keys"] for piece in pieces):
        shutil.rmtree(parts)
        raise UserError(f"{name} has no usable row: {summary(_dropped(pieces)) or 'it is empty'}")
    return _finish(out, parts, plan, pieces)


def describe(source: Any) -> dict[str, Any]:
    """The source's class and fields, as JSON holds them."""
    kind = f"{type(source).__module__}:{type(source).__qualname__}"
    return {"type": kind, **json.loads(json.dumps(dataclasses.asdict(source)))}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a prepared set; UserError where there is none."""
    path = Path(folder, MANIFEST)
    if not path.is_file():
        unfinished = " (its preparation was not finished: run it again)"
        raise UserError(
            f"{folder} is no prepared set{unfinished if Path(folder, 'parts').is_dir() else ''}; "
            "`jaxvl data prepare` makes one"
        )
    return _read(path)


def _planned(out: Path, plan: dict[str, Any]) -> bool:
    """Whether `out` holds this set already; else its plan is laid down there, or found again."""
    finished, begun = out / MANIFEST, out / "parts" / "plan"
    for path in (finished, begun):
        if not path.is_file():
            continue
        found = _read(path)
        other = [key for key in plan if key != "test_data" and found.get(key) != plan[key]]
        if other:
            raise UserError(
                f"{out} was prepared from something else: {other[0]} was {found.get(other[0])} and "
                f"is {plan[other[0]]}; give another folder, or remove this one"
            )
        if path == finished:
            shutil.rmtree(begun.parent, ignore_errors=True)
        return path == finished
    if out.is_dir() and any(path != begun.parent for path in out.iterdir()):
        raise UserError(f"{out} is not empty and no prepared set; give a folder of its own")
    begun.parent.mkdir(parents=True, exist_ok=True)
    _write(begun, plan)
    return False


class _Shards:
    """Makes shards of a source: the number of one in, the account of it out."""

    def __init__(
        self,
        source: RowSource,
        parts: Path,
        shard: int,
        check: Check | None,
        trial: bool,
        digests: Sequence[str],
        workers: int,
    ):
        self.parts, self.shard, self.marks = parts, shard, set[str]()
        self.gate = ExampleFilter(check, trial, digests, self.marks.add)
        self.spans = Spans(source.rows)
        self.threads = ThreadPoolExecutor(max((os.cpu_count() or 1) // max(workers, 1), 1))

    def __call__(self, number: int) -> tuple[int, dict[str, Any]]:
        """Writes the shard, and when it is whole the account of it, which is returned; neither
        where the source has no row so far back."""
        chunk = self.spans.take(number * self.shard, self.shard)
        if not chunk:
            return number, {"rows": 0}
        account = self.parts / f"{number:05d}.json"
        with held(self.parts / "lock", [number]):  # a worker of a run that was killed may live on
            if account.is_file():
                return number, _read(account)
            self.marks.clear()
            rows = list(self.threads.map(self._examined, chunk))
            return number, _piece(rows, self.parts, number, sorted(self.marks))

    def _examined(self, row: ReadRow) -> ReadRow:
        id, example = row
        if isinstance(example, BadRow):
            return row
        try:
            self.gate.open(example)
        except BadRow as why:
            return id, why
        return row


def _piece(rows: Sequence[ReadRow], parts: Path, number: int, marks: list[str]) -> dict[str, Any]:
    """Writes one shard, and when it is whole the account of it, which is returned."""
    from jaxvl.data.builder import examples as builder

    folder = parts / f"{number:05d}"
    shutil.rmtree(folder, ignore_errors=True)
    good = [row for _, row in rows if isinstance(row, Example)]
    bad = [Dropped.of(id, row) for id, row in rows if isinstance(row, BadRow)]
    piece = {
        "rows": len(rows),
        "keys": [[example.task, example.id] for example in good],
        "dropped": [dataclasses.asdict(row) for row in bad],
        "test_data": marks,
    }
    if good:
        folder.mkdir()
        with _quiet():
            path = builder.write_shard(good, folder)
        piece |= {**_file(path), "file": str(path.relative_to(parts))}
    _write(parts / f"{number:05d}.json", piece)
    return piece


@contextlib.contextmanager
def _quiet():
    """Without tensorflow-datasets' bars and greetings, one for every shard."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _finish(out: Path, parts: Path, plan: dict, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Moves the shards to where they stay and writes what describes them, the manifest last."""
    from jaxvl.data.builder import examples as builder

    shards = [piece for piece in pieces if piece["keys"]]
    listed = []
    for number, piece in enumerate(shards):
        path = out / builder.shard_name(number, len(shards))
        if not path.is_file():  # moved before an interruption
            os.replace(parts / piece["file"], path)
        account = {"rows": len(piece["keys"]), "bytes": piece["bytes"], "sha256": piece["sha256"]}
        listed.append({"file": path.name, **account})
    with _quiet():
        builder.write_info(
            out, [shard["rows"] for shard in listed], sum(shard["bytes"] for shard in listed)
        )
    keys = [key for piece in pieces for key in piece["keys"]]
    _write(out / KEYS, keys)
    manifest = plan | {
        "rows_in": sum(piece["rows"] for piece in pieces),
        "rows_out": len(keys),
        "tasks": dict(Counter(task for task, _ in keys)),
        "dropped": _by_reason(_dropped(pieces)),
        "test_data": sorted({*plan["test_data"], *(n for p in pieces for n in p["test_data"])}),
        "shards": listed,
    }
    _write(out / MANIFEST, manifest)
    shutil.rmtree(parts)
    return manifest


def _dropped(pieces: Sequence[dict[str, Any]]) -> list[Dropped]:
    return [Dropped(**row) for piece in pieces for row in piece["dropped"]]


def _by_reason(dropped: Sequence[Dropped]) -> dict[str, dict[str, Any]]:
    """{reason: {"count", "setting", "rows": [{"id", "found"}]}}, the commonest first."""
    counts = Counter((row.reason, row.setting) for row in dropped)
    return {
        reason: {
            "count": count,
            "setting": setting,
            "rows": [{"id": r.id, "found": r.found} for r in dropped if r.reason == reason],
        }
        for (reason, setting), count in counts.most_common()
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    """The file appears whole or not at all."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, path)
