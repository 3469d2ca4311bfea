# SPDX-License-Identifier: Apache-2.0
"""Answers of endpoints as they should not be: each costs its own request and nothing else."""

import contextlib
import gzip
import json
import os
import socketserver
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from jaxvl.errors import UserError
from jaxvl.rewards import ChatJudge, RewardEndpoint
from jaxvl.rewards.endpoint import Endpoint, chat_reply, retry_after


@contextlib.contextmanager
def server(answer):
    """A server on this machine that lets `answer(socket, number)` write each reply; its URL."""
    numbers, lock = [0], threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            length = 0
            while (line := self.rfile.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            with lock:
                numbers[0] += 1
                number = numbers[0]
            with contextlib.suppress(OSError):  # whoever asked has gone away, as it should
                answer(self.wfile, number)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, block_on_close = True, True, False

    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/score"
        running.shutdown()


def reply(body, status="200 OK", **headers):
    head = {"content-length": str(len(body)), "connection": "close"} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def writes(data):
    return lambda file, number: file.write(data)


def drips(file, number):
    file.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n")
    for _ in range(400):
        file.write(b" ")
        file.flush()
        time.sleep(0.02)


def drips_its_headers(file, number):
    for _ in range(400):
        file.write(b"x")
        file.flush()
        time.sleep(0.02)


def never_ends(file, number):
    file.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(1000):
        file.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


GOOD = json.dumps({"score": 0.5}).encode()
DEEP = b'{"score": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BOMB = gzip.compress(b" " * 50_000_000)
REFUSED = {  # no score can be had from any of them
    "a byte every 20 ms": drips,
    "headers that never end": drips_its_headers,
    "a body that never ends": never_ends,
    "larger than the limit": writes(reply(b" " * 300_000 + GOOD)),
    "compressed to a thousandth": writes(reply(BOMB, content_encoding="gzip")),
    "nested 100,000 deep": writes(reply(DEEP)),
    "a list": writes(reply(b"[1]")),
    "a number": writes(reply(b"0.5")),
    "empty": writes(reply(b"")),
    "half of a JSON object": writes(reply(GOOD[:-3])),
    "less than it announced": writes(reply(GOOD, content_length="500")),
    "no UTF-8": writes(reply(b'{"score": "\xff\xfe"}')),
    "no HTTP": writes(b"hello\r\n\r\n"),
    "nothing": lambda file, number: None,
    "a redirect": writes(reply(b"", "307 Temporary Redirect", location="http://127.0.0.1:9/")),
    "score is NaN": writes(reply(b'{"score": NaN}')),
    "score is 1e999": writes(reply(b'{"score": 1e999}')),
    "score has 400 digits": writes(reply(b'{"score": 1%s}' % (b"0" * 400))),
    "score has 5,000 digits": writes(reply(b'{"score": 1%s}' % (b"0" * 5000))),
    "score is true": writes(reply(b'{"score": true}')),
    "score is a text": writes(reply(b'{"score": "1"}')),
    "no score": writes(reply(b'{"value": 1}')),
    "500": writes(reply(b"", "500 Oops")),
    "403": writes(reply(b"", "403 Forbidden")),
}


@pytest.mark.parametrize("mode", REFUSED)
def test_no_score_comes_of_a_bad_answer_and_soon(mode, tmp_path):
    """None, within two time-outs, and nothing in the cache: the next run asks again."""
    cache = tmp_path / "cache.sqlite"
    with server(REFUSED[mode]) as url:
        settings = {"timeout": 0.5, "retries": 1, "backoff": 0.01, "max_bytes": 200_000}
        endpoint = Endpoint(url, cache=str(cache), **settings)
        start = time.monotonic()
        assert RewardEndpoint(endpoint)([[]], ["q"], ["a"]) == [None]
        assert time.monotonic() - start < 5  # 1.0 of it are time-outs
    if cache.exists():
        with sqlite3.connect(cache) as file:
            assert not file.execute("select * from replies").fetchall()


def test_a_busy_server_is_asked_again_when_it_says():
    def busy(file, number):
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        busy_reply = reply(b"", "429 Too Many Requests", retry_after=soon)
        file.write(busy_reply if number == 1 else reply(GOOD))

    with server(busy) as url:
        start = time.monotonic()
        scorer = RewardEndpoint(Endpoint(url, backoff=0.01))
        assert scorer([[]], ["q"], ["a"]) == [0.5]
        assert time.monotonic() - start > 0.9  # a date has whole seconds


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("1" * 50, 1e48, 1e50),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9, 1e12),
        ("Fri, 99 Dec 2400 23:59:59 GMT", 0, 0),
    ],
)
def test_what_a_retry_after_header_asks_for(text, least, most):
    assert least <= retry_after(text) <= most


def test_what_was_answered_is_kept_when_another_answer_is_bad(tmp_path):
    """Nine of ten are paid for once, though the tenth ends the first attempt."""
    cache = str(tmp_path / "cache.sqlite")

    def tenth_is_bad(file, number):
        file.write(reply(b"", "400 Bad") if number == 10 else reply(GOOD))

    def post(url):
        endpoint = Endpoint(url, cache=cache, retries=0, concurrency=1)
        got = endpoint.post([{"answer": str(i)} for i in range(10)])
        return got.count(None), endpoint.counts["requests"]

    with server(tenth_is_bad) as url:
        assert post(url) == (1, 10)
        assert post(url) == (0, 1)


EXPLAINED = {
    "as OpenAI does": (b'{"error": {"message": "no model gpt-9", "code": 3}}', "no model gpt-9"),
    "a text": (b"no model gpt-9", "no model gpt-9"),
    "an error that is a text": (b'{"error": "no model gpt-9"}', "no model gpt-9"),
    "as FastAPI does": (b'{"detail": [{"loc": "model"}]}', '[{"loc": "model"}]'),
    "a message": (b'{"object": "error", "message": "no model gpt-9"}', "no model gpt-9"),
    "lines and colours": (b"no\x1b[31m\r\n\tmodel \x00", "no [31m model"),
    "no UTF-8": (b"no \xff", "no \ufffd"),
    "very long": (b"x" * 9000, "x" * 200 + ".."),
    "nested too deeply": (b"[" * 90_000, "[" * 200 + ".."),
    "the key": (b"no key S3CRET", "no key ***"),
}


@pytest.mark.parametrize("status", ["400 Bad", "503 Busy"])
@pytest.mark.parametrize("kind", EXPLAINED)
def test_what_a_server_says_of_a_request_it_refuses_is_told_as_data(kind, status, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "S3CRET")
    body, said = EXPLAINED[kind]
    with server(writes(reply(body, status))) as url:
        endpoint = Endpoint(url, key="JUDGE_KEY", retries=0)
        assert endpoint.post([{}]) == [None]
    assert endpoint.failure == f"HTTP {status[:3]}: {said}"


def test_an_error_that_comes_as_an_answer_is_told():
    body = json.dumps({"error": {"message": "no model gpt-9"}}).encode()
    with server(writes(reply(body))) as url:
        judge = ChatJudge(Endpoint(url), "m")
        assert judge([[]], ["q"], ["a"]) == [None]
    assert judge.endpoint.failure == "HTTP 200 with an error: no model gpt-9"


@pytest.mark.parametrize("tokens", [-5, 1e30, "12", True, 10**20, None, [3]])
def test_counts_that_cannot_be_are_not_added_up(tokens):
    body = {"choices": [{"message": {"content": "Yes"}}], "usage": {"prompt_tokens": tokens}}
    with server(writes(reply(json.dumps(body).encode()))) as url:
        endpoint = Endpoint(url, prices=(1.0, 1.0))
        assert ChatJudge(endpoint, "m")([[]], ["q"], ["a"]) == [1.0]
    assert endpoint.cost == 0


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 200])
def test_a_cache_that_is_none_is_named(tmp_path, content):
    cache = tmp_path / "cache.sqlite"
    cache.write_bytes(content)
    with server(writes(reply(GOOD))) as url, pytest.raises(UserError, match=r"cache\.sqlite"):
        Endpoint(url, cache=str(cache)).post([{}])


THOUGHT = "<think>\n2\n</think>\n\n"


@pytest.mark.parametrize(
    ("message", "reason", "said"),
    [
        ({"content": "4"}, "stop", ("4", "stop")),
        ({"content": "4", "reasoning_content": " 2 "}, "length", (f"{THOUGHT}4", "length")),
        ({"content": None, "reasoning_content": "2"}, "length", (THOUGHT, "length")),
        ({"content": None}, "content_filter", None),
        ({"content": "I can"}, "content_filter", ("I can", "content_filter")),
        ({"content": "4"}, "of\nmy own", ("4", "of my own")),
        ({"content": "4"}, 3, ("4", "3")),
        ({"content": "4"}, "MAX_TOKENS", ("4", "length")),
        ({"content": "4"}, None, ("4", "stop")),
        ({"content": "4"}, "STOP", ("4", "stop")),
        ({"content": "4"}, "eos_token", ("4", "stop")),
        ({"content": ["4"]}, "stop", None),
        ({"content": "4", "reasoning_content": 4}, "stop", None),
        ({"content": "\ud800"}, "stop", None),
        ("4", "stop", None),
    ],
)
def test_what_a_chat_reply_says(message, reason, said):
    """What is no text is no reply, but for a model that was cut off while it thought."""
    assert chat_reply({"choices": [{"message": message, "finish_reason": reason}]}) == said
    assert chat_reply(None) is chat_reply({}) is chat_reply({"choices": []}) is None


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///x", "http://[::1", "http://[zz]:1/", "http://a:b/", "http://a:99999/"]
    + ["http://a b/", "http://a\nb/", "http://\0/", "http://a/\x7f"],
)
def test_a_url_that_leads_nowhere_is_a_message(url):
    with pytest.raises(UserError, match="leads to no server: .*expected as in"):
        Endpoint(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:S3CRET@a/",
        "https://S3CRET@a:1/x",
        "http://a/?key=S3CRET",
        "http://a/?n=1&API_KEY=S3CRET",
    ]
    + ["http://a/?access_token=S3CRET", "http://a/?apikey=S3CRET", "http://[::1@/S3CRET"],
)
def test_a_key_in_a_url_is_refused_and_not_told(url):
    """It would stand in config.json."""
    with pytest.raises(UserError, match="holds a password or a key") as told:
        Endpoint(url)
    assert "S3CRET" not in str(told.value)


def test_urls_that_are_whole():
    for url in ("http://[::1]:8000/score", "https://a/v1?api-version=2&monkey=3", "http://a/@x"):
        assert Endpoint(url).url == url


@pytest.mark.parametrize("zone", ["+99999999999999", "-99999999999999", "+9999", "x"])
def test_a_time_zone_that_is_none_is_not_waited_for(zone):
    assert retry_after(f"Mon, 01 Jan 2024 00:00:00 {zone}") == 0


@pytest.mark.parametrize("key", ["", " ", "\n", "sk 1", "sk\n1", "a\u00e9", "\x00"])
def test_a_key_that_no_request_can_hold_is_a_message_without_it(key, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "JUDGE_KEY": key})
    with pytest.raises(UserError, match="JUDGE_KEY in the environment is empty or holds") as told:
        Endpoint("http://localhost:8000", key="JUDGE_KEY")
    assert not key.strip() or key.strip() not in str(told.value)


def test_the_end_of_a_line_is_no_part_of_a_key(monkeypatch):
    """As in $(cat FILE) of some shells, or what a secret's file was read into."""
    monkeypatch.setenv("JUDGE_KEY", "  sk-1\n")
    assert Endpoint("http://localhost:8000", key="JUDGE_KEY")._token() == "sk-1"
