# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132), table 4's caption: RL from the instruct model that is
asked for the answer alone.

jaxvl grpo configs/papers/visualthinker_instruct_direct.py data.source.path=data/SAT

The caption calls this better than reasoning; the row is not printed, so there is no figure to hold
ours against. Ours: the question alone as prompt, and accuracy alone as reward, which takes an
answer without tags; 400 steps.

All else is as in configs/visualthinker.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "data.template.form=direct",
    "rewards.1.weight=0",
    "run.steps=400",
    "run.dir=runs/visualthinker_instruct_direct",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
