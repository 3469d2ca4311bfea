# SPDX-License-Identifier: Apache-2.0
"""The command line: a user's mistake is one message and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


def jaxvl(*args):
    command = [sys.executable, "-m", "jaxvl", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_lists_the_commands():
    done = jaxvl("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("grpo", "sft", "generate", "report"))


@pytest.mark.parametrize(
    "args, message",
    [
        (["grpo", "configs/none.py"], "no config file at configs/none.py"),
        (["grpo", "configs/quickstart.py", "grop.group=4"], "did you mean `grpo`"),
        (["grpo", "configs/quickstart.py", "grpo.group=four"], "grpo.group"),
        (["generate", "--model", "/nowhere", "--prompt", "x"], "/nowhere: neither a directory"),
        (["report", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_messages(args, message):
    done = jaxvl(*args)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_generate_answers(tmp_path):
    Image.new("RGB", (112, 112), "red").save(tmp_path / "red.png")
    done = jaxvl(
        "generate",
        "--model=configs/quickstart_base",
        f"--image={tmp_path / 'red.png'}",
        "--prompt=Where is the red ball?",
        "--n=2",
        "--max-new-tokens=4",
        "--dtype=float32",
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
