# SPDX-License-Identifier: Apache-2.0
"""What the questions of parts d and j share: drawn when they are asked for, put as they are, judged
by what stands in the answer's tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxvl.data.example import Example
from jaxvl.rewards import completion_text, extract


class Drawn(Sequence[Example]):
    """`size` examples, of which `make(i)` draws the one at `i`, the same every time."""

    def __init__(self, size: int, make: Callable[[int], Example]):
        self.size, self.make = size, make

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        if not 0 <= i < self.size:
            raise IndexError(i)
        return self.make(i)


def as_it_is(example: Example) -> list[dict]:
    """The question behind its image; it says its choices itself."""
    content = [{"type": "image"}, {"type": "text", "text": example.question}]
    return [{"role": "user", "content": content}]


def answer_of(completion: Any) -> str:
    """What stands in the answer's tags; "" where nothing does, or more than one thing."""
    return extract.single(completion_text(completion))
