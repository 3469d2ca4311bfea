# SPDX-License-Identifier: Apache-2.0
"""A save that never ends is told of, and ends the process where somebody waits for it."""

import threading
import time

import jax.numpy as jnp
import pytest

from jaxvl.checkpoints import folders, manifest, store
from jaxvl.checkpoints.deadline import Deadline
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.rl.learner import TrainState

STATE = TrainState(jnp.int32(1), {"w": jnp.arange(6.0)}, ())


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_short_work_one_after_another_is_never_late():
    told, busy = [], [False]
    deadline = Deadline(0.3, lambda: busy[0], told.append)
    for _ in range(8):
        with deadline.held():
            deadline.renew()
            busy[0] = True
        time.sleep(0.1)
    busy[0] = False
    assert not told and not deadline.passed


def test_long_work_is_told_of_once_and_again_where_it_is_waited_for():
    told = []
    deadline = Deadline(0.05, lambda: True, told.append)
    with deadline.held():
        pass
    until(lambda: told == [False])
    time.sleep(0.2)
    assert told == [False] and deadline.passed
    with deadline.held():
        until(lambda: told == [False, True])


@pytest.fixture
def hung(monkeypatch):
    """Writing a checkpoint takes until it is set; `left` has how the process would have ended."""
    on, left, write = threading.Event(), [], manifest.write
    monkeypatch.setattr(manifest, "write", lambda *of: (on.wait(60), write(*of)))
    monkeypatch.setattr(store.multihost, "leave", lambda code, why: left.append((code, why)))
    on.left = left
    yield on
    on.set()


def saving(run_dir, **how):
    """Checkpoints of which one hangs; it has taken too long as soon as it is in the background: on
    a busy machine it takes a second to get there."""
    checkpoints = Checkpoints(run_dir, keep=2, seconds=60, **how)
    checkpoints.save(1, STATE, {})
    checkpoints._deadline.seconds = 0.01
    return checkpoints


def test_a_save_that_hangs_ends_the_run_while_it_does_its_steps(tmp_path, hung, capfd):
    checkpoints = saving(tmp_path)
    until(lambda: hung.left)
    ((code, why),) = hung.left
    assert code == 1 and f"a save in {checkpoints.path} has taken more than" in why
    assert f"error: {why}" in capfd.readouterr().err
    hung.set()
    checkpoints.close()


def test_with_a_warning_the_run_goes_on_and_saves_again_later(tmp_path, hung, capfd):
    checkpoints = saving(tmp_path, on_failure="warn")
    until(lambda: "warning: a save in" in capfd.readouterr().err)
    checkpoints.save(2, STATE, {})  # not begun, and not waited for
    assert checkpoints.saved == 1 and not hung.left
    hung.set()
    checkpoints._deadline.seconds = 60
    checkpoints.save(3, STATE, {})
    checkpoints.close()
    assert folders.steps_at(checkpoints.path)[0] == [3, 1] and not hung.left


def test_what_never_ends_is_not_waited_for_at_the_end_of_the_run(tmp_path, hung):
    checkpoints = saving(tmp_path, on_failure="warn")
    closing = threading.Thread(target=checkpoints.close)
    closing.start()
    until(lambda: hung.left)
    hung.set()
    closing.join()
