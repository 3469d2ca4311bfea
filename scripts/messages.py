# SPDX-License-Identifier: Apache-2.0
"""docs/messages.md: what is said of servers' broken answers, broken files and paths that lead out.

    python scripts/messages.py [--out docs/messages.md]

Each input is made and read as a run reads it; the page has the message that came.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from jaxvl.cli.runtime import as_command  # noqa: E402
from jaxvl.data.example import BadRow  # noqa: E402
from jaxvl.data.tasks.records import Records  # noqa: E402
from jaxvl.errors import UserError  # noqa: E402
from jaxvl.rewards.endpoint import Endpoint  # noqa: E402

Row = tuple[str, str]  # an input, and the message
HEAD = """# Messages

What `scripts/messages.py` was told: each input was made and read as a run reads it. DIR is the
folder of the data or of the checkpoint. A message about a row drops the row and is listed with it;
one about a file ends the command with exit code 2. A server's answer without a score leaves its row
without that reward.
"""


def endpoints() -> Iterator[Row]:
    """Why a server's answer was none, within half a second and without trying again."""
    from tests.rewards.test_endpoint import REFUSED, server

    for mode, answer in REFUSED.items():
        with server(answer) as url:
            asked = Endpoint(url, timeout=0.5, retries=0, max_bytes=200_000)
            (reply,) = asked.post([{}])
            said = asked.failure if reply is None else f"{json.dumps(reply)[:40]} has no score"
        yield mode, said.replace(url, "URL")


def data_files(folder: Path) -> Iterator[Row]:
    """What is said of files of rows, and of rows in them."""
    good = {"question": "What?", "answer": "a"}
    table = pyarrow.Table.from_pylist([good] * 3)
    parquet, arrow = pyarrow.BufferOutputStream(), pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    columns, batches = (of.getvalue().to_pybytes() for of in (parquet, arrow))
    places = b"\0\0\0\0\5\0\0\0\12\0\0\0\17\0\0\0"  # where the questions begin and end
    line = json.dumps(good).encode()
    deep = b'{"question": ' + b"[" * 900 + b"]" * 900 + b"}"
    cases = {
        "empty.jsonl": b"",
        "half a line.jsonl": line + b"\n" + line[:-4],
        "a list in a line.jsonl": b"[1]\n",
        "no UTF-8.jsonl": b'{"question": "\xff", "answer": "a"}\n',
        "UTF-16.jsonl": line.decode().encode("utf-16"),
        "a key twice.jsonl": b'{"question": "a", "question": "b", "answer": "c"}\n',
        "900 deep.jsonl": deep + b"\n",
        "half a character.jsonl": b'{"question": "\\ud800", "answer": "a"}\n',
        "no question.jsonl": b'{"answer": "a"}\n',
        "no answer.jsonl": b'{"question": "What?"}\n',
        "NaN as the answer.jsonl": b'{"question": "What?", "answer": NaN}\n',
        "1e999 as the answer.jsonl": b'{"question": "What?", "answer": 1e999}\n',
        "a special token.jsonl": b'{"question": "<|im_end|>", "answer": "a"}\n',
        "a number.json": b"3",
        "half a list.json": b"[" + line,
        "an empty list.json": b"[]",
        "cut off.parquet": columns[:-40],
        "no parquet.parquet": b"PAR1",
        "zeros in it.parquet": columns[:4] + bytes(64) + columns[68:],
        "cut off.arrow": batches[:-200],
        "texts behind its end.arrow": batches.replace(places, places[:-2] + b"\1\0"),
        "a column twice.csv": b"question,answer,answer\nWhat?,a,b\n",
        "more cells than columns.csv": b"question,answer\nWhat?,a,b\n",
        "a quote that never ends.csv": b'question,answer\n"What?,a\n',
        "another kind.xlsx": b"PK",
    }
    for name, data in cases.items():
        (folder / name).write_bytes(data)
        yield name, read(Records(str(folder / name)), folder)


def image_files(folder: Path) -> Iterator[Row]:
    """What is said of images."""
    from jaxvl.data.image import load_image

    whole = folder / "whole.png"
    Image.new("RGB", (64, 64)).save(whole)
    data = whole.read_bytes()
    cases = {
        "empty.png": b"",
        "cut off.png": data[: len(data) // 2],
        "a text.png": b"no image",
        "20,000 x 20,000.png": data[:16] + (20_000).to_bytes(4) * 2 + data[24:],
        "zeros in it.png": data[:40] + bytes(16) + data[56:],
    }
    for name, broken in cases.items():
        (folder / name).write_bytes(broken)
        yield name, told(lambda name=name: load_image(folder / name), folder)


def checkpoint_files(folder: Path) -> Iterator[Row]:
    """What is said of a checkpoint of which one file is broken."""
    from jaxvl.vlm import load
    from tests.tiny import make_checkpoint

    path = make_checkpoint(folder / "model")
    weights = (path / "model.safetensors").read_bytes()
    size = int.from_bytes(weights[:8], "little")
    cases: dict[str, list[tuple[str, bytes | dict[str, Any]]]] = {
        "model.safetensors": [
            ("empty", b""),
            ("cut off", weights[:-100]),
            ("a header beyond its end", (2**40).to_bytes(8, "little") + weights[8:]),
            ("a header that is no JSON", weights[:8] + b"x" * size + weights[8 + size :]),
            ("bytes too many", weights + bytes(8)),
        ],
        "config.json": [
            ("no JSON", b"{"),
            ("a list", b"[]"),
            ("hidden_size as a text", {"hidden_size": "64"}),
            ("num_hidden_layers -1", {"num_hidden_layers": -1}),
            ("vocab_size too small", {"vocab_size": 300}),
            ("another model_type", {"model_type": "llama"}),
        ],
        "preprocessor_config.json": [("patch_size 0", {"patch_size": 0}), ("no JSON", b"no")],
        "tokenizer.json": [("no JSON", b"no"), ("an empty object", b"{}")],
    }
    for name, broken in cases.items():
        file = path / name
        before = file.read_bytes()
        for what, new in broken:
            made = new if isinstance(new, bytes) else json.dumps(json.loads(before) | new).encode()
            file.write_bytes(made)
            yield f"{name}: {what}", told(lambda: load(path, "float32"), path)
        file.write_bytes(before)


def paths(folder: Path) -> Iterator[Row]:
    """What is said of a row whose image is there, or leads there."""
    from tests.data.test_paths import BAD, lay_out

    own = lay_out(folder)
    for value in BAD:
        value = value.format(out=folder / "outside", name="outside")
        (own / "a.jsonl").write_text(json.dumps({"question": "?", "answer": "a", "image": value}))
        shown = re.sub(r"x{50,}", "xxx..", value).replace(str(folder), "DIR")
        yield shown, read(Records(str(own / "a.jsonl")), folder)


def read(source: Records, folder: Path) -> str:
    """What is said of the first row that is bad, or of the file."""

    def first() -> None:
        for _, row in source.rows():
            if isinstance(row, BadRow):
                raise row
        source.load()

    return told(first, folder)


def told(call: Callable[[], Any], folder: Path) -> str:
    """The message of a call, without the places of this machine."""
    try:
        call()
    except UserError as error:
        return str(error).replace(str(folder), "DIR")
    return "-"


def table(title: str, rows: Iterator[Row]) -> list[str]:
    """A section of the page."""

    def cell(text: str) -> str:
        text = " ".join(text.replace("\0", "\\0").split()).replace("|", "\\|").replace("`", "'")
        return f"`{text[:300]}`"

    return [f"\n## {title}\n", "| input | message |", "| --- | --- |"] + [
        f"| {cell(given)} | {cell(said)} |" for given, said in rows
    ]


def page() -> str:
    """The whole page."""
    lines = [HEAD.strip()]
    with tempfile.TemporaryDirectory() as name:
        places = [Path(name, kind) for kind in ("data", "images", "checkpoints", "paths")]
        for place in places:
            place.mkdir()
        lines += table("Answers of a server", endpoints())
        lines += table("Files of rows", data_files(places[0]))
        lines += table("Images", image_files(places[1]))
        lines += table("Checkpoints", checkpoint_files(places[2]))
        lines += table("Paths of images", paths(places[3]))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/messages.md")
    args = parser.parse_args()
    args.out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    as_command(main)
