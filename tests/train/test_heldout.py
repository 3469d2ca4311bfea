# SPDX-License-Identifier: Apache-2.0
"""The held-out set of a run: what the run's rewards give, guessing, its own limits on pixels."""

import dataclasses
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxvl.config import Eval, Reward
from jaxvl.data.example import Example
from jaxvl.data.prompts import Processor
from jaxvl.data.scenes import Scenes
from jaxvl.data.templates import chat_question
from jaxvl.errors import UserError
from jaxvl.rewards import MASKED, accuracy, judged, length, think_format, verified
from jaxvl.rewards.columns import AskedColumns
from jaxvl.rewards.mix import TrainerState
from jaxvl.rewards.rules import Frames
from jaxvl.train import heldout
from jaxvl.train.heldout import Evaluation, evaluate
from jaxvl.vlm import Completion
from tests.train.test_prompts import BASE


@dataclasses.dataclass
class Parrot:
    """Says "left", and notes with which limits it was shown pictures."""

    processor: Processor
    seen: list[Any]

    def generate(self, prompts, images, n, **how):
        settings = self.processor.image
        self.seen.append((settings.min_pixels, settings.max_pixels))
        answer = Completion("<answer> left </answer>", [1], [0.0], "stop")
        return [[answer] * n for _ in prompts]


def test_pixels_of_the_held_out_set_win_over_the_models():
    vlm = Parrot(Processor.from_pretrained(BASE), [])
    examples: list[Example] = list(Scenes(4, "test").load())
    for limits in ({}, {"max_pixels": 6272}):
        cfg = Eval(Scenes(4), samples=2, **limits)
        evaluate(vlm, examples, cfg, chat_question, 4, (Reward(accuracy),))
    assert vlm.seen == [(3136, 12544)] * 2 + [(3136, 6272)] * 2  # greedy and sampled, twice


def examples():
    rows = [("left", ("left", "right"))] * 3 + [("right", ("left", "right"))]
    rows += [("2", ("1", "2", "3", "4"))] * 2
    return [
        Example(str(i), "?", answer, choices=choices, task="count" if answer == "2" else "relation")
        for i, (answer, choices) in enumerate(rows)
    ]


def test_guessing():
    got = heldout.guessing(examples())
    assert got.chance.value == pytest.approx((4 * 0.5 + 2 * 0.25) / 6)
    assert got.majority.value == pytest.approx((3 + 2) / 6)
    assert heldout.guessing([Example("0", "?", "17")]) is None


QUICKSTART = (Reward(accuracy), Reward(think_format))


def result(rewards, examples, texts, **how):
    questions = [AskedColumns(example, "", (), ()) for example in examples]
    rows = [[Completion(text, list(text.encode()), [], "stop") for text in row] for row in texts]
    return heldout.result(rewards, questions, rows, **how)


GOOD = "<think> a </think> <answer> left </answer>"
TEXTS = [[GOOD, "left"], [GOOD, "right"], ["right", "left"]]
TEXTS += [["<think> </think> <answer> left </answer>", "right"], ["2", "2"], ["1", "2"]]


def test_accuracy_inside_of_well_formed_replies():
    got = result(QUICKSTART, examples(), TEXTS)
    assert got.rewards["accuracy"].value == pytest.approx(8 / 12)
    assert got.rewards["format"].value == pytest.approx(3 / 12)
    assert got.total.value == pytest.approx(11 / 12)
    assert got.first_in_format.value == pytest.approx(2 / 3)
    assert got.first_in_format.count == 3
    assert got.first_by_task["count"].value == pytest.approx(3 / 4)


def own(fn, name="", weight=1.0, **settings):
    return Reward(partial(fn, **settings) if settings else fn, weight, name)


def constant(value):
    return lambda prompts, completions, completion_ids, **columns: [value] * len(completions)


def quarter(images, prompts, texts):
    return [0.25] * len(texts)


@pytest.mark.parametrize(
    ("rewards", "gold", "reply", "expected"),
    [
        ([own(verified, "accuracy", kind="math")], "0.5", "1/2", {"accuracy": 1}),
        ([own(verified, "right", kind="math")], "1/2", "0.5", {"right": 1}),
        ([own(verified, "n", 2.0, kind="number")], "3", "three", {"n": 1}),
        ([own(accuracy)], "0.5", "1/2", {"accuracy": 0}),
        ([own(length, cap=50), own(accuracy)], "3", "3", {"length": 0.018, "accuracy": 1}),
        ([own(think_format), own(constant(-2.5), "mine")], "3", "3", {"format": 0, "mine": -2.5}),
        ([own(think_format), own(constant(1), "format")], "", "", {"think_format": 0, "format": 1}),
        ([own(judged, "judge", scorer=quarter)], "3", "4", {"judge": 0.25}),
    ],
)
def test_the_runs_own_rewards_are_the_columns(rewards, gold, reply, expected):
    questions = [Example(str(i), "?", gold, task="t") for i in range(2)]
    got = result(rewards, questions, [[f"<answer>{reply}</answer>"] * 2] * 2)
    found = Evaluation(got, got)
    assert {name: each.value for name, each in got.rewards.items()} == pytest.approx(expected)
    metrics = found.metrics()
    assert metrics.pop("eval_reward/greedy") == metrics.pop("eval_reward/sampled")
    assert metrics == {
        f"eval_{name}/{how}": pytest.approx(value, abs=1e-6)
        for name, value in expected.items()
        for how in ("greedy", "sampled")
    }
    shown = heldout.table(questions, None, found)
    assert shown["columns"][2 : 2 + len(expected)] == list(expected)
    assert all(len(row) == len(shown["columns"]) for row in shown["rows"])
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_the_table_of_the_quickstart():
    got = result(QUICKSTART, examples(), TEXTS)
    shown = heldout.table(examples(), None, Evaluation(got, got))
    assert shown["columns"] == [
        *("model", "answers", "accuracy", "format", "accuracy in format", "in format"),
        *("count", "relation"),
    ]
    assert shown["rows"][0][:2] == ["after", "greedy"] and shown["rows"][0][-3:] == [
        3,
        "0.750",
        "0.625",
    ]
    assert [row[0] for row in shown["rows"][2:]] == ["chance", "majority answer"]


def test_what_applies_to_nothing_has_no_figure():
    def never(prompts, completions, completion_ids, **columns):
        return [None] * len(completions)

    def masks(prompts, completions, completion_ids, **columns):
        return [MASKED] * len(completions)

    got = result((Reward(accuracy), Reward(never)), examples(), TEXTS)
    assert set(Evaluation(got, got).metrics()) == {
        f"eval_{name}/{how}" for name in ("reward", "accuracy") for how in ("greedy", "sampled")
    }
    got = result((Reward(masks),), examples(), TEXTS)
    assert Evaluation(got, got).metrics() == {}
    json.dumps(dataclasses.asdict(got), allow_nan=False)
    shown = heldout.table(examples(), None, Evaluation(got, got))
    assert shown["rows"][0][2:] == ["-", "-", "-"]


def test_a_judge_that_fails_does_what_the_setting_says():
    questions = [Example(str(i), "?", "3") for i in range(2)]
    texts = [["<answer>3</answer>"], ["<answer>4</answer>"]]

    def judge(on_failure):
        fn = partial(judged, scorer=lambda i, p, t: [0.5, None], on_failure=on_failure)
        return result((Reward(fn, name="judge"),), questions, texts)

    assert judge("mask").rewards["judge"].count == 1
    assert judge(0.0).rewards["judge"].value == 0.25
    with pytest.raises(UserError, match="failed on 1 of 2 answers"):
        judge("fail")


def test_rewards_are_given_what_they_are_given_in_training():
    seen = {}

    def spy(prompts, completions, completion_ids, trainer_state, **columns):
        seen.update(columns, prompts=prompts, completions=completions, ids=completion_ids)
        seen["step"] = trainer_state
        return [0.0] * len(completions)

    picture = Image.new("RGB", (100, 50))
    example = Example("7", "where?", "[0, 0, 1, 1]", (picture,), task="t", columns={"level": 2})
    vlm = Parrot(Processor.from_pretrained(BASE), [])
    rewards = (Reward(spy), Reward(partial(verified, kind="bbox", frames=Frames("processed"))))
    state = TrainerState(5, 9)
    evaluate(vlm, [example], Eval(Scenes(4), samples=3), chat_question, 4, rewards, state)
    assert seen["step"] == state and seen["level"] == [2] * 3 and seen["id"] == ["7"] * 3
    assert seen["completions"][0] == [{"role": "assistant", "content": "<answer> left </answer>"}]
    assert (seen["image_sizes"], seen["ids"]) == ([((100, 50),)] * 3, [[1]] * 3)
    encoded = vlm.processor.encode(chat_question(example), [picture])
    assert seen["processed_sizes"][0] == encoded.processed_sizes
    assert seen["prompts"][0] == chat_question(example)
    np.testing.assert_array_equal(seen["images"][0][0], picture)


def test_pass_at_k_length_and_surprise():
    questions = [AskedColumns(example, "", (), ()) for example in examples()[:2]]
    words = [["left", "left", "right", "right"], ["right"] * 4]  # of four 2 and none right
    rows = [
        [Completion(text, [1] * (2 + q), np.full(2 + q, -1.0 - q), "stop") for text in row]
        for q, row in enumerate(words)
    ]
    got = heldout.result(QUICKSTART, questions, rows)
    at = {k: estimate.value for k, estimate in got.first_pass_at.items()}
    assert at == pytest.approx({1: 0.5 / 2, 2: (1 - 1 / 6) / 2, 4: 1 / 2})
    assert got.length.value == pytest.approx((2 + 3) / 2)
    assert got.surprise.value == pytest.approx((2 * 1 + 3 * 2) / 5)
    shares = heldout.result((Reward(constant(0.25)),), questions, rows)
    assert shares.first_pass_at == {}


def test_replies_are_kept_with_what_they_are_worth():
    def never(prompts, completions, completion_ids, **columns):
        return [None] * len(completions)

    got = result((*QUICKSTART, Reward(never)), examples(), TEXTS)
    found = Evaluation(got, got)
    lines = list(found.replies())
    assert [line["text"] for line in lines] == [text for row in TEXTS for text in row] * 2
    assert [line["id"] for line in lines[:4]] == ["0", "0", "1", "1"]
    assert lines[0]["rewards"] == {"accuracy": 1, "format": 1, "never": None}
    assert [line["answers"] for line in lines] == ["greedy"] * 12 + ["sampled"] * 12
    json.dumps(lines, allow_nan=False)
    assert "replies" not in found.figures()["greedy"] and found.figures()["sampled"]["rewards"]
