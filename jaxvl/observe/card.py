# SPDX-License-Identifier: Apache-2.0
"""The model card of a run's export: written from what the run has left, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxvl import __version__
from jaxvl.data import test_sets
from jaxvl.data.strict_json import read_json
from jaxvl.errors import UserError
from jaxvl.observe.live import drawing
from jaxvl.observe.metrics import read_metrics

CURVES = "curves.png"
_SHOWN = ("reward", "completions/mean_length", "kl", "entropy")


def card(run_dir: Path) -> tuple[str, bytes | None]:
    """README.md of the export of a run, and its curves as a PNG (None where matplotlib is not
    installed or there are no steps)."""
    config, metrics = read_json(run_dir / "config.json"), read_metrics(run_dir)
    if not {"model", "data", "run"} <= config.keys():
        raise UserError(f"{run_dir} is not the directory of a run: config.json has no model")
    curves = drawing(_points(metrics), "png")
    marks = test_sets.marks(run_dir)
    parts = [
        _header(config, marks),
        f"# {run_dir.resolve().name}",
        f"Trained with jaxvl {__version__} from `{config['model']['path']}`: {_last(metrics)} "
        f"steps of {config['run']['steps']}.",
    ]
    if marks:
        parts.append(f"**Trained on rows of {', '.join(marks)}: results on them mean nothing.**")
    parts += ["## Data", _fields(config["data"]["source"], read_json(run_dir / "data.json"))]
    if rewards := config.get("rewards"):
        parts += ["## Rewards", "\n".join(f"- `{r['fn']}`, weight {r['weight']}" for r in rewards)]
        parts.append(
            "Answers are judged by rules (jaxvl's verdicts: the kind of answer, its place in the "
            "reply, equality with the gold answer); a reply in which none is found counts as wrong."
        )
    parts += ["## Measured", *_measured(run_dir, metrics)]
    if curves:
        parts.append(f"![Curves of the run]({CURVES})")
    named = ("grpo", "sft", "sampling", "optim")
    settings = {name: config[name] for name in named if name in config}
    parts += ["## Settings", f"```json\n{json.dumps(settings, indent=1)}\n```"]
    return "\n\n".join(parts) + "\n", curves


def _header(config: dict[str, Any], marks: list[str]) -> str:
    base = config["model"]["path"]
    named = f"base_model: {json.dumps(base)}\n" if not Path(base).exists() else ""
    trial = "- trained-on-test-data\n" if marks else ""
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n{named}"
        f"tags:\n- jaxvl\n- {'grpo' if 'grpo' in config else 'sft'}\n{trial}---"
    )


def _fields(source: dict[str, Any], pinned: dict[str, Any]) -> str:
    told = [f"- {name}: `{value}`" for name, value in source.items() if value not in ("", None, [])]
    if pinned.get("revision"):
        told.append(f"- revision: `{pinned['revision']}`")
    return "\n".join(told)


def _measured(run_dir: Path, metrics: list[dict[str, Any]]) -> list[str]:
    """Held-out answers before and after, and the first and the last tenth of the steps."""
    told = []
    found = read_json(run_dir / "eval.json") if (run_dir / "eval.json").is_file() else {}
    if {"before", "after"} <= found.keys():
        rows = ["| held out, greedy | before | after |", "| --- | --- | --- |"]
        before, after = (found[when]["greedy"]["rewards"] for when in ("before", "after"))
        rows += [f"| {name} | {_value(before[name])} | {_value(after[name])} |" for name in after]
        told.append("\n".join(rows))
    rows = ["| training | first tenth | last tenth |", "| --- | --- | --- |"]
    tenth = len(metrics) // 10
    for name, points in _points(metrics).items():
        ends = [[y for _, y in part] for part in (points[: tenth or 1], points[-(tenth or 1) :])]
        first, last = (f"{sum(part) / len(part):.4g}" for part in ends)
        rows.append(f"| {name} | {first} | {last} |")
    return [*told, "\n".join(rows)]


def _value(of: dict[str, Any]) -> str:
    return f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}] (n={of['count']})"


def _points(metrics: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    pairs = {n: [(m["step"], m[n]) for m in metrics if m.get(n) is not None] for n in _SHOWN}
    return {name: points for name, points in pairs.items() if points}


def _last(metrics: list[dict[str, Any]]) -> int:
    return metrics[-1]["step"] if metrics else 0
