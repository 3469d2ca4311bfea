# SPDX-License-Identifier: Apache-2.0
"""The GRPO loop, to be read from top to bottom.

example -> prompt batch -> sample -> text -> rewards -> advantages -> train batch -> update

The device is given work before the host turns to its own: the next prompts are made ready while it
samples, rewards are computed while it goes over the samples with the reference, and rollouts are
written while it updates. What a step computes depends on none of that.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange, reduce

from jaxvl.checkpoints.start import of_run
from jaxvl.checkpoints.store import Checkpoints, Whole
from jaxvl.config import Config
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import local_rows, own_mesh, put_rows
from jaxvl.distributed.preemption import PreemptionHandler, Stopped
from jaxvl.models import partition
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import to_compute_dtype
from jaxvl.observe.metrics import Progress, over_updates
from jaxvl.observe.mfu import Meter
from jaxvl.observe.timing import Clock, traced
from jaxvl.rewards import audit, judge, pool
from jaxvl.rewards.mix import TrainerState, score
from jaxvl.rl import learner, shapes
from jaxvl.rl.advantages import group_advantages, has_spread, reward_std
from jaxvl.rl.batch import Rollout, TrainBatch
from jaxvl.rl.completions import read_completions
from jaxvl.rl.learning import learning
from jaxvl.rl.losses import next_beta
from jaxvl.rl.sampler import Sampler, lost_prompts
from jaxvl.train import failed, heldout, resume, rollouts
from jaxvl.train.benchmarks import During
from jaxvl.train.callbacks import Callbacks, expect
from jaxvl.train.guard import Guard
from jaxvl.train.prompts import Prefetcher, PromptStream, micro
from jaxvl.train.setup import (
    export,
    init_run,
    journal,
    owned,
    partition_trainable,
    with_steps,
)
from jaxvl.vlm import VLM, load


@multihost.abort_all_on_error()
def train(cfg: Config, callbacks: Sequence[Any] | None = None) -> VLM:
    """Runs the whole of `cfg` and returns the trained model. The run directory is `cfg.run.dir`.

    `callbacks` are told of every step, see `train.callbacks`. Asked to stop by a signal it raises
    `Stopped` after the step it is in, once that is saved.
    """
    expect(cfg, Config, "jaxvl.train")
    told = Callbacks(callbacks, Path(cfg.run.dir))
    pool.start(pool.WorkerLimits.of(cfg.verify))  # before a device or another process is touched
    multihost.start()
    cfg = with_steps(cfg)
    with owned(cfg) as stop:
        return of_run(Path(cfg.run.dir)) if resume.finished(cfg) else _train(cfg, stop, told)


def _train(cfg: Config, stop: PreemptionHandler, told: Callbacks) -> VLM:
    base, checkpoints = init_run(cfg)
    for local in judge.local_judges(cfg.rewards):
        local.logprobs = load(local.model, cfg.model.dtype, own_mesh(base.mesh)).logprobs
    with jax.set_mesh(base.mesh):
        loop = Loop(cfg, base)
        # A resumed run answers again, with the base.
        before = loop.evaluate(base, "before training", 0) if cfg.eval else None
        del base  # its memory is the steps'
        state = loop.begin(checkpoints)
        return loop.run(state, checkpoints, before, stop, told)


class Loop:
    """The compiled parts of a run and the order they are called in."""

    def __init__(self, cfg: Config, base: VLM):
        self.cfg, self.run_dir = cfg, Path(cfg.run.dir)
        # `fresh` is what trains, as it is before the first step: see `begin`.
        self.vlm, self.fresh, self.frozen, dropout = partition_trainable(base, cfg)
        vlm, grpo, sampling = self.vlm, cfg.grpo, cfg.sampling
        self.per_row = grpo.group_per_row or grpo.group
        decoding = vlm.decoding(
            self.per_row,
            sampling.max_new_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.slots,
            sampling.ban,
        )
        how = learning(cfg, vlm.graphdef)
        self.tx, self.update = how.tx, how.update(dropout)
        self.sample = Sampler(vlm.graphdef, decoding, cfg.model.dtype)
        # The reference is what the run starts from, whether or not it is resumed. What is frozen
        # is shared with it: beside adapters alone it is the base, and takes no memory.
        self.logprobs, self.reference, self.beta = {}, None, grpo.beta
        if grpo.beta:
            self.reference = to_compute_dtype(base.params, cfg.model.dtype, base.config.text)
            of_base = dataclasses.replace(how.policy, graphdef=base.graphdef)
            self.logprobs["ref_logps"] = learner.make_logprobs(of_base)
        if grpo.own_logps:
            self.logprobs["own_logps"] = learner.make_logprobs(how.policy)
        self.key = jax.random.key(cfg.run.seed)
        self.stream = PromptStream(cfg, vlm, grpo.prompts)
        self.prompts = grpo.prompts // self.stream.share.count  # of this process
        self.ahead = Prefetcher(self.stream, grpo.group // self.per_row, self.per_row)
        shares = self.stream.share.count
        self.meter = Meter(cfg, vlm.config, list(vlm.mesh.devices.flat), shares)
        self.guard = Guard(cfg.run.max_skipped, cfg.optim.grad_norm_warn)
        self.num_tokens, self.warnings = 0, []
        self.held_out = list(cfg.eval.source.load()) if cfg.eval else []
        self.during = During(cfg.benchmarks, self.run_dir) if cfg.benchmarks else None

    def begin(self, checkpoints: Checkpoints | None = None) -> learner.TrainState:
        """The state that the run goes on from, or begins with. The weights that it starts from are
        let go: what is needed of them later is in the state, in `frozen` and in `reference`."""
        vlm, fresh, found = self.vlm, self.fresh, None
        self.vlm = dataclasses.replace(vlm, params={})
        del self.fresh
        if checkpoints:
            like = learner.abstract_state(fresh, self.tx, vlm.mesh)
            if checkpoints.any():
                vlm = fresh = None
            found = resume.go_on(self.cfg, checkpoints, like)
        if found:
            self.set_state(found.data)
        state = found.state if found else learner.init_state(fresh, self.tx)
        self.stream.tell()
        self.whole = Whole(found.step if found else 0, state, self.get_state())
        return state

    def compile(self, state: learner.TrainState) -> None:
        """All that the steps will call, for every pair of buckets that a batch may have.

        What does not fit the device's memory shows before the first step, and none waits later.
        """
        cfg, grpo, mesh = self.cfg, self.cfg.grpo, self.vlm.mesh
        params, key = self.with_state(state).params, jax.random.fold_in(self.key, 0)
        values = self.vlm.config.vision.patch_values
        for prompt in shapes.prompts(self.stream.data, grpo.rows, values, mesh, cfg.model.dtype):
            T, patches = prompt.tokens.shape[1], prompt.vision.patches.shape[1]
            print(f"compiling for prompts of {T} tokens and {patches} patches", flush=True)
            self.sample.compile(params, prompt, key)
            sizes = prompt, self.per_row, cfg.sampling.max_new_tokens, grpo.pieces
            whole = shapes.batch(*sizes, grpo.pieces, mesh)
            asked = dataclasses.replace(
                whole, mask=None, advantages=None, old_logps=None, ref_logps=None
            )
            weights = {"ref_logps": self.reference, "own_logps": params}
            for name, of in self.logprobs.items():
                of.lower(weights[name], asked).compile()
            batch = shapes.batch(*sizes, grpo.micro_batches, mesh)
            if "own_logps" in self.logprobs:
                batch = dataclasses.replace(batch, own_logps=batch.old_logps)
            self.update.lower(state, batch, self.frozen, np.float32(self.beta)).compile()

    def run(
        self,
        state: learner.TrainState,
        checkpoints: Checkpoints,
        before: heldout.Evaluation | None,
        stop: PreemptionHandler,
        told: Callbacks,
    ) -> VLM:
        """The steps after `state` to the last. `before` is what the base answered."""
        cfg, start = self.cfg, self.whole.step
        lead = jax.process_index() == 0
        if cfg.run.compile_ahead:
            self.compile(state)
        watch, after = audit.Watch(), None
        steps = traced(range(start + 1, cfg.run.steps + 1), cfg.profile, self.run_dir)
        notes, progress = journal(cfg, start), Progress(cfg.run.steps, start)
        with notes, progress, contextlib.closing(steps):
            for step in steps:
                checkpoints.check()
                if number := stop.asked():
                    checkpoints.finish(self.whole)
                    raise Stopped(number)
                with failed.saved(step, self.whole, checkpoints, self.run_dir):
                    state, metrics = self.step(step, state)
                    stop.hold()
                    after = None
                    if cfg.eval and cfg.eval.every and step % cfg.eval.every == 0:
                        when = f"after step {step}"
                        after = self.evaluate(self.with_state(state), when, step)
                        metrics |= after.metrics()
                    if self.during and self.during.due(step, cfg.run.steps):
                        metrics |= self.during.evaluate(step, self.with_state(state), metrics)
                    if lead:
                        said = notes.write(step, metrics)
                        progress.update(step, metrics)
                        for warning in [*said, *self.warnings, *watch.see(step, metrics)]:
                            progress.console.print(warning, style="yellow")
                        told(step, metrics)
                    if step % cfg.run.save_every == 0 or step == cfg.run.steps:
                        checkpoints.keep(self.whole)
            if lead and (verdict := self.guard.verdict()):
                progress.console.print(verdict, style="yellow")
        checkpoints.close()
        stop.release()  # what follows is made again, whenever it is cut short
        trained = self.with_state(state)
        if cfg.run.export:
            export(trained, cfg)
        if cfg.eval and after is None:
            after = self.evaluate(trained, "after training", cfg.run.steps)
        if lead:
            if after:
                heldout.write(self.run_dir, self.held_out, before, after)
            resume.finish(cfg)
        return trained

    def step(self, step: int, state: learner.TrainState) -> tuple[learner.TrainState, dict]:
        """One batch of prompts: sampled, rewarded, learnt from, written down."""
        grpo, clock, self.warnings = self.cfg.grpo, Clock(), []
        rounds = [self.sample_round(step, state, clock)]
        while len(rounds) <= grpo.dynamic_sampling and self.lacks_live(rounds):
            rounds.append(self.sample_round(step, state, clock))
        sampled = rounds[0] if len(rounds) == 1 else rollouts.join(rounds)
        chosen = rollouts.choose(has_spread(sampled.total_PG), self.prompts)
        advantages_PG = self.advantages(sampled.total_PG[chosen])
        batch = self.train_batch(sampled, chosen, advantages_PG)
        parts = self.mini_batches(batch)
        on_device = [put_rows(part, self.vlm.mesh, lead=1) for part in parts]
        found, self.whole.state = [], None
        for part in on_device * grpo.num_iterations:
            state, stats = self.update(state, part, self.frozen, np.float32(self.beta))
            found.append(stats)
        del on_device

        # The device is at work: until its numbers are asked for, the host has time of its own.
        try:
            images, share = self.cfg.run.rollout_images, self.stream.share
            rollouts.write(self.run_dir, step, sampled, chosen, advantages_PG, images, share)
            metrics = self.rollout_metrics(sampled)
        finally:  # whatever becomes of that, the updates are done
            learnt = self.learnt(step, state, found, parts, sampled)
        live_R = learner.live_rows(batch, grpo.beta)
        metrics["frac_live_rows"] = float(np.mean(share.all_gather_object(float(live_R.mean()))))
        if grpo.dynamic_sampling:
            metrics["dynamic_sampling/refills"] = len(rounds) - 1
        metrics |= learnt
        clock.lap("update")
        lengths_N = sampled.got.lengths_N
        compiled = (self.sample, self.update, *self.logprobs.values())
        metrics |= clock.metrics(sum(share.all_gather_object(int(lengths_N.sum()))), *compiled)
        live = chosen[reduce(live_R, "(P r) -> P", "any", P=len(chosen))]
        encoded = [item.encoded for item in sampled.items]
        return state, metrics | self.meter.metrics(encoded, lengths_N, live, metrics)

    def learnt(
        self,
        step: int,
        state: learner.TrainState,
        found: list[learner.Stats],
        parts: list[TrainBatch],
        sampled: rollouts.ScoredRollout,
    ) -> dict[str, float]:
        """What the updates of a step came to: their metrics, the next step's coefficient, and the
        state as one to go on from. TrainingFailed where too many in a row were skipped."""
        stats = jax.device_get(found)
        metrics, events = over_updates(stats), self.guard.see(stats)
        metrics["skipped_steps"] = self.guard.skipped
        self.num_tokens += sampled.tokens(self.stream.share)
        metrics["num_tokens"] = self.num_tokens
        beta = self.beta
        if self.cfg.grpo.adaptive_kl:
            metrics["beta"] = beta
            self.beta = self.next_beta(metrics["kl"])
        done = not all(of["skipped"] for of in stats)
        self.whole.after(step, state, self.get_state(), done)
        share = self.stream.share
        told = failed.told(step, events, parts, sampled.asked, share, self.run_dir, beta)
        self.warnings += told
        return metrics

    def sample_round(
        self, step: int, state: learner.TrainState, clock: Clock
    ) -> rollouts.ScoredRollout:
        """The next prompts of the stream, their completions and what these are worth."""
        cfg = self.cfg
        items, arrays = self.ahead.take(step)
        prompt = put_rows(Prompt.from_arrays(arrays), self.vlm.mesh)
        clock.lap("data")

        params = self.with_state(state).params
        key = jax.random.fold_in(self.key, step)
        meanwhile = self.ahead.prepare if step < cfg.run.steps else None
        rollout = jax.tree.map(local_rows, self.sample(params, prompt, key, meanwhile))
        del prompt
        clock.lap("generate")

        logps = self.start_logprobs(params, arrays, rollout)
        got = read_completions(rollout, self.vlm.processor)
        inputs = rollouts.reward_inputs(items, got, self.vlm.processor.box_frame)
        where = TrainerState(step, cfg.run.steps)
        scores = multihost.agree(lambda: score(cfg.rewards, **inputs, state=where))
        scores = rollouts.broadcast_scores(scores, self.stream.share)
        clock.lap("reward")

        lost = [items[p].example.id for p in lost_prompts(rollout, len(items))]
        if lost := [name for part in self.stream.share.all_gather_object(lost) for name in part]:
            which = f"{len(lost)} prompts ({', '.join(lost[:4])})"
            self.warnings.append(f"warning, step {step}: NaN where {which} were sampled")
        logps = {
            name: rearrange(local_rows(x, axis=1), "M R g C -> (M R) g C")
            for name, x in logps.items()
        }
        clock.lap("logprob")
        return rollouts.ScoredRollout(items, arrays, rollout, logps, got, scores)

    def start_logprobs(
        self, params: dict[str, Any], arrays: dict[str, np.ndarray], rollout: Rollout
    ) -> dict[str, jax.Array]:
        """What the loss needs beside the sampler's, each under way: [M, R/M, g, C]."""
        if not self.logprobs:
            return {}
        batch = TrainBatch(Prompt.from_arrays(arrays), rollout.tokens, None, None, None, None)
        batch = put_rows(micro(batch, self.cfg.grpo.pieces), self.vlm.mesh, lead=1)
        weights = {"ref_logps": self.reference, "own_logps": params}
        return {name: of(weights[name], batch) for name, of in self.logprobs.items()}

    def lacks_live(self, rounds: list[rollouts.ScoredRollout]) -> bool:
        """Whether some process has fewer groups with different rewards than it learns from."""
        live = int(sum(has_spread(r.total_PG).sum() for r in rounds))
        return min(self.stream.share.all_gather_object(live)) < self.prompts

    def advantages(self, total_PG: np.ndarray) -> np.ndarray:
        """Those of this process's groups."""
        grpo, std = self.cfg.grpo, None
        if grpo.scale_rewards == "batch":
            std = reward_std(np.concatenate(self.stream.share.all_gather_object(total_PG.tolist())))
        how = {"scale": grpo.scale_rewards, "leave_one_out": grpo.leave_one_out}
        return group_advantages(total_PG, **how, batch_std=std)

    def train_batch(
        self, sampled: rollouts.ScoredRollout, chosen: np.ndarray, advantages_PG: np.ndarray
    ) -> TrainBatch:
        """The prompts `chosen` with all that an update needs, on the host."""
        arrays = sampled.arrays or self.ahead.collate([sampled.items[p] for p in chosen])
        return TrainBatch(
            prompt=Prompt.from_arrays(arrays),
            advantages=rearrange(advantages_PG, "P (r g) -> (P r) g", g=self.per_row),
            **sampled.learnt(chosen, self.cfg.grpo.mask_truncated_completions),
        )

    def mini_batches(self, batch: TrainBatch) -> list[TrainBatch]:
        """The host batch of each update, what there is to learn from in front."""
        grpo = self.cfg.grpo
        parts = micro(learner.live_first(batch, grpo), grpo.mini_batches)
        return [
            micro(jax.tree.map(lambda x, i=i: x[i], parts), grpo.micro_batches)
            for i in range(grpo.mini_batches)
        ]

    def rollout_metrics(self, sampled: rollouts.ScoredRollout) -> dict[str, float]:
        """What the completions of a step say, those that it does not learn from too."""
        got, scores, group = sampled.got, sampled.scores, self.cfg.grpo.group
        inputs = rollouts.reward_inputs(sampled.items, got, self.vlm.processor.box_frame)
        own = rollouts.Results(scores, audit.examine(inputs), got.lengths_N, got.finished_N)
        whole = rollouts.allgather_results(own, self.stream.share)
        lost = sum(multihost.all_gather_object(pool.restarts()))
        found = {"verify/restarts": lost} | self.stream.metrics(sampled.items)
        return found | whole.metrics(group)

    def next_beta(self, kl: float) -> float:
        """The coefficient of the next step."""
        grpo, how = self.cfg.grpo, self.cfg.grpo.adaptive_kl
        return next_beta(self.beta, kl, how.target, how.horizon, grpo.prompts * grpo.group)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the learner's state."""
        adaptive = {"beta": self.beta} if self.cfg.grpo.adaptive_kl else {}
        counts = {"guard": self.guard.get_state(), "num_tokens": self.num_tokens}
        return self.ahead.get_state() | counts | adaptive

    def set_state(self, state: dict[str, Any]) -> None:
        self.stream.set_state(state)
        self.guard.set_state(state.get("guard", {}))
        self.num_tokens = state.get("num_tokens", 0)
        self.beta = state.get("beta", self.beta)

    def with_state(self, state: learner.TrainState) -> VLM:
        """The model as far as it is trained, what is frozen included."""
        return dataclasses.replace(self.vlm, params=partition.combine(self.frozen, state.params))

    def evaluate(self, vlm: VLM, when: str, step: int) -> heldout.Evaluation:
        """The held-out set, answered by `vlm` and scored by the run's rewards."""
        cfg = self.cfg
        if jax.process_index() == 0:
            print(f"answering {len(self.held_out)} held-out questions {when}", flush=True)
        return heldout.evaluate(
            vlm,
            self.held_out,
            cfg.eval,
            self.stream.template,
            cfg.sampling.max_new_tokens,
            cfg.rewards,
            TrainerState(step, cfg.run.steps),
        )
