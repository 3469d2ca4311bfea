# SPDX-License-Identifier: Apache-2.0
"""A long run that grows in nothing: memory, file handles, threads, processes, compiled programs.

    python scripts/bench/soak.py [--steps 2000] [--minutes 60] [--warm 200] [--dir DIR] [KEY=VALUE]

The quickstart with the settings given after it, as `jaxvl grpo` runs it, watched from outside once
a second: resident memory, open files, threads and child processes at every step that it writes
down. It is asked to stop (SIGTERM) after so many minutes. Compared are the medians of the 20 steps
around step --warm and of the last 20, and every step that first called a program is listed. Files,
threads and processes come and go with saves, so of these the most since --warm is compared: the
second half of the run may not have had more than the first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from jaxvl.observe.metrics import read_metrics  # noqa: E402

AROUND = 20  # steps whose median is compared
GROWTH = 0.05  # of resident memory
KINDS = ("resident MiB", "files", "threads", "processes", "workers' MiB")


def watch(run: subprocess.Popen, run_dir: Path, minutes: float) -> list[dict[str, Any]]:
    """What the run had at each step that was seen while it was the newest."""
    process, found = psutil.Process(run.pid), []
    ends, asked = time.monotonic() + 60 * minutes, False
    while run.poll() is None:
        time.sleep(1)
        try:
            step = newest_step(run_dir)
            if step and (not found or found[-1]["step"] < step):
                found.append({"step": step, **sizes(process)})
        except psutil.Error:
            continue  # a child, or the run, has ended meanwhile
        if time.monotonic() > ends and not asked:
            run.send_signal(signal.SIGTERM)
            asked = True
    return found


def newest_step(run_dir: Path) -> int:
    """The last step of the metrics, read from the file's end: the file grows long."""
    try:
        with open(run_dir / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
            return json.loads(file.read().split(b"\n")[-2])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def sizes(process: psutil.Process) -> dict[str, float]:
    children = process.children(recursive=True)
    workers = sum(child.memory_info().rss for child in children) / 2**20
    resident = process.memory_info().rss / 2**20
    counts = process.num_fds(), process.num_threads(), len(children)
    return dict(zip(KINDS, (resident, *counts, workers), strict=True))


def near(found: list[dict[str, Any]], step: int) -> dict[str, float]:
    """The medians of the steps around one."""
    some = sorted(found, key=lambda one: abs(one["step"] - step))[:AROUND]
    return {kind: statistics.median(one[kind] for one in some) for kind in KINDS}


def most(found: list[dict[str, Any]], kind: str) -> float:
    return max(one[kind] for one in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm", type=int, default=200)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    run_dir = args.dir or Path(tempfile.mkdtemp(prefix="jaxvl-soak-")) / "run"
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "jaxvl", "grpo", str(ROOT / "configs/quickstart.py")]
    command += [f"run.steps={args.steps}", f"run.dir={run_dir}", *args.overrides]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(run_dir.with_suffix(".log"), "w") as log:
        run = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        found = watch(run, run_dir, args.minutes)
    lines = read_metrics(run_dir)
    if lines[-1]["step"] < args.warm + AROUND:
        raise SystemExit(f"{lines[-1]['step']} steps are too few to compare: see --warm, --minutes")
    before, after = near(found, args.warm), near(found, lines[-1]["step"])
    compiles = [(line["step"], line["perf/compiles"]) for line in lines]
    rises = [
        two for one, two in zip([(0, 0), *compiles], compiles, strict=False) if two[1] > one[1]
    ]
    seconds = statistics.median(line["step_time"] for line in lines)
    print(f"{lines[-1]['step']} steps of {seconds:.2f} s (median), exit code {run.returncode}")
    for kind in KINDS:
        print(f"{kind}: {before[kind]:.0f} at step {args.warm}, {after[kind]:.0f} at the end")
    print(f"programs called: {', '.join(f'{n} by step {step}' for step, n in rises)}")
    grown = after["resident MiB"] / before["resident MiB"] - 1
    warm = [one for one in found if one["step"] >= args.warm]
    first, second = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    for kind in KINDS[1:4]:
        print(f"{kind}: at most {most(first, kind)} in the first half, {most(second, kind)} after")
    counts = [kind for kind in KINDS[1:4] if most(second, kind) > most(first, kind)]
    print(f"resident memory grew by {100 * grown:.1f}%; more of: {', '.join(counts) or 'nothing'}")
    if grown > GROWTH or counts or rises[-1][0] > args.warm:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
