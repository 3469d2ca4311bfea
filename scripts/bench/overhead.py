# SPDX-License-Identifier: Apache-2.0
"""What writing down costs a run: metrics, rollouts, checkpoints and their digests, by part.

    python scripts/bench/overhead.py [--steps 24] [--saves 4] [--dir DIR] [KEY=VALUE ..]

A short run of the quickstart. Each part is timed where the loop waits for it; a save's share is its
seconds by the `run.save_every` steps between two of the config. What is done in the background of a
save (writing, digests, checksums of files) is timed as well: on a CPU it takes time from the steps.
Medians, over the steps after the first eight; each part as a share of a step's seconds, on the
clock and in brackets by the processor time of the loop's thread: on a CPU that also updates, the
clock holds the time of the update. The threads that judge for the audit are not in it.
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
from jaxvl.observe.metrics import MetricsWriter, Progress, read_metrics  # noqa: E402
from jaxvl.train import grpo, rollouts  # noqa: E402

WARM = 8  # steps that are left out
SAVES = "a save, waited for", "a save, to its end", "a save's digests alone"


class Timed:
    """Seconds of every call, by part."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.own: dict[str, list[float]] = defaultdict(list)  # of the processor
        self._saving = 0.0

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time the calls of a function under its owner."""
        function: Callable = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, own = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part].append(time.perf_counter() - start)
                self.own[part].append(time.thread_time() - own)

        setattr(owner, name, timed)

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=24)
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
    timed.wrap(MetricsWriter, "write", "metrics.jsonl")
    timed.wrap(Progress, "update", "the console")
    timed.wrap(rollouts, "write", "rollouts")
    timed.wrap(grpo.GRPOLoop, "rollout_metrics", "metrics of the rollouts")
    timed.saves()
    grpo.train(cfg)
    step = statistics.median(line["step_time"] for line in read_metrics(run_dir)[WARM:])
    print(f"a step: {step:.3f} s")
    total = owns = 0.0
    for part, seconds in timed.seconds.items():
        of_save = part in SAVES
        spent = statistics.median(seconds[1:] if of_save else seconds[WARM:])
        counted = part in SAVES[1:2] or not of_save
        share = spent / (every if of_save else 1) / step
        own = statistics.median(timed.own[part][WARM:]) if part in timed.own else spent
        owns += own / (every if of_save else 1) / step if counted else 0
        each = f", every {every} steps" if of_save else ""
        total += share if counted else 0
        print(
            f"{part}: {1000 * spent:.2f} ({1000 * own:.2f}) ms{each}: {100 * share:.3f}% of a step"
        )
    print(f"in all, saves to their end: {100 * total:.2f}% ({100 * owns:.2f}%) of a step")


if __name__ == "__main__":
    main()
