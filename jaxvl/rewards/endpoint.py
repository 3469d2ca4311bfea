# SPDX-License-Identifier: Apache-2.0
"""JSON over HTTP for scorers: retries with backoff, time limits, a limit on how many requests are
under way, a cache on disk, and counters of what it cost. Needs the extra `judge` (httpx2)."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # answers after which a request is repeated
_LONGEST_WAIT = 60.0


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
    cache: str = ""
    prices: tuple[float, float] = (0.0, 0.0)
    # requests, retries, cached, failed, prompt_tokens, completion_tokens
    counts: Counter = dataclasses.field(default_factory=Counter, init=False, compare=False)

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"the endpoint's url is {self.url!r}; expected http:// or https://")
        if self.key and self.key not in os.environ:
            raise UserError(f"the environment has no {self.key}, the endpoint's key")

    @property
    def cost(self) -> float:
        """What the tokens so far cost, in the currency of `prices`."""
        tokens = (self.counts["prompt_tokens"], self.counts["completion_tokens"])
        return sum(count * price / 1e6 for count, price in zip(tokens, self.prices, strict=True))

    def post(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """The answer to each body, None where it failed for good. Equal bodies are sent once."""
        keys = [self._key(body) for body in bodies]
        known = self._lookup(keys)
        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in known}
        self.counts["cached"] += len(bodies) - len(missing)
        if missing:
            # In a thread of its own: a notebook already runs an event loop in this one.
            with ThreadPoolExecutor(1) as thread:
                replies = thread.submit(asyncio.run, self._send(list(missing.values()))).result()
            fresh = {k: r for k, r in zip(missing, replies, strict=True) if r is not None}
            self._store(fresh)
            known |= fresh
        return [known.get(key) for key in keys]

    async def _send(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        import httpx2

        headers = {"Authorization": f"Bearer {os.environ[self.key]}"} if self.key else {}
        turn = asyncio.Semaphore(self.concurrency)
        async with httpx2.AsyncClient(timeout=self.timeout, headers=headers) as client:

            async def one(body: dict[str, Any]) -> dict[str, Any] | None:
                async with turn:
                    return await self._try(client, body)

            return await asyncio.gather(*(one(body) for body in bodies))

    async def _try(self, client: Any, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a body, after as many tries as it takes and is allowed."""
        import httpx2

        for attempt in range(self.retries + 1):
            self.counts["requests"] += 1
            wait = self.backoff * 2**attempt * random.uniform(0.8, 1.2)
            try:
                response = await client.post(self.url, json=body)
                if response.status_code == 200:
                    reply = response.json()
                    if isinstance(reply, dict):
                        self._count(reply.get("usage"))
                        return reply
                elif response.status_code not in _AGAIN:
                    break
                after = response.headers.get("retry-after", "")
                wait = max(wait, float(after)) if after.isdecimal() else wait
            except (httpx2.HTTPError, ValueError):
                pass
            if attempt < self.retries:
                self.counts["retries"] += 1
                await asyncio.sleep(min(wait, _LONGEST_WAIT))
        self.counts["failed"] += 1
        return None

    def _count(self, usage: Any) -> None:
        """Adds up the tokens that an answer reports, where it reports any."""
        for name in ("prompt_tokens", "completion_tokens"):
            tokens = usage.get(name) if isinstance(usage, dict) else None
            self.counts[name] += tokens if isinstance(tokens, int) else 0

    def _key(self, body: dict[str, Any]) -> str:
        text = json.dumps([self.url, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _lookup(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        if not self.cache or not Path(self.cache).is_file():
            return {}
        with closing(sqlite3.connect(self.cache, timeout=30)) as file:
            found = {}
            for key in keys:
                row = file.execute("select reply from replies where key = ?", (key,)).fetchone()
                if row:
                    found[key] = json.loads(row[0])
            return found

    def _store(self, replies: dict[str, dict[str, Any]]) -> None:
        if not self.cache:
            return
        Path(self.cache).parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.cache, timeout=30)) as file, file:
            file.execute("create table if not exists replies (key text primary key, reply text)")
            rows = [(key, json.dumps(reply)) for key, reply in replies.items()]
            file.executemany("insert or replace into replies values (?, ?)", rows)
