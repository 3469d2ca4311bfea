# SPDX-License-Identifier: Apache-2.0
"""The GRPO loop, to be read from top to bottom.

example -> prompt batch -> sample -> text -> rewards -> advantages -> train batch -> update

The device is given work before the host turns to its own: the next prompts are made ready while it
samples, rewards are computed while it goes over the samples with the reference, and rollouts are
written while it updates. What a step computes depends on none of that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange, reduce

from jaxvl.checkpoints.store import Checkpoints, Restored, Whole
from jaxvl.config import Config
from jaxvl.config.fields import check_fields
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import local_rows, own_mesh, put_rows
from jaxvl.distributed.preemption import PreemptionHandler
from jaxvl.models import partition
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import to_compute_dtype
from jaxvl.observe.metrics import over_updates
from jaxvl.observe.mfu import Meter
from jaxvl.observe.timing import Clock
from jaxvl.rewards import audit, judge, pool
from jaxvl.rewards.mix import TrainerState, score
from jaxvl.rl import learner, shapes
from jaxvl.rl.advantages import group_advantages, has_spread, reward_std
from jaxvl.rl.batch import UNREAD, Rollout, TrainBatch
from jaxvl.rl.completions import lost_prompts, read_completions
from jaxvl.rl.learning import learning
from jaxvl.rl.losses import next_beta
from jaxvl.rl.placement import Placement
from jaxvl.train import failed, gaps, heldout, resume, rollouts
from jaxvl.train.benchmarks import During
from jaxvl.train.callbacks import Callbacks, expect
from jaxvl.train.guard import Event, Guard
from jaxvl.train.prompts import Prefetcher, PromptStream, micro
from jaxvl.train.setup import (
    export,
    first_state,
    init_run,
    owned,
    partition_trainable,
    with_steps,
)
from jaxvl.train.steps import steps_after
from jaxvl.vlm import VLM, load


@multihost.abort_all_on_error()
def train(cfg: Config, callbacks: Sequence[Any] | None = None) -> VLM:
    """Runs the whole of `cfg` and returns the trained model. The run directory is `cfg.run.dir`.

    `callbacks` are told of every step, see `train.callbacks`. Asked to stop by a signal it raises
    `Stopped` after the step it is in, once that is saved.
    """
    expect(cfg, Config, "jaxvl.train")
    check_fields(cfg)
    told = Callbacks(callbacks, Path(cfg.run.dir))
    pool.start(pool.WorkerLimits.of(cfg.verify))  # before a device or another process is touched
    multihost.start()
    cfg = with_steps(cfg)
    with owned(cfg) as stop:
        if steps := resume.finished(cfg):
            return resume.of_finished(cfg, steps)
        return _train(cfg, stop, told)


def _train(cfg: Config, stop: PreemptionHandler, told: Callbacks) -> VLM:
    base, checkpoints = init_run(cfg)
    mesh = own_mesh(base.mesh)
    rewards = judge.with_models(
        cfg.rewards, lambda model: load(model, cfg.model.dtype, mesh).logprobs
    )
    cfg = dataclasses.replace(cfg, rewards=rewards)
    with jax.set_mesh(base.mesh):
        vlm, fresh, frozen, dropout = partition_trainable(base, cfg)
        loop, before = GRPOLoop(cfg, base, vlm, frozen, dropout), None
        if loop.held_out:  # a resumed run answers again, with the base
            before = loop.held_out.evaluate(base, "before training", 0)
        begun = first_state(fresh, loop.tx, vlm.mesh, checkpoints)
        del base, fresh  # their memory is the steps'
        whole, carry = loop.begin(begun, resume.go_on(cfg, checkpoints, begun))
        return loop.run(whole, carry, before, checkpoints, stop, told)


@dataclasses.dataclass(frozen=True)
class Carry:
    """What a step hands to the next, beside the learner's state."""

    beta: float  # the coefficient of the divergence from the reference
    num_tokens: int  # of the run so far


class GRPOLoop:
    """The compiled parts of a run, and a step: the order they are called in.

    `base` is what the run starts from, `vlm` the policy without its parameters, of which `frozen`
    do not train. From step to step nothing of a loop is replaced: the stream moves on, the guard
    remembers, and all else is handed on.
    """

    def __init__(
        self, cfg: Config, base: VLM, vlm: VLM, frozen: dict[str, Any], dropout: jax.Array | None
    ):
        self.cfg, self.vlm, self.frozen, self.run_dir = cfg, vlm, frozen, Path(cfg.run.dir)
        grpo, self.per_row = cfg.grpo, cfg.batch.per_row
        how = learning(cfg, vlm.graphdef)
        self.tx, self.update = how.tx, how.update(dropout)
        self.sample = rollouts.sampler(cfg, vlm)
        # The reference is what the run starts from, whether or not it is resumed. What is frozen
        # is shared with it: beside adapters alone it is the base, and takes no memory.
        self.logprobs, self.reference = {}, None
        if grpo.beta:
            self.reference = to_compute_dtype(base.params, cfg.model.dtype, base.config.text)
            of_base = dataclasses.replace(how.policy, graphdef=base.graphdef)
            self.logprobs["ref_logps"] = learner.make_logprobs(of_base)
        if grpo.own_logps:
            self.logprobs["own_logps"] = learner.make_logprobs(how.policy)
        self.key = jax.random.key(cfg.run.seed)
        self.stream = PromptStream.of(cfg, vlm, grpo.prompts)
        shares, devices = self.stream.share.count, list(vlm.mesh.devices.flat)
        self.prompts = grpo.prompts // shares  # of this process
        self.placement = Placement.of(grpo, vlm.mesh)
        self.ahead = Prefetcher(self.stream, grpo.group // self.per_row, self.per_row)
        self.meter = Meter(cfg.model, vlm.config, devices, shares, cfg.run.peak_tflops)
        self.token_lengths = gaps.TokenLengths(vlm.processor.decode)
        self.guard = Guard(cfg.run.max_skipped, cfg.optim.grad_norm_warn)
        self.held_out = heldout.HeldOut(cfg, cfg.eval, self.stream.template) if cfg.eval else None
        self.during = During(cfg.benchmarks, self.run_dir) if cfg.benchmarks else None

    def begin(
        self, begun: learner.TrainState, found: Restored | None = None
    ) -> tuple[Whole, Carry]:
        """What the first step goes on from: the checkpoint `found`, or `begun` where there is
        none."""
        data = found.data if found else {}
        if found:
            self.stream.set_state(data)
            self.guard.set_state(data.get("guard", {}))
        carry = Carry(data.get("beta", self.cfg.grpo.beta), data.get("num_tokens", 0))
        self.stream.tell()
        step, state = (found.step, found.state) if found else (0, begun)
        return Whole(step, state, self.get_state(carry)), carry

    def compile(self, state: learner.TrainState) -> None:
        """All that the steps will call, for every pair of buckets that a batch may have.

        What does not fit the device's memory shows before the first step, and none waits later.
        """
        cfg, grpo, mesh = self.cfg, self.cfg.grpo, self.vlm.mesh
        params, key = self.with_state(state).params, jax.random.fold_in(self.key, 0)
        image = self.stream.processor.image
        patches_as = image.patch_values, mesh, image.dtype
        for prompt in shapes.prompts(self.stream.data, grpo.rows, *patches_as):
            T, patches = prompt.tokens.shape[1], prompt.vision.patches.shape[1]
            print(f"compiling for prompts of {T} tokens and {patches} patches", flush=True)
            self.sample.compile(params, prompt, key)
            self.placement.compile(prompt, mesh)
            if self.logprobs:
                self.placement.pieces.compile(prompt, mesh)
            sizes = prompt, self.per_row, cfg.sampling.max_new_tokens, grpo.pieces
            whole = shapes.batch(*sizes, grpo.pieces, mesh)
            asked = dataclasses.replace(whole, **UNREAD)
            weights = {"ref_logps": self.reference, "own_logps": params}
            for name, of in self.logprobs.items():
                of.lower(weights[name], asked).compile()
            batch = shapes.batch(*sizes, grpo.micro_batches, mesh)
            if "own_logps" in self.logprobs:
                batch = dataclasses.replace(batch, own_logps=batch.old_logps)
            self.update.lower(state, batch, self.frozen, np.float32(grpo.beta)).compile()

    def run(
        self,
        whole: Whole,
        carry: Carry,
        before: heldout.Evaluation | None,
        checkpoints: Checkpoints,
        stop: PreemptionHandler,
        callbacks: Callbacks,
    ) -> VLM:
        """The steps after `whole` to the last. `before` is what the base answered."""
        cfg = self.cfg
        if cfg.run.compile_ahead:
            self.compile(whole.held)
        watch, after = audit.Watch(), None
        with steps_after(whole, cfg, self.guard, checkpoints, stop, callbacks) as steps:
            for step in steps:
                with steps.saved(step):
                    carry, metrics, warnings = self.step(step, whole, carry)
                    stop.hold()
                    after = None
                    if self.held_out and self.held_out.due(step):
                        policy = self.with_state(whole.held)
                        after = self.held_out.evaluate(policy, f"after step {step}", step)
                        metrics |= after.metrics()
                    if self.during and self.during.due(step, cfg.run.steps):
                        policy = self.with_state(whole.held)
                        metrics |= self.during.evaluate(step, policy, metrics)
                    steps.done(step, metrics, [*warnings, *watch.see(step, metrics)])
        trained = self.with_state(whole.held)
        if cfg.run.export:
            export(trained, cfg)
        if self.held_out and after is None:
            after = self.held_out.evaluate(trained, "after training", cfg.run.steps)
        if jax.process_index() == 0:
            if self.held_out and before and after:
                self.held_out.write(before, after)
            resume.finish(cfg)
        return trained

    def step(
        self, step: int, whole: Whole, carry: Carry
    ) -> tuple[Carry, dict[str, float], list[str]]:
        """One batch of prompts: sampled, rewarded, learnt from, written down. Its state is left in
        `whole`; what the next step is handed, metrics and warnings are returned."""
        grpo, share, clock = self.cfg.grpo, self.stream.share, Clock()
        warnings: list[str] = []
        prompt: Prompt | None
        first, prompt = self.sample_round(step, whole.held, clock, warnings)
        rounds = [first]
        while len(rounds) <= grpo.dynamic_sampling and self.lacks_live(rounds):
            prompt = None  # those that are learnt from are chosen among all, and put together anew
            rounds.append(self.sample_round(step, whole.held, clock, warnings)[0])
        sampled = rounds[0] if len(rounds) == 1 else rollouts.join(rounds)
        chosen = rollouts.choose(has_spread(sampled.total_PG), self.prompts)
        advantages_PG = self.advantages(sampled.total_PG[chosen])
        batch = self.train_batch(sampled, chosen, advantages_PG)
        order_R = learner.live_order(batch, grpo, self.placement.shards)
        on_device = self.on_device(batch, prompt, order_R)
        prompt = None
        found, state = [], whole.take()
        for part in on_device * grpo.num_iterations:
            state, stats = self.update(state, part, self.frozen, np.float32(carry.beta))
            found.append(stats)
        del on_device
        token_gaps = [stats.pop(learner.TOKEN_GAP) for stats in found]

        # The device is at work: until its numbers are asked for, the host has time of its own.
        try:
            images = self.cfg.run.rollout_images
            rollouts.write(self.run_dir, step, sampled, chosen, advantages_PG, images, share)
            lengths = self.token_lengths.of_all(sampled.got)
            metrics = self.rollout_metrics(sampled)
        finally:  # whatever becomes of that, the updates are done
            stats, beta = jax.device_get(found), carry.beta
            carry, learnt, events = self.learnt(carry, stats, sampled.tokens(share))
            done = not all(of["skipped"] for of in stats)
            whole.after(step, state, self.get_state(carry), done)
            parts = rollouts.mini_batches(batch, order_R, grpo) if events else []
            told = failed.told(step, events, parts, sampled.asked, share, self.run_dir, beta)
        gap_MRgC = local_rows(token_gaps[0], axis=1)
        shards = self.placement.shards
        gap_NC = gaps.by_completion(sampled, chosen, batch, grpo, gap_MRgC, shards)
        gaps.write(self.run_dir, step, sampled, gap_NC, lengths, share)
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
        metrics |= self.meter.metrics(grpo, encoded, lengths_N, live, metrics)
        return carry, metrics, warnings + told

    def learnt(
        self, carry: Carry, stats: list[learner.Stats], tokens: int
    ) -> tuple[Carry, dict[str, float], list[Event]]:
        """What the updates of a step of so many tokens came to: what the next step is handed,
        metrics, and what a person has to know."""
        metrics, events = over_updates(stats), self.guard.see(stats)
        num_tokens, beta = carry.num_tokens + tokens, carry.beta
        metrics |= {"skipped_steps": self.guard.skipped, "num_tokens": num_tokens}
        grpo, how = self.cfg.grpo, self.cfg.grpo.adaptive_kl
        if how is not None:
            metrics["beta"], sampled = beta, grpo.prompts * grpo.group
            beta = next_beta(beta, metrics["kl"], how.target, how.horizon, sampled)
        return Carry(beta, num_tokens), metrics, events

    def sample_round(
        self, step: int, state: learner.TrainState, clock: Clock, warnings: list[str]
    ) -> tuple[rollouts.ScoredRollout, Prompt]:
        """The next prompts of the stream, their completions and what these are worth; and the
        prompts on the devices. What a person should know is added to `warnings`."""
        cfg = self.cfg
        items, arrays = self.ahead.take(step)
        prompt = self.placement.put(Prompt.from_arrays(arrays), self.vlm.mesh)
        clock.lap("data")

        params = self.with_state(state).params
        key = jax.random.fold_in(self.key, step)
        meanwhile = self.ahead.prepare if step < cfg.run.steps else None
        rollout = jax.tree.map(local_rows, self.sample(params, prompt, key, meanwhile))
        rollout = self.placement.on_host(rollout)
        clock.lap("generate")

        logps = self.start_logprobs(params, prompt, rollout)
        got = read_completions(rollout, self.vlm.processor)
        inputs = rollouts.reward_inputs(items, got, self.vlm.processor.box_frame)
        where = TrainerState(step, cfg.run.steps)
        scores = multihost.agree(lambda: score(cfg.rewards, **inputs, state=where))
        scores = rollouts.broadcast_scores(scores, self.stream.share)
        clock.lap("reward")

        lost = [items[p].example.id for p in lost_prompts(rollout, len(items))]
        if lost := [name for part in self.stream.share.all_gather_object(lost) for name in part]:
            which = f"{len(lost)} prompts ({', '.join(lost[:4])})"
            warnings.append(f"warning, step {step}: NaN where {which} were sampled")
        own = {
            name: rearrange(local_rows(x, axis=1), "M R g C -> (M R) g C")
            for name, x in logps.items()
        }
        clock.lap("logprob")
        return rollouts.ScoredRollout(items, arrays, rollout, own, got, scores), prompt

    def start_logprobs(
        self, params: dict[str, Any], prompt: Prompt, rollout: Rollout
    ) -> dict[str, jax.Array]:
        """What the loss needs beside the sampler's, each under way: [M, R/M, g, C]."""
        if not self.logprobs:
            return {}
        mesh, in_order = self.vlm.mesh, np.arange(len(rollout.tokens))
        (asked,) = self.placement.pieces.cut_out(prompt, in_order, mesh)
        tokens = put_rows(micro(rollout.tokens, self.cfg.grpo.pieces), mesh, lead=1)
        batch = TrainBatch(asked, tokens, **UNREAD)
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
        return group_advantages(
            total_PG, scale=grpo.scale_rewards, leave_one_out=grpo.leave_one_out, batch_std=std
        )

    def train_batch(
        self, sampled: rollouts.ScoredRollout, chosen: np.ndarray, advantages_PG: np.ndarray
    ) -> TrainBatch:
        """The prompts `chosen` with all that an update needs, on the host."""
        arrays = sampled.arrays or self.ahead.collate([sampled.items[p] for p in chosen])
        fields: dict[str, Any] = sampled.learnt(chosen, self.cfg.grpo.mask_truncated_completions)
        fields["advantages"] = rearrange(advantages_PG, "P (r g) -> (P r) g", g=self.per_row)
        return TrainBatch(prompt=Prompt.from_arrays(arrays), **fields)

    def on_device(
        self, batch: TrainBatch, prompt: Prompt | None, order_R: np.ndarray
    ) -> list[TrainBatch]:
        """The batch of each update on the devices, where its prompts may be already (`prompt`)."""
        mesh = self.vlm.mesh
        if prompt is None:
            prompt = self.placement.put(batch.prompt, mesh)
        asked = self.placement.cut_out(prompt, order_R, mesh)
        fields = {name: x for name, x in vars(batch).items() if name != "prompt"}
        learnt = rollouts.mini_batches(fields, order_R, self.cfg.grpo)
        return [
            TrainBatch(prompt=of, **put_rows(part, mesh, lead=1))
            for of, part in zip(asked, learnt, strict=True)
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

    def get_state(self, carry: Carry) -> dict[str, Any]:
        """What a checkpoint needs beside the learner's state."""
        adaptive = {"beta": carry.beta} if self.cfg.grpo.adaptive_kl else {}
        counts = {"guard": self.guard.get_state(), "num_tokens": carry.num_tokens}
        return self.ahead.get_state() | counts | adaptive

    def with_state(self, state: learner.TrainState) -> VLM:
        """The model as far as it is trained, what is frozen included."""
        return dataclasses.replace(self.vlm, params=partition.combine(self.frozen, state.params))
