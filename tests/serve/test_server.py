# SPDX-License-Identifier: Apache-2.0
"""The command itself, in a process of its own, asked over HTTP by all who may ask it."""

import contextlib
import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from jaxvl.rewards import ChatJudge
from jaxvl.rewards.endpoint import Endpoint
from tests.curate.sets import write_sets
from tests.serve.test_requests import REFUSED, picture_part, url
from tests.wholes.launch import ROOT, launch

KEY = "secret-9"
TOKENS = 32  # of every reply, so that one sampler serves
CHAT = "/v1/chat/completions"


class Served:
    """A server under way: its address, and the lines that it prints."""

    def __init__(self, model):
        words = [model, "--port", "0", "--dtype", "float32", "--mesh", "1,1,1", "--batch", "2"]
        words += ["--max-new-tokens", str(TOKENS), "--key", "SERVE_KEY", "--served-name", "tiny"]
        more = {"SERVE_KEY": KEY, "PYTHONPATH": str(ROOT)}
        more["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".jax_cache")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jaxvl", "serve", *map(str, words)],
            env=os.environ | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said, self.lines = [], queue.Queue()
        threading.Thread(target=self._hear, daemon=True).start()
        first = self.lines.get(timeout=120)
        assert first.startswith("serving tiny at http://127.0.0.1:"), first
        self.url = first.split()[3].removesuffix("/v1")

    def _hear(self):
        with self.process.stdout as out:
            for line in out:
                self.said.append(line)
                self.lines.put(line)

    def send(self, body, path=CHAT, key=KEY):
        """The answer to a request, not yet read: it hangs on the connection that is returned."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=120)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is told before
            connection.request("POST" if data else "GET", path, data, headers)
        return connection, connection.getresponse()

    def ask(self, body, path=CHAT, key=KEY):
        connection, answer = self.send(body, path, key)
        with contextlib.closing(connection):
            return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def served(tiny_path):
    server = Served(tiny_path)
    yield server
    server.process.kill()
    server.process.wait(20)


TEXT = [{"role": "user", "content": "How many?"}]


def body(messages=TEXT, **fields):
    return {"model": "tiny", "messages": messages, "seed": 3} | fields


def with_picture(picture):
    parts = [picture_part(url=url(picture)), {"type": "text", "text": "red?"}]
    return [{"role": "user", "content": parts}]


def test_replies_are_those_of_generate(served, vlm, pictures):
    bare = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "red?"}]}]
    asked = [(TEXT, TEXT, []), (with_picture(pictures[0]), bare, pictures[:1])]
    for messages, prompt, images in asked:
        (expected,) = vlm.generate([prompt], [images], n=2, max_new_tokens=TOKENS, seed=3)
        status, found = served.ask(body(messages, n=2, logprobs=True))
        assert status == 200, found
        for choice, completion in zip(found["choices"], expected, strict=True):
            assert choice["message"] == {"role": "assistant", "content": completion.text}
            assert choice["finish_reason"] == completion.finish_reason
            logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
            assert logprobs == pytest.approx(completion.logprobs.tolist(), abs=1e-4)
        (encoded,), drawn = vlm.encode([prompt], [images]), sum(len(c.tokens) for c in expected)
        usage = {"prompt_tokens": len(encoded.tokens), "completion_tokens": drawn}
        assert found["usage"] == usage | {"total_tokens": sum(usage.values())}


def test_a_shorter_reply_is_the_beginning_of_the_longer(served):
    (whole,), (short,) = (
        served.ask(body(logprobs=True, max_tokens=most))[1]["choices"] for most in (TOKENS, 5)
    )
    tokens, first = (one["logprobs"]["content"] for one in (whole, short))
    assert first == tokens[:5] and len(tokens) > 5
    assert short["finish_reason"] == "length"


def text_of(answer):
    _, reply = answer
    return reply["choices"][0]["message"]["content"]


def test_eight_at_once_get_what_each_gets_alone(served):
    asked = [body(seed=seed) for seed in range(8)]
    alone = [text_of(served.ask(one)) for one in asked]
    with ThreadPoolExecutor(8) as threads:
        together = [text_of(answer) for answer in threads.map(served.ask, asked)]
    assert together == alone and len(set(alone)) == 8
    assert text_of(served.ask(asked[0])) == alone[0]


def events(answer):
    lines = answer.read().decode().strip().split("\n\n")
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_is_the_reply_in_pieces(served):
    _, whole = served.ask(body(n=2))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    connection, answer = served.send(body(n=2, **options))
    with contextlib.closing(connection):
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, last = events(answer)
    texts, reasons = ["", ""], [None, None]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert len(chunks) > 6
    assert last["choices"] == [] and last["usage"] == whole["usage"]


def test_a_client_that_goes_away_leaves_the_others(served):
    before = text_of(served.ask(body()))
    connection, answer = served.send(body(stream=True, seed=8))
    assert answer.readline().startswith(b"data: ")
    connection.close()
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", CHAT, json.dumps(body(seed=9)), headers)
    connection.close()  # before there is an answer
    assert text_of(served.ask(body())) == before
    assert "Traceback" not in "".join(served.said)


def test_bad_requests_are_refused_in_openais_form(served):
    said = len(served.said)
    for param, fields in REFUSED:
        status, found = served.ask(fields | {"model": "tiny"} if "model" in fields else fields)
        if param != "model":
            assert (status, found["error"]["param"]) == (400, param), found
            assert found["error"]["type"] == "invalid_request_error"
    assert served.ask(b"{")[0] == 400
    assert served.ask(body(max_tokens=TOKENS + 1))[1]["error"]["param"] == "max_tokens"
    long = served.ask(body([{"role": "user", "content": "a b " * 20_000}]))
    assert long[0] == 400 and long[1]["error"]["code"] == "context_length_exceeded"
    marked = served.ask(body([{"role": "user", "content": "see <image>"}]))
    assert marked[0] == 400 and marked[1]["error"]["param"] == "messages"
    assert served.ask(b"", "/v1/completions")[0] == 404 and served.ask(b"", CHAT)[0] == 405
    assert served.ask(b" " * (64 * 2**20 + 1))[0] == 413
    lines = "".join(served.said[said:])
    assert len(re.findall(r"(?m)^[\d:]{8} 400, \d+\.\d\d s$", lines)) >= len(REFUSED)
    assert "passwd" not in lines and "see" not in lines  # nothing of what was asked


def test_a_key_is_needed_for_all_but_health(served):
    assert served.ask(b"", "/health", "") == (200, {"status": "ok"})
    for path in ("/v1/models", CHAT):
        status, found = served.ask(body() if path == CHAT else b"", path, "wrong")
        assert status == 401 and found["error"]["code"] == "invalid_api_key"
    assert served.ask(b"", "/v1/models")[1]["data"][0]["id"] == "tiny"


def test_it_is_an_endpoint_of_eval_and_a_judge(served, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVE_KEY", KEY)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "question": "How many?", "answer": "3"}) + "\n")
    words = ["--tasks", "own", "--source", rows, "--out", tmp_path / "out", "--key", "SERVE_KEY"]
    words += ["--max-new-tokens", TOKENS, "--model", "tiny", "--url", served.url + CHAT]
    launch("eval", "run", *words)
    (line,) = (tmp_path / "out/own/predictions.jsonl").read_text().splitlines()
    reply = json.loads(line)
    assert 1 <= reply["tokens"] <= TOKENS and reply["finish_reason"] in ("stop", "length")
    endpoint = Endpoint(served.url + CHAT, key="SERVE_KEY", retries=0, timeout=120)
    judge = ChatJudge(endpoint, "tiny", template="{question}{answer}", parse=len)
    (score,) = judge([[]], ["Right?"], ["3"])
    assert score and not endpoint.counts["failed"], endpoint.failure
    assert endpoint.counts["completion_tokens"] > 0


def test_it_is_a_teacher(served, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVE_KEY", KEY)
    every = write_sets(tmp_path / "sets", 2)
    rows = tmp_path / "1-metadata.jsonl"
    launch("curate", "metadata", f"--source=vizwiz={every['vizwiz']}", "--out", rows)
    words = ["--out", tmp_path / "2-captioned.jsonl", "--teacher", served.url + CHAT]
    words += ["--model", "tiny", "--key", "SERVE_KEY", f"max_tokens={TOKENS}"]
    with contextlib.suppress(AssertionError):  # exit code 2: the tiny model ends no reply by itself
        launch("curate", "caption", rows, *words)
    done = json.loads((tmp_path / "2-captioned.manifest.json").read_text())
    assert done["asked"] == len(rows.read_text().splitlines()) > 0
    kept, cut = done["out"]["rows"]["rows"], done["dropped"].get("reply was cut off", 0)
    assert kept + cut == done["asked"]


def test_what_is_under_way_ends_before_the_server_does(served):
    connection, answer = served.send(body(stream=True, n=2))
    with contextlib.closing(connection):
        answer.readline()
        served.process.send_signal(signal.SIGTERM)
        assert {c["choices"][0]["finish_reason"] for c in events(answer)} > {None}
    assert served.process.wait(60) == 143
    with pytest.raises(OSError):
        served.send(body())
    assert "Traceback" not in "".join(served.said)
