# SPDX-License-Identifier: Apache-2.0
"""Which files hold a split, in a folder and on a stand-in for the Hugging Face hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from jaxvl.data.hub import choose, find
from jaxvl.errors import UserError
from tests.data.published import SAT_ROWS, write_sat_v2

ROOT = Path(__file__).parents[2]
SAT = ["SAT_static.parquet", "SAT_test.parquet", "SAT_train.parquet", "SAT_train.csv", "a.png"]
V2 = [
    "data/static-0.parquet",
    "data/test-0.parquet",
    "data/train-1.parquet",
    "data/train-0.parquet",
]
CARD = """---
license: mit
configs:
- config_name: easy
  data_files:
  - split: train
    path: ["x/*.parquet", "y/b.parquet"]
- config_name: default
  data_files: "z/*.parquet"
---
"""


@pytest.mark.parametrize(
    ("names", "split", "subset", "chosen"),
    [
        (SAT, "train", "", ["SAT_train.parquet"]),
        (SAT, "static", "", ["SAT_static.parquet"]),
        (V2, "train", "", ["data/train-0.parquet", "data/train-1.parquet"]),
        (V2, "static", "", ["data/static-0.parquet"]),
        (["a.jsonl", "b.jsonl", "dataset_info.json"], "train", "", ["a.jsonl", "b.jsonl"]),
        (["validation/a.json", "train/a.json"], "val", "", ["validation/a.json"]),
        (["depth/val-0.parquet", "count/val-0.parquet"], "val", "depth", ["depth/val-0.parquet"]),
        (V2, "", "", sorted(V2)),
    ],
)
def test_the_files_of_a_split(names, split, subset, chosen):
    assert choose(names, "", split, subset, "here") == chosen


@pytest.mark.parametrize(
    ("subset", "chosen"),
    [("easy", ["x/a.parquet", "y/b.parquet"]), ("", ["z/train.parquet"])],
)
def test_the_card_says_which(subset, chosen):
    names = ["x/a.parquet", "y/a.parquet", "y/b.parquet", "z/train.parquet"]
    assert choose(names, CARD, "train", subset, "here") == chosen


@pytest.mark.parametrize("card", ["", "---\n: [\n---\n", "---\nconfigs: 3\n---\n", "---\n3\n---\n"])
def test_a_card_without_files_or_sense_leaves_it_to_the_names(card):
    assert choose(["train.jsonl", "test.jsonl"], card, "train", "", "here") == ["train.jsonl"]


def test_no_file_of_the_split_is_an_error_that_lists_what_is_there(tmp_path):
    with pytest.raises(UserError, match="no files of the split `val`; found data/static-0.parquet"):
        choose(V2, "", "val", "", "here")
    with pytest.raises(UserError, match="no file or folder .*; expected a file of rows, a folder"):
        find(tmp_path / "nothing")
    with pytest.raises(UserError, match="no file or folder https://x.test/a.jsonl; nothing is fet"):
        find("https://x.test/a.jsonl")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="expected a file of rows"):
        find(tmp_path / "a.txt")
    with pytest.raises(UserError, match="expected hf://datasets/OWNER/NAME"):
        find("hf://models/x/y")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as reading a dataset takes."""

    sha = "0" * 39 + "1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(path)
        root = self.server.root
        names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
        repo = "/api/datasets/me/rooms"
        if path.startswith(f"{repo}/tree/"):
            files = [
                {"type": "file", "path": n, "size": (root / n).stat().st_size, "oid": "0" * 40}
                for n in names
            ]
            self.answer(json.dumps(files).encode(), "application/json")
        elif path.startswith(f"{repo}/revision/") or path == repo:
            info = {
                "id": "me/rooms",
                "sha": self.sha,
                "siblings": [{"rfilename": n} for n in names],
            }
            self.answer(json.dumps(info).encode(), "application/json")
        elif path.startswith(f"/datasets/me/rooms/resolve/{self.sha}/") or path.startswith(
            "/datasets/me/rooms/resolve/main/"
        ):
            file = root / path.split("/", 6)[6]
            self.answer(file.read_bytes(), "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, data, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.sha)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.asked = write_sat_v2(tmp_path / "hub", copies=2), []
    (server.root / "data" / "test-0.parquet").write_bytes(b"not asked for")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub, tmp_path, code, offline="0"):
    """Runs `code` in a process that takes the stand-in for the hub."""
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": offline}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip(), done.stderr


def test_a_dataset_of_the_hub_is_fetched_once_and_only_its_split(hub, tmp_path):
    code = (
        "from jaxvl.data.tasks.sat import SAT\n"
        "rows = SAT('hf://datasets/me/rooms', single_image=False).load()\n"
        "print([(e.question, len(e.images)) for e in rows])"
    )
    out, error = load(hub, tmp_path, code)
    expected = [(row["question"], row["pictures"]) for row in SAT_ROWS * 2]
    assert out == str(expected), error
    read = [path for path in hub.asked if "resolve" in path]
    assert any("train-00001" in path for path in read) and not any("test-0" in p for p in read)
    out, error = load(hub, tmp_path, code, offline="1")
    assert out == str(expected), error  # what the cache has


def test_a_dataset_that_is_not_there_is_a_users_error(hub, tmp_path):
    code = (
        "from jaxvl.data.hub import find\n"
        "from jaxvl.errors import UserError\n"
        "try:\n    find('hf://datasets/me/nothing')\n"
        "except UserError as error:\n    print(error)"
    )
    out, error = load(hub, tmp_path, code)
    assert "cannot fetch hf://datasets/me/nothing" in out, error
