# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), figures 5 and 6: GRPO of Qwen2.5-VL-3B after SFT on 10K rows.

jaxvl grpo configs/papers/vlaa_after_sft_10k.py data.source.path=data/VLAA-Thinking

The second of two commands: SFT first, with configs/papers/vlaa_sft_10k.py, then RL from its export.
RL is configs/vlaa.py in every other respect, which is what the paper compares.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "model.path=runs/vlaa_sft_10k/hf",
    "run.dir=runs/vlaa_after_sft_10k",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
