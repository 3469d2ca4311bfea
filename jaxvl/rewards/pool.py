# SPDX-License-Identifier: Apache-2.0
"""Symbolic comparison in worker processes that are watched from outside.

A completion is untrusted: one power tower costs sympy minutes and gigabytes inside a single call
that nothing in its process can stop. So comparisons run in a few processes that know nothing of
jax, are started before it touches a device, are killed and replaced when one takes too long or too
much memory, and are replaced after some number of tasks, because sympy's caches only grow.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxvl.config import Verify
from jaxvl.errors import UserError
from jaxvl.rewards import worker

START_SECONDS = 300.0  # for a worker to import sympy on a busy machine
MEMO = 100_000  # comparisons that are remembered
_POLL = 0.02  # seconds between two looks at a working process
_WALL = 30.0  # seconds that pass on the clock: a busy machine, or a process that was stopped


@dataclasses.dataclass(frozen=True)
class Limits:
    """How many workers (0: one a processor, at most 8), and what a comparison may cost: `seconds`
    of processor time, so that a busy machine does not change a reward, and bytes of memory."""

    workers: int = 0
    seconds: float = 0.8
    memory: int = 2 << 30
    recycle: int = 2000  # comparisons after which a worker is replaced

    @classmethod
    def of(cls, settings: Verify) -> Limits:
        """From a run's settings."""
        memory = int(settings.memory * 2**30)
        return cls(workers=settings.workers, seconds=settings.seconds, memory=memory)


class Pool:
    """Worker processes and what they have answered. Safe to use from several threads."""

    def __init__(self, limits: Limits = Limits()):
        self.limits = limits
        self.count = limits.workers or min(8, os.cpu_count() or 1)
        self.counts: Counter[str] = Counter()  # asked, remembered, started, timeout, crash
        self._memo: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Condition()
        self._idle: list[_Worker] = []
        self._made = 0

    def equal(self, gold: str, found: str, tolerance: float | None = 0.0) -> str:
        """The outcome of a comparison: "match", "mismatch", "bad_gold" (gold has no value),
        "refused" (found has none), "timeout" or "crash".

        Both are LaTeX expressions; with `tolerance` None they are whole texts, for math-verify's
        own search in them.
        """
        request = {"gold": gold, "found": found}
        return self._ask(request if tolerance is None else request | {"tolerance": tolerance})

    def among(self, golds: Sequence[str], found: str, strings: Sequence[str]) -> str:
        """The outcome of math-verify's own search in a text for a number, LaTeX or one of
        `strings`: "match" where what it finds is one of `golds`, "refused" where it finds nothing.
        """
        return self._ask({"gold": list(golds), "found": found, "strings": list(strings)})

    def _ask(self, request: dict[str, Any]) -> str:
        line = json.dumps(request).encode() + b"\n"
        key = hashlib.blake2b(line, digest_size=16).digest()
        with self._lock:
            self.counts["asked"] += 1
            if key in self._memo:
                self.counts["remembered"] += 1
                self._memo.move_to_end(key)
                return self._memo[key]
        one = self._take()
        try:
            outcome = one.ask(line, self.limits)
        finally:
            self._put(one)
        with self._lock:
            if outcome in ("timeout", "crash"):
                self.counts[outcome] += 1
            self._memo[key] = outcome
            if len(self._memo) > MEMO:
                self._memo.popitem(last=False)
        return outcome

    def fill(self) -> None:
        """Start all workers now, not as they are needed."""
        with self._lock:
            while self._made < self.count:
                self._idle.append(self._new())
                self._made += 1

    def close(self) -> None:
        """End all workers; nothing may be asked afterwards."""
        with self._lock:
            self._lock.wait_for(lambda: len(self._idle) == self._made)
            for one in self._idle:
                one.kill()

    def _take(self) -> _Worker:
        """An idle worker, one that has started if there is one; a new one if all are at work."""
        with self._lock:
            if not self._idle and self._made < self.count:
                self._made += 1
                return self._new()
            self._lock.wait_for(lambda: self._idle)
            one = next((each for each in reversed(self._idle) if each.ready(0)), self._idle[0])
            self._idle.remove(one)
            return one

    def _put(self, one: _Worker) -> None:
        """Give a worker back, or another for one that is dead or has done its share."""
        if not one.alive or one.tasks >= self.limits.recycle:
            one.kill()
            one = self._new()
        with self._lock:
            self._idle.append(one)
            self._lock.notify()

    def _new(self) -> _Worker:
        self.counts["started"] += 1
        return _Worker(self.limits.memory)


class _Worker:
    """One process. It is started at once and waited for at its first task."""

    def __init__(self, memory: int):
        root = str(Path(__file__).parents[2])
        paths = [root, os.environ.get("PYTHONPATH", "")]
        # PYTHONHASHSEED: sympy orders some sets by hash, and a reward must not depend on that.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONHASHSEED": "0",
        }
        # A program of its own and no multiprocessing: that would import the caller's main module,
        # and jax with it, in every worker. -P keeps the working directory off its path.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", worker.__name__, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self.tasks = 0
        self._started = False

    def ready(self, seconds: float) -> bool:
        """Whether the process has loaded its libraries, waiting at most so long."""
        self._started = self._started or self._read(seconds) == b"r"
        return self._started

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: bytes, limits: Limits) -> str:
        """Send a request and watch the process until it answers, or kill it."""
        import psutil

        if not self.ready(START_SECONDS):
            self.kill()
            raise UserError("a reward worker does not start; try `python -c 'import math_verify'`")
        self.tasks += 1
        start = time.monotonic()
        try:
            watched = psutil.Process(self.process.pid)
            before = _cpu(watched)
            self.process.stdin.write(request)
            self.process.stdin.flush()
            while not (reply := self._read(_POLL)):
                waited = time.monotonic() - start
                if reply == b"" or watched.memory_info().rss > limits.memory:
                    return self.kill("crash")
                if _cpu(watched) - before > limits.seconds or waited > _WALL:
                    return self.kill("timeout")
        except (psutil.NoSuchProcess, psutil.ZombieProcess, BrokenPipeError):
            return self.kill("crash")
        return worker.OUTCOMES[reply]

    def _read(self, seconds: float) -> bytes | None:
        """A byte of its answer, b"" where it has ended, None where it has none in time."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return os.read(self.process.stdout.fileno(), 1) if ready else None

    def kill(self, outcome: str = "") -> str:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        return outcome


def _cpu(process: Any) -> float:
    times = process.cpu_times()
    return times.user + times.system


_pool: Pool | None = None
_starting = threading.Lock()


def start(limits: Limits = Limits()) -> None:
    """Make the process's pool, in place of one with other limits, and start all of its workers.
    Call it before jax touches a device."""
    global _pool
    if _pool is not None and _pool.limits != limits:
        stop()
    _shared(limits).fill()


def equal(gold: str, found: str, tolerance: float | None = 0.0) -> str:
    """`Pool.equal` of the process's pool, whose workers start as they are needed."""
    return _shared(Limits()).equal(gold, found, tolerance)


def among(golds: Sequence[str], found: str, strings: Sequence[str]) -> str:
    """`Pool.among` of the process's pool."""
    return _shared(Limits()).among(golds, found, strings)


def _shared(limits: Limits) -> Pool:
    global _pool
    with _starting:
        if _pool is None:
            _pool = Pool(limits)
        return _pool


def map_threads(function: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
    """[function(*row) for row in zip(*columns)], with as many rows at a time as there are workers:
    a row that waits for a worker does not hold up the others."""
    workers = _pool.count if _pool else Limits().workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(function, *columns))


@atexit.register
def stop() -> None:
    """End the process's pool; the next comparison starts another."""
    global _pool
    with _starting:
        if _pool is not None:
            _pool.close()
            _pool = None
