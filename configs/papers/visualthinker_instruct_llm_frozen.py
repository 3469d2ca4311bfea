# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132), table 5 and figure 4, "LLM frozen": RL from the
instruct model.

jaxvl grpo configs/papers/visualthinker_instruct_llm_frozen.py data.source.path=data/SAT

Tower and merger train, the text model is frozen. The learning rate is that of the other rows; the
paper names no other. 400 steps, as far as figure 4 goes.

All else is as in configs/visualthinker.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "model.train=tower,merger",
    "run.steps=400",
    "run.dir=runs/visualthinker_instruct_llm_frozen",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
