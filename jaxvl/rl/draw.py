# SPDX-License-Identifier: Apache-2.0
"""One token from logits, by a key of its own."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.rl.logprobs import pick
from jaxvl.sharding import ROWS

NEVER = -jnp.inf
BLOCK = 128  # tokens; it divides the vocabularies of the Qwen2-VL family


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
    slots: int = 0  # completions decoded at a time, over all devices; 0: all


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

    The first token whose cumulative mass exceeds u * total is taken, looked for in two steps, first
    among blocks of tokens and then in one block: a sum over the whole vocabulary is cheap, a
    running sum is not. Only tokens with mass can be taken, whatever the rounding.
    """
    *_, V = logits_RgV.shape
    spec = jax.typeof(logits_RgV).sharding.spec
    logits_RgV = logits_RgV - logits_RgV.max(axis=-1, keepdims=True)
    logits_RgV = jnp.pad(logits_RgV, ((0, 0), (0, 0), (0, -V % BLOCK)), constant_values=NEVER)
    shape = (*uniform_Rg.shape, -(-V // BLOCK), BLOCK)
    blocks = jnp.reshape(logits_RgV, shape, out_sharding=P(*spec[:2], None, None))
    mass = jnp.exp(blocks).sum(-1)
    block_Rg, rest_Rg = _first_above(mass, uniform_Rg * mass.sum(-1))
    inside = jnp.take_along_axis(blocks, block_Rg[..., None, None], axis=2)[:, :, 0]
    token_Rg, _ = _first_above(jnp.exp(inside), rest_Rg)
    return (block_Rg * BLOCK + token_Rg).astype(jnp.int32)


def _first_above(mass: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first index at which the running sum of `mass` [.., X] exceeds `target` [..], or the last
    with mass where rounding lets none; and what is left of the target before it."""
    total = jnp.cumsum(mass, axis=-1)
    alive = mass > 0
    found = alive & (total > target[..., None])
    index = jnp.where(
        found.any(-1), found.argmax(-1), mass.shape[-1] - 1 - alive[..., ::-1].argmax(-1)
    )
    before = jnp.where(jnp.arange(mass.shape[-1]) < index[..., None], mass, 0.0).sum(-1)
    return index, target - before


def choose(
    logits_RgV: jax.Array, keys_Rg: jax.Array, step: jax.Array, how: Decoding
) -> tuple[jax.Array, jax.Array]:
    """Token number `step` (of all, or of each [R, g]) of every completion, and its log-probability.

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
        as_keys = jax.typeof(keys_Rg).sharding
        steps_Rg = jnp.broadcast_to(step, keys_Rg.shape, out_sharding=as_keys.spec)
        keys_Rg = jax.vmap(jax.vmap(jax.random.fold_in))(keys_Rg, steps_Rg)
        uniform_Rg = jax.vmap(jax.vmap(jax.random.uniform))(keys_Rg)
        token_Rg = draw(restrict(allowed, how.top_k, how.top_p), uniform_Rg)
    return token_Rg, pick(scaled, token_Rg)[0]
