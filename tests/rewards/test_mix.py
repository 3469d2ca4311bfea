# SPDX-License-Identifier: Apache-2.0
"""Rewards are summed by weight where they apply; a function that misbehaves is named."""

import asyncio

import numpy as np
import pytest

from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED, call
from jaxvl.rewards.mix import Scores, TrainerState, join_scores, score

TEXTS = ["a", "bb", "ccc"]


def size(prompts, completions, completion_ids, **columns):
    return [len(text) for text in completions]


def sometimes(prompts, completions, completion_ids, flag, **columns):
    return [1.0 if item else None for item in flag]


def run(*rewards, **columns):
    return score(rewards, ["p"] * 3, TEXTS, [[1]] * 3, columns)


def test_the_total_is_the_weighted_sum_of_what_applies():
    scores = run(Reward(size, 0.5), Reward(sometimes, 2.0), flag=[True, False, True])
    assert scores.names == ("size", "sometimes")
    np.testing.assert_array_equal(scores.values_NK, [[1, 1], [2, np.nan], [3, 1]])
    np.testing.assert_array_equal(scores.total_N, [2.5, 1.0, 3.5])
    assert scores.values_NK.dtype == scores.total_N.dtype == np.float32


def test_functions_receive_every_column_and_may_return_arrays():
    seen = {}

    def spy(prompts, completions, completion_ids, **columns):
        seen.update(columns, prompts=prompts, completions=completions, ids=completion_ids)
        return np.array([True, False, True])

    scores = run(Reward(spy), gold=["x", "y", "z"])
    services = {name: seen.pop(name) for name in ("trainer_state", "log_metric", "log_extra")}
    assert services["trainer_state"] == TrainerState()
    assert seen == {
        "gold": ["x", "y", "z"],
        "prompts": ["p"] * 3,
        "completions": TEXTS,
        "ids": [[1]] * 3,
    }
    np.testing.assert_array_equal(scores.total_N, [1, 0, 1])


def test_async_functions_run_together_in_and_out_of_an_event_loop():
    running, most = set(), []

    def make(name):
        async def judge(prompts, completions, completion_ids, **columns):
            running.add(name)
            await asyncio.sleep(0.05)
            most.append(len(running))
            running.discard(name)
            return [float(name)] * 3

        return Reward(judge, name=name)

    async def notebook():
        return run(make("1"), Reward(size), make("2"))

    for scores in (run(make("1"), Reward(size), make("2")), asyncio.run(notebook())):
        np.testing.assert_array_equal(scores.values_NK[:, [0, 2]], [[1, 2]] * 3)
        np.testing.assert_array_equal(scores.values_NK[:, 1], [1, 2, 3])
    assert max(most) == 2


def returns(value):
    def odd(prompts, completions, completion_ids, **columns):
        return value

    return odd


@pytest.mark.parametrize(
    "value, words",
    [
        ([1.0, 2.0], "`odd` returned 2 values for 3 completions"),
        ([1.0, "good", 2.0], "`odd` returned 'good' (str) for row 1"),
        ([1.0, 2.0, float("nan")], "`odd` returned nan (float) for row 2"),
        ([float("inf"), 2.0, 3.0], "returned inf (float) for row 0"),
        ([[1.0], [1.0], [1.0]], "returned [1.0] (list) for row 0"),
        (1.0, "returned 1.0 (float), expected a list of 3 numbers"),
        ("abc", "returned 'abc' (str), expected a list"),
        (None, "returned None (NoneType), expected a list"),
        ([None, 1.0, None], "row 0 (2 of 3 rows): every reward (odd) returned None"),
    ],
)
def test_a_wrong_result_names_the_function_the_row_and_the_value(value, words):
    with pytest.raises(UserError) as caught:
        run(Reward(returns(value)))
    assert words in str(caught.value)


def test_an_exception_names_the_function_the_line_the_row_and_the_completion():
    def broken(prompts, completions, completion_ids, **columns):
        return [1 / (len(text) - 2) for text in completions]

    async def late(prompts, completions, completion_ids, **columns):
        if "ccc" in completions:
            raise ValueError("no judge")
        return [1.0] * len(completions)

    def crowd(prompts, completions, completion_ids, **columns):
        raise ValueError("too many") if len(completions) > 1 else None

    def narrow(completions):
        return [1.0] * 3

    where = r"`broken` raised ZeroDivisionError: .* \(test_mix\.py:\d+\), row 1, completion 'bb'"
    with pytest.raises(UserError, match=where):
        run(Reward(broken))
    where = r"`late` raised ValueError: no judge \(test_mix\.py:\d+\), row 2, completion 'ccc'"
    with pytest.raises(UserError, match=where):
        run(Reward(size), Reward(late))
    with pytest.raises(UserError, match="on all rows together but on none of them alone"):
        run(Reward(crowd))
    with pytest.raises(UserError, match=r"expected fn\(prompts, completions, completion_ids"):
        run(Reward(narrow))


def test_functions_may_log_numbers_and_columns_of_their_own():
    def first(prompts, completions, completion_ids, log_metric, log_extra, **columns):
        log_metric("seen", 1)
        log_metric("seen", 2)
        log_extra("words", [text.upper() for text in completions])
        return [0.0] * 3

    def second(prompts, completions, completion_ids, log_metric, trainer_state, **columns):
        log_metric("step", trainer_state.global_step / trainer_state.max_steps)
        return [0.0] * 3

    rewards = (Reward(first), Reward(second))
    scores = score(rewards, ["p"] * 3, TEXTS, [[1]] * 3, {}, TrainerState(5, 20))
    assert scores.metrics == {"seen": 1.5, "step": 0.25}
    assert scores.extra == {"words": ["A", "BB", "CCC"]}

    def short(prompts, completions, completion_ids, log_extra, **columns):
        log_extra("words", ["a"])
        return [0.0] * 3

    with pytest.raises(UserError, match=r"log_extra\(`words`\) got 1 values for 3 completions"):
        run(Reward(short))


def test_a_masked_completion_has_no_total():
    def judge(prompts, completions, completion_ids, **columns):
        return [0.5, MASKED, 1.0]

    scores = run(Reward(size), Reward(judge))
    np.testing.assert_array_equal(scores.total_N, [1.5, np.nan, 4.0])
    np.testing.assert_array_equal(scores.masked_N, [False, True, False])
    np.testing.assert_array_equal(scores.values_NK[1], [2, np.nan])
    assert run(Reward(judge)).masked_N.tolist() == [False, True, False]


def test_names_and_columns_must_be_unambiguous():
    with pytest.raises(UserError, match="each with its own name"):
        run(Reward(size), Reward(size))
    for name in ("completions", "log_metric"):
        with pytest.raises(UserError, match=f"column `{name}`"):
            run(Reward(size), **{name: ["x"] * 3})
    with pytest.raises(UserError, match="`gold` has 2 items for 3 completions"):
        run(Reward(size), gold=["x", "y"])


def test_scores_of_two_batches_are_one():
    values = np.array([[1.0], [np.nan], [0.5]], np.float32)
    logged = {"x": [1.0, 1.0], "y": [4.0]}
    one = Scores(("a",), values[:2], values[:2, 0], logged, {"note": ["p", "q"]})
    other = Scores(("a",), values[2:], values[2:, 0], {"x": [4.0]})
    both = join_scores([one, other])
    np.testing.assert_array_equal(both.values_NK, values)
    np.testing.assert_array_equal(both.total_N, values[:, 0])
    assert both.metrics == {"x": 2.0, "y": 4.0}
    assert both.extra == {"note": ["p", "q", None]} and both.names == ("a",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda log, extra: log("mine", "abc"),
            "log_metric.`mine`. got 'abc' .str.; expected a",
        ),
        (lambda log, extra: log("mine", [1.0, 2.0]), r"log_metric.`mine`. got \[1.0, 2.0\] .list"),
        (lambda log, extra: log("mine", None), "got None"),
        (lambda log, extra: log("mine", 1j), "got 1j"),
        (lambda log, extra: log("mine", 10**400), "log_metric.`mine`. got "),
        (lambda log, extra: log(3, 1.0), "log_metric got the name 3; expected a text"),
        (lambda log, extra: log("", 1.0), "log_metric got the name ''"),
        (
            lambda log, extra: extra("mine", 3),
            "log_extra.`mine`. got 3 .int.; expected a list",
        ),
        (lambda log, extra: extra("mine", "abc"), "got 'abc' .str.; expected a list of 3 values"),
        (lambda log, extra: extra("mine", [1]), "got 1 values for 3"),
        (lambda log, extra: extra(None, [1, 2, 3]), "log_extra got the name None"),
    ],
)
def test_what_cannot_be_logged_is_told(call, message):
    def logs(prompts, completions, completion_ids, log_metric, log_extra, **columns):
        call(log_metric, log_extra)
        return [1.0] * len(completions)

    with pytest.raises(UserError, match=message):
        run(Reward(logs))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(3), GeneratorExit, BaseException])
@pytest.mark.parametrize("form", ["plain", "async", "iterator"])
def test_an_exit_in_a_reward_is_a_fault_of_the_reward(monkeypatch, error, form):
    """A run hears Ctrl-C itself, with a handler of its own."""
    monkeypatch.setattr(call.signal, "getsignal", lambda number: lambda number, frame: None)

    def plain(prompts, completions, completion_ids, **columns):
        raise error

    async def late(prompts, completions, completion_ids, **columns):
        raise error

    def lazy(prompts, completions, completion_ids, **columns):
        yield 1.0
        raise error

    fn = {"plain": plain, "async": late, "iterator": lazy}[form]
    name = getattr(error, "__name__", type(error).__name__)
    with pytest.raises(UserError, match=f"reward `{fn.__name__}` raised {name}"):
        run(Reward(fn))


def test_an_interrupt_that_may_be_a_persons_is_one():
    def plain(prompts, completions, completion_ids, **columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Reward(plain))
