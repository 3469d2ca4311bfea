# SPDX-License-Identifier: Apache-2.0
"""Attention in plain JAX: what the kernels are held to, and what runs where there is none.

Scores, softmax and its sums are float32. Query heads are grouped by kv head: N = K * G.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxvl.sharding import ROWS, axis_size

MASKED = -1e30  # finite: a fully masked row stays free of NaN, and its weight underflows to 0


def share_kv(x_RSKH: jax.Array) -> jax.Array:
    """Repeats kv heads where the tensor axis has more parts than there are heads."""
    tensor, K = axis_size("tensor"), x_RSKH.shape[2]
    if tensor <= K:
        return x_RSKH
    return jnp.repeat(x_RSKH, tensor // K, axis=2, out_sharding=P(ROWS, None, "tensor", None))


def _group(q: jax.Array, kv_heads: int) -> jax.Array:
    """[..., N, H] -> [..., K, G, H]"""
    *lead, N, H = q.shape
    spec = P(ROWS, *(None,) * (len(lead) - 1), "tensor", None, None)
    return jnp.reshape(q, (*lead, kv_heads, N // kv_heads, H), out_sharding=spec)


def _ungroup(o: jax.Array) -> jax.Array:
    """[..., K, G, H] -> [..., N, H]"""
    *lead, K, G, H = o.shape
    spec = P(ROWS, *(None,) * (len(lead) - 1), "tensor", None)
    return jnp.reshape(o, (*lead, K * G, H), out_sharding=spec)


def _scores(equation: str, q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    scores = jnp.einsum(equation, q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.where(mask, scores, MASKED)


def masked_attention(
    q_RSNH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array, mask_RSS: jax.Array
) -> jax.Array:
    """Softmax attention under a boolean mask [R, query, key] (or [1, query, key])."""
    weights = masked_weights(q_RSNH, k_RSKH, mask_RSS).astype(v_RSKH.dtype)
    return _ungroup(jnp.einsum("RKGQS,RSKH->RQKGH", weights, v_RSKH))


def masked_weights(q_RSNH: jax.Array, k_RSKH: jax.Array, mask_RSS: jax.Array) -> jax.Array:
    """The weights of that softmax, float32 [R, K, G, query, key]."""
    q = _group(q_RSNH, k_RSKH.shape[2])
    scores = _scores("RQKGH,RSKH->RKGQS", q, k_RSKH, mask_RSS[:, None, None])
    return jax.nn.softmax(scores, axis=-1)


def causal_mask(prompt_mask_RT: jax.Array) -> jax.Array:
    """[R, query, key]: a prompt's token sees the real tokens up to itself."""
    T = prompt_mask_RT.shape[1]
    return jnp.tril(jnp.ones((T, T), bool)) & prompt_mask_RT[:, None]


def segment_attention(
    q_RSNH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array, segments_RS: jax.Array
) -> jax.Array:
    """See `attention.segment_attention`."""
    mask_RSS = segments_RS[:, :, None] == segments_RS[:, None, :]
    return masked_attention(q_RSNH, k_RSKH, v_RSKH, mask_RSS)


def keys_last(k: jax.Array) -> jax.Array:
    """[..., S, K, H] -> [..., K, H, S]: the order in which `branch_attention` reads keys."""
    return jnp.moveaxis(k, -3, -1)


def heads_first(v: jax.Array) -> jax.Array:
    """[..., S, K, H] -> [..., K, S, H]: the order in which `branch_attention` reads values."""
    return jnp.swapaxes(v, -3, -2)


def branch_attention(
    q_RgQNH: jax.Array,
    prompt_k_RKHT: jax.Array,
    prompt_v_RKTH: jax.Array,
    prompt_mask_RT: jax.Array,
    own_k_RgKHS: jax.Array,
    own_v_RgKSH: jax.Array,
    own_mask_QS: jax.Array,
) -> jax.Array:
    """Completions attending to their row's prompt and to their own past: one softmax over both.

    Two blocks of scores share a maximum and a sum: the prompt's keys stand once a row whatever g.
    Keys and values come in the order that products read them, so that a cache which holds them so
    is never copied. Returns [R, g, Q, N, H].
    """

    def swap(x):  # between the layouts of the two blocks: [R, g, K, ..] <-> [R, K, g, ..]
        return jnp.swapaxes(x, 1, 2)

    q = _group(q_RgQNH, prompt_k_RKHT.shape[1])
    prompt = _scores(
        "RgQKGH,RKHT->RKgQGT", q, prompt_k_RKHT, prompt_mask_RT[:, None, None, None, None]
    )
    own = _scores("RgQKGH,RgKHS->RgKQGS", q, own_k_RgKHS, own_mask_QS[:, None])
    top = jax.lax.stop_gradient(jnp.maximum(prompt.max(-1), swap(own.max(-1))))
    prompt = jnp.exp(prompt - top[..., None])
    own = jnp.exp(own - swap(top)[..., None])
    total = prompt.sum(-1) + swap(own.sum(-1))
    dtype = prompt_v_RKTH.dtype
    out = jnp.einsum(
        "RKgQGT,RKTH->RKgQGH",
        prompt.astype(dtype),
        prompt_v_RKTH,
        preferred_element_type=jnp.float32,
    ) + swap(
        jnp.einsum(
            "RgKQGS,RgKSH->RgKQGH",
            own.astype(dtype),
            own_v_RgKSH,
            preferred_element_type=jnp.float32,
        )
    )
    out = (out / total[..., None]).astype(dtype)
    return _ungroup(jnp.moveaxis(out, 1, 3))


def tree_attention(
    q_RSNH: jax.Array,
    k_RSKH: jax.Array,
    v_RSKH: jax.Array,
    prompt_mask_RT: jax.Array,
    completions: int,
) -> jax.Array:
    """See `attention.tree_attention`: no mask is larger than [T, T] or [C, C]."""
    R, S, N, H = q_RSNH.shape
    T = prompt_mask_RT.shape[1]
    prompt = masked_attention(
        q_RSNH[:, :T], k_RSKH[:, :T], v_RSKH[:, :T], causal_mask(prompt_mask_RT)
    )
    if completions == 0:
        return prompt
    C = (S - T) // completions

    def branch(x):
        spec = P(ROWS, None, None, "tensor", None)
        return jnp.reshape(x[:, T:], (R, completions, C, *x.shape[2:]), out_sharding=spec)

    own = branch_attention(
        branch(q_RSNH),
        keys_last(k_RSKH[:, :T]),
        heads_first(v_RSKH[:, :T]),
        prompt_mask_RT,
        keys_last(branch(k_RSKH)),
        heads_first(branch(v_RSKH)),
        jnp.tril(jnp.ones((C, C), bool)),
    )
    own = jnp.reshape(own, (R, S - T, N, H), out_sharding=P(ROWS, None, "tensor", None))
    return jnp.concatenate([prompt, own], axis=1)
