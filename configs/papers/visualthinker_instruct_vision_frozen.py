# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132), table 5 and figure 4, "vision encoder frozen": RL from
the instruct model.

jaxvl grpo configs/papers/visualthinker_instruct_vision_frozen.py data.source.path=data/SAT

What the original calls the vision encoder holds the merger too (`model.visual`), so the text model
alone trains here. Its public switch for freezing has no effect; the paper's figures need a real
one. 400 steps, as far as figure 4 goes.

All else is as in configs/visualthinker.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "model.train=text",
    "run.steps=400",
    "run.dir=runs/visualthinker_instruct_vision_frozen",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
