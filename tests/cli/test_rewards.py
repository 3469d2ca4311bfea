# SPDX-License-Identifier: Apache-2.0
"""`jaxvl rewards`: what a verdict rests on, and the audit of a run's reward by a person."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxvl import config
from jaxvl.cli import rewards
from jaxvl.errors import UserError
from jaxvl.eval.reporting import agreement, rewardaudit

CONFIGS = Path(__file__).parents[2] / "configs"
HOSTILE = '<script>alert(1)</script><img src="https://example.org/x.png">'


def call(*args, text=None):
    return CliRunner().invoke(rewards.app, list(map(str, args)), input=text)


@pytest.mark.parametrize(
    ("args", "text", "shown"),
    [
        (("--kind", "mcq", "--gold", "B", "--choices", "yes|no", "(B) no"), None, "canonical  'B'"),
        (("--kind", "number", "--gold", "12", "<answer>a dozen</answer>"), None, "reward     1"),
        (("--kind", "number", "--gold", "5", "<answer>not 5</answer>"), None, "reason     unread"),
        (
            ("--kind", "bbox", "--gold", "[0,0,1,1]", "-"),
            "<answer>0,0,1,1</answer>",
            "reward     1",
        ),
        (
            ("--kind", "math", "--gold", "1/0", "<answer>3</answer>"),
            None,
            "the gold does not verify",
        ),
        (("--kind", "mcq", "--gold", "C", "--choices", "a|b", "C"), None, "bad_gold"),
    ],
)
def test_try_shows_extraction_normal_form_and_reason(args, text, shown):
    result = call("try", *args, text=text)
    assert result.exit_code == 0 and shown in result.stdout, result.stdout
    assert result.stdout.count("reward ") == 2  # both modes


def test_try_in_one_mode_and_of_an_unknown_kind():
    result = call("try", "--kind", "text", "--gold", "x", "--mode", "strict", "x")
    assert result.stdout.count("reward ") == 1 and "no_answer" in result.stdout
    result = call("try", "--kind", "word", "--gold", "x", "x")
    assert isinstance(result.exception, UserError) and "kind is 'word'" in str(result.exception)


@pytest.fixture
def run(tmp_path):
    """A run with 3 steps of 4 prompts, 8 completions each, one reward that is None for some."""
    (tmp_path / "rollouts/images").mkdir(parents=True)
    (tmp_path / "rollouts/images/a.png").write_bytes(b"\x89PNG")
    for step in (1, 2, 3):
        lines = []
        for prompt in range(4):
            completions = [
                {
                    "text": f"{HOSTILE} {step} {prompt} {n} " + "so " * (20 * n),
                    "rewards": {"accuracy": None if n == 7 else float(n % 4 == 0), "format": 1.0},
                }
                for n in range(8)
            ]
            gold = ("3", "B", "\\frac{1}{2}", "left")[prompt]
            lines.append(
                {"prompt": "How many?", "answer": gold, "completions": completions}
                | {"image_files": ["rollouts/images/a.png"] if prompt == 0 else []}
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"rollouts/step_{step}.jsonl").write_text(text)
    return tmp_path


def test_the_draw_covers_the_strata_and_counts_for_all(run):
    every = rewardaudit.completions(run)
    assert len(every) == 3 * 4 * 7 and {one["name"] for one in every} == {"accuracy"}
    drawn = rewardaudit.draw(every, 40)
    assert len(drawn) == 40 and len({one["id"] for one in drawn}) == 40
    assert {one["stratum"] for one in drawn} == {one["stratum"] for one in every}
    assert sum(one["weight"] for one in drawn) == pytest.approx(len(every))
    assert rewardaudit.draw(every, 40) == drawn != rewardaudit.draw(every, 40, seed=1)
    assert len(rewardaudit.draw(every, 1000)) == len(every)
    assert {one["credited"] for one in rewardaudit.completions(run, "format")} == {True}


def test_the_page_holds_everything_and_asks_nobody(run, tmp_path):
    page = tmp_path / "page.html"
    result = call("audit", run, "--out", page, "--count", 30)
    assert result.exit_code == 0 and "30 of 84 completions" in result.stdout
    text = page.read_text()
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text
    outside = re.findall(r"(?:src|href)=\"(?!data:)[^\"]*\"", text)
    assert outside == [] and "default-src 'none'" in text
    assert text.count('value="agree"') == text.count('value="disagree"') == 30
    assert "data:image/png;base64," in text


def test_precision_and_recall_are_of_all_completions(run, tmp_path):
    """By hand: 10 credited of which 8 are right (weight 1), 20 refused of which 2 are right
    (weight 3): precision 8 / 10, recall 8 / (8 + 2 * 3)."""
    marks = [
        {"credited": True, "weight": 1, "mark": "agree" if n < 8 else "disagree"} for n in range(10)
    ]
    marks += [
        {"credited": False, "weight": 3, "mark": "disagree" if n < 2 else "agree"}
        for n in range(20)
    ]
    found = rewardaudit.quality(marks)
    assert found["precision"].value == pytest.approx(0.8) and found["precision"].count == 10
    assert found["recall"].value == pytest.approx(8 / 14) and found["recall"].count == 10
    assert found["agreement"].value == pytest.approx((8 + 18 * 3) / 70)
    for estimate in found.values():
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    file = tmp_path / "marks.json"
    file.write_text(json.dumps({"run": "r", "marks": marks}))
    result = call("audit", run, "--marks", file)
    assert "precision  0.800 [" in result.stdout and "recall     0.571 [" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "these are no marks"),
        ("[]", "these are no marks"),
        ('{"marks": []}', "at least one"),
        ('{"marks": [{"credited": true, "weight": 1}]}', "these are no marks"),
        ('{"marks": [{"credited": true, "weight": 1, "mark": "maybe"}]}', "`agree` or `disagree`"),
        ('{"marks": [{"credited": true, "weight": 0, "mark": "agree"}]}', "`agree` or `disagree`"),
    ],
)
def test_broken_marks_are_told(tmp_path, text, message):
    (tmp_path / "marks.json").write_text(text)
    with pytest.raises(UserError, match=message):
        rewardaudit.read_marks(tmp_path / "marks.json")


def test_a_folder_that_is_no_run_is_told(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for args, message in (
        (("audit", tmp_path / "gone"), "is no directory"),
        (("audit", tmp_path / "empty"), "has no rollouts"),
        (("audit", run, "--reward", "speed"), "the run has accuracy, format"),
    ):
        result = call(*args, "--out", tmp_path / "x.html")
        assert isinstance(result.exception, UserError) and message in str(result.exception)
    (run / "rollouts/step_2.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match="step_2.jsonl, line 1: broken JSON"):
        rewardaudit.completions(run)


OTHER = """
import dataclasses
from functools import partial
from pathlib import Path
from jaxvl import config as jaxvl_config
from jaxvl.config import Reward
from jaxvl.rewards import MASKED, accuracy

def scorer(prompts, completions, completion_ids, answer, task, **columns):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [MASKED if "?" in text else len(ids) / 10 for text, ids in zip(texts, completion_ids)]

def config():
    plain = jaxvl_config.load(Path("QUICKSTART"), ["data.source.size=4", ])
    return dataclasses.replace(plain, rewards=(Reward(scorer, name="judge"), Reward(accuracy)))
"""


@pytest.fixture
def scenes(tmp_path):
    """A run on four scenes, four completions each, and a config of the same data: one completion is
    right at each prompt, and the other reward pays by the length."""
    quickstart = CONFIGS / "quickstart.py"
    code = OTHER.replace("QUICKSTART", str(quickstart))
    (tmp_path / "other.py").write_text(code)
    source = config.load(quickstart, ["data.source.size=4"]).data.source
    lines = []
    for example in source.load():
        texts = [f"<answer> {example.answer} </answer> and so on", "no", "nobody knows", "what?"]
        completions = [
            {"text": text, "rewards": {"accuracy": float(n == 0), "judge": 0.1}, "reward": 1.0}
            for n, text in enumerate(texts)
        ]
        line = {"step": 1, "id": example.id, "task": example.task, "answer": example.answer}
        lines.append(line | {"prompt": "?", "image_files": [], "completions": completions})
    (tmp_path / "run/rollouts").mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "run/rollouts/step_1.jsonl").write_text(text + "broken\n")
    return tmp_path


def test_two_rewards_on_the_same_completions(scenes):
    found = scenes / "differ.jsonl"
    result = call("agree", scenes / "run", "--with", scenes / "other.py", "--out", found)
    assert result.exit_code == 0, result.exception
    assert "1 lines of the rollouts could not be read" in result.stdout
    # What the other reward masks is left out; it credits the right ones, which are long, alone.
    assert "12 of 16 completions have both rewards" in result.stdout
    assert "accuracy and judge on the same completions" in result.stdout
    assert "What accuracy gives where judge gives so much" in result.stdout
    apart = [json.loads(line) for line in found.read_text().splitlines()]
    assert f"{len(apart)} completions are credited by one alone" in result.stdout
    assert all((one["accuracy"] >= 0.5) != (one["judge"] >= 0.5) for one in apart)


def test_a_reward_agrees_with_itself_scored_again_and_with_a_constant_by_chance(scenes):
    args = (scenes / "run", "--with", scenes / "other.py", "--second", "accuracy")
    itself = call("agree", *args, "--out", scenes / "none.jsonl")
    assert "0 completions are credited by one alone" in itself.stdout
    assert "accuracy of --with" in itself.stdout and (scenes / "none.jsonl").read_text() == ""
    name, pairs, _ = agreement.completions(scenes / "run", "", 100, 0)
    assert name == "accuracy" and len(pairs) == 16
    agreement.recorded(scenes / "run", pairs, "judge", "accuracy", 0)
    assert {pair.second for pair in pairs} == {0.1}
    found = agreement.agreement(pairs, 0.5)
    assert found.agreement.value == 0.75 and found.kappa.value == 0
    assert found.correlation.value is None and found.order.value is None
    assert (found.first.value, found.second.value) == (0.25, pytest.approx(0.1))


def test_kappa_and_order_by_hand():
    """Of 10, both credit 4 and neither 3: kappa (0.7 - 0.5) / 0.5; one pair of six is turned."""
    rows = [(1, 1)] * 4 + [(0, 0)] * 3 + [(1, 0)] + [(0, 1)] * 2
    assert agreement.kappa(rows, 0.5) == pytest.approx((0.7 - 0.5 * 0.6 - 0.5 * 0.4) / 0.5)
    assert agreement.kappa([(1, 1)] * 3, 0.5) is None
    values = [(0.1, 1), (0.2, 2), (0.4, 3), (0.3, 4)]
    pairs = [agreement.Pair("p", ("t", "1"), "", "k", "", a, b) for a, b in values]
    pairs += [agreement.Pair("q", ("t", "2"), "", "k", "", 0.0, 9.0)]
    found = agreement.agreement(pairs, 0.5)
    assert found.order.value == pytest.approx(5 / 6) and found.order.count == 6
    assert found.correlation.value == pytest.approx(agreement.correlation([*values, (0.0, 9.0)]))
    bins = agreement.calibration(pairs, "a", "b")["rows"]
    assert sum(row[1] for row in bins) == 5 and bins[-1][2] == "9.000"


def test_rewards_that_cannot_be_compared_are_messages(scenes):
    def fails(*args):
        return str(call("agree", *args).exception)

    run, other = scenes / "run", scenes / "other.py"
    assert "no directory; expected that of a run" in fails(scenes / "none")
    assert "expected --with CONFIG, or --second NAME" in fails(run)
    assert "has no rollouts/step_N.jsonl" in fails(scenes, "--second", "judge")
    assert "the run has no reward `x`; it has accuracy, judge" in fails(run, "--second", "x")
    assert "--second accuracy: it is the first too" in fails(run, "--second", "accuracy")
    assert f"--second x: {other} has judge, accuracy" in fails(
        run, "--with", other, "--second", "x"
    )
    of_others = fails(run, "--with", other, "data.source.split=test")
    assert "--with wants a config of the same data" in of_others
