# SPDX-License-Identifier: Apache-2.0
"""Names that modules and classes had in 0.1.0: they still import what has taken their place."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Where modules went that lay elsewhere.
MODULES = {
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
# What classes of a module, at its place of today, were called.
CLASSES = {
    "curate.estimate": {"Estimate": "CostEstimate"},
    "curate.manifest": {"Place": "ManifestPlace"},
    "curate.perplexity": {"Scorer": "PerplexityScorer"},
    "curate.rows": {"Row": "CuratedRow"},
    "curate.sources": {"Raw": "RawRow"},
    "curate.split": {"Sizes": "SplitSizes"},
    "curate.teachers": {"Asked": "TeacherSettings"},
    "curate.work": {"Stopped": "CurationStopped"},
    "data.builder.examples": {"Records": "PreparedRecords"},
    "data.example": {"LeftOut": "FilteredRow", "Row": "ReadRow"},
    "data.intake": {"Account": "DropLog", "Gate": "ExampleFilter"},
    "data.mixture": {"Mixed": "MixedExamples"},
    "data.packing": {"Loss": "LossOn"},
    "data.show": {"Table": "StatsTable"},
    "data.tasks.conversations": {"Turn": "RawTurn"},
    "data.test_sets": {"Benchmark": "TestSet"},
    "distributed.mesh": {"RowShare": "DataShard"},
    "distributed.preemption": {"Stop": "PreemptionHandler"},
    "eval.benchmark": {"Benchmark": "BenchmarkSpec", "Mark": "Grade"},
    "eval.engines.predictions": {"Key": "ReplyKey"},
    "eval.engines.replies": {"Sampling": "ReplySampling"},
    "eval.engines.run": {"Asked": "EngineSpec", "Model": "Engine", "Sampling": "ReplySampling"},
    "eval.mossbench.form": {"Verdict": "RefusalOf"},
    "eval.mossbench.tradeoff": {"Verdict": "TypedVerdict"},
    "eval.reporting.published": {"Row": "PaperRow"},
    "eval.reporting.report": {"Results": "ResultsJson"},
    "eval.scoring.formats": {"Layout": "FileLayout"},
    "models.decode": {"Reader": "DecodeModel", "Seats": "SlotMap"},
    "models.layers": {"Joined": "FusedLinear"},
    "observe.charts": {"Row": "BarRow"},
    "plan.programs": {"Work": "ProgramWork"},
    "rewards.columns": {"Asked": "AskedColumns", "Sizes": "ImageSizes"},
    "rewards.pool": {"Limits": "WorkerLimits"},
    "rewards.verdict": {"Judge": "KindJudge"},
    "rl.batching": {"Model": "BatchedModel"},
    "rl.losses": {"Whole": "BatchCounts"},
    "rl.sampler": {"Look": "LoopStatus", "Past": "DecodeInputs", "State": "DecodeState"},
    "rl.sampling": {"Decoding": "SamplingParams"},
    "train.grpo": {"Loop": "GRPOLoop"},
    "train.prompts": {"Ahead": "Prefetcher", "Item": "StreamItem", "Stream": "PromptStream"},
    "train.rollouts": {"Answers": "Completions", "Sampled": "ScoredRollout"},
    "train.sft": {"Loop": "SFTLoop"},
}


class _Aliasing(Loader):
    """Loads a module as `loader` does and gives its renamed classes their old names as well."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        for old, new in CLASSES[module.__name__.removeprefix("jaxvl.")].items():
            setattr(module, old, getattr(module, new))


class _OldNames(MetaPathFinder, Loader):
    """Finds the module that now holds what an old name stood for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        inside = name.removeprefix("jaxvl.") if name.startswith("jaxvl.") else ""
        if inside in MODULES:
            return ModuleSpec(name, self)
        if inside not in CLASSES:
            return None
        # What else finds modules keeps its say: a checker of types that tests install, say.
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec), None)
        if spec and spec.loader:
            spec.loader = _Aliasing(spec.loader)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"jaxvl.{MODULES[spec.name.removeprefix('jaxvl.')]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run; its own spec is put back in place of the old name's."""
        old = module.__spec__
        module.__spec__ = old.loader_state if old else None


def install() -> None:
    """Lets old names be imported; once a process."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())
