# SPDX-License-Identifier: Apache-2.0
"""What steps would ask and cost, before anything is asked.

A token is taken for four characters, an image for a thousand tokens, a reply for about the length
of the published ones (`steps.GUESS`); every row is taken to come through. So it is an upper bound
of the calls and a rough figure of the tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from jaxvl.curate.rows import CuratedRow
from jaxvl.curate.steps import GUESS, Step
from jaxvl.data.example import BadRow

CHARACTERS, PICTURE = 4, 1000


@dataclasses.dataclass
class CostEstimate:
    """Of one step."""

    step: str
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


def estimate(steps: Sequence[Step], given: Iterable[CuratedRow]) -> list[CostEstimate]:
    """What each step would ask about these rows, one step after the other."""
    found = [CostEstimate(step.name) for step in steps]
    for row in given:
        for step, one in zip(steps, found, strict=True):
            try:
                body = step.body(row, look=False)
                if body is None:
                    continue
                guess = GUESS[step.name] or row["ds_answer"]
                row = step.take(row, guess)
            except BadRow:
                break
            text = body["messages"][0]["content"][-1]["text"]
            one.calls += 1
            one.tokens_in += len(text) // CHARACTERS + PICTURE * (step.name == "caption")
            one.tokens_out += min(len(guess) // CHARACTERS + 1, step.asked.max_tokens)
    for step, one in zip(steps, found, strict=True):
        one.cost = one.tokens_in * step.asked.price_in + one.tokens_out * step.asked.price_out
        one.cost /= 1e6
    return found
