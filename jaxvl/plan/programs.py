# SPDX-License-Identifier: Apache-2.0
"""The programs of a run as shapes alone: what each is called with, and how it is lowered.

No array is made, so that a model of any size is planned on any machine. Batches have the sizes of
the largest buckets, and every completion is as long as it may be.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxvl.checkpoints.start import locate
from jaxvl.config import Config, Model, SFTConfig
from jaxvl.config.validate import check_rows, check_share
from jaxvl.data.image_settings import BYTES
from jaxvl.distributed.mesh import data_shard, row_shards
from jaxvl.models import lora, public, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.io import hf
from jaxvl.plan.program import (
    Held,
    Program,
    ProgramWork,  # noqa: F401 (was here)
    Sizes,
    largest_prompt,
    work,
)
from jaxvl.plan.sampling import sampling_programs
from jaxvl.rl import learner, shapes
from jaxvl.rl.batch import UNREAD, TrainBatch


def read_arch(model: Model) -> Arch:
    """The shape of the model that a config names: a directory with config.json, or a published
    model, of which nothing is fetched."""
    path = Path(model.path).expanduser()
    config = hf.read_config(locate(path).files) if path.is_dir() else public.config(model.path)
    arch = hf.arch_from_config(config)
    text = dataclasses.replace(arch.text, float32_head=model.float32_head)
    return dataclasses.replace(arch, text=text)


def programs(cfg: Config | SFTConfig, arch: Arch, mesh: Mesh) -> list[Program]:
    """What a run of `cfg` compiles on `mesh`, in the order in which a step calls it.

    UserError where model or batch cannot be cut as the mesh asks. Call it under `jax.set_mesh`.
    """
    qwen_vl.check_mesh(arch, mesh)
    check_rows(cfg.batch, row_shards(mesh))
    check_share(cfg.batch, data_shard(mesh).count)
    sizes, held = Sizes.of(cfg), Held.of(cfg, arch, mesh)
    found = []
    if cfg.grpo is not None:
        found += sampling_programs(cfg, arch, sizes, held, mesh)
    if held.reference:
        found.append(_logprobs(cfg, arch, sizes, held, mesh))
    if held.how.own_logps:
        found.append(_own_logprobs(cfg, arch, sizes, held, mesh))
    return [*found, _update(cfg, arch, sizes, held, mesh)]


def _logprobs(cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, held: Held, mesh: Mesh) -> Program:
    """The reference's log-probabilities of a step's completions."""
    policy = dataclasses.replace(held.how.policy, graphdef=qwen_vl.graphdef(arch))
    return Program(
        "logprobs",
        learner.make_logprobs(policy),
        {"reference": held.reference, "batch": _asked_of(cfg, arch, sizes, mesh)},
        {"state": held.state, "batch": largest_prompt(cfg, arch, sizes, mesh)},
        {},
        work(arch, sizes, "forward"),
    )


def _own_logprobs(
    cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, held: Held, mesh: Mesh
) -> Program:
    """Those of the policy, before its first update."""
    return Program(
        "own_logprobs",
        learner.make_logprobs(held.how.policy),
        {"parameters": held.params, "batch": _asked_of(cfg, arch, sizes, mesh)},
        {
            "moments": held.state.opt_state,
            "reference": held.own_reference(),
            "batch": largest_prompt(cfg, arch, sizes, mesh),
        },
        {},
        work(arch, sizes, "forward"),
    )


def _asked_of(cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, mesh: Mesh) -> TrainBatch:
    """A step's batch as far as its log-probabilities depend on it."""
    batch = train_batch(cfg, arch, sizes, mesh, sizes.micro_batches)
    return dataclasses.replace(batch, **UNREAD)


def _update(cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, held: Held, mesh: Mesh) -> Program:
    how, model, one = held.how, cfg.model, sizes.mini_batch()
    dropout = lora.keys(0)[1] if model.lora and model.lora.dropout else None
    batch = train_batch(cfg, arch, sizes, mesh, one.micro_batches)
    if how.own_logps:
        batch = dataclasses.replace(batch, own_logps=batch.old_logps)
    args = {"state": held.state, "batch": batch, "frozen": held.frozen}
    if how.beta is not None:
        args["beta"] = jax.ShapeDtypeStruct((), jnp.float32)
    return Program(
        "update",
        how.update(dropout),
        args,
        # A step's mini-batches are all on their way to the device before the first is learnt from.
        {"reference": held.own_reference(), "batch": [batch] * (sizes.mini_batches - 1)},
        {},
        work(arch, one, "update", model),
        calls=cfg.batch.updates,
        turns=one.micro_batches,
    )


def train_batch(
    cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, mesh: Mesh, count: int
) -> TrainBatch:
    """`count` micro-batches of a step, each to be learnt from."""
    cut = (sizes.micro_batches, count)
    if cfg.batch.whole_rows:
        return shapes.row_batch(cfg.data, cfg.batch, arch.vision.patch_bytes, *cut, mesh, BYTES)
    asked = largest_prompt(cfg, arch, sizes, mesh)
    return shapes.batch(asked, sizes.completions, sizes.length, *cut, mesh)
