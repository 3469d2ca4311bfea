# SPDX-License-Identifier: Apache-2.0
"""Replies of a model behind OpenAI's chat interface."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jaxvl.data.example import Dropped
from jaxvl.data.image import load_image
from jaxvl.errors import UserError
from jaxvl.eval.benchmark import Item
from jaxvl.eval.engines.replies import Reply, ReplyKey, ReplySampling, number_of, pairs
from jaxvl.rewards.endpoint import Endpoint, chat_reply


class Remote:
    """A model that replies to items, `batch` requests at a time.

    The seed of a request is folded from the seed, the item's id and the sample's number; whether
    the server heeds it is its own affair. Images are sent as PNG, larger ones than `max_pixels`
    smaller.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        how: ReplySampling,
        batch: int = 32,
        max_pixels: int | None = None,
    ):
        self.endpoint, self.model, self.how = endpoint, model, how
        self.batch, self.max_pixels = batch, max_pixels
        self.dropped: list[Dropped] = []  # items that got no reply

    def replies(
        self, items: Sequence[Item], missing: Collection[ReplyKey]
    ) -> Iterator[list[Reply]]:
        """Those of the replies to `items` that are missing, a batch at a time."""
        wanted = pairs(items, missing)
        for start in range(0, len(wanted), self.batch):
            part = wanted[start : start + self.batch]
            begun = time.monotonic()
            answers = self.endpoint.post([self._body(item, sample) for item, sample in part])
            seconds = round(time.monotonic() - begun, 3)
            found = []
            for (item, sample), answer in zip(part, answers, strict=True):
                reply = _reply(item, sample, answer, seconds)
                if reply is None:
                    self.dropped.append(Dropped(item.id, "no reply", f"sample {sample}: {answer}"))
                else:
                    found.append(reply)
            yield found

    def _body(self, item: Item, sample: int) -> dict[str, Any]:
        how = self.how
        body = {
            "model": self.model,
            "messages": _with_pictures(item, self.max_pixels),
            "max_tokens": how.max_new_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "seed": number_of(f"{how.seed} {item.id} {sample}"),
        }
        return body | ({"top_k": how.top_k} if how.top_k else {})


def _with_pictures(item: Item, max_pixels: int | None) -> list[dict[str, Any]]:
    if isinstance(item.prompt, str):
        raise UserError(
            f"item {item.id}: a chat endpoint takes messages, and this protocol's prompt is plain "
            "text; choose another --protocol"
        )
    images = iter(item.images)

    def part(of: Mapping[str, Any]) -> Mapping[str, Any]:
        if of["type"] != "image":
            return of
        return {"type": "image_url", "image_url": {"url": _url(next(images), max_pixels)}}

    return [
        turn
        if isinstance(turn["content"], str)
        else {**turn, "content": [part(of) for of in turn["content"]]}
        for turn in item.prompt
    ]


def _url(image: Any, max_pixels: int | None) -> str:
    picture = load_image(image)
    if max_pixels and picture.width * picture.height > max_pixels:
        factor = (max_pixels / (picture.width * picture.height)) ** 0.5
        width, height = (max(1, int(side * factor)) for side in picture.size)
        picture = picture.resize((width, height))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _reply(
    item: Item, sample: int, answer: Mapping[str, Any] | None, seconds: float
) -> Reply | None:
    said = chat_reply(answer)
    if answer is None or said is None:
        return None
    text, reason = said
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    asked = [
        turn["content"]
        if isinstance(turn["content"], str)
        else "".join(part.get("text", "<image>") for part in turn["content"])
        for turn in item.prompt
    ]
    return Reply(
        item=item,
        sample=sample,
        text=text,
        raw=text,
        finish_reason=reason,
        tokens=tokens if isinstance(tokens, int) else None,
        thinking=None,
        prompt="\n\n".join(asked),
        image_sizes=tuple(load_image(image).size for image in item.images),
        seconds=seconds,
    )
