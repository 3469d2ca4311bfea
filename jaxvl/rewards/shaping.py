# SPDX-License-Identifier: Apache-2.0
"""Rewards for the length and the wording of a completion, in tokens. Settings are keywords, to be
set with `functools.partial`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxvl.errors import UserError
from jaxvl.rewards.columns import rows_of
from jaxvl.rewards.rules import judge_rows, log_rates


def soft_overlong(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    limit: int,
    margin: int,
    **columns: Sequence[Any],
) -> list[float]:
    """DAPO's soft overlong penalty (arXiv 2503.14476, Eq. 13): 0 up to limit - margin tokens, then
    falling evenly to -1 at `limit`, and -1 beyond."""
    if not 0 < margin <= limit:
        raise UserError(f"soft_overlong: margin = {margin}; expected 1 to limit = {limit}")
    over = [len(ids) - (limit - margin) for ids in completion_ids]
    return [-min(1.0, max(0, tokens) / margin) + 0.0 for tokens in over]


def cosine(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    kind: str,
    limit: int,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    exceeded: float = -1.0,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Sequence[Any],
) -> list[float]:
    """The cosine length reward of arXiv 2502.03373: right and wrong answers, by `verify` of `kind`,
    go from their first value at no tokens to their second at `limit` tokens along half a cosine;
    a completion of `limit` tokens or more gets `exceeded`.

    The paper's values are right (2, 1), wrong (-10, 0), exceeded -10; the defaults have its shape
    in the range of the other rewards.
    """
    count = len(completions)
    verdicts = judge_rows([kind] * count, completions, rows_of(columns, count))
    log_rates(verdicts, log_metric)
    rewards = []
    for verdict, ids in zip(verdicts, completion_ids, strict=True):
        first, last = right if verdict.reward == 1.0 else wrong
        share = (1 + math.cos(math.pi * len(ids) / limit)) / 2
        rewards.append(exceeded if len(ids) >= limit else last + (first - last) * share)
    return rewards


def repetition(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    size: int = 3,
    penalty: float = -1.0,
    **columns: Sequence[Any],
) -> list[float]:
    """`penalty` times the share of n-grams of `size` tokens that repeat an earlier one."""
    return [penalty * repeated(ids, size) + 0.0 for ids in completion_ids]


def repeated(ids: Sequence[int], size: int) -> float:
    """1 - different / all n-grams of `size` tokens; 0 for fewer than `size` tokens."""
    count = len(ids) - size + 1
    if count < 1:
        return 0.0
    return 1 - len({tuple(ids[i : i + size]) for i in range(count)}) / count
