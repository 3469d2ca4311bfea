# SPDX-License-Identifier: Apache-2.0
"""The loop to read gives the numbers of the loop that runs."""

from pathlib import Path

import pytest

from jaxvl import config
from jaxvl.observe.metrics import read_metrics
from jaxvl.train import minimal
from jaxvl.train.grpo import train

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_first_steps_are_those_of_the_whole_loop(tmp_path):
    steps = 2
    overrides = [f"run.dir={tmp_path}", f"run.steps={steps}", "run.export=false", "eval=none"]
    cfg = config.load(CONFIGS / "quickstart.py", overrides + ["optim.warmup_steps=0"])
    optim = minimal.OPTIM
    assert (cfg.grpo, cfg.optim.lr, cfg.sampling.max_new_tokens) == (minimal.CFG, optim.lr, 48)
    cfg = config.load(CONFIGS / "quickstart.py", overrides + ["optim.warmup_steps=2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minimal, "OPTIM", cfg.optim)
        short = list(minimal.train(str(CONFIGS / "quickstart_base"), steps))
    train(cfg)
    for step, (mine, line) in enumerate(zip(short, read_metrics(tmp_path), strict=True), start=1):
        for name in ("reward", "loss", "grad_norm", "entropy", "learning_rate"):
            # the same programs on the same arrays: to the bit
            assert mine[name] == line[name], (step, name)
