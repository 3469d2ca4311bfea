# SPDX-License-Identifier: Apache-2.0
"""A long run that grows in nothing: memory, file handles, threads, processes, compiled programs.

    python scripts/bench/soak.py [--steps 2000] [--minutes 60] [--warm 200] [--dir DIR] [KEY=VALUE]

The quickstart with the settings given after it, as `jaxvl grpo` runs it, watched from outside five
times a second: resident memory, open files, threads and child processes. It is asked to stop
(SIGTERM) after so many minutes. An update holds hundreds of MiB that sampling does not, so a look
or two says nothing: compared are the mean and the most of all looks during the 100 steps after
step --warm and during the last 100. Every step that first called a program is listed. Files,
threads and processes come and go with saves, for less than a look: of these the median is
compared, what is held all the time, which may not rise by one; the most of the second half since
--warm may be above that of the first by a quarter, for whether a look meets a save is chance. What
was seen is kept beside the run, in its directory's name with .looks.jsonl, and memory is printed by
every tenth of the steps.
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

from jaxvl.cli.runtime import as_command  # noqa: E402
from jaxvl.observe.metrics import read_metrics  # noqa: E402

AROUND = 100  # steps whose looks are compared
PAUSE = 0.2  # seconds between two looks
GROWTH = 0.05  # of resident memory
BY_CHANCE = 1.25  # of the most files, threads and processes
KINDS = ("resident MiB", "files", "threads", "processes", "workers' MiB")


def watch(run: subprocess.Popen, run_dir: Path, minutes: float) -> list[dict[str, Any]]:
    """What the run had at every look, and its newest step then."""
    process, found = psutil.Process(run.pid), []
    ends, asked = time.monotonic() + 60 * minutes, False
    while run.poll() is None:
        time.sleep(PAUSE)
        try:
            if step := newest_step(run_dir):
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


def between(found: list[dict[str, Any]], first: int, last: int) -> list[dict[str, Any]]:
    return [one for one in found if first <= one["step"] <= last]


def mean(found: list[dict[str, Any]], kind: str) -> float:
    return statistics.mean(one[kind] for one in found)


def most(found: list[dict[str, Any]], kind: str) -> float:
    return max(one[kind] for one in found)


def median(found: list[dict[str, Any]], kind: str) -> float:
    return statistics.median(one[kind] for one in found)


def more(before: list[dict[str, Any]], after: list[dict[str, Any]], kind: str) -> bool:
    """Whether as much as one more is held all the time."""
    return median(after, kind) >= median(before, kind) + 1


def growth(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> float:
    """Of resident memory, the greater of the mean's and the most's."""
    return max(of(after, KINDS[0]) / of(before, KINDS[0]) - 1 for of in (mean, most))


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
    looks = "".join(json.dumps(one) + "\n" for one in found)
    run_dir.with_suffix(".looks.jsonl").write_text(looks)
    lines = read_metrics(run_dir)
    if lines[-1]["step"] < args.warm + 2 * AROUND:
        raise SystemExit(f"{lines[-1]['step']} steps are too few: see --warm, --minutes")
    print(f"exit code {run.returncode}")
    if not flat(found, lines, args.warm):
        raise SystemExit(1)


def flat(found: list[dict[str, Any]], lines: list[dict[str, Any]], warm_up: int) -> bool:
    """Whether nothing grew, by all looks and the run's metrics; prints what there was."""
    last = lines[-1]["step"]
    before = between(found, warm_up, warm_up + AROUND - 1)
    after = between(found, last - AROUND, last - 1)  # after the last it evaluates and exports
    compiles = [(line["step"], line["perf/compiles"]) for line in lines]
    rises = [
        two for one, two in zip([(0, 0), *compiles], compiles, strict=False) if two[1] > one[1]
    ]
    seconds = statistics.median(line["step_time"] for line in lines)
    print(f"{last} steps of {seconds:.2f} s (median)")
    for kind in KINDS:
        then, now = (
            f"{mean(of, kind):.0f} (most {most(of, kind):.0f}, median {median(of, kind):.0f})"
            for of in (before, after)
        )
        print(f"{kind}: {then} from step {warm_up} on, {now} at the end")
    for part in range(10):
        of = between(found, last * part // 10 + 1, last * (part + 1) // 10)
        if of:
            memory = f"{mean(of, KINDS[0]):.0f} MiB, at most {most(of, KINDS[0]):.0f}"
            print(f"to step {of[-1]['step']}: {memory}")
    print(f"programs called: {', '.join(f'{n} by step {step}' for step, n in rises)}")
    grown, warm = growth(before, after), between(found, warm_up, last)
    first, second = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    for kind in KINDS[1:4]:
        print(f"{kind}: at most {most(first, kind)} in the first half, {most(second, kind)} after")
    counts = [kind for kind in KINDS[1:4] if more(before, after, kind)]
    counts += [
        f"{kind} at most"
        for kind in KINDS[1:4]
        if most(second, kind) > BY_CHANCE * most(first, kind)
    ]
    print(f"resident memory grew by {100 * grown:.1f}%; more of: {', '.join(counts) or 'nothing'}")
    return grown <= GROWTH and not counts and rises[-1][0] <= warm_up


if __name__ == "__main__":
    as_command(main)
