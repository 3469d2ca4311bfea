# SPDX-License-Identifier: Apache-2.0
"""What every training loop starts from: the run directory, the model, the stream of prompts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvl import config
from jaxvl.checkpoint import Checkpoints
from jaxvl.config import Config, SFTConfig
from jaxvl.data import pipeline, templates
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import Example
from jaxvl.data.prompts import Encoded, PromptTooLong
from jaxvl.errors import UserError
from jaxvl.fields import to_json
from jaxvl.metrics import FILE, MetricsWriter
from jaxvl.models import lora, parts
from jaxvl.models.qwen_vl import for_products
from jaxvl.sharding import make_mesh
from jaxvl.vlm import VLM, load

TRIES = 100  # stand-ins for a prompt: where none of so many fits, the limits are wrong


def open_run(cfg: Config | SFTConfig) -> tuple[VLM, Checkpoints, int]:
    """The model on the run's mesh, the run's checkpoints, and the step to go on from.

    Parts that train are float32, frozen ones are in the dtype of computing. Writes config.json, and
    takes off the metrics and drops of steps that will be done again. A directory that holds a run
    is an error unless `run.resume` is set.
    """
    config.validate(cfg)
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
    drops(run_dir).truncate_after(start)
    if jax.process_index() == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_json(cfg), indent=2)
        (run_dir / "config.json").write_text(text + "\n", encoding="utf-8")
        MetricsWriter(run_dir).truncate_after(start)
    pixels = {"min_pixels": cfg.model.min_pixels, "max_pixels": cfg.model.max_pixels}
    wide = "float32" if cfg.model.train else cfg.model.dtype
    vlm = load(cfg.model.path, wide, mesh, float32_head=cfg.model.float32_head, **pixels)
    frozen = parts.split(vlm.params, cfg.model.train)[1]
    frozen = for_products(frozen, cfg.model.dtype, vlm.config.text)
    vlm = dataclasses.replace(vlm, params=parts.join(vlm.params, frozen), dtype=cfg.model.dtype)
    return vlm, checkpoints, start


def to_train(
    base: VLM, cfg: Config | SFTConfig
) -> tuple[VLM, dict[str, Any], dict[str, Any], jax.Array | None]:
    """The model with the run's adapters, if it has any; what of its parameters trains; what is
    frozen; and the key of the adapters' dropout, if they drop out."""
    trains, adapters = set(cfg.model.train), cfg.model.lora
    if adapters is None:
        return base, *parts.split(base.params, trains), None
    vlm = base.adapted(adapters, cfg.run.seed)
    dropout = lora.keys(cfg.run.seed)[1] if adapters.dropout else None
    return vlm, *parts.split(vlm.params, trains | {parts.ADAPTERS}), dropout


def export(trained: VLM, cfg: Config | SFTConfig) -> None:
    """The trained model in `hf`; adapters alone too, where nothing but them has changed."""
    run_dir = Path(cfg.run.dir)
    trained.save(run_dir / "hf")
    if trained.lora and not cfg.model.train:
        trained.save_adapters(run_dir / "adapter", cfg.model.path)


@dataclasses.dataclass(frozen=True)
class Dropped:
    """An example whose prompt does not fit the largest buckets."""

    id: str
    tokens: int
    patches: int


@dataclasses.dataclass(frozen=True)
class Item:
    """One prompt of a step."""

    position: int  # in the run's endless stream of prompts: its id in the sampling keys
    example: Example
    prompt: Any  # what the template made: a string or chat messages
    encoded: Encoded
    dropped: tuple[Dropped, ...] = ()  # what could not be used at this position


def drops(run_dir: Path) -> MetricsWriter:
    """The list of this process's dropped prompts."""
    process = jax.process_index()
    return MetricsWriter(run_dir, f"dropped.{process}.jsonl" if process else "dropped.jsonl")


class Stream:
    """The prompts of this process, `prompts` a step over all processes, in reading threads."""

    def __init__(self, cfg: Config | SFTConfig, vlm: VLM, prompts: int):
        self.cfg, self.data, self.prompts = cfg, cfg.data, prompts
        self.template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
        self.processor = vlm.processor.with_pixels(cfg.data.min_pixels, cfg.data.max_pixels)
        self.limits = {
            "max_tokens": max(cfg.data.prompt_buckets),
            "max_patches": max(cfg.data.patch_buckets),
        }
        self.examples = cfg.data.source.load()
        self.batches = pipeline.batches(
            self.examples,
            self._item,
            prompts=prompts // jax.process_count(),
            seed=cfg.run.seed,
            shuffle=cfg.data.shuffle,
            workers=cfg.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _item(self, position: int, example: Example) -> Item:
        """Called in reading threads: pictures are opened and prompts tokenized here."""
        dropped = []
        for candidate in itertools.chain([example], self._stand_ins(position)):
            prompt = self.template(candidate)
            encoded = self.processor.encode(prompt, list(candidate.images))
            tokens, patches = len(encoded.tokens), len(encoded.segments)
            if tokens <= self.limits["max_tokens"] and patches <= self.limits["max_patches"]:
                return Item(position, candidate, prompt, encoded, tuple(dropped))
            dropped.append(Dropped(candidate.id, tokens, patches))
            if self.data.too_long == "error":
                break
        raise PromptTooLong(self._too_long(position, dropped))

    def _stand_ins(self, position: int) -> Iterator[Example]:
        """Examples to try at a position whose own does not fit.

        They are drawn from the whole source by (seed, position) alone, so every other position
        keeps its example, and any number of processes and a resumed run take the same.
        """
        rng = np.random.default_rng([self.cfg.run.seed, position])
        for _ in range(TRIES):
            yield self.examples[int(rng.integers(len(self.examples)))]

    def _too_long(self, position: int, dropped: list[Dropped]) -> str:
        first, limits = dropped[0], self.limits
        found = (
            f"prompt {position} (example {first.id}) has {first.tokens} tokens and {first.patches} "
            f"patches, the limits are {limits['max_tokens']} and {limits['max_patches']}"
        )
        cure = "raise data.prompt_buckets or data.patch_buckets, or lower data.max_pixels"
        if len(dropped) > 1:
            return f"{found}, and so do the {len(dropped) - 1} drawn in its place; {cure}"
        return f"{found}; {cure}, or leave such prompts out with data.too_long=drop"

    def __next__(self) -> list[Item]:
        """The prompts of the next step. What was dropped on the way to them is listed."""
        items = next(self.batches)
        for item in items:
            for one in item.dropped:
                line = {"position": item.position, **dataclasses.asdict(one), **self.limits}
                step = item.position // self.prompts + 1
                drops(Path(self.cfg.run.dir)).write(step, line)
        return items

    def metrics(self, items: list[Item]) -> dict[str, int]:
        """How many prompts were dropped for `items`, over all processes; nothing to say under
        the policy "error"."""
        if self.data.too_long == "error":
            return {}
        count = sum(len(item.dropped) for item in items)
        if jax.process_count() > 1:
            count = multihost_utils.process_allgather(np.array(count)).sum()
        return {"data/dropped": int(count)}

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
