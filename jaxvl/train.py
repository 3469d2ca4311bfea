# SPDX-License-Identifier: Apache-2.0
"""The GRPO loop, to be read from top to bottom.

example -> prompt batch -> sample -> text -> rewards -> advantages -> train batch -> update
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvl import config, rollouts, runpage
from jaxvl.batch import Prompt, TrainBatch
from jaxvl.checkpoint import Checkpoints
from jaxvl.config import Config
from jaxvl.data import pipeline
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import Example
from jaxvl.errors import UserError
from jaxvl.eval import run as evaluation
from jaxvl.metrics import MetricsWriter, Progress, rollout_metrics
from jaxvl.models.layers import cast
from jaxvl.rewards.mix import score
from jaxvl.rl import learner
from jaxvl.rl.advantages import group_advantages
from jaxvl.rl.sampler import make_sampler
from jaxvl.rollouts import Item
from jaxvl.sharding import make_mesh, put_rows
from jaxvl.vlm import VLM, load


def train(cfg: Config) -> VLM:
    """Runs the whole of `cfg` and returns the trained model. The run directory is `cfg.run.dir`."""
    run_dir = Path(cfg.run.dir)
    mesh = make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    config.check_rows(cfg.grpo, mesh.shape["data"] * mesh.shape["fsdp"])
    checkpoints = Checkpoints(run_dir, cfg.run.keep)
    start = _start(cfg, run_dir, checkpoints)
    vlm = load(
        cfg.model.path,
        "float32",
        mesh,
        min_pixels=cfg.model.min_pixels,
        max_pixels=cfg.model.max_pixels,
    )
    with jax.set_mesh(mesh):
        loop = Loop(cfg, vlm)
        state = learner.init_state(vlm.params, loop.tx)
        if start:
            state, data_state = checkpoints.restore(start, state)
            loop.batches.set_state(data_state)
        return loop.run(run_dir, start, state, checkpoints)


def _start(cfg: Config, run_dir: Path, checkpoints: Checkpoints) -> int:
    """The step to go on from: 0 for a fresh run."""
    latest = checkpoints.latest()
    if (run_dir / "metrics.jsonl").exists() and not cfg.run.resume:
        raise UserError(
            f"{run_dir} holds a run already: go on with run.resume=true, or choose another run.dir"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(config.to_json(cfg), indent=2) + "\n")
    MetricsWriter(run_dir).truncate_after(latest or 0)
    return latest or 0


class Loop:
    """The compiled parts of a run and the order they are called in."""

    def __init__(self, cfg: Config, vlm: VLM):
        self.cfg, self.vlm = cfg, vlm
        grpo, sampling = cfg.grpo, cfg.sampling
        self.per_row = grpo.group_per_row or grpo.group
        decoding = vlm.decoding(
            self.per_row,
            sampling.max_new_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
        )
        policy = learner.Policy(
            vlm.graphdef, cfg.model.dtype, cfg.model.remat, sampling.temperature, grpo.logprob_chunk
        )
        self.tx = learner.optimizer(cfg.optim, cfg.run.steps * grpo.num_iterations)
        lr = learner.schedule(cfg.optim, cfg.run.steps * grpo.num_iterations)
        self.sample = make_sampler(vlm.graphdef, decoding, cfg.model.dtype)
        self.update = learner.make_update(learner.grpo_objective(policy, grpo), self.tx, lr)
        self.logprobs = learner.make_logprobs(policy)
        # The reference is what the run starts from, whether or not it is resumed.
        self.reference = cast(vlm.params, cfg.model.dtype) if grpo.beta else None
        self.key = jax.random.key(cfg.run.seed)
        self.batches = pipeline.batches(
            cfg.data.source.load(),
            self.make_item,
            prompts=grpo.prompts // jax.process_count(),
            seed=cfg.run.seed,
            shuffle=cfg.data.shuffle,
            workers=cfg.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.held_out: list[Example] | None = None

    def make_item(self, position: int, example: Example) -> Item:
        """Called in reading threads: pictures are opened and prompts tokenized here."""
        prompt = self.cfg.data.template(example)
        encoded = self.vlm.processor.encode(prompt, list(example.images))
        return Item(position, example, prompt, encoded)

    def run(self, run_dir: Path, start: int, state, checkpoints: Checkpoints) -> VLM:
        cfg = self.cfg
        writer, lead = MetricsWriter(run_dir), jax.process_index() == 0
        before = self._evaluate_before(run_dir, start)
        with Progress(cfg.run.steps, start) as progress:
            for step in range(start + 1, cfg.run.steps + 1):
                state, metrics = self.step(run_dir, step, state)
                if cfg.eval and cfg.eval.every and step % cfg.eval.every == 0:
                    metrics |= self.evaluate(state.params).metrics()
                if lead:
                    writer.write(step, metrics)
                    progress.update(step, metrics)
                if step % cfg.run.save_every == 0 or step == cfg.run.steps:
                    checkpoints.save(step, state, self.batches.get_state())
        checkpoints.close()
        trained = dataclasses.replace(self.vlm, params=state.params)
        if lead:
            self._finish(run_dir, trained, before)
        return trained

    def step(self, run_dir: Path, step: int, state) -> tuple[learner.TrainState, dict]:
        """One batch of prompts: sampled, rewarded, learnt from, written down."""
        cfg, grpo = self.cfg, self.cfg.grpo
        clock = Clock()
        items: list[Item] = next(self.batches)
        arrays = self.collate(items)
        prompt = put_rows(Prompt.from_arrays(arrays), self.vlm.mesh)
        clock.lap("data")

        rollout = self.sample(state.params, prompt, jax.random.fold_in(self.key, step))
        rollout = jax.tree.map(_local_rows, rollout)
        got = rollouts.answers(rollout, self.vlm.processor)
        clock.lap("generate")

        scores = score(cfg.rewards, **rollouts.reward_inputs(items, got, grpo.group))
        advantages_PG = group_advantages(scores.total_N.reshape(-1, grpo.group))
        clock.lap("reward")

        batch = TrainBatch(
            prompt=Prompt.from_arrays(arrays),
            tokens=rollout.tokens,
            mask=rollout.mask,
            advantages=advantages_PG.reshape(-1, self.per_row),
            old_logps=rollout.logps,
            ref_logps=np.zeros_like(rollout.logps),
        )
        batch = put_rows(_micro(batch, grpo.micro_batches), self.vlm.mesh, lead=1)
        if grpo.beta:
            ref_logps = self.logprobs(self.reference, batch)
            batch = dataclasses.replace(batch, ref_logps=jax.block_until_ready(ref_logps))
        clock.lap("logprob")

        for _ in range(grpo.num_iterations):
            state, stats = self.update(state, batch)
        stats = {name: float(value) for name, value in jax.device_get(stats).items()}
        clock.lap("update")

        rollouts.write(run_dir, step, items, got, scores, advantages_PG, cfg.run.rollout_images)
        tokens = int(got.lengths_N.sum())
        metrics = stats | rollout_metrics(scores, got.lengths_N, got.finished_N, grpo.group)
        return state, metrics | clock.metrics(tokens, self.compiles())

    def collate(self, items: list[Item]) -> dict[str, np.ndarray]:
        """A batch of rows; with several processes all take the bucket that the longest needs."""
        data, grpo = self.cfg.data, self.cfg.grpo
        sizes = [
            max(len(item.encoded.tokens) for item in items),
            max(len(item.encoded.segments) for item in items),
        ]
        if jax.process_count() > 1:
            sizes = multihost_utils.process_allgather(np.array(sizes)).max(0).tolist()
        fits = [
            tuple(b for b in buckets if b >= size) or buckets
            for buckets, size in zip((data.prompt_buckets, data.patch_buckets), sizes, strict=True)
        ]
        return data_prompts.collate(
            [item.encoded for item in items],
            [item.position for item in items],
            pad_id=self.vlm.processor.pad_id,
            prompt_bucket=fits[0],
            patch_bucket=fits[1],
            rows_per_prompt=grpo.group // self.per_row,
            completions_per_row=self.per_row,
        )

    def compiles(self) -> int:
        """Programs compiled so far; a steady run makes no more of them."""
        return sum(f._cache_size() for f in (self.sample, self.update, self.logprobs))

    def evaluate(self, params) -> evaluation.Evaluation:
        """The held-out set, answered with the current parameters."""
        cfg = self.cfg
        if self.held_out is None:
            self.held_out = list(cfg.eval.source.load())
        vlm = dataclasses.replace(self.vlm, params=params)
        return evaluation.evaluate(
            vlm, self.held_out, cfg.eval, cfg.data.template, cfg.sampling.max_new_tokens
        )

    def _evaluate_before(self, run_dir: Path, start: int) -> evaluation.Evaluation | None:
        """The base's score. A resumed run answers again: the base is what vlm.params still hold."""
        if not self.cfg.eval:
            return None
        print(f"answering {len(self.cfg.eval.source.load())} held-out questions before training")
        return self.evaluate(self.vlm.params)

    def _finish(self, run_dir: Path, trained: VLM, before) -> None:
        if self.cfg.run.export:
            trained.save(run_dir / "hf")
        if self.cfg.eval:
            after = self.evaluate(trained.params)
            found = {
                "before": dataclasses.asdict(before),
                "after": dataclasses.asdict(after),
                **evaluation.table(self.held_out, before, after),
            }
            (run_dir / "eval.json").write_text(json.dumps(found, indent=2) + "\n")
            evaluation.show(found)
        runpage.write_report(run_dir)


class Clock:
    """Seconds of a step by part."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[f"time/{part}"] = now - self.last
        self.last = now

    def metrics(self, tokens: int, compiles: int) -> dict[str, float]:
        total = time.perf_counter() - self.start
        return self.parts | {
            "time/total": total,
            "step_time": total,
            "perf/tokens_per_s": tokens / total,
            "perf/gen_tokens_per_s": tokens / self.parts["time/generate"],
            "perf/compiles": compiles,
            "num_tokens": tokens,
        }


def _local_rows(x: jax.Array) -> np.ndarray:
    """This process's rows of an array whose rows are split over the mesh."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[at]) for at in sorted(shards)])


def _micro(batch: TrainBatch, count: int) -> TrainBatch:
    """[R, ..] -> [count, R/count, ..] on the host."""
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
