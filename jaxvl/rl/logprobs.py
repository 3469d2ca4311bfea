# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens from hidden states, a chunk of tokens at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.mesh import ROWS
from jaxvl.models.text import Decoder


def pick(logits_RSV: jax.Array, tokens_RS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log softmax at the tokens, and the entropy of the softmax: two [R, S], float32.

    A comparison instead of a gather, so that the vocabulary may stay split over devices.
    """
    hit = tokens_RS[..., None] == jnp.arange(logits_RSV.shape[-1])
    log_total = jax.nn.logsumexp(logits_RSV, axis=-1)
    logps = jnp.where(hit, logits_RSV, 0.0).sum(-1) - log_total
    fixed, fixed_total = jax.lax.stop_gradient((logits_RSV, log_total))
    mean = (jnp.exp(fixed - fixed_total[..., None]) * fixed).sum(-1)
    return logps, fixed_total - mean


def token_logprobs(
    text: Decoder, hidden_RgCD: jax.Array, tokens_RgC: jax.Array, temperature: float, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """log p(token | past) at `temperature` and the policy's entropy there: two float32 [R, g, C].

    Logits are made for `chunk` tokens of each row at a time and made again for the backward pass,
    so a [R, g, C, V] array never exists. The entropy carries no gradient.
    """
    R, g, C, D = hidden_RgCD.shape
    S = g * C
    chunk = min(chunk, S)
    pad = -S % chunk

    def rows(x: jax.Array, *shape: int) -> jax.Array:
        """`x` as [R, *shape]: with axes of size 1 jax cannot tell which of them is split."""
        return jnp.reshape(x, (R, *shape), out_sharding=P(ROWS, *(None,) * len(shape)))

    hidden = jnp.pad(rows(hidden_RgCD, S, D), ((0, 0), (0, pad), (0, 0)))
    tokens = jnp.pad(rows(tokens_RgC, S), ((0, 0), (0, pad)))
    count = (S + pad) // chunk

    table_VD = text.table()

    @jax.checkpoint
    def body(_, piece):
        hidden_RSD, tokens_RS = piece
        return None, pick(text.logits(hidden_RSD, table_VD) / temperature, tokens_RS)

    pieces = (
        jnp.moveaxis(rows(hidden, count, chunk, D), 1, 0),
        jnp.moveaxis(rows(tokens, count, chunk), 1, 0),
    )
    _, results = jax.lax.scan(body, None, pieces)
    logps, entropy = (rows(rows(jnp.moveaxis(x, 0, 1), S + pad)[:, :S], g, C) for x in results)
    return logps, entropy
