# SPDX-License-Identifier: Apache-2.0
"""verify/* are shares of the comparisons that rewards made, and mean that alone."""

from functools import partial

import numpy as np
import pytest

from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import Mixed, accuracy, cosine, verified
from jaxvl.rewards.audit import examine
from jaxvl.rewards.mix import join_scores, score
from jaxvl.train.rollouts import Results

DIGITS = Reward(partial(verified, kind="number"), name="digits")
BOXES = Reward(partial(verified, kind="bbox"), name="boxes")
LENGTHS = Reward(partial(cosine, kind="number", limit=9), name="lengths")


def scored(rewards, texts, golds, **columns):
    columns = {"answer": golds, **columns}
    return score(rewards, ["p"] * len(texts), texts, [[1]] * len(texts), columns)


@pytest.mark.parametrize(
    ("rewards", "texts", "golds", "expected"),
    [
        ((DIGITS,), ["3", "<answer>3</answer>"], ["3", "3"], {"no_answer": 0.5}),
        ((DIGITS, LENGTHS), ["3", "<answer>3</answer>"], ["3", "3"], {"no_answer": 0.5}),
        ((DIGITS,), ["<answer>3</answer>"] * 4, ["3", None, "left", "3"], {"bad_gold": 0.5}),
        ((DIGITS, BOXES), ["<answer>3</answer>"] * 2, ["3", "3"], {"bad_gold": 0.5}),
        ((DIGITS,), ["<answer></answer>", "none", "x", ""], ["3"] * 4, {"no_answer": 1}),
    ],
)
def test_shares_of_comparisons(rewards, texts, golds, expected):
    found = scored(rewards, texts, golds).metrics
    assert found == dict.fromkeys(found, 0.0) | {f"verify/{k}": v for k, v in expected.items()}
    assert {"verify/no_answer", "verify/bad_gold", "verify/timeout"} <= found.keys()


def test_a_reward_that_compares_nothing_by_rule_logs_none():
    assert scored((Reward(accuracy),), ["3"], ["3"]).metrics == {}
    kinds = {"verifier_type": ["open", "digit"]}
    mixed = (Reward(Mixed(only=("digit",)), name="mixed"), Reward(accuracy))
    found = scored(mixed, ["<answer>3</answer>", "3"], ["3", "3"], **kinds).metrics
    assert found["verify/no_answer"] == 1  # of the one comparison that was made


def test_a_share_of_all_processes_is_that_of_all_their_comparisons():
    one = scored((DIGITS,), ["3"], ["3"])
    other = scored((DIGITS,), ["<answer>3</answer>"] * 3, ["3"] * 3)
    assert join_scores([one, other]).metrics["verify/no_answer"] == 0.25


def results(*logged):
    def fn(prompts, completions, completion_ids, log_metric, **columns):
        for name in logged:
            log_metric(name, 1.0)
        return [0.0] * 2

    scores = scored((Reward(fn, name="fn"), DIGITS), ["3", "<answer>3</answer>"], ["3", "3"])
    inputs = {"completions": ["3", "<answer>3</answer>"], "completion_ids": [[1], [1]]}
    checks = examine(inputs | {"columns": {"answer": ["3", "3"]}})
    return Results(scores, checks, np.array([1, 1]), np.array([True, True]))


def test_no_metric_of_a_step_has_two_meanings():
    found = results("mine").metrics(2)
    assert found["verify/no_answer"] == found["audit/format"] == 0.5
    assert found["audit/accuracy"] == 1 and found["mine"] == 1  # the audit's own are lenient
    for name in ("reward", "audit/format", "completions/mean_length", "rewards/digits/mean"):
        with pytest.raises(UserError, match=f"logs the metric `{name}`, which is the run's own"):
            results(name).metrics(2)
