# SPDX-License-Identifier: Apache-2.0
"""The programs that sample a step's completions, on the mesh that decodes, as shapes alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvl.config import Config, SFTConfig
from jaxvl.data import banned
from jaxvl.distributed.mesh import row_shards
from jaxvl.models.arch import Arch
from jaxvl.plan.program import Held, Program, ProgramWork, Sizes, largest_prompt, work
from jaxvl.rl.resharded import make_sampler
from jaxvl.rl.sampler import MIN_CACHE_LEN, Sampler, bucket_sizes, resize, without_cache
from jaxvl.rl.sampling import Banned, SamplingParams
from jaxvl.rl.slots import DecodeState

STOP, PAD = (151645, 151643), 151643  # any will do: they are constants of the program


def sampling_programs(
    cfg: Config | SFTConfig, arch: Arch, sizes: Sizes, held: Held, mesh: Mesh
) -> list[Program]:
    """What moves parameters where decoding has a mesh of its own, prefill, a wave of further
    prompts where not all are held at once, the last time that caches grow, and the loop of decoding
    at its largest: all slots, room for whole completions. Where every completion begins at once,
    caches are at most half as large for the first half of the tokens: that is "decode_early"."""
    sampling = cfg.sampling
    never = _banned(sampling.ban, arch.text.vocab)
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
        int8_weights=sampling.weights == "int8",
        int8_cache=sampling.cache == "int8",
    )
    form = arch, held.how.policy.graphdef, how, cfg.model.dtype
    sampler = make_sampler(*form, mesh, sampling.tensor)
    here = {"parameters": held.params, "batch": largest_prompt(cfg, arch, sizes, mesh)}
    beside = {"moments": held.state.opt_state, "reference": held.own_reference()}
    if isinstance(sampler, Sampler):
        return _sampling(sampler, arch, sizes, mesh, here, beside)
    moving, mesh = sampler.params, sampler.decoding
    asked = moving.asked(held.params)
    with jax.set_mesh(moving.mesh):
        moved = moving.answered(jax.eval_shape(moving.move, asked))
    there = {"moved parameters": moved, "moved batch": largest_prompt(cfg, arch, sizes, mesh)}
    reshard = Program(
        "reshard",
        moving.move,
        {"parameters": asked},
        beside | {"batch": here["batch"]},
        {"moved parameters": moved},
        ProgramWork(0.0, 0.0),
        mesh=moving.mesh,
    )
    return [reshard, *_sampling(sampler.sampler, arch, sizes, mesh, there, beside | here)]


def _sampling(
    sampler: Sampler,
    arch: Arch,
    sizes: Sizes,
    mesh: Mesh,
    reads: dict[str, Any],
    beside: dict[str, Any],
) -> list[Program]:
    """The programs of `sampler` on `mesh`. Prefill `reads` parameters and prompts, which lie there;
    `beside` is what a run holds that sampling does not read."""
    never = sampler.sampling.banned
    constants = float(never.table.nbytes) if never else 0.0
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(mesh):
        past, state, _ = jax.eval_shape(sampler.start, *reads.values(), key)

        def room(cache_len: int) -> Callable:
            return functools.partial(resize, slots=state.slots, cache_len=cache_len)

        whole = jax.eval_shape(room(sizes.length), state)
        shorter = bucket_sizes(sizes.length, MIN_CACHE_LEN)[:-1]
        shorter_states = [jax.eval_shape(room(x), state) for x in shorter[-1:]]
    caches = {"past": past, "completions": whole}
    meanwhile = beside | reads
    if past.place is None:  # moved parameters have served
        meanwhile = {name: x for name, x in meanwhile.items() if name != "moved parameters"}
    shards = row_shards(mesh)
    return [
        Program(
            "prefill",
            sampler.start,
            {**reads, "key": key},
            beside,
            caches,
            work(arch, dataclasses.replace(sizes, rows=past.places * shards), "prefill"),
            constants,
            mesh=mesh,
        ),
        *_waves(sampler, arch, sizes, mesh, reads, beside, caches, constants),
        *_loops(sampler, arch, sizes, mesh, caches, shorter_states, meanwhile, constants),
    ]


def _loops(
    sampler: Sampler,
    arch: Arch,
    sizes: Sizes,
    mesh: Mesh,
    caches: dict[str, Any],
    shorter: Sequence[DecodeState],
    meanwhile: dict[str, Any],
    constants: float,
) -> list[Program]:
    """Decoding at its largest; where there are `shorter` caches, the last growth too, and the loop
    before it where every completion begins at once."""
    whole, number = caches["completions"], jax.ShapeDtypeStruct((), jnp.int32)
    shards = row_shards(mesh)
    turns = sizes.length * -(-(sizes.rows * sizes.completions // shards) // whole.slots)
    decode = Program(
        "decode",
        sampler.decode_steps,
        {**caches, "until": number, "enough": number},
        meanwhile,
        {},
        work(arch, sizes, "decode"),
        constants,
        turns=turns,
        mesh=mesh,
    )
    if not shorter:
        return [decode]
    grow = Program(
        "grow",
        jax.jit(functools.partial(resize, slots=whole.slots, cache_len=sizes.length)),
        {"completions": shorter[0]},
        meanwhile | {"past": caches["past"]},
        {"completions": whole},
        ProgramWork(0.0, 0.0),
        mesh=mesh,
    )
    if turns > sizes.length:
        return [grow, decode]
    early, late = _in_two(decode, shorter[0])
    return [early, grow, late]


def _in_two(decode: Program, shorter: DecodeState) -> tuple[Program, Program]:
    """The loop over the first tokens, for which `shorter` caches have room, and that over the
    others."""
    early = shorter.cache_len

    def part(turns: int) -> Program:
        share = turns / decode.turns
        work = ProgramWork(decode.work.model_flops * share, decode.work.attention * share)
        return dataclasses.replace(decode, turns=turns, work=work)

    args = decode.args | {"completions": shorter}
    first = dataclasses.replace(part(early), name="decode_early", args=args)
    return first, part(decode.turns - early)


def _waves(
    sampler: Sampler,
    arch: Arch,
    sizes: Sizes,
    mesh: Mesh,
    reads: dict[str, Any],
    beside: dict[str, Any],
    caches: dict[str, Any],
    constants: float,
) -> list[Program]:
    """The prefill of rows that find no place at first, so many of every shard at a time; none where
    all do."""
    past, shards = caches["past"], row_shards(mesh)
    waiting = sizes.rows // shards - past.places
    if not waiting:
        return []
    return [
        Program(
            "wave",
            sampler.wave,
            reads | {"past": past, "completions": without_cache(caches["completions"])},
            beside | {"completions": caches["completions"].cache},
            {},
            work(arch, dataclasses.replace(sizes, rows=past.wave * shards), "prefill"),
            constants,
            calls=-(-waiting // past.wave),
            mesh=mesh,
        )
    ]


def _banned(words: Sequence[str], vocab: int) -> Banned | None:
    """A table of the size of `sampling.ban`'s: a plan has no tokenizer. Its numbers differ, so that
    no compiler makes one number of it."""
    if not words:
        return None
    states = banned.states(words)
    return Banned(np.resize(np.arange(states, dtype=np.int16), (states, vocab)))
