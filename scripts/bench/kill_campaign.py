# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed at random moments and started again, against one that was left alone.

    python scripts/bench/kill_campaign.py [--kills 50] [--signals 20] [--steps 12] [--seed 0]
        [--dtypes float32 bfloat16] [--dir runs/kills]

A run is killed (SIGKILL) up to five times, most often after its first step, and then left to end;
or it is asked to stop once (SIGTERM and SIGINT in turn). It is right where metrics, and the digest
of every array of the last checkpoint and of the export, are those of the run that was left alone,
to the bit; and where a run that was asked to stop has saved all steps that it has written down.
Every run's line is kept in DIR/results.jsonl, so that a campaign that was cut short goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from jaxvl.checkpoints import manifest  # noqa: E402
from jaxvl.checkpoints.folders import steps_at  # noqa: E402
from jaxvl.cli.runtime import as_command  # noqa: E402
from jaxvl.observe.metrics import read_metrics  # noqa: E402

# The quickstart's model in steps of less than a second.
SMALL = "eval=none grpo.prompts=4 grpo.group=4 grpo.beta=0.04 sampling.max_new_tokens=8 "
SMALL += "data.source.size=40 optim.warmup_steps=0 verify.workers=1 run.save_every=1 run.keep=2"
CLOCK = ("time/", "perf/", "step_time")
MOST = 5  # kills of one run
EARLY = 0.2  # the share of kills before a run's first step


class Launch:
    """The process of a run, from its start."""

    def __init__(self, run_dir: Path, steps: int, dtype: str):
        self.run_dir, self.done = run_dir, lines(run_dir)
        settings = [*SMALL.split(), f"run.steps={steps}", f"model.dtype={dtype}"]
        command = [sys.executable, "-m", "jaxvl", "grpo", "configs/quickstart.py", *settings]
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        env["JAX_COMPILATION_CACHE_DIR"] = str(run_dir.with_name("compiled"))
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # starts are what a campaign costs
        self.log, self.start = run_dir.with_suffix(".log"), time.monotonic()
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [*command, f"run.dir={run_dir}"], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    def wait_for(self, step: int) -> float:
        """Seconds until the run has written down a step, or has ended."""
        while self.process.poll() is None and lines(self.run_dir) < step:
            time.sleep(0.01)
        return time.monotonic() - self.start

    def wait_for_any(self, steps: int, seconds: float, rng: random.Random) -> None:
        """Until a random moment of the steps to come, each of about so many seconds."""
        self.wait_for(rng.randint(min(self.done + 1, steps - 1), steps - 1))
        self.wait(rng.uniform(0, 1.5 * seconds))

    def wait(self, seconds: float) -> None:
        """So long, or until the run has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def end(self) -> int:
        """The exit code, when it comes."""
        return self.process.wait(1800)


def lines(run_dir: Path) -> int:
    return len(read_metrics(run_dir)) if (run_dir / "metrics.jsonl").is_file() else 0


def outcome(run_dir: Path) -> dict[str, Any]:
    """All of a finished run that must be the same, whatever became of it on the way."""
    whole, _ = steps_at(run_dir / "checkpoints")
    said = manifest.read(run_dir / "checkpoints" / str(whole[0]))
    said = {name: value for name, value in said.items() if name != "run"}  # each run's own word
    kept = [
        {name: value for name, value in line.items() if not name.startswith(CLOCK)}
        for line in read_metrics(run_dir)
    ]
    export = hashlib.sha256((run_dir / "hf/model.safetensors").read_bytes()).hexdigest()
    return {"step": whole[0], **said, "metrics": kept, "export": export}


class Campaign:
    """Runs of one dtype below `folder`, and their lines in its results."""

    def __init__(self, folder: Path, steps: int, dtype: str):
        self.folder, self.steps, self.dtype = folder, steps, dtype
        self.results = folder / "results.jsonl"
        self.alone = folder / f"alone-{dtype}"

    def make_alone(self) -> None:
        """The run that nothing happens to; seconds to its first step, and of a step."""
        timing = self.alone.with_suffix(".json")
        if not timing.is_file():
            shutil.rmtree(self.alone, ignore_errors=True)
            launch = Launch(self.alone, self.steps, self.dtype)
            first = launch.wait_for(1)
            if launch.end():
                raise SystemExit(launch.log.read_text()[-4000:])
            seconds = statistics.median(line["step_time"] for line in read_metrics(self.alone))
            timing.write_text(json.dumps([first, seconds]))
        self.first, self.seconds = json.loads(timing.read_text())
        self.expected = outcome(self.alone)

    def written(self, kind: str) -> list[dict[str, Any]]:
        """The lines of runs that have ended, of a kind."""
        text = self.results.read_text() if self.results.is_file() else ""
        every = [json.loads(line) for line in text.splitlines()]
        return [line for line in every if (line["kind"], line["dtype"]) == (kind, self.dtype)]

    def _begin(self, kind: str, number: int) -> Path:
        run_dir = self.folder / f"{kind}-{self.dtype}-{number}"
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.with_suffix(".log").unlink(missing_ok=True)
        return run_dir

    def kill(self, number: int, kills: int, rng: random.Random) -> dict[str, Any]:
        """A run that is killed so often, and ends."""
        run_dir, moments = self._begin("kill", number), []
        while len(moments) < kills:
            launch = Launch(run_dir, self.steps, self.dtype)
            if rng.random() < EARLY:
                launch.wait(rng.uniform(0, self.first))
            else:
                launch.wait_for_any(self.steps, self.seconds, rng)
            launch.process.kill()
            if launch.end() != -signal.SIGKILL:
                break  # it was done before
            _, torn = steps_at(run_dir / "checkpoints")
            moments.append(f"{lines(run_dir)}{' in a save' if torn else ''}")
        return self._finish(run_dir, "kill", number, moments)

    def stop(self, number: int, what: signal.Signals, rng: random.Random) -> dict[str, Any]:
        """A run that is asked to stop while it does its steps, and goes on."""
        run_dir = self._begin("stop", number)
        launch = Launch(run_dir, self.steps, self.dtype)
        launch.wait_for_any(self.steps, self.seconds, rng)
        launch.process.send_signal(what)
        code, (whole, torn) = launch.end(), steps_at(run_dir / "checkpoints")
        lost = lines(run_dir) - max(whole, default=0)
        moments = [f"{what.name} {lines(run_dir)}: exit {code}, {lost} steps lost"]
        right = code in (0, 128 + what) and not lost and not torn
        return self._finish(run_dir, "stop", number, moments, right)

    def _finish(
        self, run_dir: Path, kind: str, number: int, moments: list[str], right: bool = True
    ) -> dict[str, Any]:
        launch = Launch(run_dir, self.steps, self.dtype)
        code = launch.end()
        found = outcome(run_dir) if code == 0 else {}
        wrong = [name for name in self.expected if found.get(name) != self.expected[name]]
        line = {"kind": kind, "dtype": self.dtype, "run": number, "moments": moments}
        line |= {"code": code, "differs": wrong, "right": right and not code and not wrong}
        with open(self.results, "a") as file:
            file.write(json.dumps(line) + "\n")
        if line["right"]:
            shutil.rmtree(run_dir)
        print(f"{kind} {self.dtype} {number}: at steps {'; '.join(moments)}: "
              f"{'the same to the bit' if line['right'] else f'WRONG ({wrong}, {code})'}",
              flush=True)  # fmt: skip
        return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--dir", type=Path, default=Path("runs/kills"))
    args = parser.parse_args()
    # Started in the background of a shell it ignores SIGINT, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args.dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for which, dtype in enumerate(args.dtypes):
        campaign = Campaign(args.dir.absolute(), args.steps, dtype)
        campaign.make_alone()
        share = [len(range(which, total, len(args.dtypes))) for total in (args.kills, args.signals)]
        done = campaign.written("kill")
        for number in itertools.count(len(done)):
            left = share[0] - sum(len(line["moments"]) for line in done)
            if left <= 0:
                break
            rng = random.Random(f"{args.seed} kill {dtype} {number}")
            done.append(campaign.kill(number, min(left, rng.randint(1, MOST)), rng))
        stopped = campaign.written("stop")
        for number in range(len(stopped), share[1]):
            what = (signal.SIGTERM, signal.SIGINT)[number % 2]
            rng = random.Random(f"{args.seed} stop {dtype} {number}")
            stopped.append(campaign.stop(number, what, rng))
        for kind, of in (("SIGKILL", done), ("SIGTERM, SIGINT", stopped)):
            moments = [moment for line in of for moment in line["moments"]]
            saves = sum("in a save" in moment for moment in moments)
            rows.append((dtype, kind, len(moments), saves, len(of), sum(x["right"] for x in of)))
    print("dtype     signal           sent  in a save  runs  the same to the bit")
    for dtype, kind, sent, saves, runs, right in rows:
        print(f"{dtype:9} {kind:15} {sent:5} {saves:10} {runs:5} {right:20}")
    if any(row[-1] != row[-2] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    as_command(main)
