# SPDX-License-Identifier: Apache-2.0
"""JSON over HTTP for scorers: retries with backoff, limits of time and size, a limit on how many
requests are under way, a cache on disk, and counters of what it cost. Needs the extra `judge`
(httpx2)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from jaxvl.errors import UserError
from jaxvl.rewards.cache import Cache

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # answers after which a request is repeated
_KEYS = re.compile(r"(?i)(^|[_-]|api|access)(key|token|secret|password|signature|sig)$")
_HEADER = re.compile(r"[!-~]+")
_LONGEST_WAIT = 60.0
_MOST_TOKENS = 10**9  # of one answer: more is no count
_SAID = 200  # characters of what a server says of a request that it refuses
# What servers call the end of a reply that is whole, and of one that was too long.
_ENDS = {
    "stop": {"", "stop", "eos", "eos_token", "stop_sequence", "end_turn"},
    "length": {"length", "max_tokens"},
}


@dataclasses.dataclass
class Endpoint:
    """One URL that takes a JSON object by POST and answers with one.

    `key` is the name of the environment variable that holds the bearer token ("" for none), so that
    the token itself is in no file of a run. A request is tried `retries` times more after a
    connection that fails, a time-out of `timeout` seconds or an answer such as 429 or 503; the
    first wait is `backoff` seconds, each further one twice as long, and a Retry-After header is
    heeded. `cache` is an SQLite file of answers by request ("" for none). `prices` are for a
    million tokens in and out, by what the answers report in `usage`.
    """

    url: str
    key: str = ""
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    concurrency: int = 16
    max_bytes: int = 1_000_000
    cache: str = ""
    prices: tuple[float, float] = (0.0, 0.0)
    # requests, retries, cached, failed, prompt_tokens, completion_tokens
    counts: Counter = dataclasses.field(default_factory=Counter, init=False, compare=False)
    # What became of the last request that failed for good, or was answered with an error.
    failure: str = dataclasses.field(default="", init=False, compare=False)

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"the endpoint's url is {self.url!r}; expected http:// or https://")
        _check_url(self.url)
        if self.key and self.key not in os.environ:
            raise UserError(f"the environment has no {self.key}, the endpoint's key")
        if self.key and not _HEADER.fullmatch(self._token()):
            raise UserError(
                f"{self.key} in the environment is empty or holds what no request can (a blank, a "
                "line's end, a letter beyond ASCII); expected the endpoint's key alone"
            )

    def _token(self) -> str:
        return os.environ[self.key].strip()  # what a file was read into ends with its line

    @property
    def cost(self) -> float:
        """What the tokens so far cost, in the currency of `prices`."""
        tokens = (self.counts["prompt_tokens"], self.counts["completion_tokens"])
        return sum(count * price / 1e6 for count, price in zip(tokens, self.prices, strict=True))

    def post(
        self,
        bodies: Sequence[dict[str, Any]],
        usable: Callable[[dict[str, Any]], bool] = lambda reply: True,
    ) -> list[dict[str, Any] | None]:
        """The answer to each body, None where it failed for good. Equal bodies are sent once.

        An answer that is not `usable` is handed on but not kept in the cache, so that it is asked
        for again; each other is kept as it comes, whatever becomes of the rest or of the process.
        """
        keys, cache = [self._key(body) for body in bodies], Cache(self.cache)
        by_key = dict(zip(keys, bodies, strict=True))
        fresh: dict[str, dict[str, Any]] = {}
        with cache.missing(keys) as (known, missing):
            self.counts["cached"] += len(bodies) - len(missing)
            if missing:
                # In a thread of its own: a notebook already runs an event loop in this one.
                wanted = {key: by_key[key] for key in missing}
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(asyncio.run, self._send(wanted, fresh, usable)).result()
        return [known.get(key, fresh.get(key)) for key in keys]

    async def _send(
        self,
        bodies: dict[str, dict[str, Any]],
        answered: dict[str, dict[str, Any]],
        usable: Callable[[dict[str, Any]], bool],
    ) -> None:
        """Asks for every body, puts what comes into `answered` and keeps it as it comes."""
        import httpx2

        headers = {"Authorization": f"Bearer {self._token()}"} if self.key else {}
        turn, writing = asyncio.Semaphore(self.concurrency), asyncio.Lock()
        cache, waiting = Cache(self.cache), {}
        async with httpx2.AsyncClient(timeout=self.timeout, headers=headers) as client:

            async def one(key: str, body: dict[str, Any]) -> None:
                async with turn:
                    reply = await self._try(client, body)
                if reply is None:
                    return
                answered[key] = reply
                if usable(reply):
                    waiting[key] = reply
                async with writing:  # the disk is slow: what comes meanwhile is kept at once
                    found = dict(waiting)
                    waiting.clear()
                    await asyncio.to_thread(cache.store, found)

            await asyncio.gather(*(one(key, body) for key, body in bodies.items()))

    async def _try(self, client: Any, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a body, after as many tries as it takes and is allowed."""
        import httpx2

        # Nothing came, not in time, or it is too large, too deep or no JSON.
        failures = (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError, RecursionError)
        for attempt in range(self.retries + 1):
            self.counts["requests"] += 1
            wait = self.backoff * 2**attempt * random.uniform(0.8, 1.2)
            try:
                async with asyncio.timeout(self.timeout):
                    status, headers, data = await self._exchange(client, body)
                why = f"HTTP {status}{self._said(data)}"
                if status == 200:
                    why = "its reply is no JSON object"
                    reply = json.loads(data)
                    if isinstance(reply, dict):
                        self._count(reply.get("usage"))
                        if reply.get("error"):
                            self.failure = f"HTTP 200 with an error{self._said(data)}"
                        return reply
                elif status not in _AGAIN:
                    break
                wait = max(wait, retry_after(headers.get("retry-after", "")))
            except failures as error:
                why = f"{type(error).__name__} {error}".strip()
            if attempt < self.retries:
                self.counts["retries"] += 1
                await asyncio.sleep(min(wait, _LONGEST_WAIT))
        self.counts["failed"] += 1
        self.failure = why
        return None

    async def _exchange(self, client: Any, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        """Status, headers and what the answer holds; ValueError for one of over `max_bytes`."""
        async with client.stream("POST", self.url, json=body) as response:
            data = bytearray()
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > self.max_bytes:
                    raise ValueError(f"an answer of more than {self.max_bytes} bytes")
            return response.status_code, response.headers, bytes(data)

    def _said(self, data: bytes) -> str:
        """What an answer says of an error, as data: in one line, shortened, without the key."""
        text = data.decode(errors="replace")
        with contextlib.suppress(ValueError, RecursionError):  # no JSON
            found = json.loads(data)
            for name in ("error", "detail", "message"):
                found = (isinstance(found, dict) and found.get(name)) or found
            text = found if isinstance(found, str) else json.dumps(found)
        if self.key:
            text = text.replace(self._token(), "***")
        text = " ".join(_printable(text).split())
        return f": {text[:_SAID]}{'..' * (len(text) > _SAID)}" if text else ""

    def _count(self, usage: Any) -> None:
        """Adds up the tokens that an answer reports, where it reports any that can be."""
        for name in ("prompt_tokens", "completion_tokens"):
            tokens = usage.get(name) if isinstance(usage, dict) else None
            if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS:
                self.counts[name] += tokens

    def _key(self, body: dict[str, Any]) -> str:
        text = json.dumps([self.url, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def chat_reply(reply: Any) -> tuple[str, str] | None:
    """(text, finish reason) of what OpenAI's chat interface answered; None where it is no reply.

    The reason is "stop" of a reply that is whole, "length" of one that was cut off, or what else
    the server calls the end of one that is not, as "content_filter". Servers that split the
    reasoning off put it beside the text; it is part of what was said. A null content alone is no
    reply.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text, thought = message["content"], message.get("reasoning_content")
        reason = choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    if text is None and thought:  # it ended while it thought
        text = ""
    if not isinstance(text, str) or not (thought is None or isinstance(thought, str)):
        return None
    text = f"<think>\n{thought.strip()}\n</think>\n\n{text}" if thought else text
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # can be written nowhere
        return None
    ended = "stop" if reason is None else _printable(str(reason))[:40]
    for name, others in _ENDS.items():
        ended = name if ended.lower() in others else ended
    return text, ended


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _check_url(url: str) -> None:
    """UserError for one that leads to no server, or holds a key, which config.json would hold."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        wrong = "" if host else "it names no host"
    except ValueError as error:  # of a port or an IPv6 address
        parts, wrong = None, str(error)
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        wrong = "it holds a blank, or what cannot be printed"
    names = [name for name, _ in urllib.parse.parse_qsl(parts.query)] if parts else []
    if "@" in url.split("://")[1].split("/")[0] or any(map(_KEYS.search, names)):
        raise UserError(
            "the endpoint's url holds a password or a key, which would be in the files of the run; "
            "take it out, and give the name of an environment variable that has it as `key`"
        )
    if wrong:
        raise UserError(
            f"the endpoint's url is {url!r:.200}, which leads to no server: {wrong}; expected as "
            "in http://localhost:8000/v1/chat/completions, or http://[::1]:8000/score"
        )


def retry_after(text: str) -> float:
    """The seconds that a Retry-After header asks for, as a number or as a date; 0 for neither."""
    if text.isdecimal():
        return float(text)  # infinite where it has too many digits: waits have a limit
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter of a time zone that is none
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def endpoints(thing: Any, depth: int = 4) -> list[Endpoint]:
    """The endpoints that a reward function asks, as far as they are its parts."""
    if isinstance(thing, Endpoint):
        return [thing]
    if not depth:
        return []
    parts: list[Any] = []
    if isinstance(thing, functools.partial):
        parts = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    elif isinstance(thing, dict):
        parts = list(thing.values())
    elif getattr(thing, "__closure__", None):
        parts = [cell.cell_contents for cell in thing.__closure__]
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        parts = list(vars(thing).values())
    return list(itertools.chain.from_iterable(endpoints(part, depth - 1) for part in parts))
