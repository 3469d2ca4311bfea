# SPDX-License-Identifier: Apache-2.0
"""What surrounds the steps of a run, and is no part of one."""

import platform
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxvl import config
from jaxvl.checkpoints.store import Whole
from jaxvl.distributed.preemption import PreemptionHandler, Stopped
from jaxvl.train.callbacks import Callbacks
from jaxvl.train.guard import Guard
from jaxvl.train.steps import steps_after, trim


def resident():
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's malloc")
def test_what_malloc_holds_and_nobody_uses_goes_back_to_the_system():
    """Of blocks too small for maps of their own three of four are freed: by themselves the holes
    between the others stay."""
    blocks = [np.ones(2**13) for _ in range(2000)]  # 125 MiB
    kept = blocks[::4]
    del blocks
    before = resident()
    trim()
    assert resident() < before - 60
    assert all(block[0] == 1 for block in kept)


def test_a_signal_in_the_last_step_ends_the_run_when_that_is_saved(tmp_path, capsys):
    """And not after its evaluation and export, which may take longer than the machine stays."""
    cfg = config.load("configs/quickstart.py", [f"run.dir={tmp_path}", "run.steps=2"])
    calls, whole = [], Whole(0, {}, {})

    def kept(of):
        calls.append(of.step)

    checkpoints = SimpleNamespace(
        check=lambda: None, keep=kept, close=lambda: calls.append("closed")
    )
    stop, callbacks = PreemptionHandler(), Callbacks([], tmp_path)
    with (
        pytest.raises(Stopped) as stopped,
        steps_after(whole, cfg, Guard(3, None), checkpoints, stop, callbacks) as steps,
    ):
        stop.hold()
        for step in steps:
            whole.step = step
            if step == 2:
                stop._handle(signal.SIGTERM)
            steps.done(step, {"loss": 0.0}, [])
    assert stopped.value.code == 143 and calls == [2, "closed"]
    assert "step 2 is saved; the same command goes on from there" in capsys.readouterr().err
