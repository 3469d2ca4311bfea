# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning for vision-language models in JAX.

Names are loaded when they are first used, so that a worker process that needs only rewards starts
without jax.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from jaxvl import old_names

_CONFIG = (
    "AdaptiveKL Benchmark Benchmarks Bnpo Cispo Config Dapo Data DrGrpo Eval GRPO Grpo Gspo LoRA "
    "Mesh Model Optim Profile Reward Run SFT SFTConfig Sampling Verify"
).split()
_HOME = {
    "load": "checkpoints.start",
    "VLM": "vlm",
    "Completion": "vlm",
    "UserError": "errors",
    "Example": "data.example",
    "Records": "data.tasks.records",
    "Scenes": "data.scenes",
    "chat_question": "data.templates",
    "LiveChart": "observe.live",
    "read_metrics": "observe.metrics",
    **dict.fromkeys(_CONFIG, "config"),
}
_PACKAGES = ("config", "rewards", "rl", "data", "models", "eval", "train")  # train(cfg) is a run
_RUNS = ("sft",)  # sft(cfg) too; its module is jaxvl.train.sft
__all__ = [*_HOME, *_PACKAGES, *_RUNS]
# transformers is here for tokenizers and configs, which need no torch: no advice to install it.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
__version__ = "0.1.0"
old_names.install()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxvl.{_HOME[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxvl.{name}")
    if name in old_names.MODULES:
        return importlib.import_module(f"jaxvl.{name}")
    raise AttributeError(f"module 'jaxvl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
