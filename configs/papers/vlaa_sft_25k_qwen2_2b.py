# SPDX-License-Identifier: Apache-2.0
r"""VLAA-Thinking (arXiv 2504.11468), figure 3: SFT of Qwen2-VL-2B-Instruct on the 25K subset, 190
steps.

jaxvl sft configs/papers/vlaa_sft_25k_qwen2_2b.py

Tower frozen, batches of 128, one epoch. What the paper leaves unsaid is listed in
configs/vlaa_sft.py.

The subset is that of the highest perplexity, made by (docs/curate.md):

jaxvl curate select data/VLAA-Thinking/VLAA-Thinking-SFT-126K.json --out data/VLAA-Thinking \
    --scorer Qwen/Qwen2-VL-2B-Instruct --scorer Qwen/Qwen2.5-VL-3B-Instruct
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import SFTConfig

BASE = Path(__file__).parents[1] / "vlaa_sft.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "data.source.path=data/VLAA-Thinking/sft-25K.jsonl",
    "run.steps=190",
    "run.dir=runs/vlaa_sft_25k_qwen2_2b",
]


def config() -> SFTConfig:
    return jaxvl_config.load(BASE, CHANGED, SFTConfig)
