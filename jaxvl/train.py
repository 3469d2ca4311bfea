# SPDX-License-Identifier: Apache-2.0
"""The GRPO loop, to be read from top to bottom.

example -> prompt batch -> sample -> text -> rewards -> advantages -> train batch -> update
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from jaxvl import programs, rollouts, runpage
from jaxvl.batch import Prompt, TrainBatch
from jaxvl.checkpoint import Checkpoints
from jaxvl.config import Config
from jaxvl.eval import run as evaluation
from jaxvl.loop import Clock, Stream, export, micro, open_run, to_train
from jaxvl.metrics import MetricsWriter, Progress, rollout_metrics
from jaxvl.models import parts
from jaxvl.models.qwen_vl import for_products
from jaxvl.rewards import audit, judge, pool
from jaxvl.rewards.mix import TrainerState, score
from jaxvl.rl import learner
from jaxvl.rl.advantages import group_advantages
from jaxvl.rl.sampler import Sampler
from jaxvl.sharding import put_rows
from jaxvl.vlm import VLM, load


def train(cfg: Config) -> VLM:
    """Runs the whole of `cfg` and returns the trained model. The run directory is `cfg.run.dir`."""
    pool.start(pool.Limits.of(cfg.verify))  # before a device is touched
    base, checkpoints, start = open_run(cfg)
    for local in judge.local_judges(cfg.rewards):
        local.logprobs = load(local.model, cfg.model.dtype, base.mesh).logprobs
    with jax.set_mesh(base.mesh):
        loop = Loop(cfg, base)
        state = learner.init_state(loop.fresh, loop.tx)
        if start:
            state, data_state = checkpoints.restore(start, state)
            loop.stream.set_state(data_state)
        return loop.run(start, state, checkpoints)


class Loop:
    """The compiled parts of a run and the order they are called in."""

    def __init__(self, cfg: Config, base: VLM):
        self.cfg, self.base, self.run_dir = cfg, base, Path(cfg.run.dir)
        # `fresh` is what trains, as it is before the first step.
        self.vlm, self.fresh, self.frozen, dropout = to_train(base, cfg)
        vlm, grpo, sampling = self.vlm, cfg.grpo, cfg.sampling
        self.per_row = grpo.group_per_row or grpo.group
        decoding = vlm.decoding(
            self.per_row,
            sampling.max_new_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.slots,
        )
        policy = learner.Policy(
            vlm.graphdef, cfg.model.dtype, cfg.model.remat, sampling.temperature, grpo.logprob_chunk
        )
        updates = cfg.run.steps * grpo.num_iterations
        self.tx = learner.optimizer(cfg.optim, updates)
        lr = learner.schedule(cfg.optim, updates)
        self.sample = Sampler(vlm.graphdef, decoding, cfg.model.dtype)
        objective = learner.grpo_objective(policy, grpo)
        self.update = learner.make_update(objective, self.tx, lr, dropout)
        # The reference is what the run starts from, whether or not it is resumed. What is frozen
        # is shared with it: beside adapters alone it is the base, and takes no memory.
        self.logprobs = learner.make_logprobs(dataclasses.replace(policy, graphdef=base.graphdef))
        self.reference = None
        if grpo.beta:
            self.reference = for_products(base.params, cfg.model.dtype, base.config.text)
        self.key = jax.random.key(cfg.run.seed)
        self.stream = Stream(cfg, vlm, grpo.prompts)
        self.held_out = list(cfg.eval.source.load()) if cfg.eval else []

    def compile(self, state: learner.TrainState) -> None:
        """All that the steps will call, for every pair of buckets that a batch may have.

        What does not fit the device's memory shows before the first step, and none waits later.
        """
        cfg, grpo, mesh = self.cfg, self.cfg.grpo, self.vlm.mesh
        params, key = self.with_state(state).params, jax.random.fold_in(self.key, 0)
        values = self.vlm.config.vision.patch_values
        for prompt in programs.prompts(cfg.data, grpo.rows, values, mesh):
            T, patches = prompt.tokens.shape[1], prompt.vision.patches.shape[1]
            print(f"compiling for prompts of {T} tokens and {patches} patches", flush=True)
            self.sample.compile(params, prompt, key)
            sizes = self.per_row, cfg.sampling.max_new_tokens, grpo.micro_batches
            batch = programs.batch(prompt, *sizes, mesh)
            if grpo.beta:
                self.logprobs.lower(self.reference, batch).compile()
                ref_logps = jax.eval_shape(self.logprobs, self.reference, batch)
                batch = dataclasses.replace(batch, ref_logps=ref_logps)
            self.update.lower(state, batch, self.frozen).compile()

    def run(self, start: int, state: learner.TrainState, checkpoints: Checkpoints) -> VLM:
        """Steps `start` + 1 to the last; the base answers first, the trained model at the end."""
        cfg, writer, lead = self.cfg, MetricsWriter(self.run_dir), jax.process_index() == 0
        # A resumed run answers again, with the base.
        before = self.evaluate(self.base, "before training") if cfg.eval else None
        self.compile(state)
        watch = audit.Watch()
        with Progress(cfg.run.steps, start) as progress:
            for step in range(start + 1, cfg.run.steps + 1):
                state, metrics = self.step(step, state)
                if cfg.eval and cfg.eval.every and step % cfg.eval.every == 0:
                    metrics |= self.evaluate(self.with_state(state), f"after step {step}").metrics()
                if lead:
                    writer.write(step, metrics)
                    progress.update(step, metrics)
                    for warning in watch.see(step, metrics):
                        progress.console.print(warning, style="yellow")
                if step % cfg.run.save_every == 0 or step == cfg.run.steps:
                    checkpoints.save(step, state, self.stream.get_state())
        checkpoints.close()
        trained = self.with_state(state)
        if cfg.run.export:
            export(trained, cfg)
        if cfg.eval:
            self._write_eval(before, self.evaluate(trained, "after training"))
        if lead:
            runpage.write_report(self.run_dir)
        return trained

    def step(self, step: int, state: learner.TrainState) -> tuple[learner.TrainState, dict]:
        """One batch of prompts: sampled, rewarded, learnt from, written down."""
        cfg, grpo, mesh = self.cfg, self.cfg.grpo, self.vlm.mesh
        clock = Clock()
        items = next(self.stream)
        arrays = self.stream.collate(items, grpo.group // self.per_row, self.per_row)
        prompt = put_rows(Prompt.from_arrays(arrays), mesh)
        clock.lap("data")

        params = self.with_state(state).params
        rollout = self.sample(params, prompt, jax.random.fold_in(self.key, step))
        rollout = jax.tree.map(_local_rows, rollout)
        got = rollouts.answers(rollout, self.vlm.processor)
        clock.lap("generate")

        inputs = rollouts.reward_inputs(items, got, grpo.group)
        scores = score(cfg.rewards, **inputs, state=TrainerState(step, cfg.run.steps))
        checks = audit.audit(inputs, got.lengths_N, grpo.group)
        advantages_PG = group_advantages(scores.total_N.reshape(-1, grpo.group))
        clock.lap("reward")

        batch = TrainBatch(
            prompt=Prompt.from_arrays(arrays),
            tokens=rollout.tokens,
            mask=rollout.mask & ~scores.masked_N.reshape(-1, self.per_row, 1),
            advantages=advantages_PG.reshape(-1, self.per_row),
            old_logps=rollout.logps,
            ref_logps=np.zeros_like(rollout.logps),
        )
        batch = put_rows(micro(batch, grpo.micro_batches), mesh, lead=1)
        if grpo.beta:
            ref_logps = self.logprobs(self.reference, batch)
            batch = dataclasses.replace(batch, ref_logps=jax.block_until_ready(ref_logps))
        clock.lap("logprob")

        for _ in range(grpo.num_iterations):
            state, stats = self.update(state, batch, self.frozen)
        stats = {name: float(value) for name, value in jax.device_get(stats).items()}
        clock.lap("update")

        images = cfg.run.rollout_images
        rollouts.write(self.run_dir, step, items, got, scores, advantages_PG, images)
        times = clock.metrics(int(got.lengths_N.sum()), self.sample, self.update, self.logprobs)
        found = rollout_metrics(scores, got.lengths_N, got.finished_N, grpo.group)
        found |= self.stream.metrics(items)
        return state, stats | found | checks | scores.metrics | times

    def with_state(self, state: learner.TrainState) -> VLM:
        """The model as far as it is trained, what is frozen included."""
        return dataclasses.replace(self.vlm, params=parts.join(self.frozen, state.params))

    def evaluate(self, vlm: VLM, when: str) -> evaluation.Evaluation:
        """The held-out set, answered by `vlm`."""
        cfg = self.cfg
        print(f"answering {len(self.held_out)} held-out questions {when}", flush=True)
        return evaluation.evaluate(
            vlm, self.held_out, cfg.eval, self.stream.template, cfg.sampling.max_new_tokens
        )

    def _write_eval(self, before: evaluation.Evaluation, after: evaluation.Evaluation) -> None:
        table = evaluation.table(self.held_out, before, after)
        found = {"before": dataclasses.asdict(before), "after": dataclasses.asdict(after), **table}
        (self.run_dir / "eval.json").write_text(json.dumps(found, indent=2) + "\n")
        evaluation.show(table)


def _local_rows(x: jax.Array) -> np.ndarray:
    """This process's rows of an array whose rows are split over the mesh."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[at]) for at in sorted(shards)])
