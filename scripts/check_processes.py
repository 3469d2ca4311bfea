# SPDX-License-Identifier: Apache-2.0
"""One run on 1, 2 and 4 processes of this machine: the same figures; killed, resumed, asked to
stop, halted, failing, unlike each other, unable to write.

    python scripts/check_processes.py [--steps 6] [--out DIR] [--only same killed resumed ..]

The processes have a CPU device each and talk over loopback. Every part prints what it found and
ends the script with an error where that is not what it should be. A run that is finished is not run
again, so an interrupted check goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from jaxvl.checkpoints.folders import steps_at  # noqa: E402
from jaxvl.cli.runtime import as_command  # noqa: E402
from jaxvl.observe.metrics import read_metrics  # noqa: E402

# The quickstart's model; small batches, so that four processes on two cores come to an end.
SMALL = (
    "eval=none",
    "grpo.prompts=4",
    "grpo.group=4",
    "grpo.beta=0.04",
    "sampling.max_new_tokens=8",
    "data.source.size=40",
    "optim.warmup_steps=0",
    "run.export=false",
    "verify.workers=1",
)
CLOCK = ("time/", "perf/", "step_time")
# float32 sums in another order, over some updates: AdamW's first steps divide a gradient by its own
# size, so that a weight whose gradient is all rounding moves either way.
CLOSE = 2e-3
FLAGS = "--xla_backend_optimization_level=0"  # compiling is the cost of a few small steps
if version("jax").startswith("0.10."):  # newer ones do not know it, and end the process over it
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
FAILING = """
from jaxvl.config import Reward
import dataclasses, os, runpy
quickstart = runpy.run_path({path!r})
def config():
    return dataclasses.replace(quickstart["config"](), rewards=(Reward(fails),))
def fails(completions, trainer_state, **columns):
    if trainer_state.global_step == 2 and os.environ["JAX_PROCESS_ID"] == "1":
        raise ValueError("no more rewards")
    return [float(len(text) % 3) for text in map(str, completions)]
"""

# Orbax waits for its writes in the background; in process 1 the wait fails.
UNWRITABLE = """
import os, runpy
import orbax.checkpoint as ocp
quickstart = runpy.run_path({path!r})
config = quickstart["config"]
def wait(self):
    raise OSError("no room")
if os.environ["JAX_PROCESS_ID"] == "1":
    ocp.CheckpointManager._wait_for_checkpointers = wait
"""


@dataclasses.dataclass
class Job:
    """The processes of a run and what they print."""

    run_dir: Path
    processes: list[subprocess.Popen]
    logs: list[Path]

    def wait(self, seconds: float = 3600) -> list[int]:
        """The exit codes, once all have ended."""
        deadline = time.monotonic() + seconds
        return [process.wait(max(1, deadline - time.monotonic())) for process in self.processes]

    def finish(self) -> None:
        """Wait, and show the log of a process that failed."""
        for code, log in zip(self.wait(), self.logs, strict=True):
            if code:
                raise SystemExit(f"{log} ended with {code}:\n{log.read_text()[-4000:]}")

    def wait_for_step(self, step: int, seconds: float = 3600) -> None:
        """Until the run has written the metrics of a step."""
        deadline = time.monotonic() + seconds
        while (
            not (self.run_dir / "metrics.jsonl").exists() or len(read_metrics(self.run_dir)) < step
        ):
            for process, log in zip(self.processes, self.logs, strict=True):
                if process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise SystemExit(
                        f"{self.run_dir} has no step {step}:\n{log.read_text()[-4000:]}"
                    )
            time.sleep(0.05)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def launch(
    count: int,
    run_dir: Path,
    overrides: Sequence[str],
    config: str = "configs/quickstart.py",
    last: Sequence[str] = (),
) -> Job:
    """A run on `count` processes with a CPU device each; they do as jaxvl's launchers would, but
    that the last of them is told `last` besides."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    job = Job(run_dir, [], [])
    for index in range(count):
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT)}
        if count > 1:
            env |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
        log = run_dir.with_name(f"{run_dir.name}.{index}.log")
        command = [sys.executable, "-m", "jaxvl", "grpo", config, *SMALL, f"run.dir={run_dir}"]
        command += [*overrides, *(last if index == count - 1 else ())]
        with open(log, "w") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
        job.processes.append(process)
        job.logs.append(log)
    return job


def difference(run_dir: Path, other: Path) -> tuple[float, str]:
    """The largest difference of a metric between two runs, as a share of its size where that is
    above 1, and where it is. The numbers of examples and completions must be the same."""
    lines, others = read_metrics(run_dir), read_metrics(other)
    if [line["step"] for line in lines] != [line["step"] for line in others]:
        raise SystemExit(f"{run_dir} and {other} have other steps")
    worst = (0.0, "nothing")
    for line, expected in zip(lines, others, strict=True):
        names = {name for name in line | expected if not name.startswith(CLOCK)}
        for name in names - {"nonfinite"}:
            one, two = line.get(name), expected.get(name)
            if one is None or two is None:
                gap = 0.0 if one is two else float("inf")
            else:
                gap = abs(one - two) / max(1.0, abs(two))
            worst = max(worst, (gap, f"{name} of step {line['step']}: {one} and {two}"))
    return worst


def prompts(run_dir: Path, step: int) -> list[tuple[int, str]]:
    """(position, id) of the prompts of a step, over all processes."""
    import json

    files = [*(run_dir / "rollouts").glob(f"step_{step}.*jsonl")]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted((row["prompt_id"], row["id"]) for row in rows)


def check_close(run_dir: Path, other: Path, what: str) -> None:
    gap, where = difference(run_dir, other)
    print(f"{what}: largest difference {gap:.1e} ({where})", flush=True)
    steps = [line["step"] for line in read_metrics(other)]
    same = all(prompts(run_dir, step) == prompts(other, step) for step in steps)
    print(f"{what}: the prompts of every step are the same: {same}", flush=True)
    if gap > CLOSE or not same:
        raise SystemExit("that is too much")


def finished(run_dir: Path, steps: int) -> bool:
    file = run_dir / "metrics.jsonl"
    return file.exists() and len(read_metrics(run_dir)) == steps


MESHES = {1: (), 2: ("mesh.data=2",), 4: ("mesh.data=2", "mesh.fsdp=2")}


def whole(out: Path, count: int, steps: int) -> Path:
    """The run without a break on `count` processes."""
    run_dir = out / f"whole_{count}"
    if not finished(run_dir, steps):
        overrides = [*MESHES[count], f"run.steps={steps}", "run.save_every=2"]
        launch(count, run_dir, [*overrides, "run.resume=true"]).finish()
    return run_dir


def same(out: Path, steps: int) -> None:
    for count in (2, 4):
        check_close(whole(out, count, steps), whole(out, 1, steps), f"{count} processes and 1")


def killed(out: Path, steps: int) -> None:
    """One of two is killed after step 3; the other ends within a minute and says why."""
    run_dir = out / "killed"
    if run_dir.exists():
        return
    for victim in (1, 0):
        overrides = [*MESHES[2], f"run.steps={steps}", "run.save_every=2", "run.resume=true"]
        job = launch(2, run_dir, overrides)
        job.wait_for_step(3 if victim else 4)
        job.processes[victim].send_signal(signal.SIGKILL)
        start = time.monotonic()
        code = job.processes[1 - victim].wait(120)
        took = time.monotonic() - start
        job.kill()
        lines = job.logs[1 - victim].read_text().splitlines()
        said = [line for line in lines if line.startswith("error: ")]
        print(f"process {victim} killed: the other ended with {code} after {took:.0f} s", *said,
              sep="\n  ", flush=True)  # fmt: skip
        # A connection to it breaks, unless the other waits for what it tells: then no sign of life.
        # Of process 0, which keeps jax's store, jax may be the first to hear, and ends the other.
        silent = f"process {victim} of 2 has given no sign of life"
        known = any(why in "".join(said) for why in ("lost another one", silent))
        known |= not victim and any("JAX distributed service" in line for line in lines)
        if took > 60 or not code or not known:
            raise SystemExit("that is too late, or not said")


def resumed(out: Path, steps: int) -> None:
    """The killed run goes on with four processes on another mesh, as if nothing had been."""
    run_dir = out / "killed"
    if not finished(run_dir, steps):
        overrides = ["mesh.fsdp=2", "mesh.tensor=2", f"run.steps={steps}", "run.save_every=2"]
        launch(4, run_dir, [*overrides, "run.resume=true"]).finish()
    check_close(run_dir, whole(out, 1, steps), "killed on 2, resumed on 4 with another mesh")


def failed(out: Path, steps: int) -> None:
    """The reward of one process raises: both end and print it."""
    config = out / "failing.py"
    config.write_text(FAILING.format(path=str(ROOT / "configs/quickstart.py")))
    job = launch(2, out / "failed", ["mesh.data=2", "run.steps=3"], str(config))
    job.wait_for_step(1)
    start = time.monotonic()
    codes = job.wait(300)
    print(f"a reward of process 1 raised: exit codes {codes}, {time.monotonic() - start:.0f} s")
    for log in job.logs:
        text = log.read_text().strip()
        print(f"  {log.name}: {text.splitlines()[-1]}")
        if "process 1: reward `fails` raised ValueError: no more rewards" not in text:
            raise SystemExit("the reason is missing")


def asked(out: Path, steps: int, name: str, victim: int, what: signal.Signals) -> None:
    """One of two is asked to stop: both save the same step and end; one process goes on from it.
    With "save" in the name it is asked while a checkpoint is written."""
    run_dir = out / name
    if not run_dir.exists():
        every = 1 if "save" in name else 100
        job = launch(2, run_dir, [*MESHES[2], f"run.steps={steps}", f"run.save_every={every}"])
        job.wait_for_step(2)
        while "save" in name and not steps_at(run_dir / "checkpoints")[1]:
            time.sleep(0.002)
        job.processes[victim].send_signal(what)
        start = time.monotonic()
        codes, done = job.wait(120), len(read_metrics(run_dir))
        saved, torn = steps_at(run_dir / "checkpoints")
        print(f"{name}: exit codes {codes} after {time.monotonic() - start:.0f} s")
        print(f"  steps done: {done}; saved: {saved}; cut short: {torn}", flush=True)
        if codes != [128 + what] * 2 or max(saved) != done or torn or done >= steps:
            raise SystemExit("that is not as it should be")
    if not finished(run_dir, steps):
        launch(1, run_dir, [f"run.steps={steps}", "run.resume=true"]).finish()
    check_close(run_dir, whole(out, 1, steps), f"{name} on 2, resumed on 1")


def stopped(out: Path, steps: int) -> None:
    asked(out, steps, "stopped", 1, signal.SIGTERM)
    asked(out, steps, "stopped_first", 0, signal.SIGTERM)


def interrupted(out: Path, steps: int) -> None:
    asked(out, steps, "interrupted", 1, signal.SIGINT)
    asked(out, steps, "interrupted_first", 0, signal.SIGINT)


def in_save(out: Path, steps: int) -> None:
    """One of two is asked to stop, and one is killed, while a checkpoint is written."""
    asked(out, steps, "stopped_in_save", 1, signal.SIGTERM)
    asked(out, steps, "interrupted_in_save", 0, signal.SIGINT)
    for victim in (0, 1):
        run_dir = out / f"killed_in_save_{victim}"
        if not run_dir.exists():
            overrides = [*MESHES[2], f"run.steps={steps}", "run.save_every=1"]
            job = launch(2, run_dir, overrides)
            job.wait_for_step(2)
            while not steps_at(run_dir / "checkpoints")[1]:
                time.sleep(0.002)
            job.processes[victim].kill()
            codes = job.wait(120)
            whole_ones, torn = steps_at(run_dir / "checkpoints")
            print(f"process {victim} killed in a save: exit codes {codes}; whole {whole_ones}, "
                  f"cut short {torn}", flush=True)  # fmt: skip
            if 0 in codes or not whole_ones:
                raise SystemExit("that is not as it should be")
        if not finished(run_dir, steps):
            launch(1, run_dir, [f"run.steps={steps}", "run.resume=true"]).finish()
        check_close(run_dir, whole(out, 1, steps), f"{victim} killed in a save, resumed on 1")


def halted(out: Path, steps: int) -> None:
    """One of two is stopped by SIGSTOP: the other ends and names it, without a stack."""
    for victim in (0, 1):
        run_dir = out / f"halted_{victim}"
        if run_dir.exists():
            continue
        job = launch(2, run_dir, [*MESHES[2], "run.steps=2000", "run.save_every=100"])
        job.wait_for_step(2)
        job.processes[victim].send_signal(signal.SIGSTOP)
        start = time.monotonic()
        code = job.processes[1 - victim].wait(300)
        took = time.monotonic() - start
        job.kill()
        text = job.logs[1 - victim].read_text()
        print(f"process {victim} halted: the other ended with {code} after {took:.0f} s",
              *(line for line in text.splitlines() if line.startswith("error: ")),
              sep="\n  ", flush=True)  # fmt: skip
        if code != 1 or f"error: process {victim} of 2" not in text or "Traceback" in text:
            raise SystemExit("that is not as it should be")


def ends(job: Job, why: str, what: str) -> None:
    """Both processes end within a minute, and say why."""
    start = time.monotonic()
    codes = job.wait(300)
    seconds = time.monotonic() - start
    print(f"{what}: exit codes {codes}, {seconds:.0f} s", flush=True)
    for log in job.logs:
        text = log.read_text().strip()
        print(f"  {log.name}: {text.splitlines()[-1]}")
        if why not in text or 0 in codes or seconds > 60:
            raise SystemExit("that is too late, or without a reason")


def unlike(out: Path, steps: int) -> None:
    """One of two is told another learning rate: both end before the first step and name it."""
    job = launch(2, out / "unlike", [*MESHES[2], "run.steps=3"], last=["optim.lr=0.5"])
    ends(job, "processes 0 and 1 differ in the config's optim.lr", "another learning rate")


def unwritable(out: Path, steps: int) -> None:
    """One of two cannot write its part of the checkpoint, in the background."""
    config = out / "unwritable.py"
    config.write_text(UNWRITABLE.format(path=str(ROOT / "configs/quickstart.py")))
    overrides = [*MESHES[2], "run.steps=4", "run.save_every=1"]
    job = launch(2, out / "unwritable", overrides, str(config))
    job.wait_for_step(1)
    ends(job, "process 1 of 2 failed: OSError: no room", "a checkpoint that cannot be written")


PARTS = {"same": same, "killed": killed, "resumed": resumed, "stopped": stopped}
PARTS |= {"interrupted": interrupted, "in_save": in_save, "halted": halted}
PARTS |= {"failed": failed, "unlike": unlike, "unwritable": unwritable}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs/processes"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    # Started in the background of a shell it ignores SIGINT, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        PARTS[name](args.out.absolute(), args.steps)


if __name__ == "__main__":
    as_command(main)
