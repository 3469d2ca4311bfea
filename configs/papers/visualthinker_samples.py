# SPDX-License-Identifier: Apache-2.0
"""How many questions does R1-Zero need? VisualThinker's run on 1,000 of them, or any other number.

jaxvl grpo configs/papers/visualthinker_samples.py data.source.path=data/SAT

For 50, 100, 500 or all of the first 15,000 rows: data.source.first=50 (0: all). The first so many
questions with one image are taken, exactly. Everything else, the number of steps too, is that of
configs/visualthinker.py, so that 50 questions are seen 240 times each. Not of the paper.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "data.source.first=1000",
    "run.dir=runs/visualthinker_samples",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
