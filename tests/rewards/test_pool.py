# SPDX-License-Identifier: Apache-2.0
"""The workers: what runs away is ended, what dies is replaced, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from jaxvl.config import Verify
from jaxvl.errors import UserError
from jaxvl.rewards import pool, verify
from jaxvl.rewards.pool import Pool, WorkerLimits, _Worker

# Whole texts go to math-verify without a guard in front, for VisualThinker's reward.
ENDLESS = ("$3$", "$9^{9^{9^{9}}}$", None)


@pytest.fixture(scope="module")
def one():
    """A pool of one worker with little time."""
    made = Pool(WorkerLimits(workers=1, seconds=0.3))
    yield made
    made.close()


def pid(one):
    return one._idle[0].process.pid


def test_a_comparison_that_takes_too_long_is_a_timeout_and_the_next_is_served(one):
    assert one.equal("x+1", "1+x") == "match"
    before = pid(one)
    assert one.equal(*ENDLESS) == "timeout"
    assert one.counts["timeout"] == 1
    assert one.equal("x+2", "2+x") == "match"
    assert pid(one) != before and not psutil.pid_exists(before)


LOST = pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])


@LOST
def test_a_worker_lost_while_idle_is_replaced(one, what):
    assert one.equal("x+3", "3+x") == "match"
    before, lost = one.counts["restarts"], pid(one)
    os.kill(lost, what)
    assert one.equal(f"x+4+{what}", f"{what}+4+x") == "match"
    assert one.counts["restarts"] == before + 1 and not psutil.pid_exists(lost)
    assert one.equal("x+5", "5+x") == "match"


def losing(monkeypatch, what, times):
    """Every worker is lost in the middle of what it is asked, the first so many times."""
    write, left = _Worker._write, [times]

    def lost(self, data):
        if data and left[0]:
            left[0] -= 1
            os.kill(self.process.pid, signal.SIGSTOP)  # it does not answer first
            sent = write(self, data)
            os.kill(self.process.pid, what)
            return sent
        return write(self, data)

    monkeypatch.setattr(_Worker, "_write", lost)


@LOST
def test_what_a_lost_worker_was_asked_is_asked_again_once(one, monkeypatch, what):
    before = one.counts["restarts"]
    losing(monkeypatch, what, 1)
    assert one.equal(f"x+7+{what}", f"{what}+7+x") == "match"
    assert one.counts["restarts"] == before + 1


def test_losing_workers_again_and_again_is_no_verdict(one, monkeypatch):
    losing(monkeypatch, signal.SIGKILL, 2)
    with pytest.raises(UserError, match="one ended by SIGKILL.*says nothing about answers"):
        one.equal("x+8", "8+x")
    assert one.equal("x+8", "8+x") == "match"  # nothing was remembered


def test_what_ends_its_worker_by_itself_twice_is_a_crash(one, monkeypatch):
    losing(monkeypatch, signal.SIGSEGV, 2)
    before = one.counts["crash"]
    assert one.equal("x+9", "9+x") == "crash"
    assert one.counts["crash"] == before + 1


@LOST
def test_a_worker_lost_before_its_first_answer_is_replaced(what):
    made = Pool(WorkerLimits(workers=1))
    made.fill()
    os.kill(pid(made), what)
    assert made.equal("x+1", "1+x") == "match"
    assert made.counts["restarts"] == 1
    made.close()


@pytest.mark.parametrize("looks", [1, 2])
def test_a_worker_that_ends_between_two_looks_is_replaced(monkeypatch, looks):
    made = Pool(WorkerLimits(workers=1))
    made.fill()
    os.kill(pid(made), signal.SIGKILL)
    process = made._idle[0].process
    found, late = process.poll, iter([None] * looks)
    monkeypatch.setattr(process, "poll", lambda: next(late, "over") and found())
    assert made.equal("x+1", "1+x") == "match"
    assert made.counts["restarts"] == 1
    made.close()


def test_a_request_larger_than_a_pipe_reaches_its_worker():
    worker = _Worker(memory=2 << 30)
    request = b'{"gold": "x+1", "found": "1+x", "tolerance": 0}' + b" " * 500_000 + b"\n"
    assert worker.ask(request, WorkerLimits()) == "match"
    worker.kill()


def test_answers_are_remembered(one):
    one.equal("x+6", "6+x")
    before = one.counts["remembered"]
    assert one.equal("x+6", "6+x") == "match"
    assert one.equal("x+6", "6+x", None) == "mismatch"  # another question: whole texts, no LaTeX
    assert one.counts["remembered"] == before + 1


def test_a_text_is_searched_for_strings_and_numbers(one):
    golds, strings = ["left", "(A)", "4"], ["left", "right", "(A)"]
    assert one.among(golds, "it is to the left", strings) == "match"
    assert one.among(golds, "it is (A)", strings) == "match"
    assert one.among(golds, "there are 4 of them", strings) == "match"
    assert one.among(golds, "it is to the right", strings) == "mismatch"
    assert one.among(golds, "who knows", strings) == "refused"
    assert one.among(["who knows"], "who knows", ["who knows"]) == "match"


def test_memory_is_bounded_from_within():
    made = Pool(WorkerLimits(workers=1, memory=1 << 30))
    assert made.equal("x+1", "1+x") == "match"
    assert psutil.Process(pid(made)).rlimit(psutil.RLIMIT_AS) == (1 << 30, 1 << 30)
    made.close()


def test_memory_is_bounded_from_outside():
    worker = _Worker(memory=2 << 30)
    request = b'{"gold": "$3$", "found": "$9^{9^{9^{9}}}$"}\n'
    assert worker.ask(request, WorkerLimits(seconds=20, memory=1 << 20)) == "crash"
    assert not worker.alive


def test_workers_are_replaced_after_their_share():
    few = Pool(WorkerLimits(workers=1, recycle=2))
    pids = []
    for number in range(4):
        assert few.equal("x+1", f"x+1+{number}-{number}") == "match"
        pids.append(pid(few))
    few.close()
    assert pids[0] != pids[1] == pids[2] != pids[3]
    assert not any(psutil.pid_exists(each) for each in pids)


def test_settings_of_a_run_reach_the_pool():
    limits = WorkerLimits.of(Verify(workers=3, seconds=1.5, memory=0.5))
    assert limits == WorkerLimits(workers=3, seconds=1.5, memory=1 << 29)


def test_workers_know_nothing_of_jax_and_end_with_their_parent():
    code = (
        "import sys, time; from jaxvl.rewards import pool, verify;"
        "pool.start(pool.Limits(workers=2));"
        "verify('math', '<answer>1+x</answer>', 'x+1');"
        "print(*(one.process.pid for one in pool._pool._idle), flush=True);"
        "print('jax' in sys.modules, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert parent.stdout.readline() == "False\n"
    maps = [psutil.Process(each).memory_maps() for each in pids]
    assert not any("jaxlib" in entry.path for entries in maps for entry in entries)
    parent.kill()  # without warning
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(each) for each in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def test_a_pool_is_made_when_it_is_first_needed():
    pool.stop()
    assert verify("number", "<answer>3</answer>", "3").reward == 1
    assert verify("math", "<answer>$\\frac12$</answer>", "0.5").reward == 1
    assert pool._pool is None  # plain numbers need none
    assert verify("math", "<answer>1+x</answer>", "x+1").reward == 1
    assert pool._pool.counts["started"] == 1


def test_restarts_are_counted_once():
    verify("math", "<answer>1+x</answer>", "x+1")
    for one in pool._pool._idle:
        os.kill(one.process.pid, signal.SIGKILL)
    assert verify("math", "<answer>2+x</answer>", "x+2").reward == 1
    assert (pool.restarts(), pool.restarts()) == (1, 0)


def test_rows_that_do_not_wait_are_done_in_this_thread():
    own = threading.current_thread()

    def where_done(number):
        return number, threading.current_thread() is own

    waits = [True, False, False, True]
    done = pool.map_threads(where_done, range(4), where=waits)
    assert done == [(number, not wait) for number, wait in enumerate(waits)]
    assert pool.map_threads(where_done, range(2)) == [(0, False), (1, False)]
