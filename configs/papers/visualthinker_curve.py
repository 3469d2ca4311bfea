# SPDX-License-Identifier: Apache-2.0
r"""VisualThinker-R1-Zero (arXiv 2503.05132), figures 1 and 2: accuracy on CV-Bench and length of
responses over 1,500 steps.

jaxvl grpo configs/papers/visualthinker_curve.py \
    data.source.path=data/SAT benchmarks.tasks.0.source=data/CV-Bench

The run of table 2, asked CV-Bench by its own prompt, without the limit on pixels of training, and
marked by its own scorer (the metric eval/cv_bench/accuracy_official). A fifth of the questions
every 100 steps: ours, the paper's is not said. Every checkpoint is kept.
"""

import dataclasses
from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Benchmark, Benchmarks, Config

BASE = Path(__file__).parents[1] / "visualthinker.py"
CHANGED = ["run.keep_every=100", "run.dir=runs/visualthinker_curve"]
ASKED = Benchmark("cv_bench", "data/CV-Bench", "visualthinker-base", limit=528)


def config() -> Config:
    plain = jaxvl_config.load(BASE, CHANGED)
    return dataclasses.replace(plain, benchmarks=Benchmarks((ASKED,), every=100))
