# SPDX-License-Identifier: Apache-2.0
"""What a request of OpenAI's chat interface asks for, read strictly.

A field that is not known, or asks for what there is not, is refused by its name. Pictures are data:
URLs alone: nothing is fetched, and no file is read.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from jaxvl import arguments
from jaxvl.data import strict_json
from jaxvl.data.example import BadRow
from jaxvl.data.image import load_image
from jaxvl.data.image_settings import MAX_IMAGE_PIXELS
from jaxvl.data.tasks.fields import plain
from jaxvl.errors import UserError

MOST_CHOICES = 128
MOST_PARTS = 2**13  # of all messages, each of which is one itself
MOST_CHARACTERS = 2**21  # of all texts; several to a token, and few models have 2^18 positions
ROLES = ("system", "user", "assistant")
_READ = {
    *("model", "messages", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("top_k", "seed", "logprobs", "stream", "stream_options"),
}
# What changes no reply.
_IGNORED = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
}
# What there is not may be said to be off.
_OFF: dict[str, Any] = {
    "best_of": 1,
    "frequency_penalty": 0,
    "functions": [],
    "logit_bias": {},
    "min_p": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "stop": [],
    "stop_token_ids": [],
    "tool_choice": "none",
    "tools": [],
    "top_logprobs": 0,
}


class BadRequest(Exception):
    """A request that is not answered: its status, and the field that is wrong."""

    def __init__(self, why: str, param: str | None = None, status: int = 400, code: str = ""):
        super().__init__(why)
        self.param, self.status, self.code = param, status, code or None


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """`messages` have {"type": "image"} in the places of `images`."""

    messages: list[dict[str, Any]]
    images: list[Image.Image]
    n: int
    max_tokens: int | None  # None: as many as there may be
    temperature: float
    top_p: float
    top_k: int
    seed: int
    logprobs: bool
    stream: bool
    include_usage: bool  # at the end of a stream


def check_model(asked: Any, served: str) -> None:
    """BadRequest where another model is asked for than the one that is served."""
    if asked != served:
        why = f"model: found {arguments.found(asked)}; expected {served!r}, which is served"
        raise BadRequest(why, "model", 404, "model_not_found")


def read(data: bytes, model: str) -> ChatRequest:
    """The request in a body, which has to be for `model`. BadRequest names what is wrong."""
    body = _given(_object(data))
    _check_names(body)
    if "model" not in body:
        raise BadRequest(f"model: found none; expected {model!r}", "model")
    check_model(body["model"], model)
    stream = _flag(body, "stream")
    if stream and body.get("logprobs"):
        raise BadRequest(
            "logprobs: there are none in a stream; expected one of the two", "logprobs"
        )
    messages, images = _messages(body.get("messages"))
    return ChatRequest(
        messages=messages,
        images=images,
        n=_whole(body, "n", 1, 1, MOST_CHOICES),
        max_tokens=_max_tokens(body),
        temperature=_temperature(body),
        top_p=_top_p(body),
        top_k=max(0, _whole(body, "top_k", 0, -1, 2**31 - 1)),  # vLLM's -1 is all, too
        seed=_whole(body, "seed", secrets.randbits(63), *arguments.SEEDS),
        logprobs=_flag(body, "logprobs"),
        stream=stream,
        include_usage=_include_usage(body, stream),
    )


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = strict_json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error!s:.200}") from None
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {arguments.found(body)}; expected a JSON object")
    return body


def _check_names(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in _OFF:
            if value != _OFF[name]:
                why = f"{name}: there is none here; leave it out"
                raise BadRequest(why, name, code="unsupported_parameter")
        elif name not in _READ | _IGNORED:
            why = f"{name:.80}: an unknown field; expected among {', '.join(sorted(_READ))}"
            raise BadRequest(why, name[:80], code="unknown_parameter")


def _checked(name: str, check: Callable[..., Any], *args: Any) -> Any:
    """`check(name, ..)`, whose UserError names a field of the request."""
    try:
        return check(name, *args)
    except UserError as error:
        raise BadRequest(str(error), name) from None


def _whole(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    return _checked(name, arguments.whole, body.get(name, default), least, most)


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float:
    return _checked(name, arguments.number, body.get(name, 1.0), least, most)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    return _checked(name, arguments.flag, body.get(name, False))


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    names = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
    found = {_whole(body, name, 0, 1, 2**31 - 1) for name in names}
    if len(found) > 1:
        raise BadRequest("max_tokens and max_completion_tokens differ; give one", names[0])
    return found.pop() if found else None


def _temperature(body: Mapping[str, Any]) -> float:
    temperature = _number(body, "temperature", 0, 2)
    if 0 < temperature < 0.01:
        why = f"temperature={temperature}: expected 0 (greedy), or a number from 0.01 to 2"
        raise BadRequest(why, "temperature")
    return temperature


def _top_p(body: Mapping[str, Any]) -> float:
    top_p = _number(body, "top_p", 0, 1)
    if not top_p:
        raise BadRequest("top_p=0: expected a number above 0, up to 1 (all tokens)", "top_p")
    return top_p


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage"}:
        why = f"stream_options: found {options!r:.80}; expected include_usage alone"
        raise BadRequest(why, "stream_options")
    if options and not stream:
        raise BadRequest("stream_options: stream is not set; leave them out", "stream_options")
    return _flag(options, "include_usage")


def _messages(messages: Any) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    if not isinstance(messages, list) or not messages:
        found = arguments.found(messages) if messages else "none"
        raise BadRequest(f"messages: found {found}; expected a list of at least one", "messages")
    contents = [one.get("content") for one in messages if isinstance(one, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    if len(messages) + len(parts) > MOST_PARTS:
        raise BadRequest(
            f"messages: over {MOST_PARTS} messages and parts; ask for less", "messages"
        )
    pictures = _Pictures()
    read = [_message(one, f"messages[{i}]", pictures) for i, one in enumerate(messages)]
    texts = [text for one in read for text in _texts(one["content"])]
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise BadRequest(f"messages: over {MOST_CHARACTERS} characters; ask for less", "messages")
    return read, pictures.loaded


def _texts(content: str | list[dict[str, Any]]) -> list[str]:
    return [content] if isinstance(content, str) else [part.get("text", "") for part in content]


def _message(message: Any, at: str, pictures: _Pictures) -> dict[str, Any]:
    message = _given(message)
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        found = sorted(message) if isinstance(message, dict) else arguments.found(message)
        raise BadRequest(f"{at}: found {found!s:.200}; expected role and content alone", at)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        found = arguments.found(role)
        raise BadRequest(f"{at}.role: found {found}; expected {', '.join(ROLES)}", f"{at}.role")
    at = f"{at}.content"
    if isinstance(content, str):
        return {"role": role, "content": _text(content, at)}
    if not isinstance(content, list) or not content:
        found = "no parts" if content == [] else arguments.found(content)
        raise BadRequest(f"{at}: found {found}; expected text, or a list of parts", at)
    return {"role": role, "content": list(_parts(content, at, pictures))}


def _given(value: Any) -> Any:
    """An object without its nulls: clients send them back for what there is not."""
    if not isinstance(value, dict):
        return value
    return {name: inner for name, inner in value.items() if inner is not None}


def _parts(content: list[Any], at: str, pictures: _Pictures) -> Iterator[dict[str, Any]]:
    for number, part in enumerate(content):
        part, where = _given(part), f"{at}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url") or set(part) != {"type", kind}:
            why = f"{where}: found {part!r:.80}; expected a part with text, or with an image_url"
            raise BadRequest(why, where)
        if kind == "text":
            yield {"type": "text", "text": _text(part["text"], f"{where}.text")}
        else:
            pictures.add(part["image_url"], f"{where}.image_url")
            yield {"type": "image"}


def _text(text: Any, at: str) -> str:
    """A text, which spells no special token: it would end a message, or begin one."""
    if not isinstance(text, str):
        raise BadRequest(f"{at}: found {arguments.found(text)}; expected text", at)
    try:
        text.encode()
        return plain(text, at)
    except UnicodeEncodeError:
        raise BadRequest(f"{at}: it holds half of a character; expected UTF-8", at) from None
    except BadRow as error:
        raise BadRequest(str(error), at) from None


class _Pictures:
    """The pictures of a request as they come, which are one picture's pixels in all at most."""

    def __init__(self) -> None:
        self.loaded: list[Image.Image] = []
        self.pixels = 0

    def add(self, holder: Any, at: str) -> None:
        """`detail` says how large a picture is to be seen; the model's own settings do here."""
        if not isinstance(holder, dict) or set(holder) - {"detail"} != {"url"}:
            found = sorted(holder) if isinstance(holder, dict) else arguments.found(holder)
            why = f"{at}: found {found!s:.200}; expected an object with url, and detail at most"
            raise BadRequest(why, at)
        url, at = holder["url"], f"{at}.url"
        if not isinstance(url, str) or url[:5].lower() != "data:":
            found = arguments.found(url)
            why = f"{at}: found {found}; expected a data: URL: nothing is fetched, no file is read"
            raise BadRequest(why, at)
        try:
            picture = load_image(url)
        except BadRow as error:
            raise BadRequest(f"{at}: {error!s:.400}", at) from None
        self.pixels += picture.width * picture.height
        if self.pixels > MAX_IMAGE_PIXELS:
            why = (
                f"{at}: the pictures have over {MAX_IMAGE_PIXELS} pixels in all; send them smaller"
            )
            raise BadRequest(why, at)
        self.loaded.append(picture)
