# SPDX-License-Identifier: Apache-2.0
"""The tokens that fine-tuning learns from an example."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvl.config import SFT
from jaxvl.data.example import BadRow, Example
from jaxvl.data.prompts import Processor
from jaxvl.data.tasks import fields
from jaxvl.data.turns import Turn
from jaxvl.errors import UserError


@contextlib.contextmanager
def told(field: str, example: Example) -> Iterator[None]:
    """What a user's function raises is told with the example, and where it was raised."""
    try:
        yield
    except (UserError, BadRow):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise UserError(
            f"{field} raised {type(error).__name__}: {error} ({where}) for example {example.id}"
        ) from error


class Targets:
    """`sft.target`'s texts as tokens, each with what ends it; () where nothing is fine-tuned."""

    def __init__(self, processor: Processor, sft: SFT | None):
        self.processor, self.sft = processor, sft
        self.turn = Turn.of(processor) if sft else None
        self.ends: set[int] = set()  # tokens that have ended a target

    def __call__(self, example: Example, prompt: Any) -> tuple[int, ...]:
        """The tokens to learn, the end token among them, and where more than the answer counts what
        the chat template writes behind it. BadRow where the text is empty, or spells a special
        token: that would be learnt as the token, an end or a picture's place."""
        if self.sft is None:
            return ()
        with told("sft.target", example):
            text = self.sft.target(example)
        if not isinstance(text, str):
            raise UserError(
                f"sft.target gave a {type(text).__name__} for example {example.id}; expected text"
            )
        if not text.strip():
            raise BadRow("no target", f"sft.target gave {text!r:.60}; expected an answer to learn")
        tokens = self.processor.tokenize(fields.plain(text, "sft.target"))
        turn = self.turn_of(prompt)
        self.ends.add(turn.end)
        return (*tokens, turn.end, *(turn.tail if self.sft.loss != "answer" else ()))

    def turn_of(self, prompt: Any) -> Turn:
        """What stands around the reply to a prompt; flat text has no turns."""
        if isinstance(prompt, str) or self.turn is None:
            return Turn(0, self.processor.stop_ids[0], ())
        return self.turn
