# SPDX-License-Identifier: Apache-2.0
r"""VisualThinker-R1-Zero (arXiv 2503.05132), figure 2, the SFT curve: CV-Bench over 1,500 steps of
fine-tuning.

jaxvl sft configs/papers/visualthinker_sft_curve.py model.path=models/Qwen2-VL-2B \
    data.source.path=data/SAT benchmarks.tasks.0.source=data/CV-Bench

configs/visualthinker_sft.py stopped after as many questions as RL has prompts (12,000), its rate on
the way to 0 at the end of two epochs as RL's is (3,750 updates; at step 1,500 it is 60% of its
first value): how the paper's curve was made is not said. The prompt of the evaluation of this model
is not published; ours: the question alone, as it was trained.
"""

import dataclasses
from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Benchmark, Benchmarks, SFTConfig

BASE = Path(__file__).parents[1] / "visualthinker_sft.py"
CHANGED = [
    "run.steps=1500",
    "optim.horizon=3750",
    "run.keep_every=300",
    "run.dir=runs/visualthinker_sft_curve",
]
ASKED = Benchmark("cv_bench", "data/CV-Bench", "visualthinker-instruct-direct", limit=528)


def config() -> SFTConfig:
    plain = jaxvl_config.load(BASE, CHANGED, SFTConfig)
    return dataclasses.replace(plain, benchmarks=Benchmarks((ASKED,), every=100))
