# SPDX-License-Identifier: Apache-2.0
"""An export goes to the hub with its card: against a stand-in of the hub's HTTP interface."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxvl.checkpoints.push import push_to_hub
from jaxvl.errors import UserError
from jaxvl.observe.card import card

ROOT = Path(__file__).parents[2]


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories are made, and files of any size are taken in the commit itself."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        at = self.path
        self.server.asked.append((at, self.headers.get("Authorization")))
        if at.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            reply = {"commitUrl": f"{self.server.url}/me/mine/commit/abc", "commitOid": "abc"}
        elif "/preupload/" in at:
            names = [file["path"] for file in json.loads(body)["files"]]
            reply = {
                "files": [
                    {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
                ]
            }
        else:
            reply = {"url": f"{self.server.url}/me/mine", "name": "me/mine", "id": "me/mine"}
        self.answer(reply)

    def do_GET(self):
        self.answer({"id": "me/mine", "sha": "abc", "siblings": []})

    def answer(self, reply):
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.files, server.asked = f"http://127.0.0.1:{server.server_port}", {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(run, repo, url):
    """`jaxvl push` where the hub is at `url`."""
    env = {"HF_ENDPOINT": url, "HF_TOKEN": "t0k", "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jaxvl", "push", str(run), repo]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True)


@pytest.fixture
def run(tmp_path):
    """What a run leaves, as far as a card is written from it."""
    of = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 100}
    held_out = {"greedy": {"rewards": {"accuracy": of}}}
    after = {"greedy": {"rewards": {"accuracy": of | {"value": 0.75}}}}
    files = {
        "config.json": {
            "model": {"path": "Qwen/Qwen2-VL-2B-Instruct"},
            "data": {"source": {"type": "Records", "path": "hf://datasets/me/mine", "limit": 3}},
            "rewards": [{"fn": "jaxvl.rewards.rules:accuracy", "weight": 1.0, "name": "accuracy"}],
            "grpo": {"group": 8},
            "run": {"steps": 2},
        },
        "data.json": {"revision": "5e6"},
        "eval.json": {"before": held_out, "after": after},
        "TEST_DATA.json": {"trained_on": ["VSR"]},
        "hf/config.json": {"model_type": "qwen2_vl"},
    }
    (tmp_path / "hf").mkdir()
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    lines = [{"step": n, "reward": n / 4, "entropy": 1.0} for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "hf/model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_a_card_says_what_the_run_has_left(run):
    text, curves = card(run)
    for said in (
        'base_model: "Qwen/Qwen2-VL-2B-Instruct"',
        "- revision: `5e6`",
        "`jaxvl.rewards.rules:accuracy`, weight 1.0",
        "| accuracy | 0.500 [0.400, 0.600] (n=100) | 0.750 [",
        "| reward | 0.25 | 0.5 |",
        "Trained on rows of VSR: results on them mean nothing.",
        '"group": 8',
    ):
        assert said in text, text
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert ("curves.png" in text) == bool(curves)


def test_the_export_is_pushed_with_its_card(run, hub):
    done = push(run, "me/mine", hub.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/me/mine/commit/abc"
    assert hub.files["model.safetensors"] == b"weights"
    assert hub.files["README.md"].decode() == card(run)[0]
    assert {"config.json", "model.safetensors", "README.md"} <= set(hub.files)
    assert hub.asked and all(token == "Bearer t0k" for _, token in hub.asked)
    assert b"t0k" not in b"".join(hub.files.values())


def test_mistakes(run):
    for repo, folder, message in (
        ("mine", run, "expected a hub id"),
        ("me/mine", run / "hf", "has no export"),
    ):
        with pytest.raises(UserError, match=message):
            push_to_hub(folder, repo)
    done = push(run, "me/mine", "http://127.0.0.1:9")  # where nothing listens
    assert done.returncode == 2 and "could not be written" in done.stderr, done.stderr
