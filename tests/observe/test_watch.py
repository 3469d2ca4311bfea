# SPDX-License-Identifier: Apache-2.0
"""The server of a run shows what the run has written, to this machine alone, and nothing else."""

import http.client
import json
import os
import threading
from urllib.parse import quote

import pytest

from jaxvl.errors import UserError
from jaxvl.observe.metrics import MetricsWriter
from jaxvl.observe.watch import HOST, serve
from tests.observe.pages import EVIL, Page, rollout, write_run


@pytest.fixture
def served(tmp_path):
    write_run(tmp_path / "runs/a")
    server = serve(tmp_path / "runs")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server, tmp_path / "runs"
    server.shutdown()
    server.server_close()


def get(server, target, method="GET", **headers):
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=20)
    connection.request(method, target, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_only_this_machine_is_answered(served):
    server, _ = served
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/", Host=f"evil.test:{server.server_port}")[0] == 403
    assert get(server, "/", Host=f"localhost:{server.server_port}")[0] == 200
    assert get(server, "/", "POST")[0] == get(server, "/", "PUT")[0] == 501


def test_the_page_and_its_parts(served):
    server, _ = served
    page = Page(get(server, "/")[1])
    assert page.data["live"] and page.data["runs"][0]["rollouts"] == [1, 5, 10, 60]
    assert "outline" not in page.data["runs"][0]
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert "connect-src 'self'" in policy and "unsafe" not in policy
    found = json.loads(get(server, "/step?run=0&step=10")[1])
    assert found["prompts"][0]["completions"][0]["text"] == EVIL
    assert found["pictures"][found["prompts"][0]["images"][0]["digest"]].startswith("data:image")
    assert "ex-1" in json.loads(get(server, "/outline?run=0")[1])["ids"]


def test_the_page_follows_its_run(served):
    server, folder = served
    state = Page(get(server, "/")[1]).data["state"]
    asked = f"/data?seen={quote(state)}"
    assert json.loads(get(server, asked)[1]) == {"same": True}
    MetricsWriter(folder / "a").write(61, {"reward": 0.5})
    (folder / "a/rollouts/step_61.jsonl").write_text(json.dumps(rollout(61)))
    after = json.loads(get(server, asked)[1])
    assert after["runs"][0]["last"] == 61 and after["runs"][0]["rollouts"][-1] == 61
    asked = f"/data?seen={quote(after['state'])}"
    assert json.loads(get(server, asked)[1]) == {"same": True}
    (folder / "a/finished.json").write_text("{}")  # after the last step's line
    assert json.loads(get(server, asked)[1])["runs"][0]["finished"]
    MetricsWriter(folder / "b").write(1, {"reward": 0.5})
    assert [run["name"] for run in json.loads(get(server, asked)[1])["runs"]] == ["a", "b"]


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.png",
        "/a/metrics.jsonl",
        "/step?run=0&step=../../x",
        "/step?run=0&step=2",
        "/step?run=-1&step=1",
        "/step?run=7&step=1",
        "/step?run=0&step=%D9%A1",
        "/step",
        "//etc/passwd",
        "/%00",
    ],
)
def test_nothing_else_is_there(served, target):
    status, body = get(served[0], target)
    assert status in (400, 404) and "Traceback" not in body


def test_nothing_outside_of_the_directory_is_read(served, tmp_path):
    server, folder = served
    write_run(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "linked")
    os.symlink(tmp_path / "elsewhere/rollouts/step_5.jsonl", folder / "a/rollouts/step_6.jsonl")
    page = Page(get(server, "/")[1])
    assert [run["name"] for run in page.data["runs"]] == ["a"]
    assert get(server, "/step?run=0&step=6")[0] == 404
    images = json.loads(get(server, "/step?run=0&step=5")[1])["prompts"][0]["images"]
    assert images[2]["error"] == "not in the run directory"


def test_what_cannot_be_served_is_a_message(tmp_path, served):
    with pytest.raises(UserError, match="no directory"):
        serve(tmp_path / "nothing")
    with pytest.raises(UserError, match="choose another with --port"):
        serve(tmp_path, served[0].server_port)
    (served[1] / "a/config.json").write_text("{")
    status, body = get(served[0], "/data")
    assert status == 500 and "config.json: broken JSON" in body
    (served[1] / "a/config.json").write_text("[1]")
    status, body = get(served[0], "/data")
    assert status == 500 and "is not as a run writes it" in body
