# SPDX-License-Identifier: Apache-2.0
"""The decode loop over slots, each of which holds one completion at a time.

A request is one completion of a row; a slot whose request has ended takes the next one in the
queue, inside the compiled loop. A request waits until its row's prompt is prefilled: prompts have
places, fewer than rows where slots are fewer than completions, and a place is free again when none
of its row's requests waits or lives. Rows that only fill a shard up are behind its others, and no
slot takes their requests.

    B shards of rows (devices along data and fsdp)    n requests of a shard, [R, g] flat
    S slots of a shard                                w places of a shard, n = r*g where w = r
    r rows of a shard                                 C tokens of a completion at most
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS
from jaxvl.models.cache import KVCache
from jaxvl.models.decode import DecodeModel, SlotMap, merge, split_rows, take
from jaxvl.rl.batch import Rollout
from jaxvl.rl.sampling import SamplingParams, sample_token

EMPTY = -1  # in `DecodeState.tokens`: not written


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeInputs:
    """What the loop reads and never writes."""

    decode_model: DecodeModel  # weights, and the keys and values of the prompts in their places
    position: Int32[Array, "B n"]  # of a completion's first token
    seed: UInt32[Array, "B n C"]  # the random bits that draw a token
    wanted: Int32[Array, " B"]  # requests of a shard, its first, that there are
    place: Int32[Array, "B r"] | None  # of a row that is prefilled; None: row i stands in place i

    @property
    def places(self) -> int:
        """w, the prompts of a shard whose keys and values are held."""
        return self.decode_model.mask.shape[1]

    @property
    def wave(self) -> int:
        """Rows of a shard that are prefilled together: see `places`."""
        assert self.place is not None, "prompts that are all held need no wave"
        alone = self.position.shape[1] == self.place.shape[1]
        return max(1, self.places // (5 if alone else 6))


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
    ready: Int32[Array, ""]  # the first request of a shard whose prompt is not prefilled
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
    wave: jax.Array  # bool, whether every shard has room for the next rows to be prefilled


def places(slots: int, rows: int, group: int) -> int:
    """How many prompts of a shard's `rows` are held while `slots` of their completions are decoded.

    Three times what fills the slots: some prompts are held for one long completion alone, others
    for the slots that end before the next wave of rows, half of what fills the slots. With
    exponential lengths (simulated, groups of 4 and 8, one and eight shards) slots are 95% as busy
    as with all prompts held, or more; with places for twice what fills the slots 72 to 95%.

    A prompt with one completion is held for no longer than a slot: a quarter more than slots lets
    a wave of a quarter wait, and comes when all of it has been taken.
    """
    if group == 1:
        return min(rows, slots + max(1, slots // 4))
    return min(rows, 3 * -(-slots // group))


def filled(value, *shape, dtype) -> jax.Array:
    """An array with an entry for every shard in front."""
    return jnp.full(shape, value, dtype, out_sharding=P(ROWS, *(None,) * (len(shape) - 1)))


def first_state(
    inputs: DecodeInputs,
    token_Bm: jax.Array,
    logp_Bm: jax.Array,
    slots: int,
    cache_len: int,
    sampling: SamplingParams,
) -> DecodeState:
    """The state before the loop, with the first token of the m requests of each shard whose prompts
    are prefilled."""
    B, n, C = inputs.seed.shape
    m, first = token_Bm.shape[1], split_rows(token_Bm[:, :slots])
    return DecodeState(
        tokens=filled(EMPTY, B, n, C, dtype=jnp.int32).at[:, :m, 0].set(token_Bm),
        logps=filled(0.0, B, n, C, dtype=jnp.float32).at[:, :m, 0].set(logp_Bm),
        cache=inputs.decode_model.empty_cache(slots, cache_len),
        request=filled(0, B, slots, dtype=jnp.int32) + jnp.arange(slots, dtype=jnp.int32),
        start_step=filled(0, B, slots, dtype=jnp.int32),
        live=~_ends(first, jnp.int32(1), sampling) & (jnp.arange(slots) < inputs.wanted[:, None]),
        last=first,
        banned=_follow(sampling, jnp.zeros_like(first), first),
        next_request=filled(slots, B, dtype=jnp.int32),
        ready=jnp.int32(m),
        step=jnp.int32(0),
    )


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


def held_rows(inputs: DecodeInputs, state: DecodeState) -> jax.Array:
    """[B, r], rows of which a request lives or, prefilled, waits."""
    n = state.tokens.shape[1]
    request, next_request = jnp.arange(n), state.next_request[:, None]
    waits = (request >= next_request) & (request < _ready(inputs, state))
    at = jnp.where(state.live, state.request, n)
    held = jax.vmap(lambda x, at: x.at[at].set(True, mode="drop"))(waits, at)
    return fold(held, "B (r g) -> B r g", r=_rows(inputs)).any(-1)


def _ready(inputs: DecodeInputs, state: DecodeState) -> jax.Array:
    """[B, 1], the first request of a shard that no slot may take yet."""
    return jnp.minimum(state.ready, inputs.wanted)[:, None]


def _rows(inputs: DecodeInputs) -> int:
    """r, the rows of a shard."""
    return inputs.places if inputs.place is None else inputs.place.shape[1]


def loop_status(inputs: DecodeInputs, state: DecodeState) -> LoopStatus:
    """Shards tell each other their numbers at once: an exchange of its own for each would be the
    price of a small one several times over, at every token."""
    numbers = [
        jnp.where(state.live, state.step - state.start_step, 0).max(1),
        state.live.sum(1, dtype=jnp.int32),
        inputs.wanted - state.next_request,
    ]
    if inputs.place is not None:
        numbers += [held_rows(inputs, state).sum(1, dtype=jnp.int32), inputs.wanted]
    oldest, busy, pending, *of_waves = jnp.stack(numbers).max(1)
    wave = jnp.bool_(False)
    if of_waves:
        held, wanted = of_waves
        wave = (state.ready < wanted) & (inputs.places - held >= inputs.wave)
    return LoopStatus(state.step, oldest, busy, pending > 0, wave)


def decode(
    inputs: DecodeInputs,
    state: DecodeState,
    sampling: SamplingParams,
    max_step: jax.Array,
    shrink_below: jax.Array,
) -> tuple[DecodeState, LoopStatus]:
    """A token of every slot at a time.

    It ends at step `max_step`, when a slot has no cache left, when rows are to be prefilled and
    there is room for them, or when no request is pending and no shard has more than `shrink_below`
    live slots.
    """

    def goes_on(state: DecodeState) -> jax.Array:
        now = loop_status(inputs, state)
        has_room = (now.step < max_step) & (now.oldest < state.cache_len) & ~now.wave
        return has_room & (now.pending | (now.busy > shrink_below))

    state = jax.lax.while_loop(goes_on, lambda state: _one_token(inputs, state, sampling), state)
    return state, loop_status(inputs, state)


def _one_token(inputs: DecodeInputs, state: DecodeState, sampling: SamplingParams) -> DecodeState:
    S = state.slots
    if S == state.tokens.shape[1]:  # slot i holds request i
        slot_map = SlotMap(state.request, None)
        position = inputs.position
    else:
        state = _admit(inputs, state, sampling)
        slot_map = _slot_map(inputs, state)
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
    logits = inputs.decode_model.logits(hidden)
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


def _slot_map(inputs: DecodeInputs, state: DecodeState) -> SlotMap:
    """Where the slots' completions stand among those of the prompts that are held."""
    B, n = inputs.position.shape
    slot_of = jax.vmap(
        lambda x, at: x.at[at].set(jnp.arange(state.slots, dtype=jnp.int32), mode="drop")
    )
    if inputs.place is None:
        cell = at = state.request
        cells = n
    else:
        g = n // inputs.place.shape[1]
        cells = inputs.places * g
        cell = take(inputs.place, state.request // g) * g + state.request % g
        at = jnp.where(state.live, cell, cells)  # the place of what has ended may be another row's
    return SlotMap(cell, slot_of(filled(0, B, cells, dtype=jnp.int32), at))


def _admit(inputs: DecodeInputs, state: DecodeState, sampling: SamplingParams) -> DecodeState:
    """Pending requests into slots whose request has ended, in order."""
    free = ~state.live
    request = state.next_request[:, None] + jnp.cumsum(free, axis=1, dtype=jnp.int32) - 1
    taken = free & (request < _ready(inputs, state))
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
        state = dataclasses.replace(state, cache=[x.take(old) for x in state.cache])
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


def rollout(
    tokens_BnC: jax.Array, logps_BnC: jax.Array, sampling: SamplingParams, shape: tuple[int, int]
) -> Rollout:
    """What there is of every completion in a state, in `shape` = (R, g)."""

    def rows(x):
        return fold(x, "B (r g) ... -> (B r) g ...", g=shape[1])

    mask = tokens_BnC != EMPTY
    stop = (tokens_BnC[..., None] == jnp.array(sampling.stop_ids, jnp.int32)).any((-1, -2))
    tokens = jnp.where(mask, tokens_BnC, sampling.pad_id)
    return Rollout(rows(tokens), rows(mask), rows(logps_BnC), rows(stop))
