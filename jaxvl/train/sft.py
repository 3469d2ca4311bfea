# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: the update of the GRPO learner with another objective.

A row is a prompt and one or more targets that branch off it, as completions do in GRPO; with one
target it is ordinary fine-tuning.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.config import Optim, SFTConfig
from jaxvl.distributed import multihost
from jaxvl.distributed.mesh import put_rows
from jaxvl.distributed.preemption import PreemptionHandler, Stopped
from jaxvl.errors import UserError
from jaxvl.models import partition, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.observe import report
from jaxvl.observe.metrics import MetricsWriter, Progress
from jaxvl.observe.timing import Clock, traced
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from jaxvl.train.prompts import PromptStream, micro
from jaxvl.train.setup import export, init_run, partition_trainable
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
    unused = np.zeros((R, g, length), np.float32)
    return TrainBatch(
        prompt=Prompt.from_arrays(arrays),
        tokens=tokens,
        mask=mask,
        advantages=np.zeros((R, g), np.float32),
        old_logps=unused,
        ref_logps=unused,
    )


@multihost.abort_all_on_error()
def train(cfg: SFTConfig) -> VLM:
    """Runs the whole of `cfg` and returns the trained model. The run directory is `cfg.run.dir`.

    Asked to stop by SIGTERM it raises `Stopped` after the step it is in, once that is saved.
    """
    multihost.start()
    vlm, checkpoints, start = init_run(cfg)
    vlm, fresh, frozen, dropout = partition_trainable(vlm, cfg)
    processor, run_dir = vlm.processor, Path(cfg.run.dir)
    writer, lead = MetricsWriter(run_dir), jax.process_index() == 0
    stream = PromptStream(cfg, vlm, cfg.sft.rows)
    policy = learner.Policy(
        vlm.graphdef, cfg.model.dtype, cfg.model.remat, 1.0, cfg.sft.logprob_chunk
    )
    tx = learner.optimizer(cfg.optim, cfg.run.steps)
    lr = learner.schedule(cfg.optim, cfg.run.steps)
    steps = traced(range(start + 1, cfg.run.steps + 1), cfg.profile, run_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(vlm.mesh))
        stop, progress = stack.enter_context(PreemptionHandler()), Progress(cfg.run.steps, start)
        stack.enter_context(progress)
        stack.enter_context(contextlib.closing(steps))
        update = learner.make_update(learner.sft_objective(policy), tx, lr, dropout)
        state = learner.init_state(fresh, tx)
        vlm = dataclasses.replace(vlm, params=frozen)
        del fresh  # the weights that the run starts from: their memory is the steps'
        if start:
            state, data_state = checkpoints.restore(start, state)
            stream.set_state(data_state)
        for step in steps:
            if stop.asked():
                checkpoints.finish(step - 1, state, stream.get_state())
                raise Stopped
            clock = Clock()
            items = next(stream)
            targets = [[Target(item.target, [True] * len(item.target))] for item in items]
            batch = target_batch(
                stream.collate(items), targets, cfg.sft.target_length, processor.pad_id
            )
            batch = put_rows(micro(batch, cfg.sft.micro_batches), vlm.mesh, lead=1)
            clock.lap("data")
            state, stats = update(state, batch, frozen)
            metrics = {name: float(value) for name, value in jax.device_get(stats).items()}
            clock.lap("update")
            metrics |= stream.metrics(items)
            tokens = sum(stream.share.all_gather_object(sum(len(item.target) for item in items)))
            metrics |= clock.metrics(tokens, update)
            if lead:
                writer.write(step, metrics)
                progress.update(step, metrics)
            if step % cfg.run.save_every == 0 or step == cfg.run.steps:
                checkpoints.save(step, state, stream.get_state())
    checkpoints.close()
    trained = dataclasses.replace(vlm, params=partition.combine(frozen, state.params))
    if cfg.run.export:
        export(trained, cfg)
    if lead:
        report.write_report(run_dir)
    return trained


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
    """
    policy = learner.Policy(qwen_vl.graphdef(arch), dtype, remat, temperature=1.0, chunk=256)
    tx = learner.optimizer(optim, steps)
    with jax.set_mesh(mesh):
        state = learner.init_state(params, tx)
        update = learner.make_update(
            learner.sft_objective(policy), tx, learner.schedule(optim, steps)
        )
        for step, batch in zip(range(1, steps + 1), batches, strict=False):
            state, stats = update(state, put_rows(micro(batch, 1), mesh, lead=1))
            if on_step is not None:
                on_step(step, state, stats)
    return state.params
