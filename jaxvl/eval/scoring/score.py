# SPDX-License-Identifier: Apache-2.0
"""`jaxvl eval score`: what replies are worth, by rules. Needs no device and no model.

    scores.jsonl       a line a reply: both marks, and what a comparison has to agree on
    results.json       what a report says of it
    judged.jsonl       verdicts of a judge, beside the rules' (see `jaxvl.eval.scoring.judged`)

The same replies give the same bytes.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxvl
from jaxvl.data.files import replace
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import BenchmarkSpec, Grade, Item, Scored
from jaxvl.eval.engines import predictions
from jaxvl.eval.engines.predictions import Line
from jaxvl.eval.reporting import summary
from jaxvl.eval.scoring import judged
from jaxvl.eval.tasks import Task, cluster, prompt_digest, reopen
from jaxvl.rewards import extract, pool

SCORES, RESULTS = "scores.jsonl", "results.json"


def score(folder: Path, source: str = "", force: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Score the replies in `folder`; returns what results.json holds, and notes.

    `source` is where the benchmark's files are now, if not where they were. UserError where they
    differ from those that were asked, unless `force`.
    """
    settings = predictions.read_settings(folder)
    task = reopen(settings, source)
    found, notes = predictions.read(folder)
    if not found:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(f"{folder} holds no reply{why}; `jaxvl eval run` writes them")
    notes = [*notes, task.gold_note]
    known = {item.id: item for item in task.items}
    _check_same(task, known, found, folder, force)
    keys = [key for key in sorted(found, key=_order(task)) if key[0] in known]
    lines = [found[key] for key in keys]
    items = [known[id] for id, _ in keys]
    marks = {mode: _marks(task.benchmark, items, lines, mode) for mode in task.benchmark.modes}
    scored = {
        mode: [Scored(item, key[1], mark) for item, key, mark in zip(items, keys, of, strict=True)]
        for mode, of in marks.items()
    }
    rows = [
        _row(task, item, line, {mode: of[at] for mode, of in marks.items()})
        for at, (item, line) in enumerate(zip(items, lines, strict=True))
    ]
    header = {
        "schema": predictions.SCHEMA,
        "task": task.benchmark.name,
        "title": task.benchmark.title,
        "protocol": task.protocol,
        "protocol_is": task.benchmark.protocols[task.protocol],
        "scored_by": "rules",
        "verifier": verifier(task.benchmark.name),
        "dataset": task.dataset_digest,
        "settings": settings["decides"],
        "about": settings["about"],
        "dropped": settings["dropped"],
    }
    results = header | summary.results(task, scored, lines, judged.read(folder, found))
    replace(folder / SCORES, "".join(map(_json_line, rows)).encode())
    replace(folder / RESULTS, json.dumps(plain(results), indent=1).encode() + b"\n")
    return results, notes


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """The lines of scores.jsonl, UserError where nothing has been scored."""
    read_results(folder)
    return predictions.lines(folder / SCORES, f"`jaxvl eval score {folder.parent}` writes it anew")


def read_results(folder: Path) -> dict[str, Any]:
    """results.json, UserError where nothing has been scored."""
    if not all((folder / name).is_file() for name in (SCORES, RESULTS)):
        raise UserError(f"{folder} is not scored yet: `jaxvl eval score {folder.parent}`")
    try:
        return json.loads((folder / RESULTS).read_bytes())
    except ValueError as error:
        raise UserError(
            f"{folder / RESULTS}: broken JSON ({error}); `jaxvl eval score {folder.parent}` writes "
            "it anew"
        ) from None


@functools.cache
def verifier(name: str) -> str:
    """The version of the rules that mark a benchmark: a digest of the source of all rules of
    `jaxvl.rewards`, of the benchmark's module, and of what that imports of `jaxvl.eval`."""
    root = Path(jaxvl.__file__).parent
    files = set((root / "rewards").rglob("*.py"))
    todo = [f"eval/benchmarks/{name}"]
    while todo:
        file = root / f"{todo.pop()}.py"
        if file.is_file() and file not in files:
            files.add(file)
            todo += _imports(file)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(str(file.relative_to(root)).encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()[:16]


def _imports(file: Path) -> list[str]:
    """Paths, without suffix, of what may be modules of `jaxvl.eval` that a file imports."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.ImportFrom) and module.startswith("jaxvl.eval"):
            inner = module.removeprefix("jaxvl.").replace(".", "/")
            found += [inner, *(f"{inner}/{alias.name}" for alias in node.names)]
    return found


def _check_same(task: Task, known: dict[str, Item], found: dict, folder: Path, force: bool) -> None:
    """UserError where an item is gone, or is not what was asked."""
    gone = [id for id, _ in found if id not in known]
    other = [
        id
        for (id, _), line in found.items()
        if id in known
        and (
            line["row"] != task.row_digests[id] or line["prompt_digest"] != prompt_digest(known[id])
        )
    ]
    if (gone or other) and not force:
        which = f"{len(gone)} items are not in it" if gone else f"{len(other)} items differ"
        raise UserError(
            f"{folder}: these replies are not to what {task.source or 'the benchmark'} holds now: "
            f"{which}, first {(gone or other)[0]}. Give --source with the files that were asked, "
            "or --force to score what can be"
        )


def _order(task: Task):
    """Sorts keys by the items' order, then by sample."""
    place = {item.id: at for at, item in enumerate(task.items)}
    return lambda key: (place.get(key[0], len(place)), key)


def _marks(
    benchmark: BenchmarkSpec, items: Sequence[Item], lines: Sequence[Line], mode: str
) -> list[Grade]:
    texts = [line["text"] for line in lines]
    return pool.map_threads(benchmark.mark, items, texts, [mode] * len(items))


def _row(task: Task, item: Item, line: Line, marks: dict[str, Grade]) -> dict[str, Any]:
    row = {
        name: line[name] for name in ("id", "sample", "prompt_digest", "finish_reason", "tokens")
    }
    row |= {"row": task.row_digests[item.id], "cluster": cluster(item), "groups": dict(item.groups)}
    row["format"] = extract.blocks(extract.reply(line["text"])) is not None
    return row | {mode: dataclasses.asdict(mark) for mode, mark in marks.items()}


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(name): plain(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(of) for of in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(plain(row)) + "\n"
