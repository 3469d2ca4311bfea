# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: the update of the GRPO learner with another objective.

A row is a prompt and one or more targets that branch off it, as completions do in GRPO; with one
target it is ordinary fine-tuning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvl.batch import Prompt, TrainBatch
from jaxvl.config import Optim
from jaxvl.errors import UserError
from jaxvl.models import qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.rl import learner
from jaxvl.sharding import put_rows


@dataclasses.dataclass(frozen=True)
class Target:
    """Tokens that follow a prompt, and which of them count in the loss."""

    tokens: Sequence[int]
    counts: Sequence[bool]


def target_batch(
    arrays: Mapping[str, np.ndarray], targets: Sequence[Sequence[Target]], length: int, pad_id: int
) -> TrainBatch:
    """One micro-batch of rows on the host: `arrays` from `collate`, the same number of targets a row.

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
    batch = TrainBatch(
        prompt=Prompt.from_arrays(arrays),
        tokens=tokens,
        mask=mask,
        advantages=np.zeros((R, g), np.float32),
        old_logps=unused,
        ref_logps=unused,
    )
    return jax.tree.map(lambda x: x[None], batch)


def fit(
    arch: Arch,
    params: dict[str, Any],
    batches: Iterable[TrainBatch],
    optim: Optim,
    steps: int,
    mesh: Mesh,
    *,
    dtype: str = "float32",
    remat: bool = True,
    on_step: Callable[[int, learner.TrainState, dict[str, jax.Array]], None] | None = None,
) -> dict[str, Any]:
    """`steps` updates on host batches (micro-batches in front); returns the trained parameters.

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
            state, stats = update(state, put_rows(batch, mesh, lead=1))
            if on_step is not None:
                on_step(step, state, stats)
    return state.params
