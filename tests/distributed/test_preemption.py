# SPDX-License-Identifier: Apache-2.0
"""Signals: the first stops a run after its step, a second one or one with nothing to save at once,
wherever the main thread is."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxvl.distributed.preemption import SIGNALS, PreemptionHandler, Stopped

ROOT = Path(__file__).parents[2]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
RUN = """
import hashlib, sys, time
from pathlib import Path
from jaxvl.distributed.preemption import PreemptionHandler, Stopped
kind = sys.argv[1]
with PreemptionHandler(last=lambda: print("page", flush=True)) as stop:
    if kind != "compiling":
        stop.hold()
    print("in", flush=True)
    if kind != "steps":  # in a program that hears nothing, as a compiler: no Python is run
        hashlib.pbkdf2_hmac("sha512", b"x", b"y", 50_000_000)
    while not (number := stop.asked()):
        time.sleep(0.01)
    print("saved", flush=True)
    raise Stopped(number)
"""


def heard():
    """No signal is ignored, whatever started the tests: what is, as by nohup, stays so."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def start(kind, **how):
    how = {"preexec_fn": heard} | how
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, kind], cwd=ROOT, text=True, **how,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_step_end(number):
    process = start("steps")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (CODES[number], "saved\n")
    assert f"{number.name}: stopping after this step" in err


@pytest.mark.parametrize("number", SIGNALS[:2])
def test_a_signal_ends_a_compiling_run_at_once(number):
    """Though the main thread runs no Python."""
    process = start("compiling")
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (CODES[number], "page\n")
    assert time.monotonic() - began < 5 and "ends at once" in err


@pytest.mark.parametrize("second", [signal.SIGINT])
def test_a_second_signal_ends_at_once(second):
    process = start("stuck")
    process.send_signal(signal.SIGTERM)
    assert "stopping after this step" in process.stderr.readline()
    process.send_signal(second)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (CODES[second], "page\n")


def test_what_nohup_ignores_stays_ignored():
    process = start("steps", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_handlers_are_left_as_they_were():
    before = [signal.getsignal(number) for number in SIGNALS]
    with PreemptionHandler() as stop:
        assert stop.asked() == 0
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert [Stopped(number).code for number in SIGNALS] == [143, 130, 129]
