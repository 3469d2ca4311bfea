# SPDX-License-Identifier: Apache-2.0
"""A process that gives no sign of life ends the run by name, and no other does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxvl.distributed import beats
from jaxvl.distributed.beats import Beats


class Store:
    """jax's key-value store, as far as it is used."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite):
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return list(self.values.items())


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(beats.time, "monotonic", lambda: now[0])
    return now


def test_whoever_is_silent_is_named(clock):
    store = Store()
    ours, other, third = (Beats(store, index, 3) for index in range(3))
    for _ in range(12):
        clock[0] += beats.EVERY_SECONDS
        other.exchange()
        ours.exchange()
        third.exchange()
    assert ours.silent() is None and third.silent() is None
    while clock[0] < 160 + beats.SILENT_SECONDS + 3 * beats.EVERY_SECONDS:
        clock[0] += beats.EVERY_SECONDS
        ours.exchange()
        third.exchange()
    assert ours.silent() == 1 and third.silent() == 1


def test_a_store_that_does_not_answer_is_the_first_process(clock):
    ours = Beats(Store(), 1, 2)
    ours.exchange()
    clock[0] += beats.SILENT_SECONDS - 1
    assert ours.silent() is None
    clock[0] += 2
    assert ours.silent() == 0


PROGRAM = """
import time
from jaxvl.distributed import beats, multihost
beats.SILENT_SECONDS = multihost.SILENT_SECONDS = 6.0
multihost.EVERY_SECONDS = 1.0
with multihost.abort_all_on_error():
    multihost.start()
    for number in range(1000):
        multihost.all_gather_object(number)
        print("going", flush=True)
        time.sleep(0.2)
"""


# Its threads ask the store all the time; one process comes to its end long after the other.
END = """
import time
import jax
from jaxvl.distributed import beats, multihost
beats.SILENT_SECONDS = multihost.SILENT_SECONDS = 3.0
multihost.EVERY_SECONDS = multihost._LOOK_SECONDS = 0.0
multihost.start()
multihost.all_gather_object(0)
time.sleep(4.0 * (jax.process_index() == LATE))
"""


def two(program):
    """Two processes that are one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**env, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_a_run_that_is_over_ends_with_0(late):
    both = two(END.replace("LATE", str(late)))
    try:
        said = [process.communicate(timeout=60)[1] for process in both]
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert [process.returncode for process in both] == [0, 0], said


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_a_message_and_no_stack(victim):
    both = two(PROGRAM)
    while both[1 - victim].stdout.readline() != "going\n":
        assert both[1 - victim].poll() is None
    both[victim].send_signal(signal.SIGSTOP)
    start = time.monotonic()
    try:
        _, said = both[1 - victim].communicate(timeout=60)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert time.monotonic() - start < 40 and both[1 - victim].returncode == 1
    assert f"error: process {victim} of 2 has given no sign of life for 6 s" in said
    assert "Traceback" not in said and "*** " not in said
