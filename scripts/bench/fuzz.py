# SPDX-License-Identifier: Apache-2.0
"""Broken and made-up inputs of everything that is read: no error but a UserError, no hang, no
blow-up of memory.

    python scripts/bench/fuzz.py [--seconds 600 | --inputs N] [--only config rows ..] [--seed 0]

Inputs come from hypothesis, which makes a failing one small: made-up values, and files of every
format with some of their bytes changed, cut out or repeated. Each target has its time. What is
found is printed with the input. Limits are signals and the memory of the whole process, so
nothing else runs in it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from jaxvl.cli.runtime import as_command  # noqa: E402
from jaxvl.errors import UserError  # noqa: E402

HANG = 20  # seconds of processor time that one input may take
SLEEP = 300  # seconds on the clock, on however busy a machine
MEMORY = 2 << 30  # bytes by which one input may raise the most that the process has had

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
EDIT = st.tuples(
    st.floats(0, 1), st.sampled_from(["set", "cut", "insert", "repeat"]), st.binary(max_size=8)
)
EDITS = st.lists(EDIT, min_size=1, max_size=6)


Target = tuple[Callable[..., None], tuple[Any, ...]]  # what is done with an input, and its parts


class Hang(Exception):
    """An input took too long."""


def changed(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """`data` with bytes set, cut out, put in or repeated at some places."""
    for where, what, piece in edits:
        at = int(where * len(data))
        end = at + len(piece)
        if what == "set":
            data = data[:at] + piece + data[end:]
        elif what == "cut":
            data = data[:at] + data[at + 2 ** len(piece) :]
        elif what == "insert":
            data = data[:at] + piece + data[at:]
        else:
            data = data[:end] + data[at:]
    return data


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A UserError is an answer; what takes too long or too much memory is none."""

    def late(number: int, frame: Any) -> None:
        raise Hang(f"more than {HANG} s of processor time, or {SLEEP} s on the clock")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = [signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_REAL, SLEEP)
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        with contextlib.suppress(UserError):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), old, strict=True):
            signal.signal(number, handler)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > MEMORY:
        raise MemoryError(f"{grown >> 20} MiB more")


def config(folder: Path) -> Target:
    """Overrides of a config's fields, and files that are no config."""
    from jaxvl.config import load
    from jaxvl.config.fields import to_json
    from jaxvl.config.overrides import set_field

    base = load(ROOT / "configs/quickstart.py")
    names: list[str] = []

    def collect(value: Any, prefix: str) -> None:
        names.append(prefix)
        if isinstance(value, dict):
            for name, inner in value.items():
                collect(inner, f"{prefix}.{name}".lstrip("."))

    collect(to_json(base), "")
    value = JSON.map(repr) | JSON.map(json.dumps) | st.text(max_size=40)
    # Only what is no code is changed: a config is a program, and is run.
    text = (ROOT / "configs/quickstart.py").read_bytes()

    def check(name: str, value: str, edits: list) -> None:
        with bounded():
            set_field(base, f"{name}={value}")
        with bounded():
            set_field(base, value)
        file = folder / "broken.py"
        file.write_bytes(b"config = (\n" + changed(text, edits))  # never closed as it should be
        with bounded():
            load(file)

    return check, (st.sampled_from(names) | st.text(max_size=12), value, EDITS)


def rows(folder: Path) -> Target:
    """Rows of every reader: made-up objects, and changed files of every format."""
    import pyarrow
    import pyarrow.parquet

    from jaxvl.data import files
    from jaxvl.data.example import BadRow
    from jaxvl.data.tasks.records import Records
    from jaxvl.data.tasks.sat import SAT
    from jaxvl.data.tasks.vlaa import VLAA
    from jaxvl.eval.scoring import formats

    good = {"question": "What?", "answer": "a", "choices": ["a", "b"], "id": "1"}
    good |= {"image": "", "gt": "A", "verifier_type": "mcq", "correct_answer": "a"}
    good |= {"answers": ["a", "b"], "images": ["x.png"]}
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a"}]
    table = pyarrow.Table.from_pylist([{"question": "What?", "answer": "a"}] * 3)
    parquet, arrow, cells = io.BytesIO(), io.BytesIO(), io.StringIO()
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    csv.writer(cells).writerows([["question", "answer"], ['say "x"', "a,b"], ["What?\nNow", "1"]])
    lines = (json.dumps(good) + "\n").encode() * 2
    whole = {"a.jsonl": lines, "a.json": json.dumps([good, good]).encode()}
    whole |= {"a.parquet": parquet.getvalue(), "a.arrow": arrow.getvalue()}
    whole |= {"a.csv": cells.getvalue().encode(), "a.tsv": b"question\tanswer\nWhat?\ta\n"}
    fields = st.dictionaries(st.sampled_from([*good, "messages", "solution"]), JSON, max_size=4)

    def every(source: Any) -> None:
        with bounded():
            for _, row in source.rows():
                if isinstance(row, BadRow):
                    str(row)

    def check(some: dict, name: str, edits: list) -> None:
        if some.get("messages"):
            some["messages"] = [*turns, some["messages"]]
        file = folder / "VLAA-Thinking-GRPO-25K.json"
        file.write_text(json.dumps([good | some], allow_nan=True))
        for source in (Records(str(file)), Records(str(file), conversation="messages")):
            every(source)
        every(SAT(str(file)))
        every(VLAA(str(file)))
        with bounded():
            for row in formats.rows([file], folder):
                if not isinstance(row, BadRow):
                    for read in (row.text, row.word, row.picture, row.choices):
                        with contextlib.suppress(UserError):
                            read("question", "choices", "images")
        file = folder / name
        file.write_bytes(changed(whole[name], edits))
        every(Records(str(file)))
        with bounded():
            list(files.read([file]))
        file.unlink()

    return check, (fields, st.sampled_from(list(whole)), EDITS)


def images(folder: Path) -> Target:
    """Changed image files, and sizes that are none."""
    import numpy as np
    from PIL import Image

    from jaxvl.data.image import ImageSettings, load_image, pixel_patches, smart_resize

    rng = np.random.default_rng(0)
    whole = []
    for kind, mode in (("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "CMYK"),
                       ("JPEG", "RGB"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"),
                       ("TIFF", "RGB"), ("TIFF", "F"), ("PPM", "L")):  # fmt: skip
        pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
        data = io.BytesIO()
        image.save(data, kind)
        whole.append(data.getvalue())
    small = ImageSettings(min_pixels=28 * 28, max_pixels=56 * 56)

    def check(data: bytes, edits: list, noise: bytes, text: str, height: int, width: int) -> None:
        with bounded():
            pixel_patches(changed(data, edits), small)
        for given_ in (noise, text, f"data:{text}", f"data:image/png;base64,{text}"):
            with bounded():
                load_image(given_)
        with bounded():
            smart_resize(height, width, 28, 28 * 28, 56 * 56)

    return check, (
        st.sampled_from(whole),
        EDITS,
        st.binary(max_size=64),
        st.text(max_size=40),
        st.integers(-2, 10**9),
        st.integers(-2, 10**9),
    )


def checkpoints(folder: Path) -> Target:
    """Changed files of a Hugging Face checkpoint, and of a run's checkpoint."""
    from jaxvl.checkpoints import manifest
    from jaxvl.vlm import load
    from tests.tiny import make_checkpoint

    whole = make_checkpoint(folder / "whole")
    names = [file.name for file in whole.iterdir() if file.is_file()]
    run = folder / "run/3"
    (run / manifest.ITEM).mkdir(parents=True)
    said = {"step": 3, "data": "0", "leaves": {"w": [[2], "float32", "00"]}}
    said["sha256"] = manifest.checksum(said)
    (run / manifest.ITEM / "metadata").write_text(json.dumps(said))
    (run / "_CHECKPOINT_METADATA").write_text(json.dumps({"item_handlers": {"manifest": 1}}))
    manifest.list_files(run)
    notes = [manifest.FILES, "manifest/metadata", "_CHECKPOINT_METADATA"]
    other = folder / "other"
    shutil.copytree(whole, other)

    def check(name: str, edits: list, note: str, noted: list, value: Any) -> None:
        data = (whole / name).read_bytes()
        try:
            (other / name).write_bytes(changed(data, edits))
            with bounded():
                load(other, "float32")
            if name == "config.json":
                field = sorted(json.loads(data))[len(edits) % len(json.loads(data))]
                (other / name).write_text(json.dumps(json.loads(data) | {field: value}))
                with bounded():
                    load(other, "float32")
        finally:  # a finding leaves nothing to the next input
            (other / name).write_bytes(data)
        data = (run / note).read_bytes()
        for broken in (changed(data, noted), json.dumps(value).encode()):
            (run / note).write_bytes(broken)
            with bounded():
                manifest.read(run)
        (run / note).write_bytes(data)

    return check, (st.sampled_from(names), EDITS, st.sampled_from(notes), EDITS, JSON)


def answers(folder: Path) -> Target:
    """Completions and golds of every kind and mode."""
    from jaxvl.rewards import verify
    from jaxvl.rewards.verdict import KINDS, MODES

    pieces = ["<answer>", "</answer>", "<think>", "</think>", "\\boxed{", "}", "{", "\\frac", "^",
              "$", "**", "answer is", "(A)", "B.", "1,000", "1e999", "-", "%", "\\sqrt", "[0, 1",
              "]", ",", "½", "\u202e", "\0", "and", "x=", "NaN", "ten", "²", "٣"]  # fmt: skip
    text = st.lists(st.sampled_from(pieces) | st.text(max_size=6), max_size=14).map("".join)
    long = st.tuples(st.sampled_from(pieces) | st.text(max_size=3), st.integers(1, 20_000)).map(
        lambda of: of[0] * of[1]
    )
    choices = st.none() | st.lists(st.text(max_size=8), max_size=5)

    def check(kind: str, said: str, gold: Any, choices: Any, mode: str) -> None:
        for completion in (said, f"<answer>{said}</answer>"):
            with bounded():
                verdict = verify(kind, completion, gold, choices, mode)
                assert 0.0 <= verdict.reward <= 1.0

    return check, (
        st.sampled_from(sorted(KINDS)),
        text | long,
        text | JSON,
        choices,
        st.sampled_from(MODES),
    )


def endpoint(folder: Path) -> Target:
    """What a server may answer: statuses, headers, broken, deep and made-up JSON."""
    import httpx2

    from jaxvl.rewards import judge
    from jaxvl.rewards.endpoint import Endpoint, chat_reply, retry_after

    good = {"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1}, "score": 1.5}  # fmt: skip
    whole = json.dumps(good).encode()
    body = EDITS.map(lambda edits: changed(whole, edits)) | st.binary(max_size=80)
    body |= JSON.map(lambda value: json.dumps({**good, "usage": value, "score": value}).encode())
    body |= JSON.map(lambda value: json.dumps({**good, "choices": value}).encode())
    body |= st.integers(1, 3000).map(lambda deep: b"[" * deep)
    content = st.text(max_size=30) | JSON
    date = st.text(max_size=30) | st.from_regex(
        r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,12} \d{1,3}:\d{1,3}:\d{1,3} [-+A-Z0-9]{1,8}"
    )

    def check(status: int, data: bytes, date: str, content: Any) -> None:
        def answer(request: Any) -> Any:
            return httpx2.Response(status, content=data)

        asked = Endpoint("http://localhost/v1", retries=0, backoff=0.0)
        plain = httpx2.AsyncClient

        def client(**how: Any) -> Any:
            return plain(transport=httpx2.MockTransport(answer), **how)

        httpx2.AsyncClient = client
        try:
            for scorer in (
                judge.graded(asked, "m"),
                judge.ChatJudge(asked, "m"),
                judge.RewardEndpoint(asked),
            ):
                with bounded():
                    scorer([[]], ["question"], ["answer"])
        finally:
            httpx2.AsyncClient = plain
        with bounded():
            assert 0 <= retry_after(date)
        with bounded():
            message = {"content": content, "reasoning_content": content}
            chat_reply({"choices": [{"message": message}]})
            chat_reply({"choices": content})
        for parse in (judge.yes_or_no, judge.grade):
            if isinstance(content, str):
                with bounded():
                    parse(content)

    return check, (st.sampled_from([200, 200, 200, 204, 301, 400, 429, 500]), body, date, content)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "config": config,
    "rows": rows,
    "images": images,
    "checkpoints": checkpoints,
    "answers": answers,
    "endpoint": endpoint,
}


def fuzz(name: str, folder: Path, seconds: float, most: int | None, number: int) -> tuple[int, int]:
    """How many inputs a target has had, and how many of their batches found something, which is
    printed: as many as its time allows, or `most`."""
    (check, parts), found, inputs = TARGETS[name](folder), 0, 0
    ends, batch = time.monotonic() + seconds, 100 if most is None else most
    while inputs < most if most is not None else time.monotonic() < ends:
        phases = (Phase.generate, Phase.shrink)
        how = settings(max_examples=batch, deadline=None, database=None, phases=phases,
                       suppress_health_check=list(HealthCheck))  # fmt: skip
        try:
            seed(number + inputs)(how(given(*parts)(check)))()
        except Exception:
            found += 1
            print(f"{name}: {traceback.format_exc(limit=-6)}", flush=True)
        inputs += batch
    return inputs, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--inputs", type=int, help="of each target, whatever time they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    args = parser.parse_args()
    results = {}
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="jaxvl-fuzz-") as folder:
            results[name] = fuzz(name, Path(folder), args.seconds, args.inputs, args.seed)
        print(f"{name}: {results[name][0]} inputs, {results[name][1]} with a finding", flush=True)
    if any(found for _, found in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    as_command(main)
