# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning on the checkpoint that comes with the checkout."""

from pathlib import Path

import numpy as np
import pytest

import jaxvl
from jaxvl import config
from jaxvl.errors import UserError
from jaxvl.observe.metrics import read_metrics
from jaxvl.train import sft
from jaxvl.train.sft import Target

ROOT = Path(__file__).parents[2]
SMALL = ["run.steps=4", "run.save_every=2", "sft.rows=4", "optim.warmup_steps=0", "optim.lr=2e-4"]
SMALL += ["data.source.size=4", "data.shuffle=false", "optim.schedule=constant"]


def small(run_dir, *more):
    file = ROOT / "configs/quickstart_sft.py"
    return config.load(file, [*SMALL, f"run.dir={run_dir}", *more], config.SFTConfig)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("sft")
    return run_dir, sft.train(small(run_dir))


def test_the_first_loss_is_the_mean_over_the_targets_tokens(run):
    cfg = small(run[0])
    base = jaxvl.load(cfg.model.path, dtype="float32")
    examples = list(cfg.data.source.load())
    end = base.processor.stop_ids[0]
    targets = [[*base.processor.tokenize(cfg.sft.target(e)), end] for e in examples]
    logps = base.logprobs(
        [cfg.data.template(e) for e in examples], [list(e.images) for e in examples],
        [[target] for target in targets],
    )  # fmt: skip
    every = np.concatenate([row[0] for row in logps])
    # float32 sums of a hundred terms in another order
    assert read_metrics(run[0])[0]["loss"] == pytest.approx(-every.mean(), rel=1e-5)


def test_the_same_four_examples_are_learnt(run):
    losses = [line["loss"] for line in read_metrics(run[0])]
    assert losses[-1] < 0.8 * losses[0]
    assert (run[0] / "hf/model.safetensors").is_file() and (run[0] / "report.html").is_file()


def test_micro_batches_and_resume_change_nothing(run, tmp_path):
    sft.train(small(tmp_path, "sft.micro_batches=2", "run.steps=2", "run.export=false"))
    sft.train(small(tmp_path, "sft.micro_batches=2", "run.resume=true"))
    one, other = ([line["loss"] for line in read_metrics(p)] for p in (run[0], tmp_path))
    # gradients summed in another order, four Adam steps
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_a_target_is_never_cut():
    with pytest.raises(UserError, match="a target of 3 tokens does not fit 2"):
        sft.target_batch({}, [[Target([1, 2, 3], [True] * 3)]], 2, 0)


def test_rows_that_do_not_split_are_refused(tmp_path):
    with pytest.raises(UserError, match="try sft.micro_batches=2"):
        small(tmp_path, "sft.micro_batches=3")


def test_a_grpo_config_is_refused():
    with pytest.raises(UserError, match="expected a SFTConfig"):
        config.load(ROOT / "configs/quickstart.py", [], config.SFTConfig)
