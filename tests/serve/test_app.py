# SPDX-License-Identifier: Apache-2.0
"""What a server without a key takes, and from whom; no model is asked."""

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from jaxvl.serve import app
from jaxvl.serve.app import Server, ServeSettings
from jaxvl.serve.requests import BadRequest

JSON = {"host": "localhost:8000", "content-type": "application/json"}


async def nothing():
    await asyncio.Event().wait()


async def body():
    return {"type": "http.request", "body": b"{", "more_body": False}


def status(headers, receive=body):
    """How a request of chat ends."""
    vlm = SimpleNamespace(processor=SimpleNamespace(as_bytes=dict), hf_config={"text_config": {}})
    server = Server(vlm, ServeSettings("m", 1, 8))
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": pairs}
    with pytest.raises(BadRequest) as refused:
        asyncio.run(server.chat(Request(scope, receive)))
    assert not server.under_way
    return refused.value.status


def test_a_page_in_a_browser_cannot_ask():
    assert status(JSON) == 400  # the body is read: it is no JSON
    assert status(JSON | {"content-type": "application/json; charset=utf-8"}) == 400
    assert status(JSON | {"host": "evil.example:8000"}) == 403  # a name that leads here
    assert status({"content-type": "application/json"}) == 403
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert status(JSON | {"content-type": kind}) == 415  # what another site's page may send


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(app, "LONGEST_BODY", 0.01)
    assert status(JSON, nothing) == 408
