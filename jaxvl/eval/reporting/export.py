# SPDX-License-Identifier: Apache-2.0
"""Replies in the forms of other kits, for their judges and their tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Grade, Scored, prompt_text
from jaxvl.eval.engines import predictions
from jaxvl.eval.mossbench import form
from jaxvl.eval.reporting import tables
from jaxvl.eval.scoring.score import read_scores
from jaxvl.eval.tasks import reopen

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def export(
    results: Path, form: str, out: Path, sources: Mapping[str, str] | None = None
) -> list[Path]:
    """A file a benchmark in `out`: "vlmevalkit" (TSV with a column `prediction`), "lmms"
    (lmms-eval's samples_*.jsonl), or "mossbench" (that benchmark's results.json). `sources` says
    where a benchmark's files are now, if not where they were."""
    if form not in _FORMS:
        raise UserError(f"--export {form!r}: expected {', '.join(_FORMS)}")
    found = predictions.folders(results)
    if form == "mossbench":
        found = [folder for folder in found if folder.name.startswith(form)]
    if not found:
        raise UserError(f"{results} has no replies to {form}")
    out.mkdir(parents=True, exist_ok=True)
    where = sources or {}
    return [_FORMS[form](folder, where.get(folder.name, ""), out) for folder in found]


def _vlmevalkit(folder: Path, source: str, out: Path) -> Path:
    """The kit has one reply a row: the first sample."""
    task = reopen(predictions.read_settings(folder), source)
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


def _lmms(folder: Path, source: str, out: Path) -> Path:
    task = reopen(predictions.read_settings(folder), source)
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


def marked(folder: Path, source: str = "") -> list[tuple[Scored, str]]:
    """The replies of a benchmark with their strict marks, of scores.jsonl."""
    known = {item.id: item for item in reopen(predictions.read_settings(folder), source).items}
    found, _ = predictions.read(folder)
    return [
        (Scored(known[row["id"]], row["sample"], Grade(**row["strict"])), line["text"])
        for row in read_scores(folder)
        if (line := found.get((row["id"], row["sample"]))) and row["id"] in known
    ]


def _mossbench(folder: Path, source: str, out: Path) -> Path:
    text = json.dumps(form.published(marked(folder, source)), indent=2, ensure_ascii=False)
    return _write(out / f"{folder.name}.json", text + "\n")


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


_FORMS: dict[str, Callable[[Path, str, Path], Path]] = {
    "vlmevalkit": _vlmevalkit,
    "lmms": _lmms,
    "mossbench": _mossbench,
}
