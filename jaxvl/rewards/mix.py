# SPDX-License-Identifier: Apache-2.0
"""Several reward functions, called on a batch of completions and summed by weight."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
import numbers
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.config import Reward
from jaxvl.errors import UserError

_ARGUMENTS = ("prompts", "completions", "completion_ids")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rewards of N completions by K functions: values_NK, NaN where a function does not apply, and
    total_N, the sum weighted over those that do. Both float32."""

    names: tuple[str, ...]
    values_NK: np.ndarray
    total_N: np.ndarray


def score(
    rewards: Sequence[Reward],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
) -> Scores:
    """Call every function on the N completions; every argument holds one item for each of them.

    Functions are called in order; those that are async run together. Raises UserError for a
    function that raises, or returns anything but N numbers or Nones, for a completion to which no
    function applies, and for names that are not unique.
    """
    names = tuple(reward.name for reward in rewards)
    if not names or len(set(names)) < len(names):
        raise UserError(f"rewards are {list(names)}: expected at least one, each with its own name")
    taken = [name for name in _ARGUMENTS if name in columns]
    if taken:
        raise UserError(f"the dataset has a column `{taken[0]}`, an argument of rewards; rename it")
    inputs = dict(zip(_ARGUMENTS, (prompts, completions, completion_ids), strict=True))
    for name, values in {**inputs, **columns}.items():
        if len(values) != len(completions):
            raise UserError(f"`{name}` has {len(values)} items for {len(completions)} completions")
    results = _call_all(rewards, {**inputs, **columns})
    values_KN = [
        _numbers(reward.name, result, len(completions))
        for reward, result in zip(rewards, results, strict=True)
    ]
    values_NK = np.asarray(values_KN, np.float32).T
    unscored = np.flatnonzero(np.isnan(values_NK).all(axis=1))
    if unscored.size:
        raise UserError(
            f"row {unscored[0]} ({len(unscored)} of {len(completions)} rows): every reward "
            f"({', '.join(names)}) returned None; at least one must apply to each completion"
        )
    weights_K = np.asarray([reward.weight for reward in rewards], np.float32)
    return Scores(names, values_NK, np.nansum(values_NK * weights_K, axis=1, dtype=np.float32))


def _call_all(rewards: Sequence[Reward], inputs: dict[str, Any]) -> list[Any]:
    """What each function returns; coroutines are awaited together."""
    results = []
    for reward in rewards:
        try:
            results.append(reward.fn(**inputs))
        except Exception as error:
            raise _raised(reward, error) from error
    waiting = [index for index, result in enumerate(results) if inspect.isawaitable(result)]
    if waiting:
        # In a thread of its own: a notebook already runs an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            job = thread.submit(asyncio.run, _gather([results[index] for index in waiting]))
        for index, result in zip(waiting, job.result(), strict=True):
            if isinstance(result, BaseException):
                raise _raised(rewards[index], result) from result
            results[index] = result
    return results


async def _gather(awaitables: list[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


def _raised(reward: Reward, error: BaseException) -> UserError:
    if isinstance(error, UserError):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    message = f"reward `{reward.name}` raised {type(error).__name__}: {error} ({where})"
    if isinstance(error, TypeError) and "argument" in str(error):
        message += "; expected fn(prompts, completions, completion_ids, **columns)"
    return UserError(message)


def _numbers(name: str, result: Any, count: int) -> list[float]:
    """A function's result as `count` floats, NaN for None."""
    if isinstance(result, (str, bytes, Mapping)) or not hasattr(result, "__len__"):
        raise UserError(
            f"reward `{name}` returned {result!r:.60} ({type(result).__name__}), expected a list "
            f"of {count} numbers"
        )
    if len(result) != count:
        raise UserError(f"reward `{name}` returned {len(result)} values for {count} completions")
    values = []
    for row, value in enumerate(result):
        real = isinstance(value, (numbers.Real, np.bool_)) and math.isfinite(value)
        if value is not None and not real:
            raise UserError(
                f"reward `{name}` returned {value!r:.60} ({type(value).__name__}) for row {row}, "
                "expected a finite number, or None where it does not apply"
            )
        values.append(math.nan if value is None else float(value))
    return values
