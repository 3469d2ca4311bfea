# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 3, "Inst, SFT then GRPO": Qwen2-VL-7B.

jaxvl grpo configs/papers/vlaa_after_sft_qwen2_7b_instruct.py data.source.path=data/VLAA-Thinking

The second of two commands: SFT first, with configs/papers/vlaa_sft_25k_qwen2_7b.py, then RL from
its export. RL is configs/vlaa.py in every other respect, which is what the paper compares. Its rows
without SFT are vlaa_qwen2_7b.py and vlaa_qwen2_7b_zero.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "model.path=runs/vlaa_sft_25k_qwen2_7b/hf",
    "run.dir=runs/vlaa_after_sft_qwen2_7b_instruct",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
