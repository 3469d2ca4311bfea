# SPDX-License-Identifier: Apache-2.0
"""The pipeline killed at random: rows through all six steps, five kills, the same bytes.

    python scripts/bench/curate.py --rows 2000 [--engine ray --workers 2] [--mathvision DIR]

A chat endpoint on this machine answers as the stub does and counts how often each request comes.
Runs of `jaxvl curate run` over the same sets: one in one process that nothing stops, and, on the
engine that is named, one that SIGTERM stops five times at random moments, one that SIGKILL does,
and one of which the server fails, stalls or answers garbage one time in ten. All have to end in the
first one's bytes. After SIGTERM no request may have come twice; SIGKILL may cost the requests that
were under way. 40 of MathVision's rows (DIR has test.jsonl and images/) go through `caption` and
`verify`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
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

from jaxvl.cli.runtime import as_command
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
    lock, draw, bad = threading.Lock(), random.Random(0), 0.0

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            self.counts[data] += 1
            fault = self.draw.random() < self.bad and self.draw.choice(FAULTS)
        if fault:
            return fault(self)
        body = json.loads(data)
        ((text, reason),) = stub.answers(body["model"])([body])
        time.sleep(0.01)
        choice = {"message": {"content": text}, "finish_reason": reason}
        self.reply(200, json.dumps({"choices": [choice]}).encode())

    def reply(self, status: int, reply: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: object) -> None:
        pass


FAULTS = (
    lambda handler: handler.reply(500, b"oops"),
    lambda handler: handler.reply(429, b""),
    lambda handler: handler.reply(200, b'{"choices": ['),
    lambda handler: handler.reply(200, b'{"choices": "none"}'),
    lambda handler: handler.reply(200, b"[" * 100_000),
    lambda handler: handler.wfile.write(b"no HTTP"),
    lambda handler: time.sleep(6),  # and hangs up
)


class Server(ThreadingHTTPServer):
    def handle_error(self, *request: object) -> None:
        """Whoever asked was killed."""


def command(paths: dict[str, str], url: str, out: Path, *words: str) -> list[str]:
    found = [sys.executable, "-m", "jaxvl", "curate", "run", "--out", str(out), "--teacher", url]
    found += [f"--source={name}={path}" for name, path in paths.items()]
    found += ["--sft=clevr_math=150", "--rl=geoqa170k=200"]
    for step in STEPS:
        found += [f"{step}.model={step}", f"{step}.concurrency={CONCURRENCY}"]
        found += [f"{step}.timeout=5", f"{step}.backoff=0.1", f"{step}.retries=6"]
    return [*found, *words]


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


def mathvision(folder: Path, out: Path, url: str, engine: tuple[str, ...]) -> None:
    """Its first 40 rows: read, captioned, and verified with the gold answer as the reply."""
    lines = (folder / "test.jsonl").read_text().splitlines()[:40]
    source = out / "sets" / "test.jsonl"
    (source.parent / "images").mkdir(parents=True)
    source.write_text("\n".join(lines) + "\n")
    for image in {json.loads(line)["image"] for line in lines}:
        shutil.copy(folder / image, source.parent / image)
    names = [out / f"{number}.jsonl" for number in range(4)]
    jaxvl = [sys.executable, "-m", "jaxvl", "curate"]
    first = [f"--source=mathvision={source}", "--kind=mathvision=math", "--all-questions"]
    subprocess.run([*jaxvl, "metadata", *first, "--out", str(names[0])], check=True)
    asking = [f"--teacher={url}", *engine]
    words = [str(names[0]), "--out", str(names[1]), "--model=caption", *asking]
    subprocess.run([*jaxvl, "caption", *words], check=True)
    rows = [json.loads(line) for line in names[1].read_text().splitlines()]
    for row in rows:
        row["answer"] = f"<think>So it is.</think>\n\n{row['gt']}"
    names[2].write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [str(names[2]), "--out", str(names[3]), "--model=verify", *asking]
    subprocess.run([*jaxvl, "verify", *words], check=True)
    assert len(rows) == len(lines) and all(row["caption"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--mathvision", type=Path)
    given = parser.parse_args()
    engine = (f"--engine={given.engine}", f"--workers={given.workers}")
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
            moments = killed(command(paths, url, out, *engine), how, total, draw)
            twice = sum(count - 1 for count in Teacher.counts.values())
            same = data_of(out) == data_of(whole)
            print(f"{how.name} after {moments} s: bytes equal {same}, {twice} requests came again")
            assert same and twice <= (0 if how == signal.SIGTERM else 5 * CONCURRENCY)
        Teacher.counts.clear()
        Teacher.bad, out = 0.1, Path(folder) / "bad"
        runs = 1  # a request that was answered with garbage in every try ends a run
        asked = command(paths, url, out, *engine)
        while subprocess.run(asked, check=False, stdout=subprocess.DEVNULL).returncode:
            runs += 1
            assert runs < 9
        again = Teacher.counts.total() - len(Teacher.counts)
        same = data_of(out) == data_of(whole)
        print(f"a bad server: bytes equal {same} after {runs} runs, {again} tries again")
        assert same
        Teacher.bad = 0.0
        if given.mathvision:
            mathvision(given.mathvision, Path(folder) / "mathvision", url, engine)
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
    as_command(main)
