# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes: answers follow from the layout, splits share nothing, the seed fixes all."""

import re

import numpy as np
import pytest

from jaxvl.data import scene_traces, scenes
from jaxvl.data.scenes import TASKS, Scenes, Thing
from jaxvl.errors import UserError
from jaxvl.rewards import accuracy, think_format


def layout(example):
    return frozenset(example.columns["things"])


def test_the_same_index_is_the_same_example():
    one, other = Scenes(40, seed=3).load()[17], Scenes(80, seed=3).load()[17]
    assert (one.id, one.question, one.answer) == (other.id, other.question, other.answer)
    assert one.images[0].tobytes() == other.images[0].tobytes()
    assert one.images[0].tobytes() != Scenes(40, seed=4).load()[17].images[0].tobytes()


def test_splits_share_no_scene():
    train = {layout(example) for example in Scenes(400).load()}
    test = {layout(example) for example in Scenes(400, split="test").load()}
    assert len(train) > 390 and not train & test


def test_every_example_has_its_answer_among_its_choices_and_tasks_take_turns():
    examples = list(Scenes(200).load())
    assert [example.task for example in examples[:4]] == list(TASKS)
    for example in examples:
        assert example.answer in example.choices
        assert example.images[0].size == (scenes.SIZE, scenes.SIZE)


def solve(example):
    """The answer from the list of things alone, written apart from the generator."""
    at = {}
    for thing in example.columns["things"]:
        name, place = thing.rsplit(" ", 1)
        at[name] = ("abcd".index(place[0]), int(place[1]))
    words = example.question.replace("?", "").replace(",", "").split()
    if example.task == "count":
        name = next(name for name, plural in scenes.PLURAL.items() if plural in words)
        return str(sum(thing.startswith(f"{name} ") for thing in example.columns["things"]))
    named = [word for word in words if word in at]
    if example.task == "relation":
        (x0, y0), (x1, y1) = at[named[0]], at[named[1]]
        if "left" in example.choices:
            return "left" if x0 < x1 else "right"
        return "above" if y0 < y1 else "below"
    if example.task == "depth":
        return max(example.choices, key=lambda name: at[name][1])
    anchor = at[named[0]]
    return min(example.choices, key=lambda n: np.hypot(at[n][0] - anchor[0], at[n][1] - anchor[1]))


def test_answers_follow_from_the_layout():
    for example in Scenes(300, split="test", seed=5).load():
        assert solve(example) == example.answer, example


def test_no_answer_is_much_more_frequent_than_another():
    examples = list(Scenes(1200).load())
    for task in TASKS:
        of_task = [example for example in examples if example.task == task]
        places = np.bincount([example.choices.index(example.answer) for example in of_task])
        share = 1 / len(of_task[0].choices)
        assert places.max() / len(of_task) < share + 0.1  # 300 draws: two deviations are 0.06


def test_nearer_things_are_larger_and_lower():
    def extent(row):
        picture = np.asarray(
            scenes.draw([Thing("hat", 1, row)], np.random.default_rng(0)), np.int32
        )
        ys, xs = np.nonzero(picture.sum(-1) < 100)
        return np.ptp(xs), ys.mean()

    sizes, heights = zip(*(extent(row) for row in range(4)), strict=True)
    assert list(sizes) == sorted(sizes) and list(heights) == sorted(heights)
    assert sizes[0] < sizes[3]


@pytest.mark.parametrize("bad", [{"split": "val"}, {"tasks": ("colour",)}, {"tasks": ()}])
def test_a_wrong_field_is_named(bad):
    with pytest.raises(UserError, match="scenes:"):
        Scenes(10, **bad).load()


def test_splits_by_composition_share_no_pair_of_names_and_no_layout():
    def seen(split):
        found = list(Scenes(300, split, seed=2, compositions=True).load())
        names = {(e.task, *sorted(thing.split()[0] for thing in e.columns["about"])) for e in found}
        return names, {layout(e) for e in found}

    (train, train_layouts), (test, test_layouts) = seen("train"), seen("test")
    assert len(train) > 50 < len(test) and not train & test
    assert not train_layouts & test_layouts
    assert set(TASKS) == {task for task, *_ in train} == {task for task, *_ in test}


def test_traces_are_about_the_things_that_are_asked_for_and_right_in_the_end():
    examples = list(Scenes(300, seed=1).load())
    for example in examples:
        about = [tuple(thing.split()) for thing in example.columns["about"]]
        words = example.question.lower().replace("?", "").replace(",", "").split()
        assert all(name in words or scenes.PLURAL[name] in words for name, _ in about)
        for trace in (scene_traces.none, scene_traces.form, scene_traces.short):
            assert accuracy([None], [trace(example)], [()], answer=[example.answer]) == [1.0]
        thought = scene_traces.short(example).split("</think>")[0]
        assert [thought.count(place) > 0 for _, place in about] == [True] * len(about)
        form = scene_traces.form(example)
        assert think_format([None], [form], [()]) == [1.0] and not any(p in form for _, p in about)


def test_a_hesitant_trace_takes_a_wrong_step_back_and_may_leave_another():
    examples = list(Scenes(200, tasks=("relation", "depth")).load())
    left = 0
    for example in examples:
        text = scene_traces.hesitant(example)
        assert text == scene_traces.hesitant(example)
        (name, place), (other, last) = (thing.split() for thing in example.columns["about"])
        found = re.fullmatch(
            rf"<think> {name} (..), no, {place}, {other} (..) </think> "
            rf"<answer> {example.answer} </answer>",
            text,
        )
        assert found and found[1] != place
        left += found[2] != last
    assert 70 < left < 130  # half of 200: two deviations are 14
