# SPDX-License-Identifier: Apache-2.0
"""A run's numbers as a page shows them: columns by metric, headline figures, notes, settings."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jaxvl.data import test_sets
from jaxvl.errors import UserError
from jaxvl.observe.charts import show
from jaxvl.observe.metrics import FILE, NONFINITE, read_metrics

POINTS = 4000  # of a curve, at most; of longer runs each is a mean of neighbouring steps
CHARTS = (  # title, metrics (with * for any part)
    ("Reward", ("reward",)),
    ("Rewards by part", ("rewards/*/mean",)),
    ("Answers, whatever the rewards say (share)", ("audit/accuracy", "audit/format")),
    ("Held-out questions", ("eval_*",)),
    ("Benchmarks", ("eval/*/accuracy*",)),
    ("Length of completions that ended (tokens)", ("completions/*_terminated_length",)),
    ("Completion length (tokens)", ("completions/*_length",)),
    ("Length of right and wrong answers (tokens)", ("audit/length_*",)),
    ("Cut off, repetitive (share)", ("completions/clipped_ratio", "audit/repetition")),
    ("KL to the reference", ("kl",)),
    ("Weight of the KL", ("beta",)),
    ("Entropy", ("entropy",)),
    ("Groups without signal (share)", ("frac_reward_zero_std", "audit/groups_*")),
    ("Spread of rewards", ("reward_std", "rewards/*/std")),
    ("Mixed reward by kind", ("mixed/*/reward",)),
    ("Kinds of questions (share)", ("mixed/*/share",)),
    ("Kinds of questions (completions)", ("mixed/*/count",)),
    ("Clipped tokens (share)", ("clip_ratio/*", "cispo_clip_ratio")),
    ("Gradient norm", ("grad_norm",)),
    ("Loss", ("loss", "policy_loss")),
    ("Sampler to learner, difference of log p", ("*sampling_logp_difference/*",)),
    ("Tokens a second", ("perf/*tokens_per_s",)),
    ("Share of the device's peak", ("perf/mfu", "perf/update_mfu")),
    ("Seconds a step", ("time/*", "step_time")),
    ("Learning rate", ("learning_rate",)),
)
_TILES = (  # label, metric
    ("reward", "reward"),
    ("accuracy", "rewards/*accuracy*/mean"),
    ("format", "rewards/*format*/mean"),
    ("length", "completions/mean_length"),
    ("KL", "kl"),
    ("tokens/s", "perf/tokens_per_s"),
    ("MFU", "perf/mfu"),
)
_SFT_TILES = (("loss", "loss"), ("entropy", "entropy"), *_TILES[-2:])


def inside(run_dir: Path, name: Any) -> Path | None:
    """The file `name` of a run directory; None where that is no name, or leads out of it by itself
    or by a link."""
    try:
        path = (run_dir / name).resolve()
    except (TypeError, ValueError):  # a zero byte
        return None
    return path if path.is_relative_to(run_dir.resolve()) else None


def curves(run_dir: Path) -> dict[str, Any]:
    """What a page shows of a run but its rollouts, as JSON can hold it.

    Read are `metrics.jsonl` and, where they exist, `config.json`, `eval.json` (a table {"title",
    "columns", "rows"} or an object of tables), the lists of bad rows and the mark of test data.
    """
    if inside(run_dir, FILE) is None:
        raise UserError(f"{run_dir / FILE} is a link out of the run directory")
    lines = read_metrics(run_dir)
    config = _read_json(run_dir, "config.json") or {}
    steps, columns, binned = _columns(lines)
    last = lines[-1]["step"] if lines else 0
    planned = config.get("run", {}).get("steps")
    return {
        "name": run_dir.resolve().name,
        "model": str(config.get("model", {}).get("path", "")),
        "last": last,
        "planned": planned if isinstance(planned, int) else None,
        "finished": (run_dir / "finished.json").is_file(),
        "written": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_changed(run_dir))),
        "notes": _notes(run_dir, lines, binned),
        "tiles": _tiles(lines),
        "tables": [_table(table) for table in _tables(_read_json(run_dir, "eval.json"))],
        "steps": steps,
        "metrics": columns,
        "right": _right(columns),
        "config": dict(_flat(config)),
    }


def charts(names: Sequence[str]) -> list[dict[str, Any]]:
    """Titles and metrics of CHARTS, as far as there are any, and those in none of them: each is a
    chart of its own, under "others"."""
    left, found = [name for name in names if name not in ("step", NONFINITE)], []
    for title, patterns in CHARTS:
        taken = [name for pattern in patterns for name in left if fnmatchcase(name, pattern)]
        left = [name for name in left if name not in taken]
        found += [{"title": title, "names": taken, "other": False}] if taken else []
    return found + [{"title": name, "names": [name], "other": True} for name in left]


def _changed(run_dir: Path) -> float:
    return (run_dir / FILE).stat().st_mtime


def _read_json(run_dir: Path, name: str) -> Any:
    path = inside(run_dir, name)
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


def _columns(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[list[int], dict[str, list[float | None]], int]:
    """Steps and values by metric, and how many steps each stands for: 1 up to POINTS of them."""
    size = -(-len(lines) // POINTS) or 1
    parts = [lines[at : at + size] for at in range(0, len(lines), size)]
    names = dict.fromkeys(name for line in lines for name in line)
    columns = {
        name: [_mean([_number(line.get(name)) for line in part]) for part in parts]
        for name in names
        if name not in ("step", NONFINITE)
    }
    known = {
        name: of for name, of in columns.items() if any(value is not None for value in of)
    }  # a text of another program's line is no curve
    return [part[-1]["step"] for part in parts], known, size


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and math.isfinite(value)
    return value if number else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{sum(known) / len(known):.6g}") if known else None


def _notes(run_dir: Path, lines: Sequence[Mapping[str, Any]], binned: int) -> list[str]:
    """What whoever reads the figures must know, the worst first."""
    notes = []
    marks = inside(run_dir, test_sets.MARK) and test_sets.marks(run_dir)
    if marks:
        named = ", ".join(marks)
        notes.append(f"Trained on test data: {named}. Results on it mean nothing.")
    odd = [line["step"] for line in lines if NONFINITE in line]
    if odd:
        many = "s" if len(odd) > 1 else ""
        notes.append(f"NaN or infinity in {len(odd)} step{many}, first in step {odd[0]}.")
    if rows := _bad_rows(run_dir):
        counts = ", ".join(f"{count} {reason}" for reason, count in rows)
        notes.append(f"Rows left out: {counts}.")
    if binned > 1:
        notes.append(f"Each point of a curve is the mean of {binned} steps.")
    return notes


def _bad_rows(run_dir: Path) -> list[tuple[str, int]]:
    """(reason, count) of the rows that were not used."""
    rows = set()
    for file in sorted(run_dir.glob("dropped*.jsonl")):
        if inside(run_dir, file.name):
            rows |= {(line["id"], line["reason"]) for line in read_metrics(run_dir, file.name)}
    return Counter(reason for _, reason in rows).most_common()


def _tiles(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each of _TILES the mean over the first and the last tenth of the steps."""
    tiles, names = [], dict.fromkeys(name for line in lines for name in line)
    tenth = max(1, len(lines) // 10)
    for label, pattern in _TILES if "reward" in names else _SFT_TILES:
        name = next((name for name in names if fnmatchcase(name, pattern)), None)
        if name is None:
            continue
        values = [_number(line.get(name)) for line in lines]
        known = [value for value in values if value is not None]
        if known:
            first, last = (sum(part) / len(part) for part in (known[:tenth], known[-tenth:]))
            tiles.append({"label": label, "name": name, "first": show(first), "last": show(last)})
    return tiles


def _tables(data: Any) -> list[dict[str, Any]]:
    tables = [data] if isinstance(data, dict) and "rows" in data else list((data or {}).values())
    return [table for table in tables if isinstance(table, dict) and "rows" in table]


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    rows = [[str(cell) for cell in row] for row in table["rows"]]
    columns = [str(column) for column in table.get("columns", [])]
    return {"title": str(table.get("title", "")), "columns": columns, "rows": rows}


def _right(columns: Mapping[str, Any]) -> str:
    """The reward that says which completions are right: the first that is named after accuracy,
    else the first."""
    names = [name.split("/", 1)[1].removesuffix("/mean") for name in columns if _is_part(name)]
    return next((name for name in names if "accuracy" in name.lower()), (names or [""])[0])


def _is_part(name: str) -> bool:
    return fnmatchcase(name, "rewards/*/mean")


def _flat(node: Any, path: str = "") -> list[tuple[str, str]]:
    """Fields of a config by their dotted names."""
    if isinstance(node, dict):
        return [pair for key, x in node.items() for pair in _flat(x, f"{path}.{key}".lstrip("."))]
    return [(path, node if isinstance(node, str) else json.dumps(node, ensure_ascii=False))]
