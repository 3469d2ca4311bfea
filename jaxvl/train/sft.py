# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: the update of the GRPO learner with another objective.

A row is a prompt and one or more targets that branch off it, as completions do in GRPO; with one
target it is ordinary fine-tuning.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.checkpoints.store import Checkpoints, Restored, Whole
from jaxvl.config import SFT, Optim, Run, SFTConfig
from jaxvl.config.fields import check_fields
from jaxvl.data import packing
from jaxvl.data.example import Example
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import put_rows
from jaxvl.distributed.preemption import PreemptionHandler
from jaxvl.errors import TrainingFailed, UserError
from jaxvl.models import partition, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.observe.metrics import over_updates
from jaxvl.observe.mfu import Meter
from jaxvl.observe.timing import Clock
from jaxvl.rewards import pool
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.learning import learning
from jaxvl.train import Runnable, failed, heldout, resume
from jaxvl.train.benchmarks import During
from jaxvl.train.callbacks import Callbacks, expect
from jaxvl.train.guard import Guard
from jaxvl.train.prompts import PromptStream, StreamItem, micro
from jaxvl.train.setup import (
    export,
    first_state,
    init_run,
    owned,
    partition_trainable,
    with_steps,
)
from jaxvl.train.steps import steps_after
from jaxvl.vlm import VLM


@dataclasses.dataclass(frozen=True)
class Target:
    """Tokens that follow a prompt, and which of them count in the loss."""

    tokens: Sequence[int]
    counts: Sequence[bool]


def target_batch(
    arrays: Mapping[str, np.ndarray], targets: Sequence[Sequence[Target]], length: int, pad_id: int
) -> TrainBatch:
    """Rows on the host: `arrays` from `collate`, and the same number of targets for each.

    Targets longer than `length` are an error: cutting one would teach an answer without its end.
    """
    R, g = len(targets), len(targets[0])
    tokens = np.full((R, g, length), pad_id, np.int32)
    mask = np.zeros((R, g, length), bool)
    for r, row in enumerate(targets):
        for i, target in enumerate(row):
            if len(target.tokens) > length:
                raise UserError(
                    f"row {r}: a target of {len(target.tokens)} tokens does not fit {length}; "
                    "raise the target length"
                )
            tokens[r, i, : len(target.tokens)] = target.tokens
            mask[r, i, : len(target.tokens)] = target.counts
    return TrainBatch(Prompt.from_arrays(arrays), **_fields(tokens, mask))


def _fields(tokens: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Those of a batch on the host, [R, g, C]; what fine-tuning has no use for is zeros."""
    unused = np.zeros(mask.shape, np.float32)
    return {
        "tokens": tokens,
        "mask": mask,
        "advantages": unused[..., 0],
        "old_logps": unused,
        "ref_logps": unused,
    }


def row_batch(
    stream: PromptStream, items: Sequence[StreamItem], sft: SFT
) -> tuple[TrainBatch, list[list[packing.Text]]]:
    """The items as whole rows, on the host: one a row, or packed into the first of as many rows."""
    T, patches = stream.sizes(items, largest=sft.pack)
    room = packing.room(sft.loss, T, patches, sft.target_length)
    texts, uncounted = [], packing.placeholders(stream.processor)
    for item in items:
        header = stream.targets.turn_of(item.prompt).header
        if header > packing.HEADER:
            raise UserError(
                f"the chat template opens a reply with {header} tokens, expected at most "
                f"{packing.HEADER}; sft.loss=answer does not need them"
            )
        args = item.encoded, item.target, item.position, sft.loss, header, uncounted
        texts.append(packing.text(*args))
    packed = packing.pack([text.size for text in texts], room) if sft.pack else None
    rows = [[texts[i] for i in row] for row in packed or [[i] for i in range(len(texts))]]
    empty: list[list[packing.Text]] = [[]] * (len(texts) - len(rows))
    arrays = packing.lay_rows([*rows, *empty], room, stream.processor.pad_id)
    fields = _fields(arrays["counted"][:, None], arrays["mask"][:, None])
    fields |= {"examples": arrays["examples"], "at": arrays["at"]}
    return TrainBatch(Prompt.from_arrays(arrays), **fields), rows


@dataclasses.dataclass(frozen=True)
class HeldOutResult:
    """What a model makes of the held-out set."""

    answers: heldout.Evaluation
    loss: float | None
    gap_t: np.ndarray  # |log p of the sampler - of the learner|, of each token that was sampled

    def metrics(self) -> dict[str, float]:
        found = self.answers.metrics() | ({} if self.loss is None else {"eval_loss": self.loss})
        name = "eval_sampling_logp_difference"
        gap = {f"{name}/mean": self.gap_t.mean(), f"{name}/max": self.gap_t.max()}
        return found | {name: float(value) for name, value in gap.items()}


@multihost.abort_all_on_error()
def train(cfg: SFTConfig, callbacks: Sequence[Any] | None = None) -> VLM:
    """Runs the whole of `cfg` and returns the trained model. The run directory is `cfg.run.dir`.

    `callbacks` are told of every step, see `train.callbacks`. Asked to stop by a signal it raises
    `Stopped` after the step it is in, once that is saved.
    """
    expect(cfg, SFTConfig, "jaxvl.sft")
    check_fields(cfg)
    told = Callbacks(callbacks, Path(cfg.run.dir))
    if cfg.eval or cfg.benchmarks:  # before a device or another process is touched
        pool.start(pool.WorkerLimits.of(cfg.verify))
    multihost.start()
    cfg = with_steps(cfg)
    with owned(cfg) as stop:
        if steps := resume.finished(cfg):
            return resume.of_finished(cfg, steps)
        base, checkpoints = init_run(cfg)
        with jax.set_mesh(base.mesh):
            vlm, fresh, frozen, dropout = partition_trainable(base, cfg)
            loop, before = SFTLoop(cfg, vlm, frozen, dropout), None
            if loop.held_out:  # a resumed run answers again, with the base
                before = loop.evaluate(loop.held_out, base, "before training", 0)
            begun = first_state(fresh, loop.tx, vlm.mesh, checkpoints)
            del base, fresh  # their memory is the steps'
            whole, num_tokens = loop.begin(begun, resume.go_on(cfg, checkpoints, begun))
            return loop.run(whole, num_tokens, before, checkpoints, stop, told)


class SFTLoop:
    """The parts of a run, and a step: the order they are called in.

    `vlm` is the policy without its parameters, of which `frozen` do not train. From step to step
    nothing of a loop is replaced: the stream moves on, the guard remembers, and all else is handed
    on.
    """

    def __init__(self, cfg: SFTConfig, vlm: VLM, frozen: dict[str, Any], dropout: jax.Array | None):
        self.cfg, self.frozen, self.run_dir = cfg, frozen, Path(cfg.run.dir)
        self.stream = PromptStream.of(cfg, vlm, cfg.sft.rows)
        # What ends a reply here ends one wherever the trained model is used.
        for id in sorted(self.stream.targets.ends):
            vlm = dataclasses.replace(vlm, processor=vlm.processor.ending(id))
        self.vlm = vlm
        how = learning(cfg, vlm.graphdef)
        self.tx, self.update = how.tx, how.update(dropout)
        warn = cfg.optim.grad_norm_warn, cfg.sft.spike_warn
        self.guard = Guard(cfg.run.max_skipped, *warn)
        shares, devices = self.stream.share.count, list(vlm.mesh.devices.flat)
        self.meter = Meter(cfg.model, vlm.config, devices, shares, cfg.run.peak_tflops)
        self.held_out = heldout.HeldOut(cfg, cfg.eval, self.stream.template) if cfg.eval else None
        self.during = During(cfg.benchmarks, self.run_dir) if cfg.benchmarks else None

    def begin(self, begun: learner.TrainState, found: Restored | None = None) -> tuple[Whole, int]:
        """What the first step goes on from: the checkpoint `found`, or `begun` where there is none;
        and the tokens of the run so far."""
        data = found.data if found else {}
        if found:
            self.stream.set_state(data)
            self.guard.set_state(data.get("guard", {}))
        num_tokens = data.get("num_tokens", 0)
        self.stream.tell()
        step, state = (found.step, found.state) if found else (0, begun)
        return Whole(step, state, self.get_state(num_tokens)), num_tokens

    def get_state(self, num_tokens: int) -> dict[str, Any]:
        """What a checkpoint needs beside the learner's state."""
        counts = {"guard": self.guard.get_state(), "num_tokens": num_tokens}
        return self.stream.get_state() | counts

    def run(
        self,
        whole: Whole,
        num_tokens: int,
        before: HeldOutResult | None,
        checkpoints: Checkpoints,
        stop: PreemptionHandler,
        callbacks: Callbacks,
    ) -> VLM:
        """The steps after `whole` to the last. `before` is what the base answered."""
        cfg, after = self.cfg, None
        with steps_after(whole, cfg, self.guard, checkpoints, stop, callbacks) as steps:
            for step in steps:
                with steps.saved(step):
                    num_tokens, metrics, warnings = self.step(step, whole, num_tokens)
                    stop.hold()
                    after = None
                    if self.held_out and self.held_out.due(step):
                        policy = self.with_state(whole.held)
                        after = self.evaluate(self.held_out, policy, f"after step {step}", step)
                        metrics |= after.metrics()
                    if self.during and self.during.due(step, cfg.run.steps):
                        policy = self.with_state(whole.held)
                        metrics |= self.during.evaluate(step, policy, metrics)
                    steps.done(step, metrics, warnings)
        trained = self.with_state(whole.held)
        if cfg.run.export:
            export(trained, cfg)
        if self.held_out and after is None:
            after = self.evaluate(self.held_out, trained, "after training", cfg.run.steps)
        if jax.process_index() == 0:
            if self.held_out and before and after:
                losses = {"loss_before": before.loss, "loss_after": after.loss}
                self.held_out.write(before.answers, after.answers, **losses)
            resume.finish(cfg)
        return trained

    def step(
        self, step: int, whole: Whole, num_tokens: int
    ) -> tuple[int, dict[str, Any], list[str]]:
        """One batch of examples: learnt from, written down. Its state is left in `whole`; the
        tokens of the run so far, metrics and warnings are returned."""
        sft, processor, stream, clock = self.cfg.sft, self.vlm.processor, self.stream, Clock()
        items = next(stream)
        names: dict[int, tuple[str, list[float]]]
        names = {item.position: (item.example.id, []) for item in items}
        found = {}
        if sft.whole_rows:
            batch, rows = row_batch(stream, items, sft)
            names = {
                row[0].position: (", ".join(names[t.position][0] for t in row), []) for row in rows
            }
            found["rows"] = sum(stream.share.all_gather_object(len(rows)))
        else:
            targets = [[Target(item.target, [True] * len(item.target))] for item in items]
            arrays = stream.collate(items)
            batch = target_batch(arrays, targets, sft.target_length, processor.pad_id)
        batch = micro(batch, sft.micro_batches)
        on_device = put_rows(batch, self.vlm.mesh, lead=1)
        clock.lap("data")

        state, stats = self.update(whole.take(), on_device, self.frozen)
        stats = jax.device_get(stats)
        clock.lap("update")

        sizes = (
            sum(len(item.encoded.tokens) for item in items),
            sum(len(item.target) for item in items),
        )
        asked, answered = map(sum, zip(*stream.share.all_gather_object(sizes), strict=True))
        num_tokens += asked + answered
        events = self.guard.see([stats])
        whole.after(step, state, self.get_state(num_tokens), not stats["skipped"])
        warnings = failed.told(step, events, [batch], names, stream.share, self.run_dir)
        metrics = over_updates([stats]) | {"skipped_steps": self.guard.skipped} | found
        metrics |= {"num_tokens": num_tokens} | stream.metrics(items)
        metrics |= clock.metrics(answered, self.update)
        lengths_N = np.array([len(item.target) for item in items])
        encoded = [item.encoded for item in items]
        metrics |= self.meter.learning(encoded, lengths_N, metrics)
        return num_tokens, metrics, warnings

    def with_state(self, state: learner.TrainState) -> VLM:
        """The model as far as it is trained, what is frozen included."""
        return dataclasses.replace(self.vlm, params=partition.combine(self.frozen, state.params))

    def evaluate(self, held_out: heldout.HeldOut, vlm: VLM, when: str, step: int) -> HeldOutResult:
        """The held-out set, answered by `vlm` and scored by the run's rewards, the loss of its
        targets, and how far the sampler was from the learner."""
        vlm = dataclasses.replace(vlm, processor=self.vlm.processor)
        answers = held_out.evaluate(vlm, when, step)
        limits = held_out.how.min_pixels, held_out.how.max_pixels
        vlm = dataclasses.replace(vlm, processor=vlm.processor.with_pixels(*limits))
        prompts = [self.stream.template(example) for example in held_out.examples]
        images = [list(example.images) for example in held_out.examples]
        targets = self.held_out_targets(held_out.examples, prompts)
        taught = [row[0] for row in vlm.logprobs(prompts, images, targets)] if targets else []
        rows = answers.sampled.completions
        sampled = [one.logprobs for row in rows for one in row]
        scored = [logps for row in vlm.logprobs(prompts, images, rows) for logps in row]
        return HeldOutResult(
            answers,
            loss=-float(np.concatenate(taught).mean()) if taught else None,
            gap_t=np.abs(np.concatenate(sampled) - np.concatenate(scored)),
        )

    def held_out_targets(
        self, examples: Sequence[Example], prompts: Sequence[Any]
    ) -> list[list[Sequence[int]]] | None:
        """A target each; None, which is said, where an example has none."""
        try:
            return [[self.stream.targets(*pair)] for pair in zip(examples, prompts, strict=True)]
        except UserError as why:
            if jax.process_index() == 0:
                print(f"no held-out loss: {why}", flush=True)
            return None


def fit(
    arch: Arch,
    params: dict[str, Any],
    batches: Iterable[TrainBatch],
    optim: Optim,
    steps: int,
    mesh: Mesh,
    *,
    dtype: str = "float32",
    remat: str = "block",
    on_step: Callable[[int, learner.TrainState, dict[str, jax.Array]], None] | None = None,
) -> dict[str, Any]:
    """`steps` updates on host batches, one micro-batch each; returns the trained parameters.

    `on_step(step, state, stats)` is called after each update with arrays still on the device.
    TrainingFailed where three updates in a row were skipped, as a run's `run.max_skipped` has it.
    """
    policy = learner.Policy(qwen_vl.graphdef(arch), dtype, remat, temperature=1.0, chunk=256)
    tx = learner.optimizer(optim, steps)
    with jax.set_mesh(mesh):
        state = learner.init_state(params, tx)
        update = learner.make_update(
            learner.sft_objective(policy), tx, learner.schedule(optim, steps)
        )
        guard = Guard(Run.max_skipped, None)
        for step, batch in zip(range(1, steps + 1), batches, strict=False):
            state, stats = update(state, put_rows(micro(batch, 1), mesh, lead=1))
            if on_step is not None:
                on_step(step, state, stats)
            for event in guard.see([jax.device_get(stats)]):
                if event.last:
                    raise TrainingFailed(f"step {step}: {event.text}")
    return state.params


sys.modules[__name__].__class__ = Runnable  # jaxvl.sft(cfg)
