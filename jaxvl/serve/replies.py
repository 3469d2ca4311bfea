# SPDX-License-Identifier: Apache-2.0
"""What is answered, in the words of OpenAI's chat interface."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from jaxvl.data.prompts import Processor
from jaxvl.rl.streaming import Pieces
from jaxvl.serve.gather import Drawn
from jaxvl.vlm import Completion

DONE = "data: [DONE]\n\n"


def error(why: str, param: str | None = None, code: str | None = None, status: int = 400) -> dict:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": why, "type": kind, "param": param, "code": code}}


def usage(prompt: int, choices: Sequence[Drawn]) -> dict[str, int]:
    """Tokens of the prompt, those of images among them, and of all choices with their ends."""
    drawn = sum(len(choice.completion.tokens) for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
    }


@dataclasses.dataclass
class ChatReply:
    """The answers to one request: whole, or as the chunks of a stream."""

    model: str
    prompt_tokens: int
    id: str = dataclasses.field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Drawn], processor: Processor | None) -> dict[str, Any]:
        """The reply; with the log-probabilities of its tokens where a processor spells these."""
        return self._head("chat.completion") | {
            "choices": [
                {
                    "index": i,
                    "message": {"role": "assistant", "content": choice.completion.text},
                    "logprobs": processor and _logprobs(choice.completion, processor),
                    "finish_reason": choice.completion.finish_reason,
                }
                for i, choice in enumerate(choices)
            ],
            "usage": usage(self.prompt_tokens, choices),
        }

    def begin(self, n: int) -> Iterator[str]:
        """The first chunk of each choice."""
        for i in range(n):
            yield self._chunk(i, {"role": "assistant", "content": ""}, None)

    def add(self, i: int, choice: Drawn, taken: Pieces) -> Iterator[str]:
        """The chunks of what has come to choice `i`, of which `taken` has been sent."""
        if piece := taken.next(choice.completion.text, whole=choice.ended):
            yield self._chunk(i, {"content": piece}, None)
        if choice.ended:
            yield self._chunk(i, {}, choice.completion.finish_reason)

    def end(self, choices: Sequence[Drawn], include_usage: bool) -> Iterator[str]:
        """What follows when all choices have ended."""
        if include_usage:
            tokens = usage(self.prompt_tokens, choices)
            yield event(self._head("chat.completion.chunk") | {"choices": [], "usage": tokens})
        yield DONE

    def _chunk(self, i: int, delta: dict[str, str], reason: str | None) -> str:
        choice = {"index": i, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event(self._head("chat.completion.chunk") | {"choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


def _logprobs(completion: Completion, processor: Processor) -> dict[str, Any]:
    decode = processor.tokenizer.decode
    pairs = zip(completion.tokens, completion.logprobs.tolist(), strict=True)
    return {
        "content": [
            {"token": decode([id]), "logprob": logprob, "bytes": None, "top_logprobs": []}
            for id, logprob in pairs
        ]
    }
