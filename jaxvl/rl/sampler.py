# SPDX-License-Identifier: Apache-2.0
"""Sampling: prefill and a decode loop over slots, each of which holds one completion at a time.

Rows of prompts are prefilled once. A request is one completion of a row; a slot whose
request has ended takes the next one in the queue, inside the compiled loop. Between two calls of
the loop the host makes the slots' caches longer, when they are full, and fewer slots, when the
queue is empty and half of them would do. Sizes come from short lists, so a run has a handful of
programs.

    B shards of rows (devices along data and fsdp)    n requests of a shard, [R, g] flat
    S slots of a shard                                C tokens of a completion at most
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
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS, axis_size
from jaxvl.models.decode import DecodeModel, SlotMap, merge, take
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import QwenVL, assemble, prompt_mask
from jaxvl.models.text import KVCache
from jaxvl.rl.batch import Rollout
from jaxvl.rl.sampling import SamplingParams, sample_token, seeds

LEVELS = 3  # bucket sizes: all, a half, a quarter
MIN_CACHE_LEN, MIN_SLOTS = 64, 16  # below these a smaller program would save nothing
EMPTY = -1  # in `DecodeState.tokens`: not written


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeInputs:
    """What decoding reads and never writes."""

    decode_model: DecodeModel  # weights, and the prompts' keys and values
    position: Int32[Array, "B n"]  # of a completion's first token
    seed: UInt32[Array, "B n C"]  # the random bits that draw a token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What decoding changes.

    All slots write the keys of their token at index step % cache_len, wherever they are in their
    completions: one slice, in place. A slot sees what was written since it took its request. The
    loop ends before a request has more tokens than the cache has entries.
    """

    tokens: Int32[Array, "B n C"]  # EMPTY where there is none yet
    logps: Float32[Array, "B n C"]
    cache: list[KVCache]  # of slots, a layer each, B and S flat
    request: Int32[Array, "B S"]  # the request of a slot
    start_step: Int32[Array, "B S"]  # the step at which its first token was fed
    live: Bool[Array, "B S"]  # it has not ended
    last: Int32[Array, "B S"]  # its newest token
    banned: Int32[Array, "B S"] | None  # the state of `sampling.banned` behind it
    next_request: Int32[Array, " B"]  # the first request that no slot has taken
    step: Int32[Array, ""]  # steps done

    @property
    def slots(self) -> int:
        """S, the slots of a shard."""
        return self.request.shape[1]

    @property
    def cache_len(self) -> int:
        """T, the tokens that a slot has room for."""
        return self.cache[0].k.shape[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoopStatus:
    """What the host has to know of a state: numbers that every process has."""

    step: jax.Array
    oldest: jax.Array  # tokens fed to the live slot that has most
    busy: jax.Array  # live slots of the shard that has most
    pending: jax.Array  # bool, whether some request is in no slot yet


def bucket_sizes(full: int, fewest: int) -> list[int]:
    """`full`, and its half and its quarter where these are at least `fewest`; ascending."""
    sizes = {-(-full // 2**level) for level in range(LEVELS)}
    return sorted(size for size in sizes if size >= fewest or size == full)


def _filled(value, *shape, dtype) -> jax.Array:
    return jnp.full(shape, value, dtype, out_sharding=P(ROWS, *(None,) * (len(shape) - 1)))


def prefill(
    model: QwenVL, prompt: Prompt, key: jax.Array, sampling: SamplingParams
) -> tuple[DecodeInputs, DecodeState, LoopStatus]:
    """The prompts once a row, and the first token of every completion.

    Draws depend on (key, prompt id, completion index, token index) and nothing else: not on the
    row, the slot, its neighbours or the number of devices.
    """
    R, g, C = prompt.tokens.shape[0], sampling.completions, sampling.max_new_tokens
    B = axis_size("data") * axis_size("fsdp")
    n = R * g // B
    S = min(-(-sampling.slots // B), n) if sampling.slots else n
    hidden_RD, cache = model.prefill(prompt)
    seed_RgC = seeds(key, prompt.prompt_id, prompt.completion[:, None] + jnp.arange(g), C)
    logits_R1V = model.text.logits(hidden_RD[:, None])
    logits_RgV = jnp.broadcast_to(logits_R1V, (R, g, logits_R1V.shape[-1]))
    start = () if sampling.banned is None else (jnp.zeros_like(seed_RgC[..., 0], jnp.int32),)
    token_Rg, logp_Rg = sample_token(logits_RgV, seed_RgC[..., 0], sampling, *start)

    def requests(x_Rg):
        return fold(x_Rg, "(B r) g ... -> B (r g) ...", B=B)

    first = requests(token_Rg)[:, :S]
    inputs = DecodeInputs(
        decode_model=DecodeModel.of(model.text, cache, prompt_mask(prompt), C),
        position=requests(jnp.broadcast_to(prompt.next_position[:, None], (R, g))),
        seed=requests(seed_RgC),
    )
    state = DecodeState(
        tokens=_filled(EMPTY, B, n, C, dtype=jnp.int32).at[:, :, 0].set(requests(token_Rg)),
        logps=_filled(0.0, B, n, C, dtype=jnp.float32).at[:, :, 0].set(requests(logp_Rg)),
        cache=inputs.decode_model.empty_cache(S, bucket_sizes(C, MIN_CACHE_LEN)[0]),
        request=_filled(0, B, S, dtype=jnp.int32) + jnp.arange(S, dtype=jnp.int32),
        start_step=_filled(0, B, S, dtype=jnp.int32),
        live=~_ends(first, jnp.int32(1), sampling),
        last=first,
        banned=_follow(sampling, jnp.zeros_like(first), first),
        next_request=_filled(S, B, dtype=jnp.int32),
        step=jnp.int32(0),
    )
    return inputs, state, _status(state)


def _follow(
    sampling: SamplingParams, state: jax.Array | None, token: jax.Array
) -> jax.Array | None:
    """The state of the banned words after a further token; `state` None: none are banned."""
    if sampling.banned is None or state is None:
        return None
    return sampling.banned.follow(state, token)


def _ends(token: jax.Array, length: jax.Array, sampling: SamplingParams) -> jax.Array:
    """Whether a completion is over with `token`, its newest of `length`."""
    stop = (token[..., None] == jnp.array(sampling.stop_ids, jnp.int32)).any(-1)
    return stop | (length >= sampling.max_new_tokens)


def _status(state: DecodeState) -> LoopStatus:
    pending = (state.next_request < state.tokens.shape[1]).any()
    oldest = jnp.where(state.live, state.step - state.start_step, 0).max()
    return LoopStatus(state.step, oldest, state.live.sum(1).max(), pending)


def decode(
    inputs: DecodeInputs,
    state: DecodeState,
    sampling: SamplingParams,
    max_step: jax.Array,
    shrink_below: jax.Array,
) -> tuple[DecodeState, LoopStatus]:
    """A token of every slot at a time.

    It ends at step `max_step`, when a slot has no cache left, or when no request is pending and no
    shard has more than `shrink_below` live slots.
    """

    def goes_on(state: DecodeState) -> jax.Array:
        status = _status(state)
        has_room = (status.step < max_step) & (status.oldest < state.cache_len)
        return has_room & (status.pending | (status.busy > shrink_below))

    state = jax.lax.while_loop(goes_on, lambda state: _one_token(inputs, state, sampling), state)
    return state, _status(state)


def _one_token(inputs: DecodeInputs, state: DecodeState, sampling: SamplingParams) -> DecodeState:
    n, S = state.tokens.shape[1], state.slots
    if S == n:  # slot i holds request i
        slot_map = SlotMap(state.request, None)
        position = inputs.position
    else:
        state = _admit(state, sampling)
        none = _filled(0, *inputs.position.shape, dtype=jnp.int32)
        put = jax.vmap(lambda x, request: x.at[request].set(jnp.arange(S, dtype=jnp.int32)))
        slot_map = SlotMap(state.request, put(none, state.request))
        position = take(inputs.position, state.request)
    age = state.step - state.start_step  # [B, S] tokens fed before this one
    write_index = state.step % state.cache_len
    # How many steps ago each entry was written.
    back = (write_index - jnp.arange(state.cache_len)) % state.cache_len
    hidden, cache = inputs.decode_model.extend(
        state.last, position + age, slot_map, state.cache, write_index, back <= age[..., None]
    )
    seed = jax.vmap(lambda x, request, at: x.at[request, at].get(mode="clip"))(
        inputs.seed, state.request, age + 1
    )
    states = () if state.banned is None else (state.banned,)
    logits = inputs.decode_model.head.logits(hidden)
    token, logp = sample_token(logits, seed, sampling, *states)
    at = jnp.where(state.live, age + 1, sampling.max_new_tokens)  # out of bounds: not written

    def write(x, request, at, value):
        return x.at[request, at].set(value, mode="drop", unique_indices=True)

    return dataclasses.replace(
        state,
        tokens=jax.vmap(write)(state.tokens, state.request, at, token),
        logps=jax.vmap(write)(state.logps, state.request, at, logp),
        cache=cache,
        live=state.live & ~_ends(token, age + 2, sampling),
        last=token,
        banned=_follow(sampling, state.banned, token),
        step=state.step + 1,
    )


def _admit(state: DecodeState, sampling: SamplingParams) -> DecodeState:
    """Pending requests into slots whose request has ended, in order."""
    n = state.tokens.shape[1]
    free = ~state.live
    request = state.next_request[:, None] + jnp.cumsum(free, axis=1, dtype=jnp.int32) - 1
    taken = free & (request < n)
    request = jnp.where(taken, request, state.request)
    last = jnp.where(taken, take(state.tokens[:, :, 0], request), state.last)
    banned = _follow(sampling, jnp.zeros_like(last), last)
    if banned is not None and state.banned is not None:
        banned = jnp.where(taken, banned, state.banned)
    return dataclasses.replace(
        state,
        request=request,
        start_step=jnp.where(taken, state.step, state.start_step),
        live=jnp.where(taken, ~_ends(last, jnp.int32(1), sampling), state.live),
        last=last,
        banned=banned,
        next_request=state.next_request + taken.sum(1, dtype=jnp.int32),
    )


def resize(state: DecodeState, slots: int, cache_len: int) -> DecodeState:
    """`state` in fewer slots, in which all that live find a place, or with longer caches."""
    if cache_len > state.cache_len:
        last = state.step - 1
        # The step that wrote each new entry.
        written = last - (last - jnp.arange(cache_len)) % cache_len
        old = written % state.cache_len
        cache = [KVCache(x.k[..., old], x.v[..., old, :]) for x in state.cache]
        state = dataclasses.replace(state, cache=cache)
    if slots == state.slots:
        return state
    kept = jnp.argsort(~state.live, axis=1, stable=True)[:, :slots]
    names = ["request", "start_step", "live", "last"]
    names += ["banned"] * (state.banned is not None)
    moved = {name: take(getattr(state, name), kept) for name in names}

    def moved_cache(x_Z):
        return merge(take(fold(x_Z, "(B S) ... -> B S ...", B=len(kept)), kept))

    cache = jax.tree.map(moved_cache, state.cache)
    return dataclasses.replace(state, cache=cache, **moved)


def rollout(state: DecodeState, sampling: SamplingParams, shape: tuple[int, int]) -> Rollout:
    """What there is of every completion, in `shape` = (R, g)."""

    def rows(x):
        return fold(x, "B (r g) ... -> (B r) g ...", g=shape[1])

    mask = state.tokens != EMPTY
    stop = (state.tokens[..., None] == jnp.array(sampling.stop_ids, jnp.int32)).any((-1, -2))
    tokens = jnp.where(mask, state.tokens, sampling.pad_id)
    return Rollout(rows(tokens), rows(mask), rows(state.logps), rows(stop))


def _compiled(function: Any, *args: Any) -> Any:
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

    A few compiled programs: one to start with for every shape of prompts, and a loop for every
    number of slots and cache length of `bucket_sizes`.
    """

    def __init__(self, graphdef: nnx.GraphDef, sampling: SamplingParams, dtype: str):
        self.sampling = sampling

        @jax.jit
        def start(params: dict[str, Any], prompt: Prompt, key: jax.Array):
            return prefill(assemble(graphdef, params, dtype), prompt, key, sampling)

        @functools.partial(jax.jit, donate_argnums=1)
        def decode_steps(
            inputs: DecodeInputs, state: DecodeState, max_step: jax.Array, shrink_below: jax.Array
        ):
            return decode(inputs, state, sampling, max_step, shrink_below)

        self.start, self.decode_steps = start, decode_steps
        # Programs are counted by function: partial, so that every sampler has its own.
        self.resize = jax.jit(functools.partial(resize), static_argnums=(1, 2))
        self.rollout = jax.jit(functools.partial(rollout), static_argnums=(1, 2))

    def __call__(
        self,
        params: dict[str, Any],
        prompt: Prompt,
        key: jax.Array,
        meanwhile: Callable[[], None] | None = None,
    ) -> Rollout:
        for number, state in enumerate(self.states(params, prompt, key)):  # noqa: B007 (the last)
            if number == 1 and meanwhile is not None:  # the first state is the prefill's
                meanwhile()
        return self.read(prompt, state)

    def read(self, prompt: Prompt, state: DecodeState) -> Rollout:
        """The rollout as far as it is in `state`."""
        return self.rollout(state, self.sampling, self._shape(prompt))

    def states(
        self, params: dict[str, Any], prompt: Prompt, key: jax.Array, every: int = 0
    ) -> Iterator[DecodeState]:
        """States of a rollout, at least every `every` tokens (0: whenever the loop ends), the last
        of them whole. The one before is gone when the next is asked for: its memory is reused."""
        inputs, state, status = self.start(params, prompt, key)
        slot_counts, cache_lengths = self._sizes(state)
        while True:
            yield state
            step, busy, pending = int(status.step), int(status.busy), bool(status.pending)
            if not busy and not pending:
                return
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

    def compile(self, params: dict[str, Any], prompt: Prompt, key: jax.Array) -> None:
        """Compile all that `states` may call for these arguments, of which the shapes count."""
        inputs, first, _ = _compiled(self.start, params, prompt, key)
        slot_counts, cache_lengths = self._sizes(first)
        states = {(first.slots, first.cache_len): first}
        for slots, cache_len in itertools.product(reversed(slot_counts), cache_lengths):
            state = states[slots, cache_len]
            _compiled(self.decode_steps, inputs, state, np.int32(0), np.int32(0))
            _compiled(self.rollout, state, self.sampling, self._shape(prompt))
            longer = [(slots, x) for x in cache_lengths if x > cache_len][:1]
            for to in longer + [(x, cache_len) for x in slot_counts if x < slots]:
                states[to] = _compiled(self.resize, state, *to)

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
        parts: tuple[Any, ...] = (self.start, self.decode_steps, self.resize, self.rollout)
        return sum(part._cache_size() for part in parts)
