# SPDX-License-Identifier: Apache-2.0
"""Replies in the forms of other kits, for their judges and their tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from jaxvl.errors import UserError
from jaxvl.eval import predictions, tables
from jaxvl.eval.benchmark import prompt_text
from jaxvl.eval.tasks import reopen

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def export(results: Path, form: str, out: Path) -> list[Path]:
    """A file a benchmark in `out`: "vlmevalkit" (TSV: index, question, options, answer, prediction)
    or "lmms" (lmms-eval's samples_*.jsonl)."""
    if form not in _FORMS:
        raise UserError(f"--export {form!r}: expected {' or '.join(_FORMS)}")
    out.mkdir(parents=True, exist_ok=True)
    return [_FORMS[form](folder, out) for folder in predictions.folders(results)]


def _vlmevalkit(folder: Path, out: Path) -> Path:
    """The kit has one reply a row: the first sample."""
    task = reopen(predictions.read_settings(folder))
    found, _ = predictions.read(folder)
    width = max((len(item.choices) for item in task.items), default=0)
    columns = ["index", "question", *LETTERS[:width], "answer", "category", "prediction"]
    rows = []
    for item in task.items:
        if (item.id, 0) in found:
            options = [*item.choices, *[""] * (width - len(item.choices))]
            category = next(iter(item.groups.values()), "")
            row = [item.id, prompt_text(item), *options, item.gold, category]
            rows.append([*row, found[item.id, 0]["text"]])
    return _write(out / f"{task.benchmark.name}.tsv", tables.to_csv(columns, rows, "\t"))


def _lmms(folder: Path, out: Path) -> Path:
    task = reopen(predictions.read_settings(folder))
    found, _ = predictions.read(folder)
    texts_of: dict[str, list[str]] = {}
    for id, sample in sorted(found):
        texts_of.setdefault(id, []).append(found[id, sample]["text"])
    lines = []
    for number, item in enumerate(task.items):
        if texts := texts_of.get(item.id):
            doc = {"id": item.id, "choices": item.choices, **item.groups}
            line = {"doc_id": number, "doc": doc, "target": item.gold}
            line |= {"resps": [texts], "filtered_resps": texts}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return _write(out / f"samples_{task.benchmark.name}.jsonl", "".join(lines))


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


_FORMS: dict[str, Callable[[Path, Path], Path]] = {"vlmevalkit": _vlmevalkit, "lmms": _lmms}
