# SPDX-License-Identifier: Apache-2.0
"""The audit's numbers on a small batch, and its warnings on made-up runs."""

import math

import numpy as np
import pytest

from jaxvl.rewards.audit import WINDOW, Watch, examine, kind_of, metrics


def test_numbers_of_a_step():
    texts = [
        "<answer>3</answer>",
        "the answer is 3",
        "<answer>4</answer>",
        "no idea",
        "<answer>left</answer>",
        "<answer>left</answer>",
    ]
    completion_ids = [[1, 2, 3, 4, 5], [7] * 40, [1] * 3, list(range(20)), [1], [2]]
    inputs = {
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": completion_ids,
        "columns": {
            "answer": ["3"] * 4 + ["left"] * 2,
            "choices": [()] * 4 + [("left", "right")] * 2,
        },
    }
    lengths_N = np.array([len(ids) for ids in completion_ids])
    got = metrics(examine(inputs), lengths_N, group=2)
    expected = {
        "audit/accuracy": 4 / 6,
        "audit/format": 4 / 6,
        "audit/repetition": 1 / 6,
        "audit/several_answers": 0.0,
        "audit/length_right": (5 + 40 + 1 + 1) / 4,
        "audit/length_wrong": (3 + 20) / 2,
        "audit/groups_right": 2 / 3,
        "audit/groups_wrong": 1 / 3,
        "audit/refused": 0.0,
        "audit/timeout": 0.0,
        "audit/crash": 0.0,
    }
    assert got == pytest.approx(expected)


JUDGED = {"accuracy", "groups_right", "groups_wrong", "refused", "timeout", "crash"}


@pytest.mark.parametrize(
    ("texts", "golds", "kinds", "absent"),
    [
        (["3", "a dog"], ["3", "a cat"], ["digit", "open"], {"length_wrong"}),
        (["4", "a dog"], ["3", "a cat"], ["digit", "open"], {"length_right"}),
        (["3", "4"], ["3", "3"], ["digit", "digit"], set()),
        (["a", "b"], ["c", "d"], ["open", "open"], JUDGED | {"length_right", "length_wrong"}),
        (["a", "b"], ["[0, 0, 1, 1]"] * 2, [None] * 2, JUDGED | {"length_right", "length_wrong"}),
        (["a", "b"], [None, float("nan")], [None] * 2, JUDGED | {"length_right", "length_wrong"}),
    ],
)
def test_what_is_of_nothing_is_absent(texts, golds, kinds, absent):
    inputs = {
        "completions": [f"<answer>{text}</answer>" for text in texts],
        "completion_ids": [[1], [1]],
        "columns": {"answer": golds, "verifier_type": kinds},
    }
    got = metrics(examine(inputs), np.array([1, 1]), group=1)
    every = JUDGED | {"length_right", "length_wrong", "format", "repetition", "several_answers"}
    assert got.keys() == {f"audit/{name}" for name in every - absent}
    assert all(map(math.isfinite, got.values()))


def test_shares_of_groups_are_of_those_that_a_rule_judges():
    inputs = {
        "completions": ["<answer>3</answer>"] * 2 + ["<answer>a dog</answer>"] * 2,
        "completion_ids": [[1]] * 4,
        "columns": {
            "answer": ["3"] * 2 + ["a cat"] * 2,
            "verifier_type": ["digit"] * 2 + ["open"] * 2,
        },
    }
    got = metrics(examine(inputs), np.ones(4), group=2)
    assert (got["audit/groups_right"], got["audit/groups_wrong"]) == (1, 0)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"answer": "3"}, "number"),
        ({"answer": "3 cm"}, "number"),
        ({"answer": "left", "choices": ("left", "right")}, "mcq"),
        ({"answer": "y = 2x"}, "math"),
        ({"answer": "2\\sqrt{3}"}, "math"),
        ({"answer": "a dog"}, "text"),
        ({"answer": "[0, 0, 1, 1]"}, ""),
        ({"answer": "3", "verifier_type": "math"}, "math"),
        ({"answer": "3", "verifier_type": "open"}, ""),
    ],
)
def test_kind_of_a_row(row, kind):
    assert kind_of(row) == kind


def warnings_of(reward, accuracy, repetition):
    """All warnings of a run of 3 windows whose metrics are functions of the share done."""
    draw = np.random.default_rng(0)
    watch, found = Watch(), []
    for step in range(1, 3 * WINDOW + 1):
        done = step / (3 * WINDOW)
        noise = draw.normal(0, 0.01, 3)
        values = (reward(done), accuracy(done), repetition(done))
        names = ("reward", "audit/accuracy", "audit/repetition")
        found += watch.see(step, dict(zip(names, np.add(values, noise), strict=True)))
    return found


def test_a_healthy_run_is_not_warned_about():
    assert warnings_of(lambda t: t, lambda t: t, lambda t: 0.0) == []
    assert warnings_of(lambda t: 0.5, lambda t: 0.5, lambda t: 0.3) == []
    assert warnings_of(lambda t: 1 - t, lambda t: 1 - t, lambda t: 0.0) == []


def test_reward_that_rises_without_accuracy_is_told_once_a_window():
    found = warnings_of(lambda t: t, lambda t: 0.3, lambda t: 0.0)
    assert len(found) == 2
    assert "reward rose from" in found[0] and "accuracy went from 0.30" in found[0]
    assert f"rollouts/step_{2 * WINDOW}.jsonl" in found[0]


def test_repetition_that_rises_is_told():
    found = warnings_of(lambda t: 0.5, lambda t: 0.5, lambda t: t)
    assert found and "repetitive completions rose" in found[0]


def test_answers_that_repeat_are_counted_and_told():
    texts = ["<answer>3</answer>", "<answer>3</answer> <answer>3</answer>", "<answer> <answer>3"]
    inputs = {"completions": texts, "completion_ids": [[1]] * 3, "columns": {"answer": ["3"] * 3}}
    got = metrics(examine(inputs), np.ones(3), group=1)
    assert got["audit/several_answers"] == pytest.approx(1 / 3)
    watch = Watch()
    lines = [{"audit/several_answers": 0.8 * (step >= WINDOW)} for step in range(2 * WINDOW)]
    (told,) = [text for step, line in enumerate(lines, 1) for text in watch.see(step, line)]
    assert "completions with several answer blocks rose from 0.00 to 0.80" in told


@pytest.mark.parametrize(
    ("name", "steps", "text"),
    [("boxes/in_frame", 1, "frames.model"), ("mixed/open/told_apart", 5, "take one that grades")],
)
def test_a_reward_that_cannot_pay_is_told_once(name, steps, text):
    watch = Watch()
    found = [watch.see(step, {name: 0.0}) + watch.see(step, {}) for step in range(1, 9)]
    assert [len(told) for told in found] == [int(step == steps) for step in range(1, 9)]
    assert text in found[steps - 1][0] and name in found[steps - 1][0]
    paid = Watch()
    assert [paid.see(step, {name: float(step == 1)}) for step in range(1, 9)] == [[]] * 8


def test_without_an_accuracy_nothing_is_said_of_it():
    watch = Watch()
    lines = [{"reward": float(step), "audit/accuracy": math.nan} for step in range(2 * WINDOW)]
    assert [warning for step, line in enumerate(lines) for warning in watch.see(step, line)] == []
