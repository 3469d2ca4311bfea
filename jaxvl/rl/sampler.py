# SPDX-License-Identifier: Apache-2.0
"""Sampling: prefill, in waves where slots are few, and a decode loop over slots.

Between two calls of the loop the host prefills the next rows where places have become free, makes
the slots' caches longer, when they are full, and fewer slots, when the queue is empty and half of
them would do. Sizes come from short lists, so a run has a handful of programs. Axes as in `slots`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import axis_size
from jaxvl.models.decode import DecodeModel, split_rows
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import QwenVL, assemble, prompts_mask
from jaxvl.rl.batch import Rollout
from jaxvl.rl.sampling import SamplingParams, sample_token, seeds
from jaxvl.rl.slots import (
    DecodeInputs,
    DecodeState,
    LoopStatus,
    decode,
    filled,
    first_state,
    held_rows,
    loop_status,
    places,
    resize,
    rollout,
)

LEVELS = 3  # bucket sizes: all, a half, a quarter
MIN_CACHE_LEN, MIN_SLOTS = 64, 16  # below these a smaller program would save nothing


def bucket_sizes(full: int, fewest: int) -> list[int]:
    """`full`, and its half and its quarter where these are at least `fewest`; ascending."""
    sizes = {-(-full // 2**level) for level in range(LEVELS)}
    return sorted(size for size in sizes if size >= fewest or size == full)


def prefill(
    model: QwenVL, prompt: Prompt, key: jax.Array, sampling: SamplingParams
) -> tuple[DecodeInputs, DecodeState, LoopStatus]:
    """The prompts once a row, as many as there are places, and the first token of each of their
    completions. A row whose first completion has a number below 0 is nobody's: it fills a shard up,
    behind the shard's others, and nothing is made of it but the first token. So it is with one of a
    row's suffixes, wherever it stands.

    Draws depend on (key, prompt id, completion index, token index) and nothing else: not on the
    row, the slot, its neighbours or the number of devices.
    """
    R, g, C = prompt.tokens.shape[0], sampling.completions, sampling.max_new_tokens
    B = axis_size("data") * axis_size("fsdp")
    r = R // B
    S = min(-(-sampling.slots // B), r * g) if sampling.slots else r * g
    w = places(S, r, g)
    first = prompt if w == r else _some_rows(prompt, B, jnp.int32(0), w)
    hidden_IqD, cache = model.prefill(first, int8_cache=sampling.int8_cache)
    prompt_id_Rg, number_Rg, position_Rg = _of_completions(prompt, g)

    def requests(x_Rg):
        return fold(x_Rg, "(B r) g ... -> B (r g) ...", B=B)

    place = None
    if w < r:
        place = filled(0, B, r, dtype=jnp.int32).at[:, :w].set(jnp.arange(w))
    inputs = DecodeInputs(
        decode_model=DecodeModel.of(
            model.text, cache, _seen(first, g), C, int8_weights=sampling.int8_weights
        ),
        position=requests(position_Rg),
        seed=requests(seeds(key, prompt_id_Rg, number_Rg, C)),
        wanted=g * fold(prompt.completion >= 0, "(B r) -> B r", B=B).sum(1, dtype=jnp.int32),
        place=place,
    )
    seed_Bm = inputs.seed[:, : w * g, 0]
    token_Bm, logp_Bm = _first_tokens(model, first, hidden_IqD, seed_Bm, sampling)
    cache_len = bucket_sizes(C, MIN_CACHE_LEN)[0]
    state = first_state(inputs, token_Bm, logp_Bm, S, cache_len, sampling)
    return inputs, state, loop_status(inputs, state)


def prefill_wave(
    model: QwenVL,
    prompt: Prompt,
    inputs: DecodeInputs,
    state: DecodeState,
    sampling: SamplingParams,
) -> tuple[DecodeInputs, DecodeState, LoopStatus]:
    """The next rows of every shard into free places, and the first tokens of their completions.

    At the end of a shard's rows the wave begins before the first that is not prefilled, so that it
    has its size; what it makes of others is left out.
    """
    assert inputs.place is not None, "prompts that are all held need no wave"
    B, r = inputs.place.shape
    w, k, g = inputs.places, inputs.wave, sampling.completions
    start = jnp.minimum(state.ready // g, r - k)
    some = _some_rows(prompt, B, start, k)
    hidden_IqD, cache = model.prefill(some, int8_cache=sampling.int8_cache)
    new_k = start + jnp.arange(k) >= state.ready // g
    held = held_rows(inputs, state)
    taken = jax.vmap(lambda x, at: x.at[at].set(True, mode="drop"))(
        filled(False, B, w, dtype=bool), jnp.where(held, inputs.place, w)
    )
    place_Bk = jnp.argsort(taken, axis=1, stable=True)[:, :k].astype(jnp.int32)
    to_Bk = split_rows(jnp.where(new_k, place_Bk, w))  # out of bounds: not written

    def put(x, part):
        return jax.vmap(lambda x, at, part: x.at[at].set(part, mode="drop"))(x, to_Bk, part)

    def some_requests(x_Bn, start, size):
        return jax.lax.dynamic_slice_in_dim(x_Bn, start * g, size * g, axis=1)

    def over(x_Bn, part, start, new):
        """`x_Bn` with `part` from `start` on, where that is new."""
        old = jax.lax.dynamic_slice_in_dim(x_Bn, start, part.shape[1], axis=1)
        part = split_rows(jnp.where(new, part, old))
        return jax.lax.dynamic_update_slice_in_dim(x_Bn, part, start, axis=1)

    seed_Bm = some_requests(inputs.seed[:, :, 0], start, k)
    token_Bm, logp_Bm = _first_tokens(model, some, hidden_IqD, seed_Bm, sampling)
    new_m = jnp.repeat(new_k, g)

    def with_first(x_BnC, first_Bm):
        return x_BnC.at[:, :, 0].set(over(x_BnC[:, :, 0], first_Bm, start * g, new_m))

    mask_BkgT = fold(_seen(some, g), "(B r) g T -> B r g T", B=B)
    decode_model = dataclasses.replace(
        inputs.decode_model,
        prompts=jax.tree.map(put, inputs.decode_model.prompts, cache),
        mask=put(inputs.decode_model.mask, mask_BkgT),
    )
    inputs = dataclasses.replace(
        inputs, decode_model=decode_model, place=over(inputs.place, place_Bk, start, new_k)
    )
    state = dataclasses.replace(
        state,
        tokens=with_first(state.tokens, token_Bm),
        logps=with_first(state.logps, logp_Bm),
        ready=(start + k) * g,
    )
    return inputs, state, loop_status(inputs, state)


def _some_rows(prompt: Prompt, shards: int, start: jax.Array, rows: int) -> Prompt:
    """So many rows of every shard from `start` on."""

    def cut(x: jax.Array) -> jax.Array:
        x = fold(x, "(B r) ... -> B r ...", B=shards)
        x = split_rows(jax.lax.dynamic_slice_in_dim(x, start, rows, axis=1))
        return fold(x, "B r ... -> (B r) ...")

    return jax.tree.map(cut, prompt)


def _of_completions(prompt: Prompt, g: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of a row's completions, [R, g] each: the id of their prompt, their number in its group (below
    0: nobody's) and the position of their first token."""
    of = prompt.suffixes
    if of is None:
        ids, first, position = prompt.prompt_id, prompt.completion, prompt.next_position
        ids_Rq, first_Rq, position_Rq = ids[:, None], first[:, None], position[:, None]
    else:
        ids_Rq, first_Rq, position_Rq = of.prompt_id, of.completion, of.next_position
    each = g // ids_Rq.shape[1]
    number_Rg = _for_each(first_Rq, each) + jnp.arange(g) % each
    number_Rg = jnp.where(_for_each(first_Rq, each) < 0, -1, number_Rg)
    return _for_each(ids_Rq, each), number_Rg, _for_each(position_Rq, each)


def _for_each(x_Rq: jax.Array, each: int) -> jax.Array:
    """[R, q, ..] -> [R, g, ..]: what is of a prompt, for `each` of its completions."""
    shape = (*x_Rq.shape[:2], each, *x_Rq.shape[2:])
    spec = P(*jax.typeof(x_Rq).sharding.spec[:2], None, *jax.typeof(x_Rq).sharding.spec[2:])
    x_Rqe = jnp.broadcast_to(jnp.expand_dims(x_Rq, 2), shape, out_sharding=spec)
    return fold(x_Rqe, "R q e ... -> R (q e) ...")


def _seen(prompt: Prompt, g: int) -> jax.Array:
    """[R, 1 or g, T]: see `DecodeModel.mask`."""
    mask_RqT = prompts_mask(prompt)
    return mask_RqT if prompt.suffixes is None else _for_each(mask_RqT, g // mask_RqT.shape[1])


def _first_tokens(
    model: QwenVL,
    prompt: Prompt,
    hidden_IqD: jax.Array,
    seed_Bm: jax.Array,
    sampling: SamplingParams,
) -> tuple[jax.Array, jax.Array]:
    """The first token of the requests of some rows and its log-probability, [B, m]; I are the
    rows of all shards, m the requests of one. Nobody's end with it."""
    g = sampling.completions
    seed_Ig = fold(seed_Bm, "B (r g) -> (B r) g", g=g)
    logits_IgV = _for_each(model.text.logits(hidden_IqD), g // hidden_IqD.shape[1])
    start = () if sampling.banned is None else (jnp.zeros_like(seed_Ig, jnp.int32),)
    token_Ig, logp_Ig = sample_token(logits_IgV, seed_Ig, sampling, *start)
    if prompt.suffixes is not None and sampling.stop_ids:
        token_Ig = jnp.where(_of_completions(prompt, g)[1] < 0, sampling.stop_ids[0], token_Ig)
    token_Bm, logp_Bm = (fold(x, "(B r) g -> B (r g)", B=len(seed_Bm)) for x in (token_Ig, logp_Ig))
    return token_Bm, logp_Bm


def without_cache(state: DecodeState) -> DecodeState:
    """What a wave needs of a state: one program serves all lengths of the slots' caches."""
    return dataclasses.replace(state, cache=[])


def compiled(function: Any, *args: Any) -> Any:
    """Compiles a jitted function for arguments of these shapes; the shapes of what it returns, on
    the devices where it will lie: what is compiled for others would not serve."""
    lowered = function.lower(*args)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        lowered.out_info,
        lowered.compile().output_shardings,
    )


class Sampler:
    """`sampler(params, prompt, key)` -> Rollout, its products in `dtype`.

    A function `meanwhile` is called once while the device decodes.

    A few compiled programs: one to start with for every shape of prompts, one for its waves where
    slots are few, and a loop for every number of slots and cache length of `bucket_sizes`.
    """

    def __init__(self, graphdef: nnx.GraphDef, sampling: SamplingParams, dtype: str):
        self.sampling = sampling

        @jax.jit
        def start(params: dict[str, Any], prompt: Prompt, key: jax.Array):
            return prefill(assemble(graphdef, params, dtype), prompt, key, sampling)

        @functools.partial(jax.jit, donate_argnums=(2, 3))
        def wave(params: dict[str, Any], prompt: Prompt, inputs: DecodeInputs, state: DecodeState):
            return prefill_wave(assemble(graphdef, params, dtype), prompt, inputs, state, sampling)

        @functools.partial(jax.jit, donate_argnums=1)
        def decode_steps(
            inputs: DecodeInputs, state: DecodeState, max_step: jax.Array, shrink_below: jax.Array
        ):
            return decode(inputs, state, sampling, max_step, shrink_below)

        self.start, self.wave, self.decode_steps = start, wave, decode_steps
        # Programs are counted by function: partial, so that every sampler has its own.
        self.resize = jax.jit(functools.partial(resize), static_argnums=(1, 2))
        self.rollout = jax.jit(functools.partial(rollout), static_argnums=(2, 3))

    def __call__(
        self,
        params: dict[str, Any],
        prompt: Prompt,
        key: jax.Array,
        meanwhile: Callable[[], None] | None = None,
    ) -> Rollout:
        return self.finish(self.states(params, prompt, key), prompt, meanwhile)

    def finish(
        self,
        states: Iterator[DecodeState],
        prompt: Prompt,
        meanwhile: Callable[[], None] | None = None,
    ) -> Rollout:
        """The rollout of `states` that nobody has begun to go through."""
        for number, state in enumerate(states):  # noqa: B007 (the last)
            if number == 1 and meanwhile is not None:  # the first state is the prefill's
                meanwhile()
        return self.read(prompt, state)

    def read(self, prompt: Prompt, state: DecodeState) -> Rollout:
        """The rollout as far as it is in `state`."""
        return self.rollout(state.tokens, state.logps, self.sampling, self._shape(prompt))

    def states(
        self, params: dict[str, Any], prompt: Prompt, key: jax.Array, every: int = 0
    ) -> Iterator[DecodeState]:
        """States of a rollout, at least every `every` tokens (0: whenever the loop ends), the last
        of them whole. The one before is gone when the next is asked for: its memory is reused."""
        inputs, state, status = self.start(params, prompt, key)
        if inputs.place is None:  # there are no waves: where nobody else holds them, they are freed
            params = {}
        slot_counts, cache_lengths = self._sizes(state)
        while True:
            yield state
            step, busy, pending = int(status.step), int(status.busy), bool(status.pending)
            if not busy and not pending:
                return
            if status.wave:
                inputs, rest, status = self.wave(params, prompt, inputs, without_cache(state))
                state = dataclasses.replace(rest, cache=state.cache)
            slots = state.slots if pending else min(x for x in slot_counts if x >= busy)
            if slots < state.slots:
                state = self._resized(state, slots, state.cache_len)
            cache_len = min(x for x in cache_lengths if x > int(status.oldest))
            if cache_len > state.cache_len:
                state = self._resized(state, slots, cache_len)
            max_step = step + every if every else np.iinfo(np.int32).max
            shrink_below = max((x for x in slot_counts if x < slots), default=0)
            state, status = self.decode_steps(
                inputs, state, np.int32(max_step), np.int32(shrink_below)
            )

    def compile(self, params: dict[str, Any], prompt: Prompt, key: jax.Array) -> Rollout:
        """Compile all that `states` may call for these arguments, of which the shapes count; the
        shapes of the rollout."""
        inputs, first, _ = compiled(self.start, params, prompt, key)
        slot_counts, cache_lengths = self._sizes(first)
        if inputs.place is not None:  # all slots are in use until the last wave
            compiled(self.wave, params, prompt, inputs, without_cache(first))
        rollout = compiled(
            self.rollout, first.tokens, first.logps, self.sampling, self._shape(prompt)
        )
        states = {(first.slots, first.cache_len): first}
        for slots, cache_len in itertools.product(reversed(slot_counts), cache_lengths):
            state = states[slots, cache_len]
            compiled(self.decode_steps, inputs, state, np.int32(0), np.int32(0))
            longer = [(slots, x) for x in cache_lengths if x > cache_len][:1]
            for to in longer + [(x, cache_len) for x in slot_counts if x < slots]:
                states[to] = compiled(self.resize, state, *to)
        return rollout

    def _resized(self, state: DecodeState, slots: int, cache_len: int) -> DecodeState:
        """`resize`, after which the old caches' memory is free, whoever holds `state`."""
        moved = self.resize(state, slots, cache_len)
        for old in jax.tree.leaves(state.cache):
            old.delete()
        return moved

    def _shape(self, prompt: Prompt) -> tuple[int, int]:
        return prompt.tokens.shape[0], self.sampling.completions

    def _sizes(self, first: DecodeState) -> tuple[list[int], list[int]]:
        """Numbers of slots and cache lengths that a rollout goes through."""
        cache_lengths = bucket_sizes(self.sampling.max_new_tokens, MIN_CACHE_LEN)
        return bucket_sizes(first.slots, MIN_SLOTS), cache_lengths

    def _cache_size(self) -> int:
        """How many programs there are."""
        parts: tuple[Any, ...] = (
            self.start,
            self.wave,
            self.decode_steps,
            self.resize,
            self.rollout,
        )
        return sum(part._cache_size() for part in parts)


@functools.lru_cache(maxsize=32)
def cached_sampler(graphdef: nnx.GraphDef, sampling: SamplingParams, dtype: str) -> Sampler:
    """The sampler of these arguments, the same each time: other parameters need no new programs."""
    return Sampler(graphdef, sampling, dtype)
