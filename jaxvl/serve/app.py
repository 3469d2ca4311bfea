# SPDX-License-Identifier: Apache-2.0
"""The server's routes. A request is read strictly, encoded in a thread, gathered with others, and
answered; a line is printed for each, which says nothing of what was asked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from jaxvl.errors import UserError
from jaxvl.rl.streaming import Pieces
from jaxvl.serve import replies
from jaxvl.serve.gather import Drawn, Gather, Job, tokens_for
from jaxvl.serve.replies import ChatReply
from jaxvl.serve.requests import BadRequest, ChatRequest, check_model, read
from jaxvl.vlm import VLM

MOST_BYTES = 64 * 2**20  # of a request's body
LONGEST_BODY = 60.0  # seconds in which it has to be there
MOST_REQUESTS = 128  # under way; others are told to come again
READERS = 4  # threads that open images and tokenize
LOCAL = ("127.0.0.1", "localhost")
GONE = 499  # the status, in the log, of a request whose client went away
_LAST_SECONDS = 10.0  # for the devices, when all requests have ended


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """What a server is told: the model's name, sequences at a time, the longest reply, the bearer
    token ("" for none)."""

    model: str
    batch: int
    max_new_tokens: int
    key: str = ""


@dataclasses.dataclass
class _Account:
    """What is said of a request when it is over."""

    begun: float = dataclasses.field(default_factory=time.monotonic)
    status: int = GONE
    job: Job | None = None
    choices: list[Drawn] = dataclasses.field(default_factory=list)
    streams: bool = False


class Server:
    """What the routes share."""

    def __init__(self, vlm: VLM, settings: ServeSettings):
        self.vlm, self.settings = vlm, settings
        self.processor = vlm.processor.as_bytes()
        self.readers = ThreadPoolExecutor(READERS)
        self.under_way = 0
        self.gather: Gather | None = None
        self.ended = False  # the devices' thread, and so all
        text = vlm.hf_config.get("text_config") or vlm.hf_config
        self.positions: int | None = text.get("max_position_embeddings")

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ],
            exception_handlers={BadRequest: _refused, HTTPException: _no_route, Exception: _broken},
            lifespan=self._life,
        )

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        self.gather = Gather(self.vlm, self.settings.batch)
        yield
        self.readers.shutdown(wait=False, cancel_futures=True)
        self.ended = await asyncio.to_thread(self.gather.close, _LAST_SECONDS)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        self._check_access(request)
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        self._check_access(request)
        check_model(request.path_params["name"], self.settings.model)
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        return {"id": self.settings.model, "object": "model", "created": 0, "owned_by": "jaxvl"}

    async def chat(self, request: Request) -> Response:
        account = _Account()
        self.under_way += 1
        try:
            self._check_access(request)
            _check_type(request)
            if self.under_way > MOST_REQUESTS:
                why = f"{MOST_REQUESTS} requests are under way; come again"
                raise BadRequest(why, status=503, code="overloaded")
            asked, job = await self._job(await _body(request))
            account.job = job
            assert self.gather is not None  # the lifespan has begun
            self.gather.add(job)
            reply = ChatReply(self.settings.model, len(job.encoded.tokens))
            if asked.stream:
                account.streams = True
                return _Events(self._stream(asked, job, reply, account), self._end, account)
            return await self._whole(request, asked, job, reply, account)
        except BadRequest as error:
            account.status = error.status
            raise
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception:
            account.status = 500
            raise
        finally:
            if not account.streams:
                self._end(account)

    def _check_access(self, request: Request) -> None:
        """The key is given. Where there is none, the host that is asked for is this one: a page in
        a browser could have been led here by another name."""
        if not (key := self.settings.key):
            host = request.headers.get("host", "").partition(":")[0]
            if host not in LOCAL:
                names = " or ".join(LOCAL)
                why = f"Host: found {host!r:.100}; expected {names}; other names need --key"
                raise BadRequest(why, status=403, code="unknown_host")
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.encode()):
            why = "expected the server's key: Authorization: Bearer KEY"
            raise BadRequest(why, status=401, code="invalid_api_key")

    async def _job(self, data: bytes) -> tuple[ChatRequest, Job]:
        def work() -> tuple[ChatRequest, Job]:
            asked = read(data, self.settings.model)
            return asked, self._encode(asked)

        return await asyncio.get_running_loop().run_in_executor(self.readers, work)

    def _encode(self, asked: ChatRequest) -> Job:
        limit = self.settings.max_new_tokens
        if (asked.max_tokens or 0) > limit:
            why = f"max_tokens={asked.max_tokens}: expected at most {limit} (--max-new-tokens)"
            raise BadRequest(why, "max_tokens")
        try:
            encoded = self.processor.encode(asked.messages, asked.images)
        except UserError as error:
            raise BadRequest(f"messages: {error}", "messages") from None
        room = (self.positions or 2**31) - len(encoded.tokens)
        most = asked.max_tokens or min(limit, max(room, 1))
        if most > room:
            why = (
                f"messages: {len(encoded.tokens)} tokens, and {most} of a reply; the model has "
                f"{self.positions} positions"
            )
            raise BadRequest(why, "messages", code="context_length_exceeded")
        tokens = tokens_for(most, limit)
        how = self.vlm.decoding(asked.n, tokens, asked.temperature, asked.top_p, asked.top_k)
        return Job(encoded, how, most, asked.seed, asked.stream)

    async def _whole(
        self, request: Request, asked: ChatRequest, job: Job, reply: ChatReply, account: _Account
    ) -> Response:
        """The reply in one piece. Where the client goes away first, nobody waits for it."""
        left = asyncio.create_task(_left(request))
        came = asyncio.create_task(job.news.get())
        try:
            await asyncio.wait((left, came), return_when=asyncio.FIRST_COMPLETED)
            if not came.done():
                return Response(status_code=GONE)
            found = came.result()
        finally:
            left.cancel()
            came.cancel()
        if isinstance(found, str):
            account.status = 500
            return JSONResponse(replies.error(found, status=500), 500)
        account.status, account.choices = 200, found
        return JSONResponse(reply.whole(found, self.vlm.processor if asked.logprobs else None))

    async def _stream(
        self, asked: ChatRequest, job: Job, reply: ChatReply, account: _Account
    ) -> AsyncIterator[str]:
        """The reply as events; closed where the client goes away."""
        taken, ended = [Pieces() for _ in range(asked.n)], [False] * asked.n
        for chunk in reply.begin(asked.n):
            yield chunk
        while not all(ended):
            found = await job.news.get()
            if isinstance(found, str):
                account.status = 500
                yield replies.event(replies.error(found, status=500))
                return
            account.choices = found
            for i, choice in enumerate(found):
                for chunk in () if ended[i] else reply.add(i, choice, taken[i]):
                    yield chunk
                ended[i] = choice.ended
        account.status = 200
        for chunk in reply.end(account.choices, asked.include_usage):
            yield chunk

    def _end(self, account: _Account) -> None:
        """A request is answered, or nobody waits for it any more."""
        self.under_way -= 1
        about = ""
        if job := account.job:
            job.gone = True
            tokens = replies.usage(len(job.encoded.tokens), account.choices)
            drawn = f"{tokens['prompt_tokens']} + {tokens['completion_tokens']} tokens"
            about = f", n={job.how.completions}, {drawn}"
        now, seconds = time.strftime("%H:%M:%S"), time.monotonic() - account.begun
        print(f"{now} {account.status}{about}, {seconds:.2f} s", flush=True)


class _Events(StreamingResponse):
    """A stream of events that ends its account, though nobody may have read the first."""

    def __init__(
        self, events: AsyncIterator[str], end: Callable[[_Account], None], account: _Account
    ):
        super().__init__(events, media_type="text/event-stream")
        self._end, self._account = end, account

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end(self._account)


def _check_type(request: Request) -> None:
    """A page of another site cannot send this type unless it is let, and here it is not."""
    found = request.headers.get("content-type", "")
    if found.partition(";")[0].strip().lower() != "application/json":
        why = f"Content-Type: found {found!r:.100}; expected application/json"
        raise BadRequest(why, status=415)


async def _body(request: Request) -> bytes:
    """A request's body, read no further than it may be long, and waited for no longer."""
    data = bytearray()
    try:
        async with asyncio.timeout(LONGEST_BODY):
            async for piece in request.stream():
                data += piece
                if len(data) > MOST_BYTES:
                    raise BadRequest(f"the body has over {MOST_BYTES} bytes", status=413)
    except TimeoutError:
        why = f"the body was not there within {LONGEST_BODY:g} seconds"
        raise BadRequest(why, status=408) from None
    return bytes(data)


async def _left(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Any) -> Response:
    body = replies.error(str(error), error.param, error.code, error.status)
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return JSONResponse(body, error.status, headers)


async def _no_route(request: Request, error: Any) -> Response:
    body = replies.error(f"{request.method} {request.url.path:.200}: {error.detail}")
    return JSONResponse(body, error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    """Of what nobody foresaw; uvicorn prints its traceback."""
    return JSONResponse(replies.error(type(error).__name__, status=500), 500)
