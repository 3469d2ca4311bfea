# SPDX-License-Identifier: Apache-2.0
"""Several processes that are one run: how they find each other, hand each other what each must know
of all, and end together.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed, xla_bridge  # jax has no public door to its store and state
from jax.experimental import multihost_utils

from jaxvl.distributed import flags
from jaxvl.distributed.beats import EVERY_SECONDS, SILENT_SECONDS, Beats
from jaxvl.errors import TrainingFailed, UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
HEARTBEAT_SECONDS = 100  # after which jax itself ends the others of a silent one, with a stack dump
END_SECONDS = 300  # for all processes to come to their end, which jax then waits for as long again
START_SECONDS = 600  # for all processes to come: machines of a pod start at different times
_LOOK_SECONDS = 1.0  # between two looks at whether another process has failed
_LAST_SECONDS = 5.0  # that a failing process stays, so that all others can read why
_FAILED, _GATHERED, _ENDED = "jaxvl/failed", "jaxvl/gathered", "jaxvl/ended"
_gathers = itertools.count()  # the same in all processes, who gather in the same order
# Errors of what joins processes: as jax tells them itself, and as a compiled program does.
_LOST = re.compile("Gloo|[Cc]onnection|UNAVAILABLE|heartbeat")
_LOST_INSIDE = re.compile("Gloo")


def start() -> None:
    """Join the other processes of this run, if the environment says that there are some.

    On Cloud TPU, GKE and in a SLURM step of several tasks jax finds them itself. Anywhere else
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say who
    they are. Call it before jax touches a device and after the reward workers were started.
    """
    flags.set_flags(os.environ)
    if jax.distributed.is_initialized():
        return
    how = _explicit()
    if not how and not _in_cluster():
        return
    if xla_bridge.backends_are_initialized():
        if how:
            raise UserError(
                f"{COUNT} is set, but jax has devices in its hands already, with which other "
                "processes cannot be joined any more: train before anything else, in a process "
                "of its own"
            )
        return  # a notebook on a TPU machine
    where = how.get("coordinator_address", "the address that the cluster says")
    print(f"waiting for the other processes at {where}", flush=True)
    # A run hears SIGTERM itself: see `jaxvl.distributed.preemption`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **how,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, OSError) as error:  # what asks a cluster's own servers
        raise UserError(
            f"the other processes cannot be found ({type(error).__name__}: {error}); set {ADDRESS} "
            f"(host:port of process 0), {COUNT} and {INDEX}; for one process alone localhost:1234, "
            "1 and 0"
        ) from error
    state = distributed.global_state
    beats = Beats(state.client, state.process_id, state.num_processes)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(beats, over), daemon=True)
    watch.start()
    threading.Thread(target=_miss, args=(beats, over), daemon=True).start()
    atexit.register(_end, state.client, over, watch)  # before jax's own farewell, registered first


def _end(store: Any, over: threading.Event, watch: threading.Thread) -> None:
    """When all have come to their end, nobody gives or misses signs of life any more.

    A thread that asks jax's store while the interpreter ends would end the process by SIGABRT.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # jax tells who is missing
        store.wait_at_barrier(_ENDED, 1000 * END_SECONDS)
    over.set()
    watch.join(_LAST_SECONDS)


def _explicit() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` from variables, {} where there are none."""
    env = os.environ
    if not (env.get(COUNT) or env.get(INDEX)):
        return {}
    try:
        count, index = int(env[COUNT]), int(env[INDEX])
        address = env[ADDRESS]
        if not 0 <= index < count or ":" not in address:
            raise ValueError
    except (KeyError, ValueError):
        found = ", ".join(
            f"{name}={env.get(name, '(not set)')}" for name in (ADDRESS, COUNT, INDEX)
        )
        raise UserError(
            f"{found}: expected host:port of process 0, how many processes there are, and the "
            "number of this one, from 0"
        ) from None
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",  # or SLURM's would take all GPUs but one away
    }


def _in_cluster() -> bool:
    """Whether jax can find the other processes itself."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if "SLURM_PROCID" in os.environ and tasks.isdecimal() and int(tasks) > 1:
        return True
    # jax sets it on a Cloud TPU VM
    return (getattr(jax.config, "jax_platforms", None) or "").startswith("tpu")


def all_gather_object(value: Any) -> list[Any]:
    """`value`, made of what JSON holds, of every process, in their order. All must call it.

    It goes through jax's key-value store: a collective of the devices would wait for the work that
    these have, and the host, which has work of its own, with it.
    """
    if jax.process_count() == 1:
        return [value]
    store, index = distributed.global_state.client, jax.process_index()
    if store is None:  # a TPU slice whose processes jax has joined before `start`
        return _gather_on_devices(value)
    number, text = next(_gathers), json.dumps(value)
    store.key_value_set(f"{_GATHERED}/{number}/{index}", text)
    others = [i for i in range(jax.process_count()) if i != index]
    found = {index: text} | {i: _told(store, f"{_GATHERED}/{number}/{i}") for i in others}
    # Whoever has told this has read all that was told the time before.
    store.key_value_delete(f"{_GATHERED}/{number - 1}/{index}")
    return [json.loads(found[i]) for i in range(jax.process_count())]


def _told(store: Any, key: str) -> str:
    """What another process tells, however long it takes; in between signals are heard."""
    while True:
        try:
            return store.blocking_key_value_get(key, int(1000 * _LOOK_SECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _gather_on_devices(value: Any) -> list[Any]:
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size, np.int32))
    room = max(4096, 1 << int(sizes.max() - 1).bit_length())  # few shapes: each is compiled
    rows = multihost_utils.process_allgather(np.pad(data, (0, room - data.size)))
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def assert_equal_across_processes(what: dict[str, Any]) -> None:
    """UserError where the processes are not of one mind about `what`, by name; all must call it."""
    every = all_gather_object(what)
    for number, other in enumerate(every):
        for name in every[0] | other:
            first, found = every[0].get(name), other.get(name)
            if first != found:
                raise UserError(
                    f"processes 0 and {number} differ in {name}: {first!r} and {found!r}; start "
                    "all processes of a run with the same command, code and data"
                )


class Everywhere(UserError):
    """A mistake that was found in one process and told to all: they may still act together."""


def agree(work: Callable[[], Any]) -> Any:
    """`work()`. A UserError that it raises in one process is raised in all, which must call it."""
    if jax.process_count() == 1:
        return work()
    result, why = None, ""
    try:
        result = work()
    except UserError as error:
        why = str(error)
    told = all_gather_object(why)
    for number, text in enumerate(told):
        if text:
            raise Everywhere(f"process {number}: {text}")
    return result


@contextlib.contextmanager
def abort_all_on_error() -> Iterator[None]:
    """What ends one process ends all of them, and each prints why. Not so an exit (`SystemExit`),
    which all take together.

    An error of this process is printed, told to the others, and ends the process at once: jax's
    own farewell would wait for the others, who wait for this one. A process that is killed says
    nothing: the others end when a connection to it breaks, and of one that is stopped they miss
    the signs of life (`jaxvl.distributed.beats`).
    """
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        if jax.distributed.is_initialized() and distributed.global_state.num_processes > 1:
            _fail(error)
        raise


def _watch(beats: Beats, over: threading.Event) -> None:
    """Gives signs of life, and ends this process when another has said that it failed."""
    due = 0.0
    while jax.distributed.is_initialized() and not over.is_set():
        if told := _reason():
            _exit(*told)
        if time.monotonic() >= due:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                beats.exchange()
            due = time.monotonic() + EVERY_SECONDS
        over.wait(_LOOK_SECONDS)


def _miss(beats: Beats, over: threading.Event) -> None:
    """Ends this process, and with it the run, when another gives no sign of life."""
    count = distributed.global_state.num_processes
    while jax.distributed.is_initialized() and not over.is_set():
        if (silent := beats.silent()) is not None:
            why = (
                f"process {silent} of {count} has given no sign of life for {SILENT_SECONDS:.0f} s"
            )
            why += ": it was stopped, or its machine or network hangs; start all of the run again"
            print(f"error: {why}", file=sys.stderr, flush=True)
            if silent:
                leave(1, why)
            os._exit(1)  # nobody can be told: process 0 keeps the store
        over.wait(_LOOK_SECONDS)


def _reason() -> tuple[int, str] | None:
    """With which exit code and why another process ended, as it told; None where none did."""
    own, store = f"{_FAILED}/{distributed.global_state.process_id}", distributed.global_state.client
    if store is None:
        return None  # the run is over
    try:
        told = dict(store.key_value_dir_get(_FAILED))
    except jax.errors.JaxRuntimeError:
        return None  # the store is gone: the run is over, or process 0 is, of which jax tells
    return next((tuple(json.loads(said)) for key, said in told.items() if key != own), None)


def _fail(error: BaseException) -> None:
    """Print why, tell the others, and end."""
    index, count = distributed.global_state.process_id, distributed.global_state.num_processes
    known = isinstance(error, (UserError, TrainingFailed))
    lost = _is_lost(error)
    why = f"process {index} of {count} failed: " + ("" if known else f"{type(error).__name__}: ")
    if lost:
        why = f"process {index} of {count} lost another one, which failed or was killed: "
    elif not known:
        traceback.print_exception(error)
    why += str(error)
    print(f"error: {why}", file=sys.stderr, flush=True)
    if lost:  # perhaps that one has told why
        deadline = time.monotonic() + _LAST_SECONDS
        while time.monotonic() < deadline:
            if told := _reason():
                _exit(*told)
            time.sleep(_LOOK_SECONDS)
    leave(2 if isinstance(error, UserError) else 1, why)  # a mistake of the user's, as everywhere


def leave(code: int, why: str) -> NoReturn:
    """End this process at once, after the others are told, who end with the same code."""
    if jax.distributed.is_initialized() and distributed.global_state.num_processes > 1:
        index, store = distributed.global_state.process_id, distributed.global_state.client
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            if store is not None:
                store.key_value_set(f"{_FAILED}/{index}", json.dumps([code, why]))
        time.sleep(_LAST_SECONDS if index == 0 else 0)  # the store ends with process 0
    os._exit(code)


def _is_lost(error: BaseException) -> bool:
    """Whether an error tells of another process: not one of files or addresses of the run's own.
    Of a step that failed it is what has ended it that counts."""
    if isinstance(error, TrainingFailed) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, jax.errors.JaxRuntimeError):
        return bool(_LOST.search(str(error)))
    plain = isinstance(error, ValueError) and not isinstance(error, UserError)
    return plain and bool(_LOST_INSIDE.search(str(error)))


def _exit(code: int, why: str) -> None:
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(code)
