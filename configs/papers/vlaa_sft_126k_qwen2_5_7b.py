# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), figure 3: SFT of Qwen2.5-VL-7B-Instruct on all 126K rows, 985
steps.

jaxvl sft configs/papers/vlaa_sft_126k_qwen2_5_7b.py data.source.path=data/VLAA-Thinking

Tower frozen, batches of 128, one epoch. What the paper leaves unsaid is listed in
configs/vlaa_sft.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import SFTConfig

BASE = Path(__file__).parents[1] / "vlaa_sft.py"
CHANGED = [
    "model.path=Qwen/Qwen2.5-VL-7B-Instruct",
    "run.dir=runs/vlaa_sft_126k_qwen2_5_7b",
]


def config() -> SFTConfig:
    return jaxvl_config.load(BASE, CHANGED, SFTConfig)
