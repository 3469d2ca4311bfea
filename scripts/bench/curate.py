# SPDX-License-Identifier: Apache-2.0
"""The pipeline killed at random: rows through all six steps, five kills, the same bytes.

    python scripts/bench/curate.py --rows 2000

A chat endpoint on this machine answers as the stub does and counts how often each request comes.
Three runs of `jaxvl curate run` over the same sets: one that nothing stops, one that SIGTERM stops
five times at random moments, one that SIGKILL does. Both have to end in the first one's bytes.
After SIGTERM no request may have come twice; SIGKILL may cost the requests that were under way.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from PIL import Image

from jaxvl.curate import stub
from jaxvl.data.tasks.vlaa import VLAA

STEPS = ("caption", "distil", "rewrite", "verify")
CONCURRENCY = 8


def write_sets(folder: Path, rows: int) -> dict[str, str]:
    """Rows of four sources: captioned, in words alone, with a rationale, and for RL alone."""

    def row(name: str, n: int) -> dict:
        turns = [f"Find the angle, {n}.\nA. 1\nB. 2", "So it is 2. Answer:B"]
        talk = [
            {"from": who, "value": said} for who, said in zip(("human", "gpt"), turns, strict=True)
        ]
        return {
            "clevr_math": {"question": f"How many, {n}?", "label": n % 10},
            "synthesis": {"question": "y?", "answer": f"${n}x$", "text_question": f"{n} times x?"},
            "arxivqa": {
                "question": f"Which one, {n}?",
                "options": ["A) up", "B) down"],
                "label": "A",
                "rationale": f"It falls by {n}.",
            },
            "geoqa170k": {"conversations": talk},
        }[name]

    paths = {}
    for place, name in enumerate(("clevr_math", "synthesis", "arxivqa", "geoqa170k")):
        home = folder / name
        home.mkdir(parents=True)
        with open(home / "rows.jsonl", "w") as file:
            for n in range(rows // 4):
                colour = (n % 256, n // 256, place)
                Image.new("RGB", (8, 8), colour).save(home / f"{n}.png")
                file.write(json.dumps({"image": f"{n}.png", **row(name, n)}) + "\n")
        paths[name] = str(home / "rows.jsonl")
    return paths


class Teacher(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counts: ClassVar[Counter] = Counter()
    lock = threading.Lock()

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            self.counts[data] += 1
        body = json.loads(data)
        ((text, reason),) = stub.answers(body["model"])([body])
        time.sleep(0.01)
        choice = {"message": {"content": text}, "finish_reason": reason}
        reply = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *request: object) -> None:
        """Whoever asked was killed."""


def command(paths: dict[str, str], url: str, out: Path) -> list[str]:
    found = [sys.executable, "-m", "jaxvl", "curate", "run", "--out", str(out), "--teacher", url]
    found += [f"--source={name}={path}" for name, path in paths.items()]
    found += ["--sft=clevr_math=150", "--rl=geoqa170k=200"]
    for step in STEPS:
        found += [f"{step}.model={step}", f"{step}.concurrency={CONCURRENCY}"]
    return found


def data_of(out: Path) -> dict[str, bytes]:
    files = [path for path in out.iterdir() if path.is_file() and path.suffix != ".sqlite"]
    return {path.name: path.read_bytes() for path in files}


def killed(run: list[str], how: signal.Signals, total: float, draw: random.Random) -> list[float]:
    """The seconds after which each of five processes was killed; then one runs to the end."""
    moments = []
    for _ in range(5):
        child = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moments.append(round(draw.uniform(1.0, max(total / 5, 2.0)), 1))
        time.sleep(moments[-1])
        child.send_signal(how)
        assert child.wait() in (128 + how, -how), child.returncode
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    server = Server(("127.0.0.1", 0), Teacher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/chat/completions"
    with tempfile.TemporaryDirectory() as folder:
        paths = write_sets(Path(folder) / "sets", given.rows)
        whole = Path(folder) / "whole"
        begun = time.monotonic()
        print(subprocess.run(command(paths, url, whole), check=True, text=True, stdout=-1).stdout)
        total = time.monotonic() - begun
        print(f"not stopped: {total:.0f} s, {len(Teacher.counts):,} requests")
        for how in (signal.SIGTERM, signal.SIGKILL):
            Teacher.counts.clear()
            out = Path(folder) / how.name
            moments = killed(command(paths, url, out), how, total, draw)
            twice = sum(count - 1 for count in Teacher.counts.values())
            same = data_of(out) == data_of(whole)
            print(f"{how.name} after {moments} s: bytes equal {same}, {twice} requests came again")
            assert same and twice <= (0 if how == signal.SIGTERM else 5 * CONCURRENCY)
        sets = {name: VLAA(str(whole / f"{name}.jsonl"), name).load() for name in ("sft", "grpo")}
        pictures = [{e.images[0] for e in loaded} for loaded in sets.values()]
        print({name: len(loaded) for name, loaded in sets.items()}, "examples, read by VLAA;",
              len(pictures[0] & pictures[1]), "pictures in both")  # fmt: skip
        assert not pictures[0] & pictures[1] and not any(s.dropped for s in sets.values())
        for path in sorted(whole.glob("*.manifest.json")):
            done = json.loads(path.read_text())
            out = sum(f["rows"] for name, f in done["out"].items() if name != "aha")
            dropped = sum(done["dropped"].values())
            print(f"{done['step']:>8}: {done['rows_in']:,} in = {out:,} out + {dropped:,} dropped")
            assert done["rows_in"] == out + dropped


if __name__ == "__main__":
    main()
