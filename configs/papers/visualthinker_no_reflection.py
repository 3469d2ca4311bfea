# SPDX-License-Identifier: Apache-2.0
"""Do reflections help, or do they only appear? VisualThinker's run in which they cannot be written.

jaxvl grpo configs/papers/visualthinker_no_reflection.py data.source.path=data/SAT

The six words that the authors counted are banned while it samples (`sampling.ban`): anywhere, in
any spelling of case, whatever tokens they are cut in. Compare with configs/visualthinker.py. Not of
the paper.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = [
    "sampling.ban=aha,check,possibl,verify,wait,yet",
    "run.dir=runs/visualthinker_no_reflection",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
