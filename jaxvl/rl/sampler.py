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

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import axis_size
from jaxvl.models.decode import DecodeModel, split_rows
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import QwenVL, assemble, prompt_mask
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
    behind the shard's others, and nothing is made of it but the first token.

    Draws depend on (key, prompt id, completion index, token index) and nothing else: not on the
    row, the slot, its neighbours or the number of devices.
    """
    R, g, C = prompt.tokens.shape[0], sampling.completions, sampling.max_new_tokens
    B = axis_size("data") * axis_size("fsdp")
    r = R // B
    S = min(-(-sampling.slots // B), r * g) if sampling.slots else r * g
    w = places(S, r, g)
    first = prompt if w == r else _some_rows(prompt, B, jnp.int32(0), w)
    hidden_ID, cache = model.prefill(first, int8_cache=sampling.int8_cache)
    seed_RgC = seeds(key, prompt.prompt_id, prompt.completion[:, None] + jnp.arange(g), C)

    def requests(x_Rg):
        return fold(x_Rg, "(B r) g ... -> B (r g) ...", B=B)

    place = None
    if w < r:
        place = filled(0, B, r, dtype=jnp.int32).at[:, :w].set(jnp.arange(w))
    inputs = DecodeInputs(
        decode_model=DecodeModel.of(
            model.text, cache, prompt_mask(first), C, int8_weights=sampling.int8_weights
        ),
        position=requests(jnp.broadcast_to(prompt.next_position[:, None], (R, g))),
        seed=requests(seed_RgC),
        wanted=g * fold(prompt.completion >= 0, "(B r) -> B r", B=B).sum(1, dtype=jnp.int32),
        place=place,
    )
    token_Bm, logp_Bm = _first_tokens(model, hidden_ID, inputs.seed[:, : w * g, 0], sampling)
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
    hidden_ID, cache = model.prefill(some, int8_cache=sampling.int8_cache)
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
    token_Bm, logp_Bm = _first_tokens(model, hidden_ID, seed_Bm, sampling)
    new_m = jnp.repeat(new_k, g)

    def with_first(x_BnC, first_Bm):
        return x_BnC.at[:, :, 0].set(over(x_BnC[:, :, 0], first_Bm, start * g, new_m))

    mask_BkT = fold(prompt_mask(some), "(B r) T -> B r T", B=B)
    decode_model = dataclasses.replace(
        inputs.decode_model,
        prompts=jax.tree.map(put, inputs.decode_model.prompts, cache),
        mask=put(inputs.decode_model.mask, mask_BkT),
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


def _first_tokens(
    model: QwenVL, hidden_ID: jax.Array, seed_Bm: jax.Array, sampling: SamplingParams
) -> tuple[jax.Array, jax.Array]:
    """The first token of the requests of some rows and its log-probability, [B, m]; I are the
    rows of all shards, m the requests of one."""
    seed_Ig = fold(seed_Bm, "B (r g) -> (B r) g", g=sampling.completions)
    logits_I1V = model.text.logits(hidden_ID[:, None])
    logits_IgV = jnp.broadcast_to(logits_I1V, (*seed_Ig.shape, logits_I1V.shape[-1]))
    start = () if sampling.banned is None else (jnp.zeros_like(seed_Ig, jnp.int32),)
    first = sample_token(logits_IgV, seed_Ig, sampling, *start)
    token_Bm, logp_Bm = (fold(x, "(B r) g -> B (r g)", B=len(seed_Bm)) for x in first)
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
