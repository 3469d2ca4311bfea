# SPDX-License-Identifier: Apache-2.0
"""Calling reward functions: what each is given, coroutines awaited together, what they raise told
with its row, and what they return made into numbers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import math
import numbers
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.config import Reward
from jaxvl.config.overrides import SERVICES
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED, completion_text

ARGUMENTS = ("prompts", "completions", "completion_ids")  # of every reward, as in TRL
# What a function may raise and a run tells of: an exit or an interrupt would end it in silence.
_FAULTS = (BaseException,)
_NO_LISTS = (str, bytes, bytearray, Mapping, AbstractSet)


def settings(fn: Callable[..., Any]) -> set[str]:
    """The keywords of a function that no column of the data may fill: those that
    `functools.partial` has bound, and all keyword-only ones of jaxvl's own functions.

    Any other function gets every column, those that it declares by name included, as in TRL.
    """
    bound = set(fn.keywords) if isinstance(fn, functools.partial) else set()
    inner = inspect.unwrap(fn.func if isinstance(fn, functools.partial) else fn)
    if str(getattr(inner, "__module__", "")).startswith("jaxvl.rewards"):
        parameters = inspect.signature(inner).parameters.values()
        own = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
        bound |= own - set(SERVICES)
    return bound


def call_all(
    rewards: Sequence[Reward], inputs: Mapping[str, Any], services: Mapping[str, Any]
) -> list[Any]:
    """What each function returns, arrays and iterators as lists; coroutines are awaited together.

    `inputs` hold an item a completion. UserError tells of a function that raises.
    """
    results: list[Any] = []
    for reward in rewards:
        try:
            results.append(_call(reward, inputs, services))
        except _FAULTS as error:
            if _by_hand(error):
                raise
            for begun in filter(inspect.iscoroutine, results):
                begun.close()
            raise _raised(reward, error, inputs, services) from error
    waiting = [index for index, result in enumerate(results) if inspect.isawaitable(result)]
    outcomes = _run(_gather([results[index] for index in waiting])) if waiting else []
    for index, (result, failure) in zip(waiting, outcomes, strict=True):
        if failure is not None:
            raise _raised(rewards[index], failure, inputs, services) from failure
        results[index] = result
    count = len(inputs["completions"])
    for index, reward in enumerate(rewards):
        try:
            results[index] = _listed(results[index], count)
        except _FAULTS as error:
            raise _raised(reward, error, inputs, services) from error
    return results


def _call(reward: Reward, inputs: Mapping[str, Any], services: Mapping[str, Any]) -> Any:
    """What the function returns. What it does to its lists, to the working directory or in a child
    that it forks and that comes out of it is nothing to the run."""
    given, kept = {**inputs, **services}, settings(reward.fn)
    given = {name: _copied(value) for name, value in given.items() if name not in kept}
    run = os.getpid()
    try:
        with _stays():
            return reward.fn(**given)
    finally:
        if os.getpid() != run:
            os._exit(1)


@contextlib.contextmanager
def _stays() -> Iterator[None]:
    """The working directory is what it was, unless it is gone."""
    try:
        place = os.open(".", os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(place)
        os.close(place)


def _copied(value: Any) -> Any:
    """Lists and dicts of its own, the rest as it is."""
    if type(value) is list:
        nested = bool(value) and type(value[0]) in (list, dict)
        return [_copied(one) for one in value] if nested else list(value)
    return {name: _copied(one) for name, one in value.items()} if type(value) is dict else value


def _by_hand(error: BaseException) -> bool:
    """Whether an interrupt may be a person's: a run hears Ctrl-C itself, and only a main thread is
    ever interrupted."""
    unheard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    main = threading.current_thread() is threading.main_thread()
    return isinstance(error, KeyboardInterrupt) and unheard and main


def _listed(result: Any, count: int) -> Any:
    """Arrays, tensors and series as lists of Python's numbers, an iterator's first items (one too
    many, to be seen); anything else as it is."""
    if hasattr(result, "tolist"):
        return result.tolist()
    return list(itertools.islice(result, count + 1)) if isinstance(result, Iterator) else result


def _run(awaitable: Any) -> Any:
    """In a thread of its own: a notebook already runs an event loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, awaitable).result()


async def _gather(awaitables: list[Any]) -> list[tuple[Any, BaseException | None]]:
    return await asyncio.gather(*map(_outcome, awaitables))


async def _outcome(awaitable: Any) -> tuple[Any, BaseException | None]:
    """What comes of it, or what it raises: one that is cancelled ends no other."""
    try:
        return await awaitable, None
    except _FAULTS as error:
        return None, error


def _raised(
    reward: Reward, error: BaseException, inputs: Mapping[str, Any], services: Mapping[str, Any]
) -> UserError:
    """What to tell about a function that raised: where, and on which completion."""
    if isinstance(error, UserError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = f": {error}" if str(error) else ""
    message = f"reward `{reward.name}` raised {type(error).__name__}{said}{where}"
    if isinstance(error, TypeError) and "argument" in str(error):
        return UserError(
            f"{message}; expected fn(prompts, completions, completion_ids, **columns), of which "
            f"the columns are {', '.join(sorted(set(inputs) - set(ARGUMENTS)))}"
        )
    row = _culprit(reward, type(error), inputs, services)
    if row is None:
        return UserError(f"{message}, on all rows together but on none of them alone")
    completion = completion_text(inputs["completions"][row])
    return UserError(f"{message}, row {row}, completion {completion!r:.300}")


def _culprit(
    reward: Reward,
    kind: type[BaseException],
    inputs: Mapping[str, Any],
    services: Mapping[str, Any],
) -> int | None:
    """The first row on which the function raises alone too."""
    quiet = {"log_metric": lambda name, value: None, "log_extra": lambda column, values: None}
    for row in range(len(inputs["completions"])):
        alone = {name: [values[row]] for name, values in inputs.items()}
        try:
            result = _call(reward, alone, {**services, **quiet})
            if inspect.isawaitable(result):
                result, failure = _run(_outcome(result))
                if failure is not None:
                    raise failure
            _listed(result, 1)
        except kind:
            return row
        except _FAULTS:
            continue
    return None


def as_numbers(name: str, result: Any, count: int) -> tuple[list[float], list[bool]]:
    """A function's result as `count` floats, NaN for None and MASKED, and which are masked.

    A value is a real number of any kind, a Decimal, or an array or tensor of rank 0.
    """
    if isinstance(result, _NO_LISTS) or not isinstance(result, Iterable):
        raise UserError(
            f"reward `{name}` returned {_shown(result)}, expected a list of {count} numbers"
        )
    result = list(result)
    if len(result) != count:
        more = "or more " if len(result) == count + 1 else ""
        raise UserError(
            f"reward `{name}` returned {len(result)} {more}values for {count} completions"
        )
    values = [
        math.nan if value is None or value is MASKED else _number(name, row, value)
        for row, value in enumerate(result)
    ]
    return values, [value is MASKED for value in result]


def _number(name: str, row: int, value: Any) -> float:
    """A finite value that float32 holds."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    found = f"reward `{name}` returned {_shown(value)} for row {row}"
    try:
        number = float(plain) if isinstance(plain, (numbers.Real, Decimal)) else math.nan
        beyond = math.isinf(number) and plain not in (math.inf, -math.inf)
    except OverflowError:
        number, beyond = math.inf, True
    except ValueError:  # a Decimal that signals
        number, beyond = math.nan, False
    if not beyond and not math.isfinite(number):
        raise UserError(f"{found}, expected a finite number, or None where it does not apply")
    with np.errstate(over="ignore"):
        beyond = beyond or not np.isfinite(np.float32(number))
    if beyond:
        raise UserError(f"{found}, which does not fit float32 (at most 3.4e38)")
    return number + 0.0  # no minus zero


def _shown(value: Any) -> str:
    """A value and its type, in a message."""
    kind = type(value).__name__
    try:
        return f"{value!r:.60} ({kind})"
    except Exception:  # an integer of more digits than Python writes, an object that is broken
        return f"a value of type {kind}"
