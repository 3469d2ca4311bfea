# SPDX-License-Identifier: Apache-2.0
"""What a run is: every name that a config file uses."""

from jaxvl.config.batch import BatchShape
from jaxvl.config.grpo import GRPO, AdaptiveKL, Bnpo, Cispo, Dapo, DrGrpo, Grpo, Gspo, Loss
from jaxvl.config.load import load
from jaxvl.config.schema import (
    SFT,
    Benchmark,
    Benchmarks,
    Config,
    Data,
    Eval,
    LoRA,
    Mesh,
    Model,
    Optim,
    Part,
    Profile,
    Projection,
    Reward,
    Run,
    Sampling,
    SFTConfig,
    Verify,
)

__all__ = [
    "GRPO",
    "SFT",
    "AdaptiveKL",
    "BatchShape",
    "Benchmark",
    "Benchmarks",
    "Bnpo",
    "Cispo",
    "Config",
    "Dapo",
    "Data",
    "DrGrpo",
    "Eval",
    "Grpo",
    "Gspo",
    "LoRA",
    "Loss",
    "Mesh",
    "Model",
    "Optim",
    "Part",
    "Profile",
    "Projection",
    "Reward",
    "Run",
    "SFTConfig",
    "Sampling",
    "Verify",
    "load",
]
