# SPDX-License-Identifier: Apache-2.0
"""What the first prompts of a run need, against the sizes that it has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxvl.data.prompts import step_up

LOOK = 64  # examples that are looked at before a run begins


class Need(NamedTuple):
    """Of one example: tokens and patches of its prompt, tokens of its target (0: it has none)."""

    id: str
    tokens: int
    patches: int
    target: int = 0


class Limits(NamedTuple):
    """What a run has room for; None where it makes room. `advice` names the settings."""

    tokens: int | None
    patches: int | None
    target: int | None = None

    def over(self, need: Need) -> bool:
        """Whether an example does not fit."""
        sizes = zip(need[1:], self, strict=True)
        return any(limit is not None and size > limit for size, limit in sizes)

    def found(self, need: Need) -> str:
        """What an example needs and the limits, where it is over them."""
        names = ("tokens", "patches", "tokens of a target")
        told = [
            f"{size} {name}, the limit is {limit}"
            for name, size, limit in zip(names, need[1:], self, strict=True)
            if limit is not None and size > limit
        ]
        return " and ".join(told)

    def advice(self, needs: Sequence[Need]) -> str:
        """Settings with room for all of `needs`, the smallest there are, of those that lack it."""
        names = ("data.prompt_buckets", "data.patch_buckets", "sft.target_length")
        most = [max(sizes) for sizes in list(zip(*needs, strict=True))[1:]]
        wanted = zip(names, most, self, strict=True)
        return " ".join(f"{n}={size}" for n, size, limit in wanted if limit and size > limit)


def read_off(sizes: Sequence[int], together: int) -> tuple[int, ...]:
    """Buckets for batches of `together` prompts, each as large as its largest, whose sizes are like
    these: at most two."""
    chunks = [sizes[i : i + together] for i in range(0, len(sizes), together)]
    return tuple(sorted({step_up(max(chunk)) for chunk in chunks})[-2:])
