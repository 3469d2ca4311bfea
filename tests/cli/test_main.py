# SPDX-License-Identifier: Apache-2.0
"""The command line: a user's mistake is one message and exit code 2."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from jaxvl.checkpoints.convert import stored_dtype
from jaxvl.cli.main import app

ROOT = Path(__file__).parents[2]
BASE = "configs/quickstart_base"


def jaxvl(*args):
    command = [sys.executable, "-m", "jaxvl", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_lists_the_commands():
    done = jaxvl("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("grpo", "sft", "generate", "convert", "report"))


# Threads that are in C++, and come back to Python, at any moment of the process's end.
BUSY = """
import sys, threading
from jaxvl.cli.runtime import run_and_leave

def command():
    import atexit
    import numpy as np
    import tensorstore as ts
    atexit.register(print, "goodbye")
    spec = {"driver": "zarr", "kvstore": {"driver": "memory"}}
    array = ts.open(spec, create=True, dtype=ts.float32, shape=[64, 64]).result()
    def read():
        while True:
            array.read().result()
    for _ in range(8):
        threading.Thread(target=read, daemon=True).start()
    print("done")
    ENDS

run_and_leave(command)
"""


@pytest.mark.parametrize(
    ("ends", "code"),
    [("return", 0), ("sys.exit(143)", 143), ("sys.exit('why')", 1), ("1 / 0", 1)],
)
def test_a_process_ends_with_its_code_whatever_libraries_threads_do(ends, code):
    program = [sys.executable, "-c", BUSY.replace("ENDS", ends)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "done\ngoodbye\n"), done.stderr
    assert ("ZeroDivisionError" in done.stderr) == ("1 / 0" in ends)
    assert ("why" in done.stderr) == ("why" in ends)


# Threads that allocate at the same time, and how many arenas malloc has then.
ARENAS = """
import ctypes, sys, threading
import jaxvl.__main__ as entry

def main():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    all_here = threading.Barrier(6)
    def allocate():
        held = libc.malloc(5000)
        all_here.wait()
        libc.free(held)
    threads = [threading.Thread(target=allocate) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    file = libc.fopen(b"/dev/stdout", b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)

entry.main = main
entry.command()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc's")
@pytest.mark.parametrize(
    ("said", "one"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)], ids=["ours", "the user's"]
)
def test_all_threads_allocate_from_one_arena_unless_the_user_says_otherwise(said, one):
    env = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"} | said
    program = [sys.executable, "-c", ARENAS]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("<heap nr=") == 1) == one, done.stdout


LATE = """
import asyncio, sys
from jaxvl.cli.runtime import run_and_leave

class Waits:
    def __init__(self, loop): self.loop = loop
    def __del__(self): self.loop.call_soon_threadsafe(print)

class Other:
    def __del__(self): 1 / 0

def command():
    loop = asyncio.new_event_loop()
    loop.close()
    for one in (Waits(loop), Other()):
        del one

run_and_leave(command)
"""


def test_what_threads_tell_a_loop_that_has_left_is_not_told():
    """Dozens of tracebacks around the one message of a full disk; any other is."""
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "ZeroDivisionError" in done.stderr
    assert "Event loop is closed" not in done.stderr


@pytest.mark.parametrize(
    "args, message",
    [
        (["grpo", "configs/none.py"], "no config file at configs/none.py"),
        (["grpo", "configs/quickstart.py", "grop.group=4"], "did you mean `grpo`"),
        (["grpo", "configs/quickstart.py", "grpo.group=four"], "grpo.group"),
        (["generate", "--model", "/nowhere", "--prompt", "x"], "/nowhere: neither a directory"),
        (["generate", "--model=x", "--prompt=x", "--plain", "--system=x"], "no place for --system"),
        (["generate", f"--model={BASE}", "--prompt=x", "--image=https://x.test/a"], "behind a URL"),
        (["convert", "/nowhere", "out"], "/nowhere: neither a directory"),
        (["convert", BASE, "configs"], "configs exists and is not an empty"),
        (["convert", "README.md", "out"], "README.md is a file; expected the directory"),
        (["report", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_messages(args, message):
    done = jaxvl(*args)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def run(*args):
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_evaluation(number, tmp_path):
    """With one line, though jax calls back where a KeyboardInterrupt would be lost."""
    words = ["--model=configs/quickstart_base", "--tasks=smoke", "--n=200", "--temperature=1"]
    with subprocess.Popen(
        [sys.executable, "-m", "jaxvl", "eval", "run", *words, f"--out={tmp_path / 'out'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as asked:
        while "replies" not in asked.stdout.readline():
            assert asked.poll() is None
        asked.send_signal(number)
        _, said = asked.communicate(timeout=120)
    assert asked.returncode == 128 + number
    assert f"{number.name}: the run ends at once" in said and "Traceback" not in said


def test_generate_answers_in_a_process_of_its_own(tmp_path):
    Image.new("RGB", (112, 112), "red").save(tmp_path / "red.png")
    done = jaxvl(
        "generate",
        "--model=configs/quickstart_base",
        f"--image={tmp_path / 'red.png'}",
        "--prompt=Where is the red ball?",
        "--max-new-tokens=4",
        "--dtype=float32",
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stdout.strip()


def test_generate_writes_what_the_model_answers(tiny_path, vlm, pictures, tmp_path):
    """Several answers are drawn as `VLM.generate` draws them."""
    pictures[0].save(tmp_path / "red.png")
    sizes = ("--n=3", "--max-new-tokens=20", "--seed=1", "--dtype=float32")
    options = ("--prompt=Which?", "--system=Look!", f"--image={tmp_path / 'red.png'}")
    found = run("generate", f"--model={tiny_path}", *options, *sizes)
    parts = [{"type": "image"}, {"type": "text", "text": "Which?"}]
    messages = [{"role": "system", "content": "Look!"}, {"role": "user", "content": parts}]
    answers = vlm.generate([messages], [pictures[:1]], n=3, max_new_tokens=20, seed=1)[0]
    assert len({answer.text for answer in answers}) == 3
    numbered = (f"[{i}] {answer.text}\n" for i, answer in enumerate(answers, start=1))
    assert found == "".join(numbered)


def test_one_answer_is_greedy_and_plain_is_without_a_template(tiny_path, vlm):
    sizes = ("--max-new-tokens=6", "--dtype=float32")
    found = run("generate", f"--model={tiny_path}", "--prompt=Which", "--plain", *sizes)
    (answer,) = vlm.generate(["Which"], max_new_tokens=6, temperature=0.0)[0]
    assert found == answer.text + "\n"


def test_convert_writes_a_checkpoint(tiny_path, tmp_path):
    assert run("convert", tiny_path, tmp_path / "out") == f"{tmp_path / 'out'}\n"
    assert stored_dtype(tmp_path / "out") == "float32"
    run("convert", tiny_path, tmp_path / "small", "--dtype=bfloat16")
    assert stored_dtype(tmp_path / "small") == "bfloat16"
