# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132), the first versions of its public script: an instruct
model, short prompts and answers.

jaxvl grpo configs/papers/visualthinker_early.py data.source.path=data/SAT

Prompts of 512 tokens, completions of 128, images of at most 156,800 pixels, the language model
frozen. The paper's figure 4 has responses of 50 to 80 tokens, which fit. How long it ran is not
published; ours: 400 steps.

All else is as in configs/visualthinker.py.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "model.path=Qwen/Qwen2-VL-2B-Instruct",
    "model.train=tower,merger",
    "data.prompt_buckets=512",
    "data.patch_buckets=1024",
    "data.max_pixels=156800",
    "sampling.max_new_tokens=128",
    "run.steps=400",
    "run.dir=runs/visualthinker_early",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
