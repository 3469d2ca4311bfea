# SPDX-License-Identifier: Apache-2.0
"""VLAA-Thinking (arXiv 2504.11468), table 6, "KL1": an adaptive KL that starts at 1e-2 and holds
5e-3.

jaxvl grpo configs/papers/vlaa_kl1.py data.source.path=data/VLAA-Thinking

The peak of the learning rate, which is not printed, is 1e-6 in all rows. Which KL the rows of the
learning rate have and which rate those of the KL is not said: ours, a fixed coefficient of 1e-3 and
the LR2 schedule. "KL2" is configs/vlaa.py itself.
"""

from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = [
    "grpo.beta=1e-2",
    "grpo.adaptive_kl.target=5e-3",
    "run.dir=runs/vlaa_kl1",
]


def config() -> Config:
    return jaxvl_config.load(BASE, CHANGED, Config)
