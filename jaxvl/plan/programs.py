# SPDX-License-Identifier: Apache-2.0
"""The programs of a run as shapes alone: what each is called with, and how it is lowered.

No array is made, so that a model of any size is planned on any machine. Batches have the sizes of
the largest buckets, and every completion is as long as it may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.batch import Prompt, TrainBatch, Vision
from jaxvl.config import Config, Model, SFTConfig
from jaxvl.models import hf, lora, parts, public, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.rl import learner
from jaxvl.rl.sampler import Decoding, make_steps
from jaxvl.sharding import ROWS, param_shardings
from jaxvl.validate import check_rows

STOP, PAD = (151645, 151643), 151643  # any will do: they are constants of the program


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a step's batch: rows, and what is in a row."""

    rows: int  # R of the whole mesh
    micro_batches: int
    tokens: int  # T
    patches: int  # P
    completions: int  # g
    length: int  # C

    @classmethod
    def of(cls, cfg: Config | SFTConfig) -> Sizes:
        data = cfg.data
        size = {"tokens": max(data.prompt_buckets), "patches": max(data.patch_buckets)}
        if isinstance(cfg, SFTConfig):
            sft = cfg.sft
            return cls(sft.rows, sft.micro_batches, **size, completions=1, length=sft.target_length)
        grpo = cfg.grpo
        g = grpo.group_per_row or grpo.group
        C = cfg.sampling.max_new_tokens
        return cls(grpo.rows, grpo.micro_batches, **size, completions=g, length=C)


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function and the shapes it is called with. `name` is what people call it."""

    name: str
    function: Callable
    args: tuple[Any, ...]
    labels: tuple[str, ...]  # of each argument: "state", "batch", ..
    beside: dict[str, Any]  # what a run holds on the device meanwhile, that is no argument

    def lower(self) -> jax.stages.Lowered:
        return self.function.lower(*self.args)


def read_arch(model: Model) -> Arch:
    """The shape of the model that a config names: a directory with config.json, or a published
    model, of which nothing is fetched."""
    path = Path(model.path).expanduser()
    config = hf.read_config(path) if path.is_dir() else public.config(model.path)
    arch = hf.arch_from_config(config)
    text = dataclasses.replace(arch.text, float32_head=model.float32_head)
    return dataclasses.replace(arch, text=text)


def programs(cfg: Config | SFTConfig, arch: Arch, mesh: Mesh) -> list[Program]:
    """What a run of `cfg` compiles on `mesh`, in the order in which a step calls it.

    UserError where model or batch cannot be cut as the mesh asks. Call it under `jax.set_mesh`.
    """
    qwen_vl.check_mesh(arch, mesh)
    grpo = getattr(cfg, "grpo", None)
    check_rows(grpo or cfg.sft, mesh.shape["data"] * mesh.shape["fsdp"])
    sizes, model = Sizes.of(cfg), cfg.model
    base = abstract_params(cfg.model, arch, mesh)
    params, graph = base, qwen_vl.graphdef(arch)
    trains = set(model.train)
    if model.lora:
        fresh = jax.eval_shape(lambda: lora.init(base, model.lora, lora.keys(0)[0]))
        params, graph = parts.join(base, fresh), lora.graphdef(arch, model.lora)
        trains |= {parts.ADAPTERS}
    learns, frozen = parts.split(params, trains)
    tx = learner.optimizer(cfg.optim, cfg.run.steps)
    state = jax.eval_shape(lambda p: learner.init_state(p, tx), learns)
    temperature, chunk = (
        (cfg.sampling.temperature, grpo.logprob_chunk) if grpo else (1.0, cfg.sft.logprob_chunk)
    )
    policy = learner.Policy(graph, model.dtype, model.remat, temperature, chunk)
    objective = learner.grpo_objective(policy, grpo) if grpo else learner.sft_objective(policy)
    dropout = lora.keys(0)[1] if model.lora and model.lora.dropout else None
    update = learner.make_update(objective, tx, learner.schedule(cfg.optim, cfg.run.steps), dropout)
    batch = train_batch(arch, sizes, mesh)
    reference = {}
    if grpo and grpo.beta:
        reference = jax.eval_shape(lambda p: qwen_vl.for_products(p, model.dtype, arch.text), base)
    beside = {"reference": parts.split(reference, model.train)[0]}  # what is frozen is shared
    found = [Program("update", update, (state, batch, frozen), ("state", "batch", "frozen"), beside)]
    if not grpo:
        return found
    if grpo.beta:
        score = learner.make_logprobs(dataclasses.replace(policy, graphdef=qwen_vl.graphdef(arch)))
        found.insert(
            0,
            Program("logprobs", score, (reference, batch), ("reference", "batch"), {"state": state}),
        )
    sampling = _sampling(cfg, arch, graph, sizes, mesh, parts.join(frozen, state.params))
    beside = {"optimizer": state.opt_state, **beside}
    return [dataclasses.replace(p, beside=p.beside | beside) for p in sampling] + found


def _sampling(cfg: Config, arch: Arch, graph, sizes: Sizes, mesh: Mesh, params) -> list[Program]:
    """Prefill and decoding, which a run compiles into one program, apart."""
    how = Decoding(
        completions=sizes.completions,
        max_new_tokens=sizes.length,
        stop_ids=STOP,
        pad_id=PAD,
        never_ids=arch.never_sampled,
        temperature=cfg.sampling.temperature,
        top_p=cfg.sampling.top_p,
        top_k=cfg.sampling.top_k,
    )
    start, go_on = make_steps(graph, how, cfg.model.dtype)
    asked = prompt(arch, sizes, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    past, state = jax.eval_shape(start, params, asked, key)
    until = jax.ShapeDtypeStruct((), jnp.int32)
    return [
        Program("prefill", start, (params, asked, key), ("parameters", "batch", "key"), {}),
        Program(
            "decode",
            go_on,
            (params, past, state, until),
            ("parameters", "prompt cache", "own cache", "until"),
            {},
        ),
    ]


def abstract_params(model: Model, arch: Arch, mesh: Mesh) -> dict[str, Any]:
    """The checkpoint's parameters as a run holds them: float32 where they train, else in the dtype
    of computing."""
    shapes = qwen_vl.abstract_params(arch)
    narrow = jax.eval_shape(lambda p: qwen_vl.for_products(p, model.dtype, arch.text), shapes)
    mixed = parts.join(narrow, parts.split(shapes, model.train)[0])
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        mixed,
        param_shardings(shapes, mesh),
    )


def prompt(arch: Arch, sizes: Sizes, mesh: Mesh, micro: bool = False) -> Prompt:
    """A batch's prompts; with micro-batches in front if `micro`."""
    lead = (sizes.micro_batches,) if micro else ()
    R, T, patches = sizes.rows // (lead or (1,))[0], sizes.tokens, sizes.patches

    def array(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
        return _rows((*lead, R, *shape), dtype, mesh, len(lead))

    vision = Vision(
        patches=array(patches, arch.vision.patch_values, dtype=jnp.float32),
        coords=array(patches, 2),
        segments=array(patches),
        windows=array(patches),
    )
    return Prompt(
        tokens=array(T),
        length=array(),
        positions=array(3, T),
        next_position=array(),
        slots=array(T),
        prompt_id=array(),
        completion=array(),
        vision=vision,
    )


def train_batch(arch: Arch, sizes: Sizes, mesh: Mesh) -> TrainBatch:
    """What an update sees."""
    lead = (sizes.micro_batches, sizes.rows // sizes.micro_batches, sizes.completions)
    tokens = (*lead, sizes.length)
    return TrainBatch(
        prompt=prompt(arch, sizes, mesh, micro=True),
        tokens=_rows(tokens, jnp.int32, mesh, 1),
        mask=_rows(tokens, jnp.bool_, mesh, 1),
        advantages=_rows(lead, jnp.float32, mesh, 1),
        old_logps=_rows(tokens, jnp.float32, mesh, 1),
        ref_logps=_rows(tokens, jnp.float32, mesh, 1),
    )


def _rows(shape: tuple[int, ...], dtype, mesh: Mesh, lead: int) -> jax.ShapeDtypeStruct:
    """An array whose axis number `lead` is split over data and fsdp, as `put_rows` does."""
    spec = P(*(None,) * lead, ROWS, *(None,) * (len(shape) - lead - 1))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
