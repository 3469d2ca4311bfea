# SPDX-License-Identifier: Apache-2.0
"""What every training loop starts from: the run directory, the model, the stream of prompts."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvl import config
from jaxvl.checkpoint import Checkpoints
from jaxvl.config import Config, SFTConfig
from jaxvl.data import intake, pipeline, test_sets
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import Example
from jaxvl.data.prompts import Encoded
from jaxvl.errors import UserError
from jaxvl.metrics import FILE, MetricsWriter
from jaxvl.sharding import make_mesh
from jaxvl.vlm import VLM, load


def open_run(cfg: Config | SFTConfig) -> tuple[VLM, Checkpoints, int]:
    """The model on the run's mesh in float32, the run's checkpoints, and the step to go on from.

    Writes config.json, and drops the metrics of steps that will be done again. A directory that
    holds a run is an error unless `run.resume` is set.
    """
    run_dir = Path(cfg.run.dir)
    mesh = make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    batch = cfg.grpo if isinstance(cfg, Config) else cfg.sft
    config.check_rows(batch, mesh.shape["data"] * mesh.shape["fsdp"])
    if (run_dir / FILE).exists() and not cfg.run.resume:
        raise UserError(
            f"{run_dir} holds a run already: go on with run.resume=true, or choose another run.dir"
        )
    checkpoints = Checkpoints(run_dir, cfg.run.keep)
    start = checkpoints.latest() or 0
    if jax.process_index() == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config.to_json(cfg), indent=2)
        (run_dir / "config.json").write_text(text + "\n", encoding="utf-8")
        MetricsWriter(run_dir).truncate_after(start)
        test_sets.mark(run_dir, test_sets.marks(cfg.model.path))
    pixels = {"min_pixels": cfg.model.min_pixels, "max_pixels": cfg.model.max_pixels}
    return load(cfg.model.path, "float32", mesh, **pixels), checkpoints, start


def export(vlm: VLM, run_dir: Path) -> None:
    """Writes `hf`, which carries the run's mark where it was trained on test data."""
    vlm.save(run_dir / "hf")
    if jax.process_index() == 0:
        test_sets.mark(run_dir / "hf", test_sets.marks(run_dir))


@dataclasses.dataclass(frozen=True)
class Item:
    """One prompt of a step."""

    position: int  # in the run's endless stream of prompts: its id in the sampling keys
    example: Example
    prompt: Any  # what the template made: a string or chat messages
    encoded: Encoded


class Stream:
    """The prompts of this process, `prompts` a step over all processes, in reading threads."""

    def __init__(self, cfg: Config | SFTConfig, vlm: VLM, prompts: int):
        self.data, self.processor = cfg.data, vlm.processor
        process = jax.process_index()
        self.intake = intake.Intake(
            cfg.data.source,
            Path(cfg.run.dir, f"bad_rows.{process}.jsonl" if process else intake.FILE),
            max_bad=cfg.data.max_bad,
            check=cfg.data.check,
            trial=cfg.run.trial,
            digests=cfg.data.digests,
            go_on=cfg.run.resume,
        )
        if process == 0:
            print("data:", "\ndata: ".join(self.intake.notes()), flush=True)
        self.batches = pipeline.batches(
            self.intake.examples,
            self._item,
            prompts=prompts // jax.process_count(),
            seed=cfg.run.seed,
            shuffle=cfg.data.shuffle,
            workers=cfg.data.workers,
            process_index=process,
            process_count=jax.process_count(),
            on_bad=self.intake.drop,
        )

    def _item(self, position: int, example: Example) -> Item:
        """Called in reading threads: pictures are opened and prompts tokenized here."""
        example = self.intake.open(example)
        prompt = self.data.template(example)
        encoded = self.processor.encode(prompt, list(example.images))
        return Item(position, example, prompt, encoded)

    def __next__(self) -> list[Item]:
        return next(self.batches)

    def get_state(self) -> dict[str, Any]:
        return self.batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.batches.set_state(state)

    def collate(
        self, items: list[Item], rows_per_prompt: int = 1, per_row: int = 1
    ) -> dict[str, np.ndarray]:
        """A batch of rows; with several processes all take the bucket that the longest needs."""
        sizes = [
            max(len(item.encoded.tokens) for item in items),
            max(len(item.encoded.segments) for item in items),
        ]
        if jax.process_count() > 1:
            sizes = multihost_utils.process_allgather(np.array(sizes)).max(0).tolist()
        fits = [
            tuple(b for b in buckets if b >= size) or buckets
            for buckets, size in zip(
                (self.data.prompt_buckets, self.data.patch_buckets), sizes, strict=True
            )
        ]
        return data_prompts.collate(
            [item.encoded for item in items],
            [item.position for item in items],
            pad_id=self.processor.pad_id,
            prompt_bucket=fits[0],
            patch_bucket=fits[1],
            rows_per_prompt=rows_per_prompt,
            completions_per_row=per_row,
        )


def micro(batch: Any, count: int) -> Any:
    """[R, ..] -> [count, R/count, ..] on the host, for every leaf."""
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


class Clock:
    """Seconds of a step by part."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """What has passed since the last lap was `part`."""
        now = time.perf_counter()
        self.parts[f"time/{part}"] = now - self.last
        self.last = now

    def metrics(self, tokens: int, *compiled: Callable) -> dict[str, float]:
        """Times, speed in `tokens`, and how many programs the jitted functions have compiled."""
        total = time.perf_counter() - self.start
        return self.parts | {
            "time/total": total,
            "step_time": total,
            "num_tokens": tokens,
            "perf/tokens_per_s": tokens / total,
            "perf/compiles": sum(function._cache_size() for function in compiled),
        }
