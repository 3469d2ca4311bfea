# SPDX-License-Identifier: Apache-2.0
"""VisualThinker's setting with what has been learnt since: where to start today, instead of table
2.

jaxvl grpo configs/papers/visualthinker_modern.py data.source.path=data/SAT

DAPO's loss (a mean over all tokens, a higher upper clip of 0.28: unlikely tokens may grow), groups
whose answers are all right or all wrong are drawn again twice, no KL and so no reference in memory,
completions that were cut off are not learnt from. Two updates a step make the clip matter. Constant
rate after a warm-up. Reasons: docs/algorithms.md. Not of the paper, and not run.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "grpo.loss=Dapo",
    "grpo.loss.epsilon_high=0.28",
    "grpo.dynamic_sampling=2",
    "grpo.beta=0",
    "grpo.mask_truncated_completions=true",
    "grpo.prompts=16",
    "grpo.mini_batches=2",
    "sampling.top_k=0",
    "optim.schedule=constant",
    "optim.warmup_steps=10",
    "run.dir=runs/visualthinker_modern",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
