# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a large set are worked on: in this process, or by workers of Ray Data.

An engine maps a function over items and gives the results in the order of the items, so that what
is written does not depend on who worked. Items and results are JSON; an item names rows, which a
worker reads for itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from jaxvl.errors import UserError

Work = Callable[[Any], Any]
_TRIES = 3  # of an item whose worker dies


class MapEngine(Protocol):
    """`workers` is 0 where this process does all."""

    workers: int

    def map(self, make: Callable[[], Work], items: Iterable[Any], model: bool = False) -> Iterator:
        """`make()(item)` for every item, in order; a worker calls `make` once. `model`: it loads a
        model, and gets its share of the cluster's GPUs. UserErrors come as they are raised."""
        ...


class LocalMap:
    """This process: each item when its result is asked for."""

    workers = 0

    def map(self, make: Callable[[], Work], items: Iterable[Any], model: bool = False) -> Iterator:
        return map(make(), items)


LOCAL = LocalMap()


class RayMap:
    """So many workers of Ray Data, on one core each."""

    def __init__(self, workers: int):
        self.workers = workers

    def map(self, make: Callable[[], Work], items: Iterable[Any], model: bool = False) -> Iterator:
        import ray
        from ray.data import ActorPoolStrategy

        given = [{"item": json.dumps(item)} for item in items]
        if not given:
            return
        gpus = ray.cluster_resources().get("GPU", 0) if model else 0
        with warnings.catch_warnings():  # Ray's own default is to try for ever
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            done = ray.data.from_items(given, override_num_blocks=len(given)).map(
                _Worker,
                fn_constructor_args=(make,),
                compute=ActorPoolStrategy(size=self.workers),
                num_cpus=1,
                num_gpus=min(gpus / self.workers, 1),
                max_restarts=_TRIES,
                max_task_retries=_TRIES,
            )
        try:
            for row in done.iter_rows():
                found = json.loads(row["result"])
                if "mistake" in found:
                    raise UserError(found["mistake"])
                yield found["value"]
        except ray.exceptions.ActorDiedError as error:
            raise UserError(
                f"Ray: a worker has died {_TRIES + 1} times, out of memory or ended from outside; "
                "what was done is kept: fewer --workers, then the same command"
            ) from error


class _Worker:
    """One of Ray's processes."""

    def __init__(self, make: Callable[[], Work]):
        self.make = make
        self.work: Work | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        try:
            self.work = work = self.work or self.make()
            found = {"value": work(json.loads(row["item"]))}
        except UserError as mistake:
            found = {"mistake": str(mistake)}
        return {"result": json.dumps(found)}


@contextlib.contextmanager
def opened(name: str, workers: int) -> Iterator[MapEngine]:
    """The engine "local" or "ray" with so many workers (0: one for each core). Ray runs on this
    machine for as long as this, or is the cluster that RAY_ADDRESS names."""
    if name not in ("local", "ray"):
        raise UserError(f"--engine {name}: expected local or ray")
    if name == "local":
        if workers:
            raise UserError(
                f"--workers {workers}: without an engine this process does all; give --engine ray"
            )
        yield LOCAL
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it tells of a restart that may fail
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"--engine ray: Ray Data cannot be imported ({error}); pip install 'jaxvl[ray]', or "
            "leave --engine out"
        ) from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        quiet |= {"address": "local", "num_cpus": workers or os.cpu_count()}
        quiet["include_dashboard"] = False
    heard = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**quiet)
    except SystemExit as stopped:  # of Ray's own handler, with the signal's number alone
        raise SystemExit(128 + signal.SIGTERM) from stopped
    except Exception as error:  # a plain one where its processes do not start in time
        where = os.environ.get("RAY_ADDRESS") or "this machine"
        raise UserError(
            f"Ray cannot be started or reached on {where} ({error!s:.200}); try again when it is "
            "less busy, or leave --engine out"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, heard)  # Ray's own exits with 15
    try:
        there = int(ray.cluster_resources().get("CPU", 0))
        if workers > there:
            raise UserError(f"--workers {workers}: the cluster has {there} cores, one a worker")
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield RayMap(workers or there)
    finally:
        ray.shutdown()


class Spans:
    """Some of the rows that `open(start)` gives from number `start` on, without beginning again
    where one span follows another."""

    def __init__(self, open: Callable[[int], Iterator[Any]]):
        self.open, self.rows, self.place = open, iter(()), -1

    def take(self, start: int, count: int) -> list[Any]:
        """The rows from number `start` (from 0) on, `count` of them or as many as there are."""
        if not 0 <= self.place <= start:
            self.rows, self.place = self.open(start), start
        found = list(itertools.islice(self.rows, start - self.place, start - self.place + count))
        self.place = start + count
        return found
