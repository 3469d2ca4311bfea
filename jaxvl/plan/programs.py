# SPDX-License-Identifier: Apache-2.0
"""The programs of a run as shapes alone: what each is called with, and how it is lowered.

No array is made, so that a model of any size is planned on any machine. Batches have the sizes of
the largest buckets, and every completion is as long as it may be.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from jaxvl.checkpoints.start import locate
from jaxvl.config import Config, Model, Sampling, SFTConfig
from jaxvl.config.validate import check_rows, check_share
from jaxvl.data import banned
from jaxvl.data.image_settings import BYTES
from jaxvl.distributed.mesh import data_shard, param_shardings
from jaxvl.errors import UserError
from jaxvl.models import lora, partition, public, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.models.io import hf
from jaxvl.observe import flops
from jaxvl.rl import learner, shapes
from jaxvl.rl.batch import UNREAD, TrainBatch
from jaxvl.rl.learning import Learning, learning
from jaxvl.rl.sampler import MIN_CACHE_LEN, Sampler, bucket_sizes, resize, without_cache
from jaxvl.rl.sampling import Banned, SamplingParams

STOP, PAD = (151645, 151643), 151643  # any will do: they are constants of the program


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a step's batch: rows, and what is in a row."""

    rows: int  # R of the whole mesh
    micro_batches: int  # that its log-probabilities are made in; of all updates together
    mini_batches: int  # of each of which an update learns
    tokens: int  # T
    patches: int  # P
    completions: int  # g
    length: int  # C

    @classmethod
    def of(cls, cfg: Config | SFTConfig) -> Sizes:
        data = cfg.data
        prompts, patches = data.prompt_buckets, data.patch_buckets
        if prompts == "auto" or patches == "auto":
            raise UserError(
                "data.prompt_buckets or data.patch_buckets is auto, which is read from the data, "
                "and a plan reads none: say the sizes to plan for, as data.prompt_buckets=1024 "
                "data.patch_buckets=2048"
            )
        batch = cfg.batch
        return cls(
            batch.rows,
            batch.pieces,
            batch.mini_batches,
            tokens=max(prompts),
            patches=max(patches),
            completions=batch.per_row,
            length=batch.length,
        )

    def mini_batch(self) -> Sizes:
        """Of what one update learns from."""
        partition = self.mini_batches
        return dataclasses.replace(
            self,
            rows=self.rows // partition,
            micro_batches=self.micro_batches // partition,
            mini_batches=1,
        )


@dataclasses.dataclass(frozen=True)
class ProgramWork:
    """What a program computes of its batch, all chips together, padding included."""

    model_flops: float  # what no implementation can avoid (`jaxvl.observe.flops`)
    attention: float  # of attention, executed: what a kernel takes, which HLO does not show


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function and the shapes it is called with."""

    name: str
    function: jax.stages.Wrapped
    args: dict[str, Any]  # by what they are, in order
    beside: dict[str, Any]  # what a run holds on the device meanwhile, that is no argument
    makes: dict[str, Any]  # what comes out and takes no argument's place, if it is large
    work: ProgramWork  # of one call
    constants: float = 0.0  # bytes of large arrays that are part of the program on every device
    calls: int = 1  # in a step
    turns: int = 1  # of the loop whose length the program does not say

    def lower(self) -> jax.stages.Lowered:
        return self.function.lower(*self.args.values())


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
    check_rows(cfg.batch, mesh.shape["data"] * mesh.shape["fsdp"])
    check_share(cfg.batch, data_shard(mesh).count)
    sizes, held = Sizes.of(cfg), Held.of(cfg, arch, mesh)
    found = []
    if cfg.grpo is not None:
        found += _sampling(cfg, cfg.sampling, arch, sizes, held, mesh)
    if held.reference:
        found.append(_logprobs(cfg, arch, sizes, held, mesh))
    if held.how.own_logps:
        found.append(_own_logprobs(cfg, arch, sizes, held, mesh))
    return [*found, _update(cfg, arch, sizes, held, mesh)]


@dataclasses.dataclass(frozen=True)
class Held:
    """What a run holds all the time, as shapes with shardings."""

    how: Learning
    params: dict[str, Any]  # all that the policy is made of
    state: learner.TrainState
    frozen: dict[str, Any]
    reference: dict[str, Any]  # {} where there is none

    @classmethod
    def of(cls, cfg: Config | SFTConfig, arch: Arch, mesh: Mesh) -> Held:
        model = cfg.model
        base, graph = base_params(model, arch, mesh), qwen_vl.graphdef(arch)
        params, trains, adapter = base, set[str](model.train), model.lora
        if adapter:
            fresh = jax.eval_shape(lambda: lora.init(base, adapter, lora.keys(0)[0]))
            params, graph = partition.combine(base, fresh), lora.graphdef(arch, adapter)
            trains |= {partition.ADAPTERS}
        learns, frozen = partition.partition(params, trains)
        how = learning(cfg, graph)
        state = jax.eval_shape(lambda p: learner.init_state(p, how.tx), learns)
        reference = {}
        if how.beta:
            reference = jax.eval_shape(
                lambda p: qwen_vl.to_compute_dtype(p, model.dtype, arch.text), base
            )
        return cls(how, partition.combine(frozen, state.params), state, frozen, reference)

    def own_reference(self) -> dict[str, Any]:
        """What of the reference is no other array: frozen parameters are shared with it."""
        flat = traverse_util.flatten_dict(self.frozen, sep="/")
        mine = traverse_util.flatten_dict(self.reference, sep="/")
        return {path: x for path, x in mine.items() if path not in flat}


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


def _sampling(
    cfg: Config | SFTConfig,
    sampling: Sampling,
    arch: Arch,
    sizes: Sizes,
    held: Held,
    mesh: Mesh,
) -> list[Program]:
    """Prefill, a wave of further prompts where not all are held at once, the last time that caches
    grow, and the loop of decoding at its largest: all slots, room for whole completions."""
    never = _banned(sampling.ban, arch.text.vocab)
    constants = float(never.table.nbytes) if never else 0.0
    how = SamplingParams(
        completions=sizes.completions,
        max_new_tokens=sizes.length,
        stop_ids=STOP,
        pad_id=PAD,
        never_ids=arch.never_sampled,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        slots=sampling.slots,
        banned=never,
    )
    sampler = Sampler(held.how.policy.graphdef, how, cfg.model.dtype)
    asked = largest_prompt(cfg, arch, sizes, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    past, state, _ = jax.eval_shape(sampler.start, held.params, asked, key)

    def room(cache_len: int) -> Callable:
        return functools.partial(resize, slots=state.slots, cache_len=cache_len)

    whole = jax.eval_shape(room(sizes.length), state)
    caches = {"past": past, "completions": whole}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    beside = {"moments": held.state.opt_state, "reference": held.own_reference()}
    meanwhile = beside | {"parameters": held.params, "batch": asked}
    shorter = bucket_sizes(sizes.length, MIN_CACHE_LEN)[:-1]
    growing = [
        Program(
            "grow",
            jax.jit(room(sizes.length)),
            {"completions": jax.eval_shape(room(cache_len), state)},
            meanwhile | {"past": past},
            {"completions": whole},
            ProgramWork(0.0, 0.0),
        )
        for cache_len in shorter[-1:]
    ]
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    cells = sizes.rows * sizes.completions // shards
    return [
        Program(
            "prefill",
            sampler.start,
            {"parameters": held.params, "batch": asked, "key": key},
            beside,
            caches,
            work(arch, dataclasses.replace(sizes, rows=past.places * shards), "prefill"),
            constants,
        ),
        *_waves(sampler, arch, sizes, mesh, meanwhile, caches, constants),
        *growing,
        Program(
            "decode",
            sampler.decode_steps,
            {**caches, "until": number, "enough": number},
            meanwhile,
            {},
            work(arch, sizes, "decode"),
            constants,
            turns=sizes.length * -(-cells // state.slots),
        ),
    ]


def _waves(
    sampler: Sampler,
    arch: Arch,
    sizes: Sizes,
    mesh: Mesh,
    held: dict[str, Any],
    caches: dict[str, Any],
    constants: float,
) -> list[Program]:
    """The prefill of rows that find no place at first, so many of every shard at a time; none where
    all do. `held` is what a run holds beside the `caches`."""
    past, shards = caches["past"], mesh.shape["data"] * mesh.shape["fsdp"]
    waiting = sizes.rows // shards - past.places
    if not waiting:
        return []
    read = {"parameters": held["parameters"], "batch": held["batch"], "past": past}
    return [
        Program(
            "wave",
            sampler.wave,
            read | {"completions": without_cache(caches["completions"])},
            {name: x for name, x in held.items() if name not in read}
            | {"completions": caches["completions"].cache},
            {},
            work(arch, dataclasses.replace(sizes, rows=past.wave * shards), "prefill"),
            constants,
            calls=-(-waiting // past.wave),
        )
    ]


def _banned(words: Sequence[str], vocab: int) -> Banned | None:
    """A table of the size of `sampling.ban`'s: a plan has no tokenizer. Its numbers differ, so that
    no compiler makes one number of it."""
    if not words:
        return None
    states = banned.states(words)
    return Banned(np.resize(np.arange(states, dtype=np.int16), (states, vocab)))


def work(arch: Arch, sizes: Sizes, kind: str, model: Model | None = None) -> ProgramWork:
    """FLOPs of "prefill", "decode", "forward" or "update" (of `model`) on a batch of `sizes`."""
    rows = flops.Work.full(sizes.rows, sizes.tokens, sizes.patches, sizes.completions, sizes.length)
    if arch.vision.gated:  # windows of 8 x 8 patches
        rows = dataclasses.replace(rows, windows=[64] * (sizes.rows * sizes.patches // 64))
    tower, prompts = flops.tower(arch.vision, rows), flops.prefill(arch.text, rows)
    if kind == "decode":
        return ProgramWork(flops.decode(arch.text, rows).total, 0.0)
    if kind == "prefill":
        total = tower.total + flops.merger(arch.vision, rows).total + prompts.total
        return ProgramWork(total, tower.attention + prompts.attention)
    attention = tower.attention + prompts.attention + flops.decode(arch.text, rows).attention
    if kind == "forward":
        return ProgramWork(flops.forward(arch, rows), attention)
    assert model is not None, "an update depends on what trains"
    adapted = model.lora.parts if model.lora else ()
    # Forward, again to save memory, and five products backward where forward has two.
    executed = attention * (1 + (model.remat == "block") + 2.5)
    return ProgramWork(flops.update(arch, rows, model.train, adapted), executed)


def base_params(model: Model, arch: Arch, mesh: Mesh) -> dict[str, Any]:
    """The checkpoint's parameters as a run holds them: float32 where they train, else in the dtype
    of computing."""
    wide = qwen_vl.abstract_params(arch)
    narrow = jax.eval_shape(lambda p: qwen_vl.to_compute_dtype(p, model.dtype, arch.text), wide)
    mixed = partition.combine(narrow, partition.partition(wide, model.train)[0])
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        mixed,
        param_shardings(wide, mesh),
    )


def largest_prompt(cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, mesh: Mesh) -> Prompt:
    """A step's prompts, in the largest buckets."""
    return list(shapes.prompts(cfg.data, sizes.rows, arch.vision.patch_bytes, mesh, BYTES))[-1]


def train_batch(
    cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, mesh: Mesh, count: int
) -> TrainBatch:
    """`count` micro-batches of a step, each to be learnt from."""
    cut = (sizes.micro_batches, count)
    if cfg.batch.whole_rows:
        return shapes.row_batch(cfg.data, cfg.batch, arch.vision.patch_bytes, *cut, mesh, BYTES)
    asked = largest_prompt(cfg, arch, sizes, mesh)
    return shapes.batch(asked, sizes.completions, sizes.length, *cut, mesh)
