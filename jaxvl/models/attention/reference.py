# SPDX-License-Identifier: Apache-2.0
"""Attention in plain JAX: what the kernels are held to, and what runs where there is none.

Scores, softmax and its sums are float32. Query heads are grouped by kv head: N = K * G.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from jaxvl.models.layers import ATTENDED
from jaxvl.sharding import ROWS, axis_size

MASKED = -1e30  # finite: a fully masked row stays free of NaN, and its weight underflows to 0
QUERIES = 256  # of a row, whose scores exist at a time


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

    def attend(q_RQNH, numbers_RQ):
        mask_RQS = numbers_RQ[:, :, None] == segments_RS[:, None, :]
        return masked_attention(q_RQNH, k_RSKH, v_RSKH, mask_RQS)

    return _over_queries(attend, q_RSNH, segments_RS)


def _causal_attention(q_RSNH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array) -> jax.Array:
    def attend(q_RQNH, places_RQ):
        mask_RQS = places_RQ[:, :, None] >= jnp.arange(k_RSKH.shape[1])
        return masked_attention(q_RQNH, k_RSKH, v_RSKH, mask_RQS)

    R, S = q_RSNH.shape[:2]
    places_RS = jnp.broadcast_to(jnp.arange(S), (R, S), out_sharding=P(ROWS, None))
    return _over_queries(attend, q_RSNH, places_RS)


def _over_queries(attend: Callable, q_RSNH: jax.Array, numbers_RS: jax.Array) -> jax.Array:
    """`attend(queries, their numbers)` for at most `QUERIES` queries of each row at a time."""
    S = q_RSNH.shape[1]
    pieces = -(-S // QUERIES)
    pad = ((0, 0), (0, -S % pieces))
    q, numbers = jnp.pad(q_RSNH, (*pad, (0, 0), (0, 0))), jnp.pad(numbers_RS, pad)
    return in_pieces(attend, pieces, q, numbers)[:, :S]


def in_pieces(attend: Callable, pieces: int, *arrays: jax.Array) -> jax.Array:
    """`attend` on equal pieces of axis 1, one after the other; arrays are [R, S] or [R, S, N, H].

    The scores of one piece exist at a time, and are made again for its backward pass. That takes a
    fifth less time on a CPU than all scores at once, which no cache holds.
    """
    if pieces == 1:
        return checkpoint_name(attend(*arrays), ATTENDED)

    def cut(x):
        shape = (x.shape[0], pieces, x.shape[1] // pieces, *x.shape[2:])
        heads = ("tensor", None) if x.ndim == 4 else ()
        x = jnp.reshape(x, shape, out_sharding=P(ROWS, None, None, *heads))
        return jnp.moveaxis(x, 1, 0)

    body = jax.checkpoint(lambda piece: attend(*piece), prevent_cse=False)
    out = jnp.moveaxis(jax.lax.map(body, tuple(cut(x) for x in arrays)), 0, 1)
    R, _, Q, N, H = out.shape
    out = jnp.reshape(out, (R, pieces * Q, N, H), out_sharding=P(ROWS, None, "tensor", None))
    return checkpoint_name(out, ATTENDED)


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
    """See `attention.tree_attention`: no mask is larger than [QUERIES, T] or [C, C]."""
    T, g = prompt_mask_RT.shape[1], completions
    prompt_k, prompt_v = k_RSKH[:, :T], v_RSKH[:, :T]
    prompt = _causal_attention(q_RSNH[:, :T], prompt_k, prompt_v)
    if g == 0:
        return prompt
    prompt_k, prompt_v = keys_last(prompt_k), heads_first(prompt_v)
    C = (q_RSNH.shape[1] - T) // g
    own_mask = jnp.tril(jnp.ones((C, C), bool))

    def attend(q, k, v):  # of one completion a row
        q, k, v = q[:, None], keys_last(k)[:, None], heads_first(v)[:, None]
        return branch_attention(q, prompt_k, prompt_v, prompt_mask_RT, k, v, own_mask)[:, 0]

    own = in_pieces(attend, g, q_RSNH[:, T:], k_RSKH[:, T:], v_RSKH[:, T:])
    return jnp.concatenate([prompt, own], axis=1)
