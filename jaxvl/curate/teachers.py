# SPDX-License-Identifier: Apache-2.0
"""Who is asked: a model behind OpenAI's chat interface, a function, or the stub.

A teacher has `post(bodies, usable)`, as `jaxvl.rewards.endpoint.Endpoint` has: chat requests in,
for each a chat reply or None. What it has answered is kept by content, so that nothing is asked
twice.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxvl.curate import rows, stub
from jaxvl.errors import UserError
from jaxvl.rewards.cache import Cache
from jaxvl.rewards.endpoint import Endpoint

Body = dict[str, Any]
Answer = Callable[[Sequence[Body]], Sequence[tuple[str, str]]]  # (text, finish reason) of each


class Teacher(Protocol):
    """Who is asked: `post` gives the reply to each request, None where it failed for good. A reply
    that is `usable` is kept, and is not asked for again."""

    counts: Counter
    failure: str  # what became of the last request that failed for good

    def post(self, bodies: Sequence[Body], usable: Callable[[Body], bool]) -> list[Body | None]: ...


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """Whom a step asks, and how.

    `teacher` is the whole address of a chat endpoint (".../v1/chat/completions"), "local:PATH" for
    a checkpoint of one's own, or "stub". `key` names the environment variable with the endpoint's
    key. Prices are for a million tokens.
    """

    teacher: str = ""
    model: str = ""
    key: str = ""
    max_tokens: int = 1024
    temperature: float = 0.0
    concurrency: int = 16
    retries: int = 4
    timeout: float = 120.0
    backoff: float = 1.0
    max_side: int = 1024
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self):
        for name in ("max_tokens", "concurrency", "max_side"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.timeout <= 0:
            raise UserError(f"timeout is {self.timeout}; expected more than 0 seconds")
        for name in ("temperature", "retries", "backoff", "price_in", "price_out"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; expected 0 or more")

    def settings(self) -> dict[str, Any]:
        """What the replies depend on."""
        names = ("teacher", "model", "max_tokens", "temperature", "max_side")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass
class Own:
    """A function as a teacher: `name` tells it from others in the cache, `batch` bodies a call."""

    name: str
    answer: Answer
    cache: str = ""
    batch: int = 16
    counts: Counter = dataclasses.field(default_factory=Counter, init=False)
    failure: str = dataclasses.field(default="", init=False)

    def post(self, bodies: Sequence[Body], usable: Callable[[Body], bool]) -> list[Body | None]:
        cache = Cache(self.cache)
        keys = [rows.digest([self.name, body]) for body in bodies]
        by_key = dict(zip(keys, bodies, strict=True))
        with cache.missing(keys) as (known, missing):
            self.counts["cached"] += len(bodies) - len(missing)
            for start in range(0, len(missing), self.batch):
                part = missing[start : start + self.batch]
                self.counts["requests"] += len(part)
                replies = self.answer([by_key[key] for key in part])
                fresh = {key: as_reply(*reply) for key, reply in zip(part, replies, strict=True)}
                cache.store({key: reply for key, reply in fresh.items() if usable(reply)})
                known |= fresh
        return [known[key] for key in keys]


def as_reply(text: str, reason: str = "stop") -> Body:
    """A reply as a chat endpoint words it."""
    return {"choices": [{"message": {"content": text}, "finish_reason": reason}]}


def open_teacher(
    asked: TeacherSettings, step: str, cache: Path, local: Callable[[str], Answer]
) -> Teacher:
    """What `asked` names; `local(PATH)` opens a checkpoint, of which `asked.model` says what it
    is."""
    if asked.teacher == "stub":
        return Own(f"stub {step}", stub.answers(step), str(cache), batch=1)
    if asked.teacher.startswith("local:"):
        answer = local(asked.teacher.removeprefix("local:"))
        return Own(f"local {asked.model}", answer, str(cache))
    return _endpoint(asked, step, str(cache))


def check(asked: TeacherSettings, step: str) -> None:
    """UserError where a step has nobody to ask or an endpoint that cannot be, before any is."""
    if asked.teacher != "stub" and not asked.teacher.startswith("local:"):
        _endpoint(asked, step, "")


def _endpoint(asked: TeacherSettings, step: str, cache: str) -> Endpoint:
    if not asked.teacher:
        raise UserError(
            f"{step}: nobody to ask; give --teacher, the address of a chat endpoint "
            "(https://../v1/chat/completions), local:CHECKPOINT, or stub to try the flow"
        )
    if not asked.teacher.startswith(("http://", "https://")):
        raise UserError(
            f"{step}: --teacher {asked.teacher} is neither an address "
            "(https://../v1/chat/completions), nor local:CHECKPOINT, nor stub"
        )
    if not asked.model:
        raise UserError(f"{step}: which model of {asked.teacher}? give --model")
    return Endpoint(
        asked.teacher,
        key=asked.key,
        timeout=asked.timeout,
        retries=asked.retries,
        backoff=asked.backoff,
        concurrency=asked.concurrency,
        cache=cache,
        prices=(asked.price_in, asked.price_out),
    )
