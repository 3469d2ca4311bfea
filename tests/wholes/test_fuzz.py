# SPDX-License-Identifier: Apache-2.0
"""A few inputs of every target of `scripts/bench/fuzz.py`, the same in every run of the tests."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="it makes the inputs")

SCRIPT = Path(__file__).parents[2] / "scripts/bench/fuzz.py"


@pytest.mark.parametrize(
    ("targets", "inputs"),
    [(("config", "rows", "images", "answers", "endpoint"), 25), (("checkpoints",), 3)],
)
def test_what_is_broken_is_a_message(targets, inputs):
    """In a process of its own: its limits are signals, which would end another test."""
    command = [sys.executable, str(SCRIPT), "--inputs", str(inputs), "--only", *targets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [f"{name}: {inputs} inputs, 0 with a finding" for name in targets]
    assert done.stdout.splitlines() == told
