# SPDX-License-Identifier: Apache-2.0
"""What writing down costs a run: metrics, rollouts, checkpoints and their digests.

    python scripts/bench/overhead.py [--steps 240] [--saves 4] [--dir DIR] [KEY=VALUE ..]

A run of the quickstart in which every other step writes no rollouts, makes no metrics of them and
says nothing on the console: what a step with them costs more than the steps beside it is shown
with its standard error. Steps near a save are left out of that; a save's share is its seconds, to
the end of what is done in the background (writing, digests, checksums of files), by the
`run.save_every` steps between two of the config.

Each part is timed as well where the loop waits for it: on the clock and, in brackets, by the
processor time of the loop's thread, which is less: on a CPU that also updates, the clock holds some
of the time of the update.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from jaxvl import config  # noqa: E402
from jaxvl.checkpoints.digests import digests  # noqa: E402
from jaxvl.checkpoints.store import Checkpoints  # noqa: E402
from jaxvl.cli.runtime import as_command, run_and_leave  # noqa: E402
from jaxvl.observe.metrics import Progress, read_metrics  # noqa: E402
from jaxvl.train import grpo, rollouts  # noqa: E402

WARM = 20  # steps that are left out
NEAR = 4  # steps after the begin of a save that are left out
SAVES = "a save, waited for", "a save, to its end", "a save's digests alone"


class Timed:
    """Seconds of every call, by part; parts of a step are left out of every other step."""

    def __init__(self):
        self.step = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.own: dict[str, list[float]] = defaultdict(list)  # of the processor
        self._saving = 0.0

    def wrap(self, owner: Any, name: str, part: str, instead: Any = None) -> None:
        """Time the calls of a function under its owner; in odd steps it is not called."""
        function: Callable = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.step % 2:
                return instead
            start, own = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part].append(time.perf_counter() - start)
                self.own[part].append(time.thread_time() - own)

        setattr(owner, name, timed)

    def steps(self) -> None:
        """Know which step it is."""
        step = grpo.GRPOLoop.step

        def counted(loop: grpo.GRPOLoop, number: int, *args: Any) -> Any:
            self.step = number
            return step(loop, number, *args)

        grpo.GRPOLoop.step = counted

    def saves(self) -> None:
        """Time saves from their begin to their end, and their digests alone."""
        save, complete = Checkpoints.save, Checkpoints._complete

        def begun(checkpoints: Checkpoints, step: int, state: Any, data: Any) -> None:
            checkpoints.manager.wait_until_finished()  # of the one before, which is its own
            jax.block_until_ready(state)
            start = time.perf_counter()
            jax.block_until_ready(digests(state))
            self.seconds[SAVES[2]].append(time.perf_counter() - start)
            self._saving = time.perf_counter()
            save(checkpoints, step, state, data)
            self.seconds[SAVES[0]].append(time.perf_counter() - self._saving)

        def ended(checkpoints: Checkpoints) -> None:
            complete(checkpoints)
            self.seconds[SAVES[1]].append(time.perf_counter() - self._saving)

        Checkpoints.save, Checkpoints._complete = begun, ended


def compared(seconds: dict[int, float], save_every: int) -> tuple[float, float]:
    """What an even step costs more than the mean of the two beside it: the median over the run, and
    the standard error of the mean."""
    more = [
        seconds[step] - (seconds[step - 1] + seconds[step + 1]) / 2
        for step in range(WARM, max(seconds), 2)
        if NEAR < step % save_every < save_every - 1
    ]
    return statistics.median(more), statistics.stdev(more) / len(more) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    run_dir = args.dir or Path(tempfile.mkdtemp(prefix="jaxvl-overhead-")) / "run"
    every = config.load(ROOT / "configs/quickstart.py", args.overrides).run.save_every
    short = f"run.steps={args.steps} run.save_every={args.steps // args.saves} eval=none"
    short += f" run.export=false run.dir={run_dir}"
    cfg = config.load(ROOT / "configs/quickstart.py", [*args.overrides, *short.split()])
    timed = Timed()
    timed.steps()
    timed.wrap(Progress, "update", "the console")
    timed.wrap(rollouts, "write", "rollouts")
    # what the loop reads of them
    none = {"reward": 0.0, "completions/mean_length": 0.0}
    timed.wrap(grpo.GRPOLoop, "rollout_metrics", "metrics of the rollouts", none)
    timed.saves()
    grpo.train(cfg)
    seconds = {line["step"]: line["step_time"] for line in read_metrics(run_dir)}
    step = statistics.median(seconds.values())
    print(f"a step: {step:.3f} s (median)")
    total = owns = 0.0
    for part, spent in timed.seconds.items():
        of_save = part in SAVES
        clock = statistics.median(spent[1:] if of_save else spent[WARM // 2 :])
        own = statistics.median(timed.own[part][WARM // 2 :]) if part in timed.own else clock
        if not of_save or part == SAVES[1]:
            total += clock / (every if of_save else 1)
            owns += own / (every if of_save else 1)
        each = f", every {every} steps" if of_save else ""
        print(f"{part}: {1000 * clock:.2f} ({1000 * own:.2f}) ms{each}")
    clock, own = 100 * total / step, 100 * owns / step
    print(f"in all, saves to their end: {clock:.2f}% ({own:.2f}%) of a step")
    more, error = (1000 * each for each in compared(seconds, cfg.run.save_every))
    print(f"a step that writes costs {more:.1f} ms more than its neighbours (se {error:.1f})")


if __name__ == "__main__":
    run_and_leave(lambda: as_command(main))
