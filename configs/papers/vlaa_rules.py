# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 5, "all rule-based": the four rule rewards, no open-ended
one.

jaxvl grpo configs/papers/vlaa_rules.py data.source.path=data/VLAA-Thinking

The sources of open questions are left out and no reward model is asked. The steps stay 49: the rows
that are left are gone through again (ours; the paper does not say). "Mixed" is configs/vlaa.py
itself.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "rewards.0.fn.only=digit,mcq,math,iou",
    "rewards.0.fn.scorer=none",
    "data.source.sources=clevr_math,geoqa170k,arxivqa,synthesis,coco,vg",
    "run.dir=runs/vlaa_rules",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
