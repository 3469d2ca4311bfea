# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 5, without the reward "iou".

jaxvl grpo configs/papers/vlaa_without_iou.py data.source.path=data/VLAA-Thinking

Its row ticks three of the four rule rewards and not the open-ended one, so the sources of both are
left out, and no reward model is asked. The steps stay 49: the rows that are left are gone through
again (ours; the paper does not say).
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "rewards.0.fn.only=digit,mcq,math",
    "rewards.0.fn.scorer=none",
    "data.source.sources=clevr_math,geoqa170k,arxivqa,synthesis",
    "run.dir=runs/vlaa_without_iou",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
