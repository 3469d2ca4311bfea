# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for people while it goes on: metrics.jsonl, trackers that are told of every
step, and its page every so many steps."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.observe import trackers
from jaxvl.observe.browse import Rollouts, completion, read, text_of
from jaxvl.observe.curves import inside
from jaxvl.observe.metrics import MetricsWriter
from jaxvl.observe.report import Report
from jaxvl.observe.trackers import Table, TrackedRun, Tracker

NAMES = "trackers.json"  # what each tracker calls the run
ROWS = 64  # completions of a table
FAILURES = 3  # in a row, after which a tracker is told no more
OLD = 20  # pages take time in proportion to the run: one is written once this part of it is new


class Journal:
    """As a context manager around a run's steps. What a tracker or the page cannot do is a
    warning of the step, once, and never the run's end."""

    def __init__(
        self,
        run_dir: Path,
        track: Sequence[str] = (),
        report_every: int = 0,
        start: int = 0,
        settings: Mapping[str, Any] | None = None,
    ):
        """`start` is the step that the run goes on after; `settings` is its config as JSON."""
        self.run_dir, self.every, self.shown = run_dir, report_every, start
        self.lines, self.report = MetricsWriter(run_dir), Report(run_dir)
        self.trackers: dict[str, Tracker] = {}
        self.failures: dict[str, int] = {}
        self.warnings: list[str] = []
        known = self._known() if start else {}
        for name in track:
            place = TrackedRun(run_dir, start, settings or {}, known.get(name, ""))
            begun = self._guarded(
                name, "is not told of this run", functools.partial(trackers.start, name, place)
            )
            if begun:
                self.trackers[name], known[name] = begun
        if track:
            (run_dir / NAMES).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        for name, tracker in self.trackers.items():
            self._guarded(name, "was not closed", functools.partial(tracker.close, bool(kind)))
        for warning in self.warnings:  # that no step has told
            print(warning, file=sys.stderr, flush=True)

    def write(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """A step's metrics, its rollouts being written already. Returns warnings."""
        self.lines.write(step, metrics)
        numbers = {name: float(value) for name, value in metrics.items() if _finite(value)}
        due = bool(self.every) and step % self.every == 0
        table = None
        if due and self.trackers:
            look = functools.partial(completions, self.run_dir, step)
            table = self._guarded("rollouts/", "could not be read", look)
        for name, tracker in list(self.trackers.items()):
            tell = functools.partial(_tell, tracker, step, numbers, table)
            self._guarded(name, f"was not told all of step {step}", tell)
            if self.failures.get(name, 0) >= FAILURES:
                del self.trackers[name]
                self.warnings.append(f"warning: {name} is told no more: it failed {FAILURES} times")
        if due and OLD * (step - self.shown) >= step:
            self._guarded(self.report.out.name, "was not written", self.report.write)
            self.shown = step
        told, self.warnings = self.warnings, []
        return told

    def _guarded(self, name: str, what: str, act: Callable[[], Any]) -> Any:
        """What `act` returns; None where it fails, which is told once of each `name`."""
        try:
            found = act()
        except Exception as error:
            if name not in self.failures:
                first = (str(error).splitlines() or [""])[0]
                self.warnings.append(f"warning: {name} {what} ({type(error).__name__}: {first})")
            self.failures[name] = self.failures.get(name, 0) + 1
            return None
        if name in self.failures:
            self.failures[name] = 0
        return found

    def _known(self) -> dict[str, str]:
        """What the trackers called the run when it was begun."""
        try:
            found = json.loads((self.run_dir / NAMES).read_bytes())
        except (OSError, ValueError):
            return {}
        return {k: v for k, v in found.items() if isinstance(v, str)}


def _tell(tracker: Tracker, step: int, numbers: Mapping[str, float], table: Table | None) -> None:
    tracker.write(step, numbers)
    if table and table.rows:
        tracker.show(step, table)


def completions(run_dir: Path, step: int) -> Table:
    """The first ROWS completions of a step, with their prompts' images."""
    lines, _ = read(Rollouts(run_dir).files().get(step, []))
    found = [(line, completion(one)) for line in lines for one in line.get("completions") or []]
    names = list(dict.fromkeys(name for _, one in found for name in one["rewards"]))
    columns = ("id", "prompt", "answer", "completion", *names, "reward", "advantage", "ended")
    rows, images = [], []
    for line, one in found[:ROWS]:
        asked = [text_of(line.get(name)) for name in ("id", "prompt", "answer")]
        rewards = [one["rewards"].get(name) for name in names]
        rows.append(
            [*asked, one["text"], *rewards, one["reward"], one["advantage"], one["finish_reason"]]
        )
        files = [inside(run_dir, name) for name in line.get("image_files") or []]
        images.append([file for file in files if file and file.is_file()])
    return Table(columns, rows, images)


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
