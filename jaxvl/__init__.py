# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning for vision-language models in JAX.

Names are loaded when they are first used, so that a worker process that needs only rewards starts
without jax.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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


# Where modules went that lay elsewhere in 0.1.0: the old names still import them.
_MOVED = {
    "algorithm": "config.grpo",
    "batch": "rl.batch",
    "batching": "rl.batching",
    "charts": "observe.charts",
    "checkpoint": "checkpoints.store",
    "convert": "checkpoints.convert",
    "data_cli": "cli.data",
    "eval.behaviour": "eval.scoring.behaviour",
    "eval.compare": "eval.reporting.compare",
    "eval.during": "train.benchmarks",
    "eval.export": "eval.reporting.export",
    "eval.figures": "eval.scoring.figures",
    "eval.formats": "eval.scoring.formats",
    "eval.heldout": "train.heldout",
    "eval.judged": "eval.scoring.judged",
    "eval.local": "eval.engines.local",
    "eval.marks": "eval.scoring.marks",
    "eval.mossbench_form": "eval.mossbench.form",
    "eval.page": "eval.reporting.page",
    "eval.predictions": "eval.engines.predictions",
    "eval.protocols": "eval.scoring.protocols",
    "eval.published": "eval.reporting.published",
    "eval.recorded": "eval.engines.recorded",
    "eval.refusal": "eval.mossbench.refusal",
    "eval.remote": "eval.engines.remote",
    "eval.replies": "eval.engines.replies",
    "eval.report": "eval.reporting.report",
    "eval.run": "eval.engines.run",
    "eval.score": "eval.scoring.score",
    "eval.seeds": "eval.reporting.seeds",
    "eval.stages": "eval.mossbench.stages",
    "eval.stats": "eval.reporting.stats",
    "eval.summary": "eval.reporting.summary",
    "eval.tables": "eval.reporting.tables",
    "eval.tradeoff": "eval.mossbench.tradeoff",
    "eval_cli": "cli.eval",
    "fields": "config.fields",
    "flops": "observe.flops",
    "loop": "train.prompts",
    "meter": "observe.mfu",
    "metrics": "observe.metrics",
    "models.hf": "models.io.hf",
    "models.hf_config": "models.io.hf_config",
    "models.names": "models.io.names",
    "models.parts": "models.partition",
    "models.peft": "models.io.peft",
    "opening": "train.setup",
    "processes": "distributed.multihost",
    "programs": "rl.shapes",
    "rl.draw": "rl.sampling",
    "rollouts": "train.rollouts",
    "runpage": "observe.report",
    "sft": "train.sft",
    "sharding": "distributed.mesh",
    "stopping": "distributed.preemption",
    "streaming": "rl.streaming",
    "validate": "config.validate",
}


class _Moved(MetaPathFinder, Loader):
    """Finds the module that now holds what an old name stood for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        moved = name.startswith("jaxvl.") and name.removeprefix("jaxvl.") in _MOVED
        return ModuleSpec(name, self) if moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"jaxvl.{_MOVED[spec.name.removeprefix('jaxvl.')]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run; its own spec is put back in place of the old name's."""
        old = module.__spec__
        module.__spec__ = old.loader_state if old else None


if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Moved())


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxvl.{_HOME[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxvl.{name}")
    if name in _MOVED:
        return importlib.import_module(f"jaxvl.{name}")
    raise AttributeError(f"module 'jaxvl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
