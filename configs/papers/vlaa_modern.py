# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468)'s setting with what has been learnt since: where to start today,
instead of table 6.

jaxvl grpo configs/papers/vlaa_modern.py data.source.path=data/VLAA-Thinking

GSPO (one ratio a sequence: a step of four updates drifts less than with one a token), no KL and so
no reference in memory, groups of 8, groups without signal drawn again once, completions that were
cut off not learnt from, a constant rate after a warm-up. Reasons: docs/algorithms.md. Not of the
paper, and not run.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "grpo.loss=Gspo",
    "grpo.prompts=256",
    "grpo.group=8",
    "grpo.mini_batches=4",
    "grpo.beta=0",
    "grpo.adaptive_kl=none",
    "grpo.dynamic_sampling=1",
    "grpo.mask_truncated_completions=true",
    "sampling.temperature=1.0",
    "optim.schedule=constant",
    "optim.min_lr=0",
    "optim.warmup_steps=0.03",
    "run.dir=runs/vlaa_modern",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
