# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 4, VLAA-Thinker-Qwen2-7B-Zero: RL on the base model.

jaxvl grpo configs/papers/vlaa_qwen2_7b_zero.py data.source.path=data/VLAA-Thinking

How the paper put its system prompt to a base model, whose chat template knows no roles, is not
published. Ours: the same words as flat text (`templates.vlaa_flat`); the base ends with its own end
token.
"""

import dataclasses
from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config
from jaxvl.data.templates import vlaa_flat

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = ["model.path=Qwen/Qwen2-VL-7B", "run.dir=runs/vlaa_qwen2_7b_zero"]


def config() -> Config:
    plain = jaxvl_config.load(BASE, CHANGED)
    return dataclasses.replace(plain, data=dataclasses.replace(plain.data, template=vlaa_flat))
