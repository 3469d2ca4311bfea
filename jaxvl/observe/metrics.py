# SPDX-License-Identifier: Apache-2.0
"""Numbers of a run: `metrics.jsonl`, a line a step; the console; what a batch of rollouts says.

Names follow TRL where TRL has one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from jaxvl.errors import UserError
from jaxvl.rewards.mix import Scores

FILE = "metrics.jsonl"
NONFINITE = "nonfinite"
_COLUMNS = (  # what the console shows: its name there, the metric, its format
    ("loss", "loss", ".4f"),
    ("reward", "reward", ".3f"),
    ("kl", "kl", ".4f"),
    ("length", "completions/mean_length", ".0f"),
    ("tokens/s", "perf/tokens_per_s", ",.0f"),
)


class MetricsWriter:
    """Appends a JSON object a step to `metrics.jsonl`, or any number of them to another `file`.

    JSON has no NaN and no infinity: such a value is written as null, and the key "nonfinite" of the
    line says which it was ({"kl": "nan"}), so that every reader can parse the file and nothing is
    lost.
    """

    def __init__(self, run_dir: str | Path, file: str = FILE):
        self.path = Path(run_dir) / file
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append the metrics of a step: numbers, or arrays of rank 0."""
        line: dict[str, Any] = {"step": int(step)}
        nonfinite = {}
        for name, value in metrics.items():
            value = value.item() if hasattr(value, "item") else value
            if isinstance(value, float) and not math.isfinite(value):
                nonfinite[name], value = str(value), None
            line[name] = value
        if nonfinite:
            line[NONFINITE] = nonfinite
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, which a resumed run will write again, and a torn
        one. Where there are none the file stays as it is.

        It is replaced as a whole, so that it is never seen half written: that which a link leads
        to, where it is one.
        """
        if not self.path.exists():
            return
        lines = read_metrics(self.path.parent, self.path.name)
        stays = "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step)
        if stays.encode() == self.path.read_bytes():
            return
        whole = self.path.resolve()
        shorter = whole.with_suffix(".tmp")
        with open(shorter, "w", encoding="utf-8") as file:
            file.write(stays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(shorter, whole)


def read_metrics(run_dir: str | Path, file: str = FILE) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that a killed run left half written is ignored. One
    that lacks nothing but its end of line is whole."""
    path = Path(run_dir) / file
    if path.is_dir():
        raise UserError(f"{path} is a directory; expected a file with a JSON object a line")
    if not path.is_file():
        raise UserError(f"no {path}; expected the directory of a run")
    lines = path.read_bytes().split(b"\n")
    if _is_whole(lines[-1]):  # else what follows the last newline is empty or torn
        lines.append(b"")
    metrics, cure = [], "take the line out, or bring the file back from a copy"
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: broken JSON ({error}); {cure}") from None
        if not isinstance(found, dict) or type(found.get("step")) is not int:
            shown = line[:60].decode(errors="replace")
            raise UserError(f"{path}, line {number}: `{shown}` has no number as its step; {cure}")
        metrics.append(found)
    return metrics


def _is_whole(line: bytes) -> bool:
    try:
        return type(json.loads(line)["step"]) is int
    except (ValueError, RecursionError, TypeError, LookupError):
        return False


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: rich would end the process, and the run's work with it."""
        self.quiet = True


class Progress:
    """The console's view of a run: a live line on a terminal, else a plain line a step.

    Use as a context manager and call `update(step, metrics)` after each step. The time left is
    judged by the steps after the first, which compiles. A step may be called a `unit` of another
    name.
    """

    def __init__(
        self, steps: int, start: int = 0, console: Console | None = None, unit: str = "step"
    ):
        console = console or _Console()
        if console.is_jupyter:  # a live line there needs another package, or scrolls
            console = _Console(force_jupyter=False, force_terminal=False)
        self.steps, self.console, self.unit = steps, console, unit
        self._first: tuple[int, float] | None = None
        self._bar = RichProgress(
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=start)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show that `step` steps are done, with the metrics of the last."""
        shown = "  ".join(
            f"{label} {float(metrics[name]):{form}}"
            for label, name, form in _COLUMNS
            if name in metrics
        )
        self._bar.update(self._task, completed=step, description=shown)
        now = time.monotonic()
        self._first = self._first or (step, now)
        if self._bar.disable:
            left = "-"
            if step > self._first[0]:
                seconds = (now - self._first[1]) / (step - self._first[0]) * (self.steps - step)
                left = str(timedelta(seconds=round(seconds)))
            line = f"{self.unit} {step}/{self.steps}  {shown}  left {left}"
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)


def over_updates(stats: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The stats of a step's updates as those of the step: their means, but for the learning rate
    and the number of updates done, which are the last, names that end in "max", and what compares
    the sampler with the learner, which later updates change: it is the first update's.

    Updates that were skipped count where there is no other.
    """
    found = {}
    done = [each for each in stats if not each.get("skipped")] or stats
    for name in (name for name in stats[0] if name != "skipped"):
        values = [float(each[name]) for each in done]
        if name.startswith("sampling/"):
            found[name] = values[0]
        elif name == "learning_rate":
            found[name] = values[-1]
        elif name == "updates":
            found[name] = int(values[-1])
        else:
            found[name] = max(values) if name.endswith("max") else sum(values) / len(values)
    return found


def rollout_metrics(
    scores: Scores, lengths_N: np.ndarray, finished_N: np.ndarray, group: int
) -> dict[str, float]:
    """TRL's metrics of a batch of N completions, those of a prompt side by side in groups.

    `lengths_N` counts tokens with the end token; `finished_N` says which completions have one.
    Standard deviations are over the whole batch with ddof=1. What does not apply is absent: the
    mean of no value, the deviation of fewer than two. `frac_reward_zero_std` is the share of groups
    whose rewards are all equal (to 1e-8), and lengths of terminated completions are 0 where there
    is none, as TRL has it. Masked completions count in lengths only; `reward_masked` is their
    share, where there are any.
    """
    lengths_N = np.asarray(lengths_N, np.float64)
    finished_N = np.asarray(finished_N, bool)
    ended = lengths_N[finished_N] if finished_N.any() else np.zeros(1)
    total_PG = rearrange(np.asarray(scores.total_N, np.float64), "(P G) -> P G", G=group)
    total_N = total_PG[~np.isnan(total_PG)]
    out = {}
    for prefix, values in (("", lengths_N), ("terminated_", ended)):
        for name, of in (("mean", np.mean), ("min", np.min), ("max", np.max)):
            out[f"completions/{name}_{prefix}length"] = float(of(values))
    for share in (10, 50, 90):
        out[f"completions/p{share}_length"] = float(np.percentile(lengths_N, share))
    out["completions/clipped_ratio"] = float(1 - finished_N.mean())
    for name, values_N in zip(scores.names, scores.values_NK.T, strict=True):
        applies = values_N[~np.isnan(values_N)].astype(np.float64)
        out |= _mean_and_std(f"rewards/{name}/mean", f"rewards/{name}/std", applies)
    out |= _mean_and_std("reward", "reward_std", total_N)
    std_P = [row[~np.isnan(row)].std() for row in total_PG if not np.isnan(row).all()]
    if std_P:
        out["frac_reward_zero_std"] = float(np.mean(np.array(std_P) <= 1e-8))
    if scores.masked_N.any():
        out["reward_masked"] = float(scores.masked_N.mean())
    return out


def _mean_and_std(mean: str, std: str, values: np.ndarray) -> dict[str, float]:
    found = {mean: float(values.mean())} if values.size else {}
    return found | ({std: float(values.std(ddof=1))} if values.size > 1 else {})
