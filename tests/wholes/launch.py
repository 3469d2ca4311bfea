# SPDX-License-Identifier: Apache-2.0
"""Launching a config of configs/ through the command line, own questions, and a scorer on this
machine."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxvl.cli import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def command(path: Path) -> str:
    """The command that a config is for."""
    return "sft" if "-> SFTConfig" in path.read_text() else "grpo"


def launch(*words, child=False, folder=ROOT):
    """Run `jaxvl WORDS` in `folder`, in a process of its own or in this one, which has jax and
    the programs that it compiled. Prints what was launched, and shows on failure what that said."""
    words = [str(word) for word in words]
    print("jaxvl", *words, flush=True)
    if child:
        done = subprocess.run(
            [sys.executable, "-m", "jaxvl", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return
    argv, sys.argv = sys.argv, ["jaxvl", *words]
    try:
        with contextlib.chdir(folder), pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        sys.argv = argv
    assert ended.value.code in (0, None), f"jaxvl {' '.join(words)} ended with {ended.value.code}"


class Scorer(http.server.BaseHTTPRequestHandler):
    """A reward model: likes long answers, and says what it was asked in `server.asked`."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        reply = json.dumps({"score": 0.1 * len(body["answer"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words):
        pass


@contextlib.contextmanager
def scorer():
    """Its address, and a list that fills with what it is asked."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scorer)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_questions(folder: Path) -> Path:
    """Own questions as JSON lines: with choices and without, pictures named, a column more."""
    from tests.data.published import picture

    rows = []
    for number in range(12):
        (folder / f"{number}.png").write_bytes(picture(number, form="PNG"))
        row = {"question": f"How many lamps are in room {number}?", "answer": str(number)}
        if number % 3 == 0:
            row = {"question": f"Is room {number} bright?", "answer": "yes"}
            row["choices"] = ["yes", "no"]
        rows.append(row | {"image": f"{number}.png", "floor": number // 4})
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
