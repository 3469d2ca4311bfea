# SPDX-License-Identifier: Apache-2.0
"""The benches of docs/performance.md run to their end at their smallest sizes and write tables:
they call what a run calls, and break unseen where nothing starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENV = {
    "PYTHONPATH": str(ROOT),
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    # Two devices, not the eight of the other tests, over which two prompts cannot be split.
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "").replace("device_count=8", "device_count=2"),
}
SMALL = ["--group", "2", "--new-tokens", "4", "--image-size", "56", "--pairs", "1"]
DECODING = ["--shape", "1m", "--group", "2", "--tokens", "16", "--image-size", "56", "--runs", "1"]
# Of each bench its smallest size.
BENCHES = {
    "grpo_step": [*SMALL, "--shape", "1m", "--prompts", "2"],
    "generate": [*SMALL, "--shapes", "1m", "--completions", "4"],
    "eval": "--shapes 1m --prompts 6 --new-tokens 4 --batches 4 --pairs 1".split()
    + "--rotations 2 --side 224".split(),
    "shared_prompts": "--layers 1 --prompts 8 --questions 4 --patches 256".split(),
    "update": "--shape 1m --groups 2 --prompts 1 --tokens 32 --rounds 1 --new-tokens 8".split()
    + ["--image-size", "56"],
    "slots": [*DECODING, "--completions", "8", "--slots", "4", "--new-tokens", "8"],
    "decode_roofline": [*DECODING, "--slots", "4", "--new-tokens", "4"],
    "compiles": "--steps 3 --images 12 --new-tokens 4 --side 84".split(),
    "load": ["--shape", "1m"],
    "pipeline": "--images 8 --repeats 1 --workers 0".split(),
    "host": "--prompts 8 --height 56 --width 56 --repeats 1".split(),
    "rewards": "--verdicts 20 --completions 12 --workers 1".split(),
}


@pytest.mark.parametrize("name", BENCHES)
def test_runs_to_its_end(name, tmp_path):
    if name == "eval":
        pytest.importorskip("torch", reason="the other side is transformers")
    if name == "shared_prompts":
        pytest.importorskip("libtpu", reason="it compiles for a TPU")
    table = tmp_path / "table.json"
    command = [sys.executable, f"scripts/bench/{name}.py", *BENCHES[name], "--out", str(table)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(table.read_text())["rows"]
    assert any(isinstance(cell, float) and cell > 0 for row in rows for cell in row.values())


@pytest.mark.parametrize(
    "name, words, said",
    [
        ("update", ["--groups", "0"], "argument --groups: '0': expected a whole number, 1 or more"),
        ("generate", ["--completions", "3"], "--completions 3 is no multiple of --group 8"),
        ("decode_roofline", ["--slots", "5"], "--slots 5 is no multiple of --group 8"),
        ("host", ["--prompts", "5"], "--prompts 5 is no multiple of 8"),
        ("load", ["--path", "configs"], "no .safetensors there"),
        ("shared_prompts", ["--prompts", "6"], "--prompts 6 is no multiple of --questions 4"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(name, words, said):
    command = [sys.executable, f"scripts/bench/{name}.py", *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENV, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
