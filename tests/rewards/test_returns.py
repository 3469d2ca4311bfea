# SPDX-License-Identifier: Apache-2.0
"""What a reward may return and raise: any kind of number, errors that name function and row."""

import asyncio
import concurrent.futures
import itertools
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED
from jaxvl.rewards.mix import score

torch = pytest.importorskip("torch")


def run(*fns, weights=(1.0, 1.0, 1.0)):
    rewards = [Reward(fn, w, f"r{k}") for k, (fn, w) in enumerate(zip(fns, weights, strict=False))]
    return score(rewards, ["p"] * 4, list("abcd"), [[1]] * 4, {}).total_N


def giving(value):
    return lambda prompts, completions, completion_ids, **columns: value


HALVES = [0.0, 0.5, 1.0, 1.5]
GOOD = {
    "tuple": lambda: tuple(HALVES),
    "numpy": lambda: np.array(HALVES),
    "numpy float16": lambda: np.array(HALVES, np.float16),
    "numpy objects": lambda: np.array([0, Fraction(1, 2), Decimal(1), 1.5], object),
    "jax": lambda: jnp.array(HALVES),
    "jax bfloat16": lambda: jnp.array(HALVES, jnp.bfloat16),
    "jax scalars": lambda: [jnp.float32(x) for x in HALVES],
    "jax bfloat16 scalars": lambda: [jnp.bfloat16(x) for x in HALVES],
    "torch": lambda: torch.tensor(HALVES),
    "torch bfloat16": lambda: torch.tensor(HALVES, dtype=torch.bfloat16),
    "torch with a gradient": lambda: torch.tensor(HALVES, requires_grad=True) * 1,
    "torch scalars": lambda: [torch.tensor(x, dtype=torch.float16) for x in HALVES],
    "0-d numpy": lambda: [np.array(x) for x in HALVES],
    "numpy scalars": lambda: [np.float64(x) for x in HALVES],
    "longdouble": lambda: [np.longdouble(x) for x in HALVES],
    "fractions": lambda: [Fraction(x) for x in HALVES],
    "decimals": lambda: [Decimal(x) for x in HALVES],
    "generator": lambda: (x for x in HALVES),
    "map": lambda: map(float, HALVES),
    "values of a dict": lambda: dict(enumerate(HALVES)).values(),
}


@pytest.mark.parametrize("name", GOOD)
def test_numbers_of_any_kind_are_rewards(name):
    np.testing.assert_array_equal(run(giving(GOOD[name]())), HALVES)


def test_a_pandas_series_is_a_list_whatever_its_index():
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(run(giving(pandas.Series(HALVES, index=list("wxyz")))), HALVES)


def test_flags_zeros_and_marks():
    got = run(giving([True, np.bool_(False), torch.tensor(True), jnp.array(False)]))
    np.testing.assert_array_equal(got, [1, 0, 1, 0])
    assert not np.signbit(run(giving([-0.0] * 4))).any()
    got = run(giving(np.array([1.0, MASKED, None, 2], object)), giving([1] * 4))
    np.testing.assert_array_equal(got, [2, np.nan, 1, 3])


@pytest.mark.parametrize(
    "value",
    [1e39, -1e39, 10**400, -(10**400), 10**5000, 3.5e38, Decimal("1e400"), Fraction(10**400)]
    + [np.float64(1e39), np.longdouble(1e300), sys.float_info.max],
    ids=lambda x: type(x).__name__,
)
def test_a_number_that_float32_does_not_hold_is_refused_by_name(value):
    with pytest.raises(UserError, match=r"`r0` returned .* for row 2, which does not fit float32"):
        run(giving([0, 1, value, 0]))


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, float(np.finfo(np.float32).max), 1e-300])
def test_what_it_holds_is_taken(value):
    np.testing.assert_array_equal(run(giving([value] * 4)), np.float32([value] * 4))


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ((3e38, 3e38), (1.0, 1.0)),
        ((-3e38, -3e38), (1.0, 1.0)),
        ((1.0, 0.0), (1e39, 1.0)),
        ((1e38, 0.0), (10.0, 1.0)),
        ((3e38, 3e38), (1e300, -1e300)),
        ((3e38, -3e38), (1e300, 1e300)),
    ],
)
def test_a_sum_that_float32_does_not_hold_is_refused_by_name(values, weights):
    with pytest.raises(
        UserError, match=r"row 1: the weighted sum .*\(r0\) \+ .*\(r1\), does not fit"
    ):
        run(*(giving([0, x, 0, 0]) for x in values), weights=weights)


def test_a_weight_that_is_no_number_is_refused():
    for weight in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="weights .* expected finite numbers"):
            run(giving([0] * 4), weights=(weight,))


NO_NUMBERS = [
    float("nan"),
    float("-inf"),
    Decimal("nan"),
    Decimal("snan"),
    Decimal("inf"),
    1 + 0j,
    "1.0",
    b"1",
    [1.0],
    np.array([1.0]),
    torch.tensor([1.0]),
    np.str_("1"),
    {},
    object(),
]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda x: type(x).__name__)
def test_what_is_no_finite_number_is_refused_by_row(value):
    with pytest.raises(UserError, match=r"`r0` returned .* for row 1, expected a finite number"):
        run(giving([0, value, 0, 0]))


NO_LISTS = [
    {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0},
    {0.0, 1.0, 2.0, 3.0},
    "0123",
    bytes(4),
    bytearray(4),
    None,
    1.0,
    np.array(1.0),
    torch.tensor(1.0),
    jnp.float32(1),
]


@pytest.mark.parametrize("value", NO_LISTS, ids=lambda x: type(x).__name__)
def test_what_is_no_list_is_refused(value):
    with pytest.raises(UserError, match="`r0` returned .*, expected a list of 4 numbers"):
        run(giving(value))


def test_the_number_of_values_is_checked():
    for value, count in ((np.ones(3), "3"), (itertools.repeat(1.0), "5 or more"), (iter(()), "0")):
        with pytest.raises(UserError, match=f"`r0` returned {count} values for 4 completions"):
            run(giving(value))


def asynchronous(bad):
    async def judge(prompts, completions, completion_ids, **columns):
        await asyncio.sleep(0)
        if "c" in completions:
            await bad()
        return [1.0] * len(completions)

    return judge


async def cancelled():
    raise asyncio.CancelledError


async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


async def awaits_what_was_cancelled():
    task = asyncio.ensure_future(asyncio.sleep(1))
    task.cancel()
    await task


async def raises():
    raise ValueError("no judge")


async def runs_late():
    await asyncio.wait_for(asyncio.sleep(5), 0.001)


async def leaves():
    sys.exit(0)


async def groups():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(raises())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (cancelled, "CancelledError"),
        (cancels_itself, "CancelledError"),
        (awaits_what_was_cancelled, "CancelledError"),
        (raises, "ValueError: no judge"),
        (runs_late, "TimeoutError"),
        (leaves, "SystemExit: 0"),
        (groups, "ExceptionGroup"),
    ],
)
def test_a_coroutine_that_raises_or_is_cancelled_is_told_with_its_row(bad, words):
    with pytest.raises(UserError, match=rf"`r1` raised {words}.*, row 2, completion 'c'"):
        run(giving([0] * 4), asynchronous(bad), asynchronous(lambda: asyncio.sleep(0)))


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), concurrent.futures.CancelledError(), SystemExit(0), KeyError("x")],
)
def test_so_is_a_plain_function(error):
    def fn(prompts, completions, completion_ids, **columns):
        if "c" in completions:
            raise error
        return [1.0] * len(completions)

    with pytest.raises(UserError, match=rf"`r1` raised {type(error).__name__}.*, row 2"):
        run(asynchronous(lambda: asyncio.sleep(0)), fn)


def test_a_column_that_is_not_there_is_told_with_those_that_are():
    def fn(prompts, completions, completion_ids, colour):
        return [1.0] * len(completions)

    with pytest.raises(UserError, match=r"raised TypeError.*the columns are answer, id"):
        score([Reward(fn)], ["p"], ["a"], [[1]], {"answer": ["x"], "id": ["1"]})


def test_so_is_an_iterator_that_raises_on_its_way():
    def fn(prompts, completions, completion_ids, **columns):
        for text in completions:
            yield 1 / (text != "c")

    with pytest.raises(UserError, match="`r0` raised ZeroDivisionError: .*, row 2, completion 'c'"):
        run(fn)


def test_what_a_reward_does_to_its_lists_is_nothing_to_others():
    ids, texts, column = [[1, 2], [3]], ["a", "b"], [[{"role": "x"}], None]

    def spoils(completions, completion_ids, turns, **columns):
        completion_ids[0].clear()
        completions[:] = ["", ""]
        turns[0][0]["role"] = "y"
        return [1, 1]

    def looks(completions, completion_ids, turns, **columns):
        assert (completion_ids, completions, turns) == ([[1, 2], [3]], ["a", "b"], column)
        return [0, 0]

    rewards = [Reward(spoils, 1.0, "spoils"), Reward(looks, 1.0, "looks")]
    score(rewards, ["p"] * 2, texts, ids, {"turns": column})
    assert (ids, texts, column[0][0]["role"]) == ([[1, 2], [3]], ["a", "b"], "x")


def test_a_reward_that_goes_to_another_directory_comes_back(tmp_path):
    before = os.getcwd()

    def moves(completions, **columns):
        os.chdir(tmp_path)
        return [1.0] * len(completions)

    np.testing.assert_array_equal(run(moves), [1] * 4)
    assert os.getcwd() == before
    gone = tmp_path / "gone"
    gone.mkdir()
    try:
        os.chdir(gone)
        gone.rmdir()
        np.testing.assert_array_equal(run(moves), [1] * 4)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("how", ["raises", "exits", "returns"])
def test_a_child_that_a_reward_forks_does_not_act_as_the_run(how, tmp_path):
    """Else it would go on as the run: save, write, and release the run's lock."""
    code = f"""
import os
from jaxvl.config import Reward
from jaxvl.rewards.mix import score

def forks(completions, **columns):
    child = os.fork()
    if not child:
        if {how!r} == "raises":
            raise RuntimeError("of the child")
        if {how!r} == "exits":
            raise SystemExit(0)
        return [0.0] * len(completions)
    assert os.waitpid(child, 0)[1] == 256  # it left by itself, with 1
    return [1.0] * len(completions)

print(os.getpid(), score([Reward(forks)], ["p"], ["a"], [[1]], {{}}).total_N)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
