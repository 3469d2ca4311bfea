# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132), section 5.3 and figure 5: a reward for every token
makes answers longer, not better.

jaxvl grpo configs/papers/visualthinker_length.py data.source.path=data/SAT

0.001 a token of the completion on top of accuracy and format, unbounded, as the paper has it:
figure 5 shows 600 steps. From the base model, as the paper's main run. The completions' limit is
not printed for it; ours: 700.

All else is as in configs/visualthinker.py.
"""

import dataclasses
from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config, Reward
from jaxvl.rewards import length

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = ["run.steps=600", "run.dir=runs/visualthinker_length"]


def config() -> Config:
    plain = jaxvl_config.load(BASE, CHANGED)
    return dataclasses.replace(plain, rewards=(*plain.rewards, Reward(length)))
