# SPDX-License-Identifier: Apache-2.0
"""One token from logits, by a key of its own."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxvl.distributed.mesh import ROWS

NEVER = -jnp.inf
BLOCK = 128  # tokens; it divides the vocabularies of the Qwen2-VL family


@dataclasses.dataclass(frozen=True)
class SamplingParams:
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


def uniforms(
    key: jax.Array, prompt_id_R: jax.Array, completion_Rg: jax.Array, tokens: int
) -> jax.Array:
    """A random number in [0, 1) for every token of every completion, [R, g, tokens].

    Each comes from a key that `key`, the prompt, the completion and the token's number make up.
    """

    def of_completion(prompt_id, completion):
        return jax.random.fold_in(jax.random.fold_in(key, prompt_id), completion)

    keys_Rg = jax.vmap(jax.vmap(of_completion, (None, 0)))(prompt_id_R, completion_Rg)
    shape, spec = (*keys_Rg.shape, tokens), P(*jax.typeof(keys_Rg).sharding.spec, None)
    keys_RgC = jnp.broadcast_to(keys_Rg[..., None], shape, out_sharding=spec)
    number_RgC = jnp.broadcast_to(jnp.arange(tokens), shape, out_sharding=spec)

    def of_token(key, number):
        return jax.random.uniform(jax.random.fold_in(key, number))

    return jax.vmap(jax.vmap(jax.vmap(of_token)))(keys_RgC, number_RgC)


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


def categorical(mass_RgV: jax.Array, uniform_Rg: jax.Array) -> jax.Array:
    """A token with a chance in proportion to its `mass`: one random number in [0, 1) a token.

    The first token at which the running sum exceeds u * total is taken, looked for in two steps,
    first among blocks of tokens and then in one block: a sum over the whole vocabulary is cheap, a
    running sum is not. Only tokens with mass can be taken, whatever the rounding.
    """
    *_, V = mass_RgV.shape
    spec = jax.typeof(mass_RgV).sharding.spec
    mass_RgV = jnp.pad(mass_RgV, ((0, 0), (0, 0), (0, -V % BLOCK)))
    shape = (*uniform_Rg.shape, -(-V // BLOCK), BLOCK)
    blocks = jnp.reshape(mass_RgV, shape, out_sharding=P(*spec[:2], None, None))
    mass = blocks.sum(-1)
    block_Rg, rest_Rg = _first_above(mass, uniform_Rg * mass.sum(-1))
    inside = jnp.take_along_axis(blocks, block_Rg[..., None, None], axis=2)[:, :, 0]
    token_Rg, _ = _first_above(inside, rest_Rg)
    return block_Rg * BLOCK + token_Rg


def _first_above(mass: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first index at which the running sum of `mass` [.., X] exceeds `target` [..], or the last
    with mass where rounding lets none; and what is left of the target before it."""
    X = mass.shape[-1]
    place = jnp.arange(X, dtype=jnp.int32)
    # The running sum as a product, which is not in order: it may fall by a rounding.
    to_here = (place[:, None] <= place).astype(mass.dtype)
    total = jnp.einsum("RgX,XY->RgY", mass, to_here, precision=jax.lax.Precision.HIGHEST)
    alive = mass > 0
    first = jnp.where(alive & (total > target[..., None]), place, X).min(-1)
    last = jnp.where(alive, place, 0).max(-1)
    index = jnp.where(first < X, first, last)
    before = jnp.where(place < index[..., None], mass, 0.0).sum(-1)
    return index, target - before


def sample_token(
    logits_RgV: jax.Array, uniform_Rg: jax.Array, sampling: SamplingParams
) -> tuple[jax.Array, jax.Array]:
    """A token of every completion by its random number, and its log-probability.

    The log-probability is the model's own at the sampling temperature (1 when greedy), over the
    whole vocabulary: top_k, top_p and the forbidden tokens restrict the choice, not the measure, so
    it equals what the learner computes.
    """
    scaled = reshard(logits_RgV, P(ROWS, None, None)) / (sampling.temperature or 1.0)
    V, never = scaled.shape[-1], np.array(sampling.never_ids, np.int32)
    allowed = jnp.where(np.isin(np.arange(V), never), NEVER, scaled)
    top = allowed.max(-1)
    # What may be chosen and what may not apart: the latter may hold nearly all of the mass.
    mass = jnp.exp(allowed - top[..., None])
    log_total = top + jnp.log(mass.sum(-1))
    if never.size:
        forbidden = jax.nn.logsumexp(scaled[..., never], axis=-1)
        log_total = jnp.logaddexp(log_total, forbidden)
    if sampling.temperature == 0.0:
        token_Rg = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    else:
        kept = restrict(allowed, sampling.top_k, sampling.top_p) > NEVER
        token_Rg = categorical(jnp.where(kept, mass, 0.0), uniform_Rg)
    logit_Rg = jnp.take_along_axis(scaled, token_Rg[..., None], axis=-1)[..., 0]
    return token_Rg, logit_Rg - log_total
