# SPDX-License-Identifier: Apache-2.0
"""Symbolic comparison in worker processes that are watched from outside.

A completion is untrusted: one power tower costs sympy minutes and gigabytes inside a single call
that nothing in its process can stop. So comparisons run in a few processes that know nothing of
jax, are started before it touches a device, are killed and replaced when one takes too long or too
much memory, and are replaced after some number of tasks, because sympy's caches only grow.

A worker may also be lost: killed or stopped from outside, by an operator or by a machine that is
short of memory. That says nothing about the comparison, which is asked again of another worker; it
is never an outcome, since a reward must not depend on what happens to the machine.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import select
import signal
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
STARTS = 5  # workers that may be lost, for one comparison, before they are at work
_POLL = 0.02  # seconds between two looks at a working process
_LOOKS = 6000  # at a worker that neither answers nor uses its time up, before it is lost
_STOPPED = 1.0  # seconds that a process is seen stopped: if all were, all go on together
# What a process does to itself, rather than what others do to it.
_OWN = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


@dataclasses.dataclass(frozen=True)
class WorkerLimits:
    """How many workers (0: one a processor, at most 8), and what a comparison may cost: `seconds`
    of processor time, so that a busy machine does not change a reward, and bytes of memory."""

    workers: int = 0
    seconds: float = 0.8
    memory: int = 2 << 30
    recycle: int = 2000  # comparisons after which a worker is replaced

    @classmethod
    def of(cls, settings: Verify) -> WorkerLimits:
        """From a run's settings."""
        memory = int(settings.memory * 2**30)
        return cls(workers=settings.workers, seconds=settings.seconds, memory=memory)


class Pool:
    """Worker processes and what they have answered. Safe to use from several threads."""

    def __init__(self, limits: WorkerLimits = WorkerLimits()):
        self.limits = limits
        self.count = limits.workers or min(8, os.cpu_count() or 1)
        # asked, remembered, started, restarts (of workers that were lost), timeout, crash
        self.counts: Counter[str] = Counter()
        self._memo: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Condition()
        self._idle: list[_Worker] = []
        self._made = 0

    def equal(self, gold: str, found: str, tolerance: float | None = 0.0) -> str:
        """The outcome of a comparison: "match", "mismatch", "bad_gold" (gold has no value),
        "refused" (found has none), "timeout", or "crash": it took too much memory, or twice ended
        the process by itself. UserError where workers are lost again and again.

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
        outcome = self._compare(line)
        with self._lock:
            if outcome in ("timeout", "crash"):
                self.counts[outcome] += 1
            self._memo[key] = outcome
            if len(self._memo) > MEMO:
                self._memo.popitem(last=False)
        return outcome

    def _compare(self, line: bytes) -> str:
        """The outcome of a request, of another worker where one is lost, once if it is at work."""
        one, idle, working = self._take(), 0, 0
        try:
            while True:
                try:
                    return one.ask(line, self.limits)
                except _Lost as lost:
                    idle, working = idle + (not lost.at_work), working + lost.at_work
                    self._count("restarts")
                    if working > 1 and lost.own_fault:
                        return "crash"
                    if working > 1 or idle >= STARTS:
                        raise UserError(
                            f"reward workers are lost one after another ({lost}), which says "
                            "nothing about answers: see what ends or stops processes here; where "
                            "the machine is short of memory, verify.workers or verify.memory "
                            "smaller take less"
                        ) from None
                    self._launch(one)
        finally:
            self._put(one)

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def fill(self) -> None:
        """Start all workers now, not as they are needed."""
        with self._lock:
            missing = [_Worker(self.limits.memory) for _ in range(self._made, self.count)]
            self.counts["started"] += len(missing)
            self._made += len(missing)
            self._idle += missing

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
                one = _Worker(self.limits.memory)
                self.counts["started"] += 1
                self._made += 1
                return one
            self._lock.wait_for(lambda: self._idle)
            one = next((each for each in reversed(self._idle) if each.ready(0)), self._idle[0])
            self._idle.remove(one)
            return one

    def _put(self, one: _Worker) -> None:
        """Give a worker back, with a process of its own where that has ended or done its share."""
        try:
            if not one.alive or one.tasks >= self.limits.recycle:
                self._launch(one)
        finally:
            with self._lock:
                self._idle.append(one)
                self._lock.notify()

    def _launch(self, one: _Worker) -> None:
        one.kill()
        self._count("started")
        one.launch()


class _Lost(Exception):
    """A worker ended or was stopped, and not by its pool."""

    def __init__(self, what: str, at_work: bool, own_fault: bool = False):
        super().__init__(what)
        self.at_work, self.own_fault = at_work, own_fault


class _Worker:
    """One process at a time. It is started at once and waited for at its first task."""

    def __init__(self, memory: int):
        self.memory = memory
        self.launch()

    def launch(self) -> None:
        """Start a process; the one before has ended."""
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
            [sys.executable, "-P", "-m", worker.__name__, str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout  # they are pipes
        self.requests, self.replies = self.process.stdin, self.process.stdout
        os.set_blocking(self.requests.fileno(), False)  # of one that is stopped a pipe fills
        self.tasks = 0
        self._started = False
        self._seen: float | None = None  # since when it has been seen stopped

    def ready(self, seconds: float) -> bool:
        """Whether the process has loaded its libraries, waiting at most so long."""
        self._started = self._started or self._read(seconds) == b"r"
        return self._started

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: bytes, limits: WorkerLimits) -> str:
        """Send a request and watch the process until it answers, or kill it. `_Lost` where it ends
        or stops meanwhile, or has before."""
        import psutil

        if not self.alive:
            raise self._ended(at_work=False)
        working = False
        try:
            watched = psutil.Process(self.process.pid)
            self._wait(watched)
            while self._is_stopped(watched, working):
                time.sleep(_POLL)
            self.tasks, working = self.tasks + 1, True
            before, rest = _cpu(watched), memoryview(request)
            for _ in range(_LOOKS):
                rest = rest[self._write(rest) :]
                reply = self._read(_POLL)
                if reply:
                    return worker.OUTCOMES[reply]
                if reply == b"":
                    raise self._ended(working)
                if watched.memory_info().rss > limits.memory:
                    return self.kill("crash")
                if _cpu(watched) - before > limits.seconds:
                    return self.kill("timeout")
                self._is_stopped(watched, working)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, BrokenPipeError):
            raise self._ended(working) from None
        raise _Lost("one did nothing", working)

    def _wait(self, watched: Any) -> None:
        """Until the process has started."""
        deadline = time.monotonic() + START_SECONDS
        while not self.ready(_POLL):
            code = self.process.poll()  # looked at once: it may end between two looks
            if code is not None and code < 0:
                raise self._ended(at_work=False)
            if code is not None or time.monotonic() > deadline:
                raise UserError(
                    "a reward worker does not start; try `python -c 'import math_verify'`"
                )
            self._is_stopped(watched, at_work=False)

    def _is_stopped(self, watched: Any, at_work: bool) -> bool:
        """Whether the process is stopped; `_Lost` where it has been for a while."""
        if watched.status() not in ("stopped", "tracing-stop"):
            self._seen = None
            return False
        self._seen = self._seen or time.monotonic()
        if time.monotonic() - self._seen > _STOPPED:
            raise _Lost("one was stopped", at_work)
        return True

    def _ended(self, at_work: bool) -> _Lost:
        """What to raise of a process that has ended, or closed its output."""
        self.kill()
        code = self.process.returncode
        what = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        return _Lost(f"one ended {what}", at_work, code >= 0 or -code in _OWN)

    def _write(self, data: memoryview) -> int:
        """How much of `data` the process has room for, which is sent."""
        try:
            return os.write(self.requests.fileno(), data) if data else 0
        except BlockingIOError:
            return 0

    def _read(self, seconds: float) -> bytes | None:
        """A byte of its answer, b"" where it has ended, None where it has none in time."""
        if self.replies.closed:
            return b""
        waits = select.poll()  # and not select.select, which knows 1024 files
        waits.register(self.replies, select.POLLIN)
        return os.read(self.replies.fileno(), 1) if waits.poll(1000 * seconds) else None

    def kill(self, outcome: str = "") -> str:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self.replies.close()
        return outcome


def _cpu(process: Any) -> float:
    times = process.cpu_times()
    return times.user + times.system


_pool: Pool | None = None
_starting = threading.Lock()


def start(limits: WorkerLimits = WorkerLimits()) -> None:
    """Make the process's pool, in place of one with other limits, and start all of its workers.
    Call it before jax touches a device."""
    if _pool is not None and _pool.limits != limits:
        stop()
    _shared(limits).fill()


def equal(gold: str, found: str, tolerance: float | None = 0.0) -> str:
    """`Pool.equal` of the process's pool, whose workers start as they are needed."""
    return _shared(WorkerLimits()).equal(gold, found, tolerance)


def among(golds: Sequence[str], found: str, strings: Sequence[str]) -> str:
    """`Pool.among` of the process's pool."""
    return _shared(WorkerLimits()).among(golds, found, strings)


def _shared(limits: WorkerLimits) -> Pool:
    global _pool
    with _starting:
        if _pool is None:
            _pool = Pool(limits)
        return _pool


def restarts() -> int:
    """How many workers of the process's pool were lost, and replaced, since this was last asked."""
    if _pool is None:
        return 0
    with _pool._lock:
        return _pool.counts.pop("restarts", 0)


def map_threads(
    function: Callable[..., Any], *columns: Iterable[Any], where: Sequence[bool] | None = None
) -> list[Any]:
    """[function(*row) for row in zip(*columns)], with as many rows at a time as there are workers:
    a row that waits for a worker does not hold up the others. Rows that will not wait, those that
    `where` does not say, are done in this thread: another one would cost more than they do."""
    rows = list(zip(*columns, strict=True))
    workers = _pool.count if _pool else WorkerLimits().workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as threads:
        later = [
            threads.submit(function, *row) if waits else None
            for row, waits in zip(rows, where or [True] * len(rows), strict=True)
        ]
        return [
            function(*row) if one is None else one.result()
            for row, one in zip(rows, later, strict=True)
        ]


@atexit.register
def stop() -> None:
    """End the process's pool; the next comparison starts another."""
    global _pool
    with _starting:
        if _pool is not None:
            _pool.close()
            _pool = None
