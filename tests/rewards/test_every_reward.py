# SPDX-License-Identifier: Apache-2.0
"""Every public reward goes through `score` as a run calls it: with TRL's services and with columns
of every kind, those with the names of its settings included."""

import functools
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from PIL import Image

import jaxvl.rewards
from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.rewards import (
    Mixed,
    accuracy,
    cosine,
    judged,
    length,
    repetition,
    soft_overlong,
    think_format,
    verified,
)
from jaxvl.rewards.call import settings
from jaxvl.rewards.mix import TrainerState, score

partial = functools.partial


def liker(images, prompts, texts):
    return [float(len(text)) for text in texts]


REWARDS = {
    "verified": partial(verified, kind="number"),
    "Mixed": Mixed(scorer=liker),
    "accuracy": accuracy,
    "think_format": think_format,
    "length": partial(length, cap=2),
    "soft_overlong": partial(soft_overlong, limit=4, margin=2),
    "cosine": partial(cosine, kind="number", limit=10),
    "repetition": repetition,
    "judged": partial(judged, scorer=liker),
}
EXPECTED = {
    "verified": [1, 0, 1],
    "Mixed": [1, 0, 0],
    "accuracy": [1, 0, 1],
    "think_format": [1, 1, 1],
    "length": [0.001, 0.002, 0.002],
    "soft_overlong": [0, 0, -1],
    "repetition": [0, 0, -0.5],
    "judged": [1, 1, 1],
}
TEXTS = [f"<think>x</think><answer>{text}</answer>" for text in "343"]
IDS = [[1], [1, 2], [7, 7, 7, 7]]
DATA = {
    "id": ["1", "2", "3"],
    "question": ["how many?"] * 3,
    "answer": ["3"] * 3,
    "choices": [()] * 3,
    "task": ["count"] * 3,
    "images": [(Image.new("RGB", (28, 28)),), (), ()],
    "image_sizes": [((28, 28),), (), ()],
    "processed_sizes": [((28, 28),), (), ()],
    "verifier_type": ["digit", "digit", "open"],
}
ODD = {
    "text": ["a", None, ""],
    "numbers": np.array([1.0, np.nan, 2.0]),
    "flags": (True, False, None),
    "objects": [{"a": 1}, {}, {"b": [None]}],
    "lists": [[1], [], [None, "x"]],
    "bytes": [b"\xff", b"", b"x"],
    "pictures": [Image.new("L", (4, 4))] * 3,
    "letters": "abc",
    "": ["no name"] * 3,
    "two words": [1, 2, 3],
    "solution": ["worked, see figure"] * 3,
    "source": ["nowhere"] * 3,
}
# What functions call their settings and their own variables.
NAMES = (
    "size cap kind mode limit margin penalty frames special_ids right wrong exceeded scorer "
    "to_reward on_failure only beta weights literal self fn args kwargs columns rewards name names "
    "count state rows golds gold verdict text model environments"
).split()


def scored(fn, /, **columns):
    columns = {name: value for name, value in columns.items() if value is not None}
    state = TrainerState(3, 10)
    return score((Reward(fn, name="r"),), ["p"] * 3, TEXTS, IDS, {**DATA, **columns}, state)


def test_all_rewards_are_listed():
    """A function or an object with TRL's signature anywhere in the package is in REWARDS."""
    found = set()
    for module in pkgutil.walk_packages(jaxvl.rewards.__path__, "jaxvl.rewards."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            call = vars(thing).get("__call__") if inspect.isclass(thing) else thing
            own = getattr(thing, "__module__", "") == module.name and not name.startswith("_")
            if own and inspect.isfunction(call):
                names = [each for each in inspect.signature(call).parameters if each != "self"]
                found |= (
                    {name} if names[:3] == ["prompts", "completions", "completion_ids"] else set()
                )
    assert found - {"score"} == REWARDS.keys()
    assert REWARDS.keys() <= set(jaxvl.rewards.__all__)


@pytest.mark.parametrize("name", REWARDS)
def test_a_run_calls_it_with_services_and_columns_of_every_kind(name):
    plain = scored(REWARDS[name])
    if name in EXPECTED:
        np.testing.assert_allclose(plain.total_N, EXPECTED[name], rtol=1e-6)
    assert all(np.isfinite(value) for value in plain.metrics.values())
    odd = scored(REWARDS[name], **ODD)
    np.testing.assert_array_equal(odd.values_NK, plain.values_NK)
    assert odd.metrics == plain.metrics


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("value", [None, "x", 7, [1, 2], {"a": 1}, float("nan")])
def test_no_column_takes_the_place_of_a_setting(name, value):
    plain, taken = scored(REWARDS[name]), dict.fromkeys(NAMES, [value] * 3)
    np.testing.assert_array_equal(scored(REWARDS[name], **taken).values_NK, plain.values_NK)


def test_a_setting_that_is_left_at_its_default_keeps_it():
    for fn in (length, repetition, partial(cosine, kind="number", limit=10)):
        plain = scored(fn)
        for name in settings(fn):
            np.testing.assert_array_equal(scored(fn, **{name: [5] * 3}).values_NK, plain.values_NK)


def test_settings_are_what_is_bound_and_our_own_keywords():
    assert settings(length) == {"cap", "special_ids"}
    assert settings(REWARDS["verified"]) == {"kind", "mode", "frames"}
    assert settings(accuracy) == {"literal"} and settings(Mixed()) == set()

    def mine(prompts, completions, completion_ids, *, label=None, size=0, **columns):
        return [0.0] * len(completions)

    assert settings(mine) == set() and settings(partial(mine, size=3)) == {"size"}

    @functools.wraps(length)
    def twice(*arguments, **columns):
        return [2 * value for value in length(*arguments, **columns)]

    assert settings(twice) == {"cap", "special_ids"}
    np.testing.assert_allclose(scored(twice, cap=["1"] * 3).total_N, [0.002, 0.004, 0.008])


def test_a_users_function_gets_the_columns_that_it_declares():
    seen = {}

    def mine(prompts, completions, completion_ids, label, *, size=None, log_metric=None, **columns):
        seen.update(columns, label=label, size=size)
        log_metric("seen", 1)
        return [0.0] * 3

    scores = scored(mine, label=["a", "b", "c"], size=[1, 2, 3], cap=[4, 5, 6])
    assert (seen["label"], seen["size"], seen["cap"]) == (["a", "b", "c"], [1, 2, 3], [4, 5, 6])
    assert scores.metrics == {"seen": 1}
    scored(partial(mine, size=9), label=["a", "b", "c"], size=[1, 2, 3])
    assert seen["size"] == 9  # what the config has bound stays


@pytest.mark.parametrize("kind", ["number", "text", "mcq", "math", "bbox"])
@pytest.mark.parametrize("choices", [None, (), [], np.array([]), [None] * 0])
def test_choices_may_be_missing_in_any_form(kind, choices):
    texts, golds = ["<answer>B</answer>"], ["B"]
    fn = partial(verified, kind=kind)
    got = score(
        (Reward(fn, name="r"),), ["p"], texts, [[1]], {"answer": golds, "choices": [choices]}
    )
    assert got.total_N[0] == (kind in ("text", "mcq", "math"))


@pytest.mark.parametrize("gold", [None, "", "  ", float("nan"), "<answer> </answer>"])
@pytest.mark.parametrize("name", ["verified", "cosine", "Mixed"])
def test_a_gold_that_is_none_is_a_bad_one(name, gold):
    scores = scored(REWARDS[name], answer=[gold] * 3, verifier_type=["digit"] * 3)
    assert (scores.values_NK <= 0).all() and scores.metrics["verify/bad_gold"] == 1


@pytest.mark.parametrize(
    "gold", [True, ["a"], {"a": 1}, b"\xff", "<answer>1</answer> <answer>2</answer>"]
)
def test_a_gold_of_a_wrong_type_is_an_error_that_names_the_row(gold):
    for name in ("verified", "accuracy", "Mixed"):
        with pytest.raises(UserError, match="row 2: `answer`"):
            scored(REWARDS[name], answer=["3", gold, "3"])
