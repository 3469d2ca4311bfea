# SPDX-License-Identifier: Apache-2.0
"""Sampling: prefill and a decode loop over slots, each of which holds one completion at a time.

Rows of prompts are prefilled once. Their completions, the cells, take turns in the slots: a slot
whose completion has ended takes the next that waits, inside the compiled loop. Between two calls of
the loop the host makes the slots' caches longer, when they are full, and fewer slots, when no cell
waits and half of them would do. Shapes come from short ladders, so a run has a handful of programs.

    B shards of rows (devices along data and fsdp)    n cells of a shard, [R, g] flat
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

from jaxvl.batch import Prompt, Rollout
from jaxvl.models.decode import Reader, Seats, merge, split, take
from jaxvl.models.qwen_vl import QwenVL, assemble, prompt_mask
from jaxvl.models.text import KVCache
from jaxvl.rl.draw import Decoding, choose, seeds
from jaxvl.sharding import ROWS, axis_size

LEVELS = 3  # sizes of a ladder: all, a half, a quarter
FEWEST_COLUMNS, FEWEST_SLOTS = 64, 16  # below these a smaller program would save nothing
EMPTY = -1  # in `State.tokens`: not written


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """What decoding reads and never writes."""

    reader: Reader  # weights, and the prompts' keys and values
    position: jax.Array  # [B, n] of a completion's first token
    seed: jax.Array  # [B, n, C] the random bits that draw a token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What decoding changes.

    A clock counts steps, and all slots write the keys of their token at column clock % columns,
    wherever they are in their completions: one slice, in place. A slot sees the columns that were
    written since it took its completion. The loop ends before one is older than there are columns.
    """

    tokens: jax.Array  # [B, n, C], EMPTY where there is none yet
    logps: jax.Array  # [B, n, C]
    cache: list[KVCache]  # of slots, a layer each, B and S flat
    cell: jax.Array  # [B, S] what a slot holds
    since: jax.Array  # [B, S] the clock when its first token was fed
    live: jax.Array  # [B, S] it has not ended
    last: jax.Array  # [B, S] its newest token
    waiting: jax.Array  # [B] the first cell that no slot has taken
    clock: jax.Array  # [] steps done

    @property
    def slots(self) -> int:
        return self.cell.shape[1]

    @property
    def columns(self) -> int:
        return self.cache[0].k.shape[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Look:
    """What the host has to know of a state: numbers that every process has."""

    clock: jax.Array
    oldest: jax.Array  # tokens fed to the live slot that has most
    busy: jax.Array  # live slots of the shard that has most
    waiting: jax.Array  # bool, whether some cell is in no slot yet


def ladder(full: int, fewest: int) -> list[int]:
    """`full`, and its half and its quarter where these are at least `fewest`; ascending."""
    sizes = {-(-full // 2**level) for level in range(LEVELS)}
    return sorted(size for size in sizes if size >= fewest or size == full)


def _filled(value, *shape, dtype) -> jax.Array:
    return jnp.full(shape, value, dtype, out_sharding=P(ROWS, *(None,) * (len(shape) - 1)))


def prefill(
    model: QwenVL, prompt: Prompt, key: jax.Array, how: Decoding
) -> tuple[Past, State, Look]:
    """The prompts once a row, and the first token of every completion.

    Draws depend on (key, prompt id, completion index, token index) and nothing else: not on the
    row, the slot, its neighbours or the number of devices.
    """
    R, g, C = prompt.tokens.shape[0], how.completions, how.max_new_tokens
    B = axis_size("data") * axis_size("fsdp")
    n = R * g // B
    S = min(-(-how.slots // B), n) if how.slots else n
    hidden_RD, cache = model.prefill(prompt)
    seed_RgC = seeds(key, prompt.prompt_id, prompt.completion[:, None] + jnp.arange(g), C)
    logits_R1V = model.text.logits(hidden_RD[:, None])
    logits_RgV = jnp.broadcast_to(logits_R1V, (R, g, logits_R1V.shape[-1]))
    token_Rg, logp_Rg = choose(logits_RgV, seed_RgC[..., 0], how)

    def cells(x_Rg):
        rest = x_Rg.shape[2:]
        return jnp.reshape(x_Rg, (B, n, *rest), out_sharding=P(ROWS, None, *(None for _ in rest)))

    first = cells(token_Rg)[:, :S]
    past = Past(
        reader=Reader.of(model.text, cache, prompt_mask(prompt), C),
        position=cells(jnp.broadcast_to(prompt.next_position[:, None], (R, g))),
        seed=cells(seed_RgC),
    )
    state = State(
        tokens=_filled(EMPTY, B, n, C, dtype=jnp.int32).at[:, :, 0].set(cells(token_Rg)),
        logps=_filled(0.0, B, n, C, dtype=jnp.float32).at[:, :, 0].set(cells(logp_Rg)),
        cache=past.reader.empty_cache(S, ladder(C, FEWEST_COLUMNS)[0]),
        cell=_filled(0, B, S, dtype=jnp.int32) + jnp.arange(S, dtype=jnp.int32),
        since=_filled(0, B, S, dtype=jnp.int32),
        live=~_ends(first, jnp.int32(1), how),
        last=first,
        waiting=_filled(S, B, dtype=jnp.int32),
        clock=jnp.int32(0),
    )
    return past, state, _look(state)


def _ends(token: jax.Array, length: jax.Array, how: Decoding) -> jax.Array:
    """Whether a completion is over with `token`, its newest of `length`."""
    stop = (token[..., None] == jnp.array(how.stop_ids, jnp.int32)).any(-1)
    return stop | (length >= how.max_new_tokens)


def _look(state: State) -> Look:
    waiting = (state.waiting < state.tokens.shape[1]).any()
    oldest = jnp.where(state.live, state.clock - state.since, 0).max()
    return Look(state.clock, oldest, state.live.sum(1).max(), waiting)


def decode(
    past: Past, state: State, how: Decoding, until: jax.Array, enough: jax.Array
) -> tuple[State, Look]:
    """A token of every slot at a time.

    It ends when the clock is at `until`, when a slot has no column left, or when no cell waits and
    no shard has more than `enough` live slots.
    """

    def goes_on(state: State) -> jax.Array:
        look = _look(state)
        room = (look.clock < until) & (look.oldest < state.columns)
        return room & (look.waiting | (look.busy > enough))

    state = jax.lax.while_loop(goes_on, lambda state: _one_token(past, state, how), state)
    return state, _look(state)


def _one_token(past: Past, state: State, how: Decoding) -> State:
    n, S = state.tokens.shape[1], state.slots
    if S == n:  # slot i holds cell i
        seats = Seats(state.cell, None)
        position = past.position
    else:
        state = _admit(state, how)
        none = _filled(0, *past.position.shape, dtype=jnp.int32)
        put = jax.vmap(lambda x, cell: x.at[cell].set(jnp.arange(S, dtype=jnp.int32)))
        seats = Seats(state.cell, put(none, state.cell))
        position = take(past.position, state.cell)
    age = state.clock - state.since  # [B, S] tokens fed before this one
    column = state.clock % state.columns
    back = (column - jnp.arange(state.columns)) % state.columns  # steps ago that one was written
    hidden, cache = past.reader.extend(
        state.last, position + age, seats, state.cache, column, back <= age[..., None]
    )
    seed = jax.vmap(lambda x, cell, at: x.at[cell, at].get(mode="clip"))(
        past.seed, state.cell, age + 1
    )
    token, logp = choose(past.reader.head.logits(hidden), seed, how)
    at = jnp.where(state.live, age + 1, how.max_new_tokens)  # out of bounds: not written

    def write(x, cell, at, value):
        return x.at[cell, at].set(value, mode="drop", unique_indices=True)

    return dataclasses.replace(
        state,
        tokens=jax.vmap(write)(state.tokens, state.cell, at, token),
        logps=jax.vmap(write)(state.logps, state.cell, at, logp),
        cache=cache,
        live=state.live & ~_ends(token, age + 2, how),
        last=token,
        clock=state.clock + 1,
    )


def _admit(state: State, how: Decoding) -> State:
    """Cells that wait into slots whose completion has ended, in order."""
    n = state.tokens.shape[1]
    free = ~state.live
    cell = state.waiting[:, None] + jnp.cumsum(free, axis=1, dtype=jnp.int32) - 1
    taken = free & (cell < n)
    cell = jnp.where(taken, cell, state.cell)
    last = jnp.where(taken, take(state.tokens[:, :, 0], cell), state.last)
    return dataclasses.replace(
        state,
        cell=cell,
        since=jnp.where(taken, state.clock, state.since),
        live=jnp.where(taken, ~_ends(last, jnp.int32(1), how), state.live),
        last=last,
        waiting=state.waiting + taken.sum(1, dtype=jnp.int32),
    )


def resize(state: State, slots: int, columns: int) -> State:
    """`state` in fewer slots, in which all that live find a place, or with longer caches."""
    if columns > state.columns:
        last = state.clock - 1
        written = last - (last - jnp.arange(columns)) % columns  # the clock of each new column
        old = written % state.columns
        cache = [KVCache(x.k[..., old], x.v[..., old, :]) for x in state.cache]
        state = dataclasses.replace(state, cache=cache)
    if slots == state.slots:
        return state
    kept = jnp.argsort(~state.live, axis=1, stable=True)[:, :slots]
    names = ("cell", "since", "live", "last")
    moved = {name: take(getattr(state, name), kept) for name in names}
    cache = jax.tree.map(lambda x: merge(take(split(x, len(kept)), kept)), state.cache)
    return dataclasses.replace(state, cache=cache, **moved)


def rollout(state: State, how: Decoding, shape: tuple[int, int]) -> Rollout:
    """What there is of every completion, in `shape` = (R, g)."""

    def rows(x):
        spec = P(ROWS, *(None,) * (x.ndim - 1))
        return jnp.reshape(x, (*shape, *x.shape[2:]), out_sharding=spec)

    mask = state.tokens != EMPTY
    stop = (state.tokens[..., None] == jnp.array(how.stop_ids, jnp.int32)).any((-1, -2))
    tokens = jnp.where(mask, state.tokens, how.pad_id)
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
    number of slots and columns in their ladders.
    """

    def __init__(self, graphdef: nnx.GraphDef, how: Decoding, dtype: str):
        self.how = how

        @jax.jit
        def start(params: dict[str, Any], prompt: Prompt, key: jax.Array):
            return prefill(assemble(graphdef, params, dtype), prompt, key, how)

        @functools.partial(jax.jit, donate_argnums=1)
        def go_on(past: Past, state: State, until: jax.Array, enough: jax.Array):
            return decode(past, state, how, until, enough)

        self.start, self.go_on = start, go_on
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

    def read(self, prompt: Prompt, state: State) -> Rollout:
        """The rollout as far as it is in `state`."""
        return self.rollout(state, self.how, self._shape(prompt))

    def states(
        self, params: dict[str, Any], prompt: Prompt, key: jax.Array, every: int = 0
    ) -> Iterator[State]:
        """States of a rollout, at least every `every` tokens (0: whenever the loop ends), the last
        of them whole. The one before is gone when the next is asked for: its memory is reused."""
        past, state, look = self.start(params, prompt, key)
        widths, rooms = self._sizes(state)
        while True:
            yield state
            clock, busy, waiting = int(look.clock), int(look.busy), bool(look.waiting)
            if not busy and not waiting:
                return
            slots = state.slots if waiting else min(x for x in widths if x >= busy)
            if slots < state.slots:
                state = self._moved(state, slots, state.columns)
            room = min(x for x in rooms if x > int(look.oldest))
            if room > state.columns:
                state = self._moved(state, slots, room)
            until = clock + every if every else np.iinfo(np.int32).max
            enough = max((x for x in widths if x < slots), default=0)
            state, look = self.go_on(past, state, np.int32(until), np.int32(enough))

    def compile(self, params: dict[str, Any], prompt: Prompt, key: jax.Array) -> None:
        """Compile all that `states` may call for these arguments, of which the shapes count."""
        past, first, _ = _compiled(self.start, params, prompt, key)
        widths, rooms = self._sizes(first)
        states = {(first.slots, first.columns): first}
        for slots, room in itertools.product(reversed(widths), rooms):
            state = states[slots, room]
            _compiled(self.go_on, past, state, np.int32(0), np.int32(0))
            _compiled(self.rollout, state, self.how, self._shape(prompt))
            longer = [(slots, x) for x in rooms if x > room][:1]
            for to in longer + [(x, room) for x in widths if x < slots]:
                states[to] = _compiled(self.resize, state, *to)

    def _moved(self, state: State, slots: int, columns: int) -> State:
        """`resize`, after which the old caches' memory is free, whoever holds `state`."""
        moved = self.resize(state, slots, columns)
        for old in jax.tree.leaves(state.cache):
            old.delete()
        return moved

    def _shape(self, prompt: Prompt) -> tuple[int, int]:
        return prompt.tokens.shape[0], self.how.completions

    def _sizes(self, first: State) -> tuple[list[int], list[int]]:
        """Numbers of slots and of columns that a rollout goes through."""
        rooms = ladder(self.how.max_new_tokens, FEWEST_COLUMNS)
        return ladder(first.slots, FEWEST_SLOTS), rooms

    def _cache_size(self) -> int:
        """How many programs there are."""
        parts = (self.start, self.go_on, self.resize, self.rollout)
        return sum(part._cache_size() for part in parts)
