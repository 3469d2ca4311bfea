# SPDX-License-Identifier: Apache-2.0
"""Each step is one readable line, also after a kill; metrics have TRL's names and definitions."""

import io
import json
import math
import re

import numpy as np
import pytest
from rich.console import Console

from jaxvl.errors import UserError
from jaxvl.observe.metrics import (
    MetricsWriter,
    Progress,
    over_updates,
    read_metrics,
    rollout_metrics,
)
from jaxvl.rewards.mix import Scores


def test_a_line_a_step_is_there_as_soon_as_it_is_written(tmp_path):
    writer = MetricsWriter(tmp_path / "run")
    for step in (1, 2):
        writer.write(step, {"kl": np.float32(0.5), "n": np.int32(3), "loss": np.array(2.0)})
        assert len(read_metrics(tmp_path / "run")) == step
    assert read_metrics(tmp_path / "run")[1] == {"step": 2, "kl": 0.5, "n": 3, "loss": 2.0}


def test_what_json_cannot_hold_is_null_and_named(tmp_path):
    MetricsWriter(tmp_path).write(1, {"kl": math.nan, "loss": -math.inf, "reward": 1.0})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=refuse)
    assert (line["kl"], line["loss"], line["reward"]) == (None, None, 1.0)
    assert line["nonfinite"] == {"kl": "nan", "loss": "-inf"}


@pytest.mark.parametrize("torn", ["", '{"step": 6, "k', '{"step": 6}'])
def test_a_killed_and_resumed_run_has_each_step_once(tmp_path, torn):
    writer = MetricsWriter(tmp_path)
    writer.truncate_after(0)  # a fresh run has nothing to drop
    for step in range(1, 6):
        writer.write(step, {"kl": float(step)})
    with open(writer.path, "a") as file:
        file.write(torn)
    resumed = MetricsWriter(tmp_path)
    resumed.truncate_after(3)
    for step in range(4, 8):
        resumed.write(step, {"kl": -float(step)})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert [line["kl"] for line in lines] == [1, 2, 3, -4, -5, -6, -7]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_line_that_lacks_its_end_alone_is_whole(tmp_path):
    """And what is written next is a line of its own, once a resumed run has looked at the file."""
    writer = MetricsWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"kl": 1.0})
    writer.path.write_bytes(writer.path.read_bytes()[:-1])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    writer.truncate_after(2)
    writer.write(3, {"kl": 1.0})
    before = writer.path.stat().st_ino
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    writer.truncate_after(3)  # nothing to take off: the file is not written again
    assert writer.path.stat().st_ino == before


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: broken JSON"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match="expected the directory of a run"):
        read_metrics(tmp_path / "none")


METRICS = {"reward": 0.5, "kl": np.float32(0.01), "perf/tokens_per_s": 1234.5}


def test_progress_is_a_plain_line_a_step_without_a_terminal():
    out = io.StringIO()
    with Progress(10, start=3, console=Console(file=out, width=20)) as progress:
        progress.update(4, METRICS)
        progress.update(5, METRICS)
    first, second = out.getvalue().splitlines()
    assert first == "step 4/10  reward 0.500  kl 0.0100  tokens/s 1,234  left -"
    # A busy machine takes its time between the two.
    assert re.fullmatch(r"step 5/10  .*  left 0:0\d:\d\d", second)


def test_progress_is_live_on_a_terminal():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress(10, start=3, console=console) as progress:
        progress.update(4, METRICS)
    assert "4/10" in out.getvalue() and "reward 0.500  kl 0.0100" in out.getvalue()


def test_rollout_metrics_have_trl_names_and_values():
    values_NK = np.array([[1, np.nan], [0, 1], [1, np.nan], [1, np.nan]], np.float32)
    scores = Scores(("accuracy", "box"), values_NK, np.array([1, 1, 0.5, 1.0], np.float32))
    metrics = rollout_metrics(scores, [10, 20, 30, 60], [True, True, False, False], group=2)
    assert {name: metrics[name] for name in metrics if "std" not in name} == {
        "completions/mean_length": 30,
        "completions/min_length": 10,
        "completions/max_length": 60,
        "completions/p10_length": 13,
        "completions/p50_length": 25,
        "completions/p90_length": pytest.approx(51),
        "completions/mean_terminated_length": 15,
        "completions/min_terminated_length": 10,
        "completions/max_terminated_length": 20,
        "completions/clipped_ratio": 0.5,
        "rewards/accuracy/mean": 0.75,
        "rewards/box/mean": 1,
        "reward": 0.875,
    }
    assert metrics["rewards/accuracy/std"] == pytest.approx(0.5)  # ddof=1
    assert "rewards/box/std" not in metrics  # of one value
    assert metrics["reward_std"] == pytest.approx(0.25)  # ddof=1, over the batch
    assert metrics["frac_reward_zero_std"] == 0.5


def test_lengths_of_terminated_completions_are_zero_where_none_is():
    scores = Scores(("a",), np.full((2, 1), np.nan, np.float32), np.zeros(2, np.float32))
    metrics = rollout_metrics(scores, [4, 5], [False, False], group=2)
    assert metrics["completions/clipped_ratio"] == 1
    assert metrics["completions/mean_terminated_length"] == 0
    assert "rewards/a/mean" not in metrics and metrics["frac_reward_zero_std"] == 1


def test_a_notebook_gets_plain_lines(capsys):
    console = Console(force_jupyter=True)
    with Progress(2, console=console) as progress:
        progress.update(1, {"reward": 0.5})
    assert capsys.readouterr().out == "step 1/2  reward 0.500  left -\n"


def test_masked_completions_count_in_lengths_only():
    total_N = np.array([1, np.nan, 0, 2, np.nan, np.nan], np.float32)
    scores = Scores(("a",), total_N[:, None], total_N)
    metrics = rollout_metrics(scores, [4] * 6, [True] * 6, group=2)
    assert metrics["reward"] == 1 and metrics["reward_masked"] == 0.5
    assert metrics["frac_reward_zero_std"] == 0.5  # of the two groups that have rewards
    assert metrics["completions/mean_length"] == 4


N = np.nan


@pytest.mark.parametrize(
    ("values_NK", "total", "absent"),
    [
        ([[N], [N]], [N, N], "reward reward_std frac_reward_zero_std rewards/a/mean rewards/a/std"),
        ([[1], [N]], [1, N], "reward_std rewards/a/std"),
        ([[1, N], [0, N]], [1, 0], "rewards/b/mean rewards/b/std"),
        ([[1, N], [0, 2]], [1, 2], "rewards/b/std"),
        ([[N, 1], [2, 3]], [1, N], "reward_std rewards/a/std"),
        ([[1, 1], [0, 3]], [2, 3], ""),
    ],
)
def test_what_does_not_apply_is_absent(values_NK, total, absent):
    values_NK = np.array(values_NK, np.float32)
    names = ("a", "b")[: values_NK.shape[1]]
    total_N = np.array(total, np.float32)
    found = rollout_metrics(Scores(names, values_NK, total_N), [4, 5], [True, False], group=2)
    assert all(map(math.isfinite, found.values()))
    every = {"reward", "reward_std", "frac_reward_zero_std"}
    every |= {f"rewards/{name}/{of}" for name in names for of in ("mean", "std")}
    assert every - found.keys() == set(absent.split())


def test_the_updates_of_a_step_are_one_line():
    gap = "sampling/sampling_logp_difference"
    stats = [
        {
            "loss": 1.0,
            "learning_rate": 3.0,
            f"{gap}/mean": 0.1,
            f"{gap}/max": 0.2,
            "ratio/max": 5.0,
        },
        {
            "loss": 2.0,
            "learning_rate": 4.0,
            f"{gap}/mean": 0.7,
            f"{gap}/max": 0.9,
            "ratio/max": 4.0,
        },
    ]
    assert over_updates(stats) == {
        "loss": 1.5,
        "learning_rate": 4.0,  # the last
        f"{gap}/mean": 0.1,  # before the first has changed the policy
        f"{gap}/max": 0.2,
        "ratio/max": 5.0,
    }
