# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 2: SFT of Qwen2.5-VL-3B on 55K rows that reflect.

jaxvl sft configs/papers/vlaa_sft_aha_55k.py data.source.path=data/mine/aha.jsonl

One epoch; the rows are `aha.jsonl` of `jaxvl curate run .. --out data/mine` (docs/curate.md): the
paper's own 55K were not released. Tower frozen, batches of 128, one epoch. What the paper leaves
unsaid is listed in configs/vlaa_sft.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import SFTConfig

BASE = Path(__file__).parents[1] / "vlaa_sft.py"
CHANGED = [
    "data.source.path=data/VLAA-Thinking/aha.jsonl",
    "run.steps=0",
    "run.epochs=1",
    "run.dir=runs/vlaa_sft_aha_55k",
]


def config() -> SFTConfig:
    return jaxvl_config.load(BASE, CHANGED, SFTConfig)
