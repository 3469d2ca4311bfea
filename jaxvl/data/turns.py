# SPDX-License-Identifier: Apache-2.0
"""What a chat template writes around an assistant's reply, which fine-tuning's targets have too."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxvl.data import chat
from jaxvl.data.prompts import Processor
from jaxvl.errors import UserError

_REPLY = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for the reply, and is in no template


@dataclasses.dataclass(frozen=True)
class Turn:
    """Tokens around a reply: how many open the turn (they are the prompt's last), the one that ends
    it, and those that follow."""

    header: int
    end: int
    tail: tuple[int, ...]

    @classmethod
    def of(cls, processor: Processor) -> Turn:
        """As the checkpoint's chat template has it. Where it knows no roles (a base checkpoint's),
        or writes no special token behind a reply: no header, the checkpoint's first end token."""
        plain = cls(0, processor.stop_ids[0], ())
        if processor.chat_template is None:
            return plain
        asked: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        reply = {"role": "assistant", "content": [{"type": "text", "text": _REPLY}]}
        try:
            closed = chat.render(processor.tokenizer, asked, ask=False)
            opened = chat.render(processor.tokenizer, asked)
            whole = chat.render(processor.tokenizer, [*asked, reply], ask=False)
        except UserError:  # it wants other messages
            return plain
        header = opened.removeprefix(closed) if opened.startswith(closed) else ""
        after = processor.tokenize(whole.rpartition(_REPLY)[2])
        if not after or after[0] not in processor.tokenizer.added_tokens_decoder:
            return plain
        return cls(len(processor.tokenize(header)) if header else 0, after[0], tuple(after[1:]))
