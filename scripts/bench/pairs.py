# SPDX-License-Identifier: Apache-2.0
"""Two systems timed side by side: interleaved pairs, a worker process each, one table."""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

# glibc keeps what is freed instead of handing it back to the kernel and faulting it in again: one
# TRL step takes 3.9 s with these, 4.5 s without (measured: 2 cores, 8.7 M parameters, batch 32).
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}


def interleave(ours: Callable[[], float], theirs: Callable[[], float], pairs: int = 7) -> dict:
    """Run `ours` and `theirs` alternately, `pairs` times each; both return the seconds they took.

    The order is swapped in every pair, so that a machine which drifts in speed favours neither.
    Warm up both before: compilation is not a pair. Ratios are theirs / ours (above 1: ours is
    faster), one a pair, so that the drift cancels in them as it does not in the two medians.
    """
    seconds = []
    for i in range(pairs):
        if i % 2 == 0:
            a = ours()
            b = theirs()
        else:
            b = theirs()
            a = ours()
        seconds.append((a, b))
    ratios = [b / a for a, b in seconds]
    return {
        "ours": median(a for a, _ in seconds),
        "theirs": median(b for _, b in seconds),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "seconds": seconds,
    }


class Worker:
    """A process that answers calls: one JSON line in, one JSON line out (see `serve`).

    `worker("step", checkpointing=True)` returns the method's result. Its stderr is this process's.
    A context manager; leaving it ends the process. Every worker gets `KEEP_MEMORY`, ours too.
    """

    def __init__(self, command: Sequence[str | os.PathLike]):
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | KEEP_MEMORY,
        )

    def __call__(self, method: str, **arguments):
        """Raises RuntimeError with the worker's traceback where the call failed there."""
        try:
            self.process.stdin.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise RuntimeError(f"{' '.join(self.command)} ended with exit status {code}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{method} failed in {' '.join(self.command)}:\n{reply['error']}")
        return reply["result"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):  # it has ended, as the error says that is raised
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(make: Callable[[], object]) -> None:
    """The other end of `Worker`: call methods of the object that `make` builds until stdin closes.

    Whatever libraries print goes to stderr; only replies go to stdout. The object is built at the
    first call, so that a failure to build it reaches the caller as any other failure does.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            peer = peer or make()
            reply = {"result": getattr(peer, request["call"])(**request["arguments"])}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def report(rows: Sequence[Mapping], path: Path | None = None) -> None:
    """Print rows (same keys each) as a table; write them, with the machine, to `path` as JSON."""
    names = list(rows[0])
    cells = [names] + [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if path:
        machine = {"platform": platform.platform(), "cpus": os.cpu_count()}
        machine["python"] = platform.python_version()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "rows": list(rows)}, indent=2) + "\n")


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
