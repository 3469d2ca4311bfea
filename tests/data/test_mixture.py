# SPDX-License-Identifier: Apache-2.0
"""Mixtures as sequences, and examples chosen by the rewards of earlier runs."""

import dataclasses
import json

import pytest

from jaxvl.data.example import Dropped, Example, Examples
from jaxvl.data.mixture import Difficulty, Mixture, Part, mean_rewards
from jaxvl.data.traces import Traces
from jaxvl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Named:
    task: str
    size: int
    bad: int = 0

    def load(self):
        examples = [
            Example(id=str(i), question="q", answer="a", task=self.task) for i in range(self.size)
        ]
        return Examples(examples, [Dropped(f"bad{i}", "broken", "x") for i in range(self.bad)])


def test_a_mixture_is_its_parts_in_a_row():
    mixed = Mixture((Part(Named("a", 2, bad=1)), Part(Named("b", 3, bad=2), 0.5))).load()
    assert [(e.task, e.id) for e in mixed] == [
        ("a", "0"),
        ("a", "1"),
        ("b", "0"),
        ("b", "1"),
        ("b", "2"),
    ]
    assert len(mixed) == 5 and len(mixed.dropped) == 3 and mixed.weights == (1.0, 0.5)
    for outside in (-1, 5):
        with pytest.raises(IndexError):
            mixed[outside]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_are_above_zero(weight):
    with pytest.raises(UserError, match="expected numbers above 0"):
        Mixture((Part(Named("a", 2)), Part(Named("b", 3), weight))).load()
    with pytest.raises(UserError, match="expected numbers above 0"):
        Mixture(()).load()


def test_an_empty_part_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class Empty:
        def load(self):
            return []

    with pytest.raises(UserError, match="part 1 of the mixture has no examples"):
        Mixture((Part(Named("a", 2)), Part(Empty()))).load()


@pytest.fixture
def run(tmp_path):
    """A run that saw examples 0 to 3: mean rewards 0, 0.25, 1 and 2, accuracies 0, 0.5, 1, 1."""

    def line(id, *rewards):
        completions = [
            {"reward": total, "rewards": {"accuracy": accuracy, "rare": None}}
            for total, accuracy in rewards
        ]
        return {"task": "a", "id": id, "completions": completions}

    steps = [
        [line("0", (0, 0), (0, 0)), line("1", (0.5, 1), (0, 0))],
        [line("2", (1, 1), (1, 1)), line("3", (2, 1), (2, 1)), line("0", (0, 0))],
    ]
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    for number, lines in enumerate(steps, start=1):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "run" / "rollouts" / f"step_{number}.jsonl").write_text(text)
    return str(tmp_path / "run")


def test_means_are_over_all_completions(run):
    means = {id: mean for (_, id), mean in mean_rewards([run]).items()}
    assert means == {"0": 0, "1": 0.25, "2": 1, "3": 2}
    accuracy = {id: mean for (_, id), mean in mean_rewards([run], "accuracy").items()}
    assert accuracy == {"0": 0, "1": 0.5, "2": 1, "3": 1}
    assert mean_rewards([run], "rare") == {}  # it never applied
    assert len(mean_rewards([run, run])) == 4


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\r", "\x0b", "\x0c"])
def test_a_line_ends_with_a_newline_alone(run, tmp_path, mark):
    file = tmp_path / "run" / "rollouts" / "step_3.jsonl"
    line = {"task": "b", "id": f"x{mark}y", "completions": [{"reward": 1.0, "text": f"a{mark}b"}]}
    file.write_text(json.dumps(line, ensure_ascii=False) + '\n{"task": ', newline="")
    assert mean_rewards([run])["b", f"x{mark}y"] == 1.0  # and what was cut off is no line
    file.write_text("{\n")
    with pytest.raises(UserError, match="step_3.jsonl, line 1: broken JSON"):
        mean_rewards([run])


def test_examples_are_chosen_by_their_mean(run):
    source = Named("a", 6, bad=1)
    loaded = Difficulty(source, (run,), low=0.1, high=1.0).load()
    assert [e.id for e in loaded] == ["1", "2", "4", "5"]
    found = {(row.id, row.reason, row.setting) for row in loaded.dropped}
    assert found == {
        ("0", "too hard", True),
        ("3", "too easy", True),
        ("bad0", "broken", False),
    }
    seen = Difficulty(source, (run,), low=0.5, reward="accuracy", unseen="drop").load()
    assert [e.id for e in seen] == ["1", "2", "3"]
    assert {row.id for row in seen.dropped if row.reason == "not seen"} == {"4", "5"}


def test_what_cannot_be_chosen_by_is_an_error(run, tmp_path):
    with pytest.raises(UserError, match="no rollouts/step_N.jsonl"):
        Difficulty(Named("a", 6), (str(tmp_path),)).load()
    with pytest.raises(UserError, match="no reward `speed`; it has accuracy, rare"):
        Difficulty(Named("a", 6), (run,), reward="speed").load()
    with pytest.raises(UserError, match="no example has a mean reward from 5"):
        Difficulty(Named("a", 4), (run,), low=5).load()


def test_traces_are_the_shortest_right_ones_or_all(tmp_path):
    """Cut completions are none, equal texts are one, a question without any is out."""

    def said(text, tokens, reward, end="stop"):
        worth = {"reward": reward, "rewards": {"accuracy": reward}}
        return {"text": text, "tokens": tokens, "finish_reason": end, **worth}

    rows = [
        ("0", [said("long and right", 9, 1.0), said("right", 3, 1.0), said("no", 1, 0.0)]),
        ("1", [said("cut", 2, 1.0, "length"), said("wrong", 2, 0.0)]),
        ("2", [said("yes", 4, 1.0), said("yes", 4, 1.0)]),
    ]
    (tmp_path / "rollouts").mkdir()
    lines = [{"task": "a", "id": id, "completions": of} for id, of in rows]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "rollouts/step_1.jsonl").write_text(text)

    def load(**settings):
        found = Traces(Named("a", 4), (str(tmp_path),), **settings).load()
        return [(e.id, e.columns["completion"]) for e in found], [row.id for row in found.dropped]

    assert load(low=1.0) == ([("0", "right"), ("2", "yes")], ["1", "3"])
    assert load(low=1.0, longest=3, reward="accuracy") == ([("0", "right")], ["1", "2", "3"])
    every = [("0", "no"), ("0#1", "right"), ("0#2", "long and right")]
    every += [("1", "wrong"), ("2", "yes")]
    assert load(every=True) == (every, ["3"])
    with pytest.raises(UserError, match="is worth 2 or more"):
        load(low=2.0)
