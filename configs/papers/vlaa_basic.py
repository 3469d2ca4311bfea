# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 6, "basic": a cosine to 0, no warm-up.

jaxvl grpo configs/papers/vlaa_basic.py data.source.path=data/VLAA-Thinking

The peak of the learning rate, which is not printed, is 1e-6 in all rows. Which KL the rows of the
learning rate have and which rate those of the KL is not said: ours, a fixed coefficient of 1e-3 and
the LR2 schedule.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "grpo.adaptive_kl=none",
    "optim.min_lr=0",
    "optim.warmup_steps=0",
    "run.dir=runs/vlaa_basic",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
