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
    "AdaptiveKL",
    "Bnpo",
    "Cispo",
    "Dapo",
    "DrGrpo",
    "GRPO",
    "Grpo",
    "Gspo",
    "Loss",
    "BatchShape",
    "Benchmark",
    "Benchmarks",
    "Config",
    "Data",
    "Eval",
    "LoRA",
    "Mesh",
    "Model",
    "Optim",
    "Part",
    "Profile",
    "Projection",
    "Reward",
    "Run",
    "SFT",
    "SFTConfig",
    "Sampling",
    "Verify",
    "load",
]
