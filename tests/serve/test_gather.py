# SPDX-License-Identifier: Apache-2.0
"""Who goes together, without a model; and the routes that need no reply."""

import asyncio
import sys
import threading
import types

import numpy as np
import pytest

import jaxvl.serve
from jaxvl.cli.serve import serve
from jaxvl.errors import UserError
from jaxvl.serve import run
from jaxvl.serve.app import Server, ServeSettings
from jaxvl.serve.gather import Gather, Job, tokens_for


def job(vlm, tokens=10, temperature=1.0):
    encoded = types.SimpleNamespace(tokens=np.zeros(tokens), segments=np.zeros(0))
    return Job(encoded, vlm.decoding(1, 32, temperature, 1.0, 0), 32, 0, False)


@pytest.fixture
def decoded(monkeypatch):
    """The batches that a Gather decodes, and what each waits for."""
    batches, turn = [], threading.Semaphore(0)

    def decode(self, jobs):
        batches.append(jobs)
        assert turn.acquire(timeout=20)
        if jobs[0].most == 1:
            raise MemoryError("too large")
        for one in jobs:
            one.done = True
            self._loop.call_soon_threadsafe(one.news.put_nowait, [])

    monkeypatch.setattr(Gather, "_decode", decode)
    return batches, turn


def test_what_waits_goes_together_when_it_is_of_one_kind(vlm, decoded):
    batches, turn = decoded

    async def ask():
        gather = Gather(vlm, 3)
        first = job(vlm)
        gather.add(first)
        while not batches:
            await asyncio.sleep(0.01)
        long, greedy = job(vlm, tokens=200), job(vlm, temperature=0.0)
        left, others = job(vlm), [job(vlm, tokens=n) for n in (1, 64, 20, 30)]
        left.gone = True
        jobs = [left, others[0], long, *others[1:], greedy]
        for one in jobs:
            gather.add(one)
        turn.release(5)
        await asyncio.gather(*(one.news.get() for one in [first, *jobs[1:]]))
        assert batches == [[first], others[:3], [long], others[3:], [greedy]]
        assert await asyncio.to_thread(gather.close, 20)

    asyncio.run(ask())


@pytest.mark.filterwarnings("ignore")
def test_a_batch_that_fails_is_told_and_the_next_is_decoded(vlm, decoded):
    _, turn = decoded

    async def ask():
        gather = Gather(vlm, 3)
        broken, sound = job(vlm), job(vlm, temperature=0.0)
        broken.most = 1
        gather.add(broken)
        gather.add(sound)
        turn.release(2)
        assert await broken.news.get() == "MemoryError: too large"
        assert await sound.news.get() == []
        assert await asyncio.to_thread(gather.close, 20)

    asyncio.run(ask())


def test_few_lengths_are_compiled():
    assert {tokens_for(most, 200) for most in range(1, 201)} == {64, 96, 128, 192, 200}
    assert all(tokens_for(most, 200) >= most for most in range(1, 201))


def status(server, path, **headers):
    """What a GET of `path` is answered, without a socket."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(server.app()(scope, receive, send))
    return sent[0]["status"]


def test_a_page_that_was_led_here_is_not_answered(vlm):
    server = Server(vlm, ServeSettings("m", 4, 32))
    assert status(server, "/health", host="127.0.0.1:8000") == 200
    assert status(server, "/v1/models", host="localhost") == 200
    assert status(server, "/v1/models", host="evil.example") == 403
    assert status(server, "/v1/models/m", host="localhost") == 200
    assert status(server, "/v1/models/other", host="localhost") == 404


def test_others_reach_a_server_with_a_key_alone():
    run.check_host("0.0.0.0", "a key")
    run.check_host("127.0.0.1", "")
    with pytest.raises(UserError, match="--host 0.0.0.0: .* give --key NAME"):
        run.check_host("0.0.0.0", "")


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "jaxvl.serve.run")
    monkeypatch.delattr(jaxvl.serve, "run")
    with pytest.raises(UserError, match=r"uvicorn.* pip install 'jaxvl\[serve\]'"):
        serve("no model")


def test_an_address_that_is_taken_is_told():
    with run.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: .*in use; choose another"):
            run.bound("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid"):
        run.bound("no.such.host.invalid", 0)
