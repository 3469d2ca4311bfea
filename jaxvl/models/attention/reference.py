# SPDX-License-Identifier: Apache-2.0
"""Attention in plain JAX: what the kernels are held to, and what runs where there is none.

Scores, softmax and its sums are float32. Query heads are grouped by kv head: N = K * G.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS, axis_size
from jaxvl.models.layers import ATTENDED

MASKED = -1e30  # finite: a fully masked row stays free of NaN, and its weight underflows to 0
QUERIES = 256  # of a row, whose scores exist at a time


def share_kv(x_RSKH: Float[Array, "R S K H"]) -> Float[Array, "R S heads H"]:
    """Repeats kv heads where the tensor axis has more parts than there are heads."""
    tensor, K = axis_size("tensor"), x_RSKH.shape[2]
    if tensor <= K:
        return x_RSKH
    return jnp.repeat(x_RSKH, tensor // K, axis=2, out_sharding=P(ROWS, None, "tensor", None))


def _by_kv_head(q_RqNH: jax.Array, k_RSKH: jax.Array) -> jax.Array:
    """Queries [R, K, G, q, H], those of a kv head together."""
    q = fold(q_RqNH, "R q (K G) H -> R q K G H", K=k_RSKH.shape[2])
    return rearrange(q, "R q K G H -> R K G q H")


def masked_attention(
    q_RqNH: Float[Array, "R q N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    mask_RqS: Bool[Array, "#R q S"],
) -> Float[Array, "R q N H"]:
    """Softmax attention under a boolean mask [R, query, key] (or [1, query, key])."""
    out_RKGqH = _attend(_by_kv_head(q_RqNH, k_RSKH), k_RSKH, v_RSKH, mask_RqS)
    return fold(rearrange(out_RKGqH, "R K G q H -> R q K G H"), "R q K G H -> R q (K G) H")


def masked_weights(
    q_RqNH: Float[Array, "R q N H"],
    k_RSKH: Float[Array, "R S K H"],
    mask_RqS: Bool[Array, "#R q S"],
) -> Float[Array, "R K G q S"]:
    """The weights of that softmax, float32 [R, K, G, query, key]."""
    mass, total = _mass(_by_kv_head(q_RqNH, k_RSKH), k_RSKH, mask_RqS)
    return mass / total


def _mass(
    q_RKGqH: jax.Array, k_RSKH: jax.Array, mask_RqS: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A softmax before its division: [R, K, G, q, S], and its sums over the keys."""
    scores = _product("RKGqH,RSKH->RKGqS", q_RKGqH, k_RSKH) * q_RKGqH.shape[-1] ** -0.5
    scores = jnp.where(mask_RqS[:, None, None], scores, MASKED)
    mass = jnp.exp(scores - scores.max(-1, keepdims=True))
    return mass, mass.sum(-1, keepdims=True)


def _product(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attend(
    q_RKGqH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array, mask_RqS: jax.Array
) -> jax.Array:
    """[R, K, G, q, H]; its gradient is written out so that no array of pairs is ever transposed.

    JAX's own gradients of keys and values are products whose left side is the transposed weights. A
    CPU writes those anew, and the backward pass takes twice the time.
    """
    mass, total = _mass(q_RKGqH, k_RSKH, mask_RqS)
    out = _product("RKGqS,RSKH->RKGqH", mass.astype(v_RSKH.dtype), v_RSKH) / total
    return out.astype(v_RSKH.dtype)


def _attend_backward(kept, g_RKGqH):
    """With p = mass / total: dv = p^T g, ds = p (g v^T - g . out), dq = ds k, dk = ds^T q."""
    q, k, v, mask_RqS = kept
    mass, total = _mass(q, k, mask_RqS)
    g = g_RKGqH.astype(jnp.float32) / total
    narrow = mass.astype(v.dtype)
    out = _product("RKGqS,RSKH->RKGqH", narrow, v)
    dv = _product("RKGqH,RKGqS->RKHS", g.astype(v.dtype), narrow)
    change = _product("RKGqH,RSKH->RKGqS", g.astype(v.dtype), v)
    change -= (g * out / total).sum(-1, keepdims=True)
    ds = jnp.where(mask_RqS[:, None, None], mass * change * q.shape[-1] ** -0.5, 0.0)
    ds = ds.astype(q.dtype)
    dq = _product("RKGqS,RSKH->RKGqH", ds, k)
    dk = _product("RKGqH,RKGqS->RKHS", q, ds)
    keys_first = (rearrange(x, "R K H S -> R S K H") for x in (dk, dv))
    return dq.astype(q.dtype), *(x.astype(v.dtype) for x in keys_first), None


_attend.defvjp(lambda *operands: (_attend(*operands), operands), _attend_backward)


def causal_mask(prompt_mask_RT: Bool[Array | np.ndarray, "R T"]) -> Bool[Array, "R T T"]:
    """[R, query, key]: a prompt's token sees the real tokens up to itself."""
    T = prompt_mask_RT.shape[1]
    return jnp.tril(jnp.ones((T, T), bool)) & prompt_mask_RT[:, None]


def segment_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    segments_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """See `attention.segment_attention`."""

    def attend(q_RqNH, numbers_Rq):
        mask_RqS = numbers_Rq[:, :, None] == segments_RS[:, None, :]
        return masked_attention(q_RqNH, k_RSKH, v_RSKH, mask_RqS)

    return _over_queries(attend, q_RSNH, segments_RS)


def row_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    examples_RS: Int[Array | np.ndarray, "R S"],
) -> Float[Array, "R S N H"]:
    """See `attention.row_attention`."""
    S = examples_RS.shape[1]
    # One number for both: which example, and where in the row.
    numbers_RS = examples_RS * S + jnp.arange(S)

    def attend(q_RqNH, numbers_Rq):
        same = numbers_Rq[:, :, None] // S == examples_RS[:, None, :]
        mask_RqS = same & (numbers_Rq[:, :, None] % S >= jnp.arange(S))
        return masked_attention(q_RqNH, k_RSKH, v_RSKH, mask_RqS)

    return _over_queries(attend, q_RSNH, numbers_RS)


def _causal_attention(q_RSNH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array) -> jax.Array:
    def attend(q_RqNH, places_Rq):
        mask_RqS = places_Rq[:, :, None] >= jnp.arange(k_RSKH.shape[1])
        return masked_attention(q_RqNH, k_RSKH, v_RSKH, mask_RqS)

    R, S = q_RSNH.shape[:2]
    places_RS = jnp.broadcast_to(jnp.arange(S), (R, S), out_sharding=P(ROWS, None))
    return _over_queries(attend, q_RSNH, places_RS)


def _over_queries(
    attend: Callable, q_RSNH: jax.Array, numbers_RS: jax.Array | np.ndarray
) -> jax.Array:
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
        return rearrange(fold(x, "R (p q) ... -> R p q ...", p=pieces), "R p ... -> p R ...")

    body = jax.checkpoint(lambda piece: attend(*piece), prevent_cse=False)
    out_pRqNH = jax.lax.map(body, tuple(cut(x) for x in arrays))
    out = fold(rearrange(out_pRqNH, "p R ... -> R p ..."), "R p q N H -> R (p q) N H")
    return checkpoint_name(out, ATTENDED)


def keys_last(k: Float[Array, "*rows S K H"]) -> Float[Array, "*rows K H S"]:
    """[..., S, K, H] -> [..., K, H, S]: the order in which a decode step reads keys."""
    return rearrange(k, "... S K H -> ... K H S")


def heads_first(v: Float[Array, "*rows S K H"]) -> Float[Array, "*rows K S H"]:
    """[..., S, K, H] -> [..., K, S, H]: the order in which a decode step reads values."""
    return rearrange(v, "... S K H -> ... K S H")


def tree_attention(
    q_RSNH: Float[Array, "R S N H"],
    k_RSKH: Float[Array, "R S K H"],
    v_RSKH: Float[Array, "R S K H"],
    prompt_mask_RT: Bool[Array | np.ndarray, "R T"],
    completions: int,
) -> Float[Array, "R S N H"]:
    """See `attention.tree_attention`: no mask is larger than [QUERIES, T] or [C, C]."""
    T, g = prompt_mask_RT.shape[1], completions
    prompt_k, prompt_v = k_RSKH[:, :T], v_RSKH[:, :T]
    prompt = _causal_attention(q_RSNH[:, :T], prompt_k, prompt_v)
    if g == 0:
        return prompt
    R, C = q_RSNH.shape[0], (q_RSNH.shape[1] - T) // g
    rows = P(ROWS, None, None)
    on_prompt = jnp.broadcast_to(prompt_mask_RT[:, None], (R, C, T), out_sharding=rows)
    on_own = jnp.broadcast_to(jnp.tril(jnp.ones((C, C), bool)), (R, C, C), out_sharding=rows)
    mask = jnp.concatenate([on_prompt, on_own], axis=2)

    def attend(q, k, v):  # of one completion a row, behind its prompt
        k, v = jnp.concatenate([prompt_k, k], axis=1), jnp.concatenate([prompt_v, v], axis=1)
        return masked_attention(q, k, v, mask)

    own = in_pieces(attend, g, q_RSNH[:, T:], k_RSKH[:, T:], v_RSKH[:, T:])
    return jnp.concatenate([prompt, own], axis=1)
