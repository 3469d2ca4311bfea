# SPDX-License-Identifier: Apache-2.0
"""What a program of a run is called with, what it computes, and what a run holds beside it.

No array is made: shapes alone. Batches have the sizes of the largest buckets, and every completion
is as long as it may be.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh

from jaxvl.config import Config, Model, SFTConfig
from jaxvl.data.image_settings import BYTES
from jaxvl.distributed.mesh import param_shardings
from jaxvl.errors import UserError
from jaxvl.models import lora, partition, qwen_vl
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.observe import flops
from jaxvl.rl import learner, shapes
from jaxvl.rl.learning import Learning, learning

LOOPS = ("decode_early", "decode")  # the programs of decoding


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
    mesh: Mesh | None = None  # that it is compiled for; None: the one in force

    def lower(self) -> jax.stages.Lowered:
        with jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext():
            return self.function.lower(*self.args.values())


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
