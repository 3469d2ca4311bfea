# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132), table 4, "with reasoning", and table 5, "nothing
frozen": RL from the instruct model.

jaxvl grpo configs/papers/visualthinker_instruct.py data.source.path=data/SAT

The prompt asks for <think> and <answer>; nothing is begun for the model. The paper has 66.03 in
table 4 and 63.57 in table 5, of two runs that it does not tell apart; its settings for these runs
are not printed. Ours: those of table 2, and 400 steps, as far as figure 4 goes.

All else is as in configs/visualthinker.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "run.steps=400",
    "run.dir=runs/visualthinker_instruct",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
