# SPDX-License-Identifier: Apache-2.0
"""Sampling: prefill and a decode loop over rows of a prompt and its completions.

A run compiles both into one program (`make_sampler`); whoever wants to see completions grow has the
loop stop every few tokens (`make_steps`). The tokens are the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.batch import Prompt, Rollout
from jaxvl.models.qwen_vl import QwenVL, assemble, prompt_mask
from jaxvl.models.text import KVCache
from jaxvl.rl.logprobs import pick
from jaxvl.sharding import ROWS

NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What one compiled sampler is made for. temperature 0 is greedy."""

    completions: int  # g, completions a row
    max_new_tokens: int  # C
    stop_ids: tuple[int, ...]
    pad_id: int
    never_ids: tuple[int, ...] = ()  # tokens that may not be sampled
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """What decoding reads and never writes."""

    cache: KVCache  # the prompts' keys and values, of all layers
    mask: jax.Array  # [R, T] true on real prompt tokens
    next_position: jax.Array  # [R] of the first completion token
    keys: jax.Array  # [R, g] what draws are folded from


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What decoding changes: completions so far."""

    cache: list[KVCache]  # completions' own keys and values, a layer each
    tokens: jax.Array  # [R, g, C]
    logps: jax.Array  # [R, g, C]
    last: jax.Array  # [R, g] the newest token
    length: jax.Array  # [R, g] tokens kept so far
    done: jax.Array  # [R, g] ended by a stop token
    step: jax.Array  # [] tokens written


def fold_keys(key: jax.Array, prompt_id_R: jax.Array, completion_Rg: jax.Array) -> jax.Array:
    """A key for every completion from what identifies it, [R, g]."""

    def one(prompt_id, completion):
        return jax.random.fold_in(jax.random.fold_in(key, prompt_id), completion)

    return jax.vmap(jax.vmap(one, (None, 0)))(prompt_id_R, completion_Rg)


def restrict(logits_RgV: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """-inf outside of the `top_k` best tokens and the smallest set that holds `top_p` of the mass.

    The set is what transformers keeps: a token stays while the mass before it is below `top_p`, so
    the best always stays. Ties at the border of top_k all stay.
    """
    vocab = logits_RgV.shape[-1]
    if 0 < top_k < vocab:
        border = jax.lax.top_k(logits_RgV, top_k)[0][..., -1:]
        logits_RgV = jnp.where(logits_RgV < border, NEVER, logits_RgV)
    if top_p < 1.0:
        ordered = jnp.sort(logits_RgV, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        kept = jnp.where(before < top_p, ordered, jnp.inf)
        logits_RgV = jnp.where(logits_RgV < kept.min(axis=-1, keepdims=True), NEVER, logits_RgV)
    return logits_RgV


def draw(logits_RgV: jax.Array, uniform_Rg: jax.Array) -> jax.Array:
    """A token from softmax(logits) by its cumulative distribution: one random number a token.

    The first token whose cumulative mass exceeds u * total is taken. Only tokens with mass can be
    taken, whatever the rounding: all others are left out of the search.
    """
    weights = jnp.exp(logits_RgV - logits_RgV.max(axis=-1, keepdims=True))
    mass = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), -1.0)
    target = uniform_Rg[..., None] * mass.max(axis=-1, keepdims=True)
    return jnp.argmax(mass > target, axis=-1).astype(jnp.int32)


def choose(
    logits_RgV: jax.Array, keys_Rg: jax.Array, step: jax.Array, how: Decoding
) -> tuple[jax.Array, jax.Array]:
    """The next token of every completion and its log-probability.

    The log-probability is the model's own at the sampling temperature (1 when greedy), over the
    whole vocabulary: top_k, top_p and the forbidden tokens restrict the choice, not the measure, so
    it equals what the learner computes.
    """
    logits_RgV = reshard(logits_RgV, P(ROWS, None, None))
    scaled = logits_RgV / (how.temperature or 1.0)
    allowed = scaled.at[..., jnp.array(how.never_ids, jnp.int32)].set(NEVER)
    if how.temperature == 0.0:
        token_Rg = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    else:
        at_step = jax.vmap(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step))))
        token_Rg = draw(restrict(allowed, how.top_k, how.top_p), at_step(keys_Rg))
    return token_Rg, pick(scaled, token_Rg)[0]


def prefill(model: QwenVL, prompt: Prompt, key: jax.Array, how: Decoding) -> tuple[Past, State]:
    """The prompts once a row, and the first token of every completion.

    Draws depend on (key, prompt id, completion index, token index) and nothing else: not on the
    row, its neighbours or the number of devices.
    """
    R, g, C = prompt.tokens.shape[0], how.completions, how.max_new_tokens
    hidden_RD, cache = model.prefill(prompt)
    keys = fold_keys(key, prompt.prompt_id, prompt.completion[:, None] + jnp.arange(g))
    past = Past(cache, prompt_mask(prompt), prompt.next_position, keys)

    def filled(value, *shape, dtype):
        return jnp.full(shape, value, dtype, out_sharding=P(ROWS, *(None,) * (len(shape) - 1)))

    state = State(
        cache=model.text.empty_cache(R, g, C, cache.k.dtype),
        tokens=filled(how.pad_id, R, g, C, dtype=jnp.int32),
        logps=filled(0.0, R, g, C, dtype=jnp.float32),
        last=filled(how.pad_id, R, g, dtype=jnp.int32),
        length=filled(0, R, g, dtype=jnp.int32),
        done=filled(False, R, g, dtype=bool),
        step=jnp.int32(0),
    )
    hidden_RgD = jnp.broadcast_to(hidden_RD[:, None], (R, g, hidden_RD.shape[-1]))
    return past, _write(model, past, state, hidden_RgD, how)


def decode(model: QwenVL, past: Past, state: State, how: Decoding, until: int | jax.Array) -> State:
    """A token of every completion at a time, until each has ended or has `until` tokens."""
    layers = model.text.unstack(past.cache)
    R, g = state.last.shape

    def one_token(state: State) -> State:
        position = past.next_position[:, None] + state.step - 1
        positions = jnp.broadcast_to(position[:, None], (R, 3, g))
        hidden_RgD, cache = model.text.extend(
            model.text.embed(state.last), positions, past.mask, layers, state.cache, state.step - 1
        )
        return _write(model, past, dataclasses.replace(state, cache=cache), hidden_RgD, how)

    return jax.lax.while_loop(
        lambda state: (state.step < until) & ~state.done.all(), one_token, state
    )


def _write(model: QwenVL, past: Past, state: State, hidden_RgD: jax.Array, how: Decoding) -> State:
    """`state` with the token that follows `hidden_RgD`, on completions that have not ended."""
    token, logp = choose(model.text.logits(hidden_RgD), past.keys, state.step, how)
    live = ~state.done
    token = jnp.where(live, token, how.pad_id)
    stop = jnp.array(how.stop_ids, jnp.int32)
    return dataclasses.replace(
        state,
        tokens=state.tokens.at[:, :, state.step].set(token),
        logps=state.logps.at[:, :, state.step].set(jnp.where(live, logp, 0.0)),
        last=token,
        length=state.length + live,
        done=state.done | (token[..., None] == stop).any(-1),
        step=state.step + 1,
    )


def sample(model: QwenVL, prompt: Prompt, key: jax.Array, how: Decoding) -> Rollout:
    """g completions of every row: prefill once a row, then decode to the end."""
    past, state = prefill(model, prompt, key, how)
    end = decode(model, past, state, how, how.max_new_tokens)
    mask = jnp.arange(how.max_new_tokens) < end.length[..., None]
    return Rollout(tokens=end.tokens, mask=mask, logps=end.logps, finished=end.done)


def make_sampler(
    graphdef: nnx.GraphDef, how: Decoding, dtype: str
) -> Callable[[dict[str, Any], Prompt, jax.Array], Rollout]:
    """Jitted `sample(params, prompt, key)`, products in `dtype`."""

    @jax.jit
    def run(params: dict[str, Any], prompt: Prompt, key: jax.Array) -> Rollout:
        return sample(assemble(graphdef, params, dtype), prompt, key, how)

    return run


def make_steps(graphdef: nnx.GraphDef, how: Decoding, dtype: str) -> tuple[Callable, Callable]:
    """`sample` in steps: jitted `start(params, prompt, key)` -> (past, state), and
    `go_on(params, past, state, until)` -> state, which is donated. One program each."""

    @jax.jit
    def start(params: dict[str, Any], prompt: Prompt, key: jax.Array) -> tuple[Past, State]:
        return prefill(assemble(graphdef, params, dtype), prompt, key, how)

    @functools.partial(jax.jit, donate_argnums=2)
    def go_on(params: dict[str, Any], past: Past, state: State, until: jax.Array) -> State:
        return decode(assemble(graphdef, params, dtype), past, state, how, until)

    return start, go_on
