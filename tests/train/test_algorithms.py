# SPDX-License-Identifier: Apache-2.0
"""A run with everything on: refills, mini-batches, corrections, an adaptive beta; and resumed."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from jaxvl.config import GRPO, AdaptiveKL, Dapo, Reward
from jaxvl.observe.metrics import read_metrics
from jaxvl.rl.losses import next_beta
from jaxvl.train import grpo
from tests.train.test_grpo import small, values

STEPS, PROMPTS, GROUP, REFILLS = 4, 4, 2, 2
LITTLE = ("sampling.max_new_tokens=4", "optim.warmup_steps=0")
ALL = GRPO(
    prompts=PROMPTS,
    group=GROUP,
    mini_batches=2,
    loss=Dapo(epsilon_high=0.28),
    beta=0.04,
    adaptive_kl=AdaptiveKL(target=1e-4, horizon=50),
    scale_rewards="batch",
    leave_one_out=True,
    mask_truncated_completions=True,
    dynamic_sampling=REFILLS,
    importance_sampling_cap=2.0,
)


def rarely(prompts, completions, completion_ids, **columns):
    """1 for a fifth of the completions, so that most groups of two are all alike."""
    return [float(sum(ids) % 5 == 0) for ids in completion_ids]


def run(folder, resume=False):
    cfg = small(folder, f"run.steps={STEPS}", "run.save_every=2", *LITTLE)
    more = dataclasses.replace(cfg.run, resume=resume, export=False)
    grpo.train(dataclasses.replace(cfg, grpo=ALL, rewards=(Reward(rarely),), run=more))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    run(folder)
    return folder


def rows(folder, step):
    lines = (folder / f"rollouts/step_{step}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_refills_are_bounded_and_take_the_stream_as_it_comes(whole):
    lines, taken = read_metrics(whole), []
    refills = [line["dynamic_sampling/refills"] for line in lines]
    assert max(refills) > 0 and set(refills) <= {0, 1, 2}
    for step, extra in enumerate(refills, start=1):
        sampled = rows(whole, step)
        assert len(sampled) == PROMPTS * (1 + extra)
        ids = [row["prompt_id"] for row in sampled]
        for start in range(0, len(ids), PROMPTS):  # those of a draw are ordered by their sizes
            taken += sorted(ids[start : start + PROMPTS])
        spread = [len({c["reward"] for c in row["completions"]}) > 1 for row in sampled]
        learnt = [row.get("learnt", True) for row in sampled]
        assert sum(learnt) == PROMPTS
        # no draw was made without need, and no group with spread gave way to one without
        assert sum(spread[: PROMPTS * extra]) < PROMPTS
        assert sum(spread) >= PROMPTS or extra == REFILLS
        dead = [row for row, s, used in zip(sampled, spread, learnt, strict=True) if used and not s]
        assert not dead or all(used for s, used in zip(spread, learnt, strict=True) if s)
        for row, used in zip(sampled, learnt, strict=True):
            advantages = [c["advantage"] for c in row["completions"]]
            assert used or advantages == [None, None]
    assert taken == list(range(len(taken)))


def test_every_part_is_logged(whole):
    for line in read_metrics(whole):
        parts = ("data", "generate", "reward", "logprob", "update")
        seconds = [line[f"time/{part}"] for part in parts]
        assert all(s > 0 for s in seconds)
        # what is left is the bookkeeping between the laps
        assert sum(seconds) == pytest.approx(line["time/total"], rel=0.2)
        assert line["perf/tflops"] > 0 and "perf/mfu" not in line  # the CPU's peak is not known
        assert 0 < line["sampling/importance_sampling_ratio/max"] <= 2.0
        assert line["sampling/sampling_logp_difference/max"] < 1e-4  # as in test_train
        assert 0 <= line["frac_live_rows"] <= 1


def test_the_coefficient_follows_the_kl(whole):
    lines = read_metrics(whole)
    assert lines[0]["beta"] == 0.04
    for line, after in itertools.pairwise(lines):
        assert after["beta"] == next_beta(line["beta"], line["kl"], 1e-4, 50, PROMPTS * GROUP)
        assert after["beta"] != line["beta"]


def test_a_steady_run_compiles_nothing(whole):
    compiles = [line["perf/compiles"] for line in read_metrics(whole)]
    # the sampler's three (prefill, decode, read), the update, the reference's, the learner's own
    assert set(compiles) == {6}


def test_a_resumed_run_goes_on_bit_for_bit(whole, tmp_path):
    """From step 2: the next prompts were made ready before its checkpoint, and are drawn again."""
    for part in ("metrics.jsonl", "checkpoints"):
        copy = shutil.copytree if (whole / part).is_dir() else shutil.copy
        copy(whole / part, tmp_path / part)
    shutil.rmtree(tmp_path / f"checkpoints/{STEPS}")
    run(tmp_path, resume=True)
    assert values(tmp_path) == values(whole)
    for step in (3, 4):
        assert [r["prompt_id"] for r in rows(tmp_path, step)] == [
            r["prompt_id"] for r in rows(whole, step)
        ]
    assert np.isfinite([line["loss"] for line in read_metrics(whole)]).all()
