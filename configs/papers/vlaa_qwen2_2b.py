# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 4, VLAA-Thinker-Qwen2-2B: configs/vlaa.py on
Qwen2-VL-2B-Instruct.

jaxvl grpo configs/papers/vlaa_qwen2_2b.py data.source.path=data/VLAA-Thinking

The paper gives one set of hyper-parameters for all models; what it leaves unsaid is listed in
configs/vlaa.py. Boxes are read in what this model's family writes.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "run.dir=runs/vlaa_qwen2_2b",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
