# SPDX-License-Identifier: Apache-2.0
"""Verdicts of judges on replies, in judged.jsonl: beside the rules' and never in their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.data import files
from jaxvl.data.example import BadRow, Dropped, summary
from jaxvl.errors import UserError
from jaxvl.eval.engines import predictions
from jaxvl.eval.engines.predictions import Line
from jaxvl.eval.engines.replies import ReplyKey
from jaxvl.eval.mossbench import form
from jaxvl.eval.mossbench.stages import PLAIN
from jaxvl.eval.tasks import reopen
from jaxvl.rewards.endpoint import Endpoint

JUDGED = "judged.jsonl"
_AT_ONCE = 64
_IDS = ("id", "index", "pid", "question_id")
_VALUES = ("value", "hit", "score", "correct", "rejected")
_WORDS = {"true": 1.0, "yes": 1.0, "correct": 1.0, "false": 0.0, "no": 0.0, "incorrect": 0.0}


def ask(folder: Path, endpoint: Endpoint, model: str, source: str = "") -> int:
    """Have a chat model judge the replies that it has not judged yet. Returns how many it was asked
    about, those to which it gave no clear verdict included. UserError where it has none on any."""
    settings = predictions.read_settings(folder)
    task = reopen(settings, source)
    found, _ = predictions.read(folder)
    known = {item.id: item for item in task.items}
    done = {(row["id"], row["sample"]) for row in read(folder, found) if row["judge"] == model}
    keys = [key for key in sorted(found) if key[0] in known and key not in done]
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        items = [known[id] for id, _ in part]
        texts = [found[key]["text"] for key in part]
        values = task.benchmark.judge(endpoint, model, items, texts)
        # One without a verdict (no reply, or an unclear one) may be asked about again.
        rows = [
            _row(model, key, found[key], value)
            for key, value in zip(part, values, strict=True)
            if value is not None
        ]
        _append(folder, rows)
    if keys and not any(row["judge"] == model for row in read(folder, found)):
        raise UserError(
            f"{folder}: {model} was asked about {len(keys)} replies and gave no verdict on any. Is "
            f"{endpoint.url} its address, and does it see pictures and follow instructions?"
        )
    return len(keys)


def take(folder: Path, file: Path) -> int:
    """Take over a file of verdicts: rows of JSON, CSV or TSV with an id (or VLMEvalKit's `index`)
    and a value (or its `hit`), and a `sample` where there are several; or MOSSBench's own form.
    JSON may have its rows under `results`, and a row its id or value inside of an object, as
    lmms-eval has them. Returns how many."""
    found, _ = predictions.read(folder)
    rows, bad = [], []
    for number, raw in _rows(file):
        try:
            rows.append(_verdict(raw, found, file.name))
        except BadRow as why:
            bad.append(Dropped.of(str(number), why))
    if bad:
        raise UserError(f"{file} has rows that are no verdicts: {summary(bad)}")
    _append(folder, rows)
    return len(rows)


def _rows(file: Path) -> Iterator[tuple[int, files.Raw]]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected one of verdicts")
    if form.is_published(file):
        known = form.verdicts(file).items()
        yield from enumerate(({"id": pid, "value": v} for pid, v in known if v is not None), 1)
    elif file.suffix == ".json" and (results := _results(file)) is not None:
        yield from enumerate(results, 1)
    else:
        yield from ((number, raw) for number, _, raw in files.read([file]))


def _results(file: Path) -> list[Any] | None:
    """The rows that one JSON object has under `results`, a list or an object by id."""
    try:
        whole = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None  # lines, or broken: `files.read` says so
    found = whole.get("results") if isinstance(whole, dict) else None
    if isinstance(found, dict):
        found = [
            {"id": id, **row} if isinstance(row, dict) else {"id": id, "value": row}
            for id, row in found.items()
        ]
    if not isinstance(found, list):
        return None
    kind = "expected an object with an id and a value"
    return [row if isinstance(row, dict) else BadRow("no object", kind) for row in found]


def _first(raw: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these fields that a row has, itself or in one of the objects in it."""
    for part in (raw, *(value for value in raw.values() if isinstance(value, dict))):
        for name in names:
            if part.get(name) is not None and not isinstance(part[name], (dict, list)):
                return part[name]
    return None


def _verdict(raw: Any, found: dict, judge: str) -> dict[str, Any]:
    if isinstance(raw, BadRow):
        raise raw
    id, sample, said = (_first(raw, names) for names in (_IDS, ("sample",), _VALUES))
    if id is None:
        raise BadRow("no id", f"the row has no {' or '.join(_IDS)}, but {', '.join(raw)}")
    try:
        key = str(id), int(sample or 0)
    except ValueError:
        raise BadRow("no sample", f"the sample is {sample!r}; expected a number") from None
    if key not in found and (f"{id}/{PLAIN}", key[1]) in found:
        key = f"{id}/{PLAIN}", key[1]  # MOSSBench's own form knows of one question an image
    if key not in found:
        raise BadRow("unknown id", f"there is no reply ({key[0]}, sample {key[1]})")
    try:
        value = float(_WORDS.get(str(said).strip().lower(), said))
    except (TypeError, ValueError):
        raise BadRow("no value", f"the verdict is {said!r}; expected a number, yes or no") from None
    if not 0 <= value <= 1:
        raise BadRow("no value", f"the verdict is {value}; expected 0 to 1")
    return _row(judge, key, found[key], value)


def read(folder: Path, found: Mapping[ReplyKey, Line]) -> list[dict[str, Any]]:
    """The verdicts on replies that are still there, whoever gave them."""
    path = folder / JUDGED
    mend = "take the line out, or the file, whose verdicts are then asked for again"
    rows = predictions.lines(path, mend) if path.is_file() else []
    keys = [(row["id"], row["sample"]) for row in rows]
    return [
        row
        for key, row in zip(keys, rows, strict=True)
        if key in found and row["text"] == _digest(found[key])
    ]


def _row(judge: str, key: ReplyKey, line: Line, value: float) -> dict[str, Any]:
    return {"judge": judge, "id": key[0], "sample": key[1], "text": _digest(line), "value": value}


def _digest(line: Line) -> str:
    """Tells the text that was judged from one that has taken its place."""
    return hashlib.sha256(line["text"].encode(errors="surrogatepass")).hexdigest()[:32]


def _append(folder: Path, rows: list[dict[str, Any]]) -> None:
    with open(folder / JUDGED, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
