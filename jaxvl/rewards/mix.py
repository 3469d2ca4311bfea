# SPDX-License-Identifier: Apache-2.0
"""Several reward functions, called on a batch of completions and summed by weight."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
import numbers
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED, completion_text

_ARGUMENTS = ("prompts", "completions", "completion_ids")
_SERVICES = ("trainer_state", "log_metric", "log_extra")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rewards of N completions by K functions: values_NK, NaN where a function does not apply, and
    total_N, the sum weighted over those that do. Both float32.

    A completion that a function has `MASKED` is left out of the step: its total is NaN. `logged`
    and `extra` are what functions logged by name: any number of numbers, a value for each
    completion.
    """

    names: tuple[str, ...]
    values_NK: np.ndarray
    total_N: np.ndarray
    logged: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    extra: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    @property
    def masked_N(self) -> np.ndarray:
        return np.isnan(self.total_N)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of the numbers of each name that functions logged."""
        return {name: sum(values) / len(values) for name, values in self.logged.items()}


def join_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches as those of one; a value that was logged for some of them
    alone is None in the others."""
    columns = {name for part in parts for name in part.extra}
    logged: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part.logged.items():
            logged[name] = [*logged.get(name, ()), *values]
    extra = {
        name: [x for p in parts for x in p.extra.get(name, [None] * len(p.total_N))]
        for name in columns
    }
    return Scores(
        parts[0].names,
        np.concatenate([part.values_NK for part in parts]),
        np.concatenate([part.total_N for part in parts]),
        logged,
        dict(sorted(extra.items())),
    )


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """Where the run is, under TRL's names."""

    global_step: int = 0
    max_steps: int = 0


def score(
    rewards: Sequence[Reward],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    state: TrainerState = TrainerState(),
) -> Scores:
    """Call every function on the N completions; every argument holds one item for each of them.

    Beside the columns a function is given TRL's `trainer_state`, `log_metric(name, value)` (values
    of one name are averaged) and `log_extra(column, values)`. Functions are called in order; those
    that are async run together. Raises UserError for a function that raises, or returns anything
    but N numbers, Nones or MASKED, for a completion to which no function applies, and for names
    that are not unique.
    """
    names = tuple(reward.name for reward in rewards)
    if not names or len(set(names)) < len(names):
        raise UserError(f"rewards are {list(names)}: expected at least one, each with its own name")
    taken = [name for name in (*_ARGUMENTS, *_SERVICES) if name in columns]
    if taken:
        raise UserError(f"the dataset has a column `{taken[0]}`, an argument of rewards; rename it")
    inputs = {
        **dict(zip(_ARGUMENTS, (prompts, completions, completion_ids), strict=True)),
        **columns,
    }
    for name, values in inputs.items():
        if len(values) != len(completions):
            raise UserError(f"`{name}` has {len(values)} items for {len(completions)} completions")
    log = _Log(len(completions))
    services = {"trainer_state": state, "log_metric": log.metric, "log_extra": log.column}
    results = _call_all(rewards, inputs, services)
    masked_N = np.zeros(len(completions), bool)
    values_KN = []
    for reward, result in zip(rewards, results, strict=True):
        values_N, masked = _numbers(reward.name, result, len(completions))
        values_KN.append(values_N)
        masked_N |= masked
    values_NK = np.asarray(values_KN, np.float32).T
    unscored = np.flatnonzero(np.isnan(values_NK).all(axis=1) & ~masked_N)
    if unscored.size:
        raise UserError(
            f"row {unscored[0]} ({len(unscored)} of {len(completions)} rows): every reward "
            f"({', '.join(names)}) returned None; at least one must apply to each completion"
        )
    weights_K = np.asarray([reward.weight for reward in rewards], np.float32)
    total_N = np.nansum(values_NK * weights_K, axis=1, dtype=np.float32)
    total_N[masked_N] = np.nan
    return Scores(names, values_NK, total_N, log.numbers, log.columns)


class _Log:
    """What functions log beside their rewards."""

    def __init__(self, count: int):
        self.count = count
        self.numbers: dict[str, list[float]] = {}
        self.columns: dict[str, list[Any]] = {}

    def metric(self, name: str, value: float) -> None:
        self.numbers.setdefault(name, []).append(float(value))

    def column(self, column: str, values: Sequence[Any]) -> None:
        if len(values) != self.count:
            raise UserError(
                f"log_extra(`{column}`) got {len(values)} values for {self.count} completions"
            )
        self.columns[column] = list(values)


def _call_all(
    rewards: Sequence[Reward], inputs: Mapping[str, Any], services: Mapping[str, Any]
) -> list[Any]:
    """What each function returns; coroutines are awaited together."""
    results = []
    for reward in rewards:
        try:
            results.append(reward.fn(**inputs, **services))
        except Exception as error:
            raise _raised(reward, error, inputs, services) from error
    waiting = [index for index, result in enumerate(results) if inspect.isawaitable(result)]
    if waiting:
        awaited = _run(_gather([results[index] for index in waiting]))
        for index, result in zip(waiting, awaited, strict=True):
            if isinstance(result, BaseException):
                raise _raised(rewards[index], result, inputs, services) from result
            results[index] = result
    return results


def _run(awaitable: Any) -> Any:
    """In a thread of its own: a notebook already runs an event loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, awaitable).result()


async def _gather(awaitables: list[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


def _raised(
    reward: Reward, error: BaseException, inputs: Mapping[str, Any], services: Mapping[str, Any]
) -> UserError:
    """What to tell about a function that raised: where, and on which completion."""
    if isinstance(error, UserError):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    message = f"reward `{reward.name}` raised {type(error).__name__}: {error} ({where})"
    if isinstance(error, TypeError) and "argument" in str(error):
        return UserError(f"{message}; expected fn(prompts, completions, completion_ids, **columns)")
    row = _culprit(reward.fn, type(error), inputs, services)
    if row is None:
        return UserError(f"{message}, on all rows together but on none of them alone")
    completion = completion_text(inputs["completions"][row])
    return UserError(f"{message}, row {row}, completion {completion!r:.300}")


def _culprit(
    fn: Callable[..., Any], kind: type, inputs: Mapping[str, Any], services: Mapping[str, Any]
) -> int | None:
    """The first row on which the function raises alone too."""
    services = {**services, "log_extra": lambda column, values: None}
    for row in range(len(inputs["completions"])):
        try:
            result = fn(**{name: [values[row]] for name, values in inputs.items()}, **services)
            if inspect.isawaitable(result):
                _run(_awaited(result))
        except kind:
            return row
        except Exception:
            continue
    return None


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _numbers(name: str, result: Any, count: int) -> tuple[list[float], list[bool]]:
    """A function's result as `count` floats, NaN for None and MASKED, and which are masked."""
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
        if value is not None and value is not MASKED and not real:
            raise UserError(
                f"reward `{name}` returned {value!r:.60} ({type(value).__name__}) for row {row}, "
                "expected a finite number, or None where it does not apply"
            )
        values.append(float(value) if real else math.nan)
    return values, [value is MASKED for value in result]
