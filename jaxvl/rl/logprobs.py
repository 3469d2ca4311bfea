# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens from hidden states, a chunk of tokens at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Float32, Int

from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import axis_size
from jaxvl.models.text import Decoder

KEPT = "maximum and sum of exponentials of logits"
CHUNK, TOKENS = 256, 1024  # of a row at least, and of a device's rows together


def chunk_size(asked: int, rows: int) -> int:
    """Tokens of a row whose logits exist at a time, with `rows` rows on a device: what is `asked`,
    or, where that is 0, enough for products to take longer than the head's weights to be read."""
    return asked or max(CHUNK, -(-TOKENS // rows))


def pick(
    logits_RSV: Float32[Array | np.ndarray, "R S V"], tokens_RS: Int[Array | np.ndarray, "R S"]
) -> tuple[Float32[Array, "R S"], Float32[Array, "R S"]]:
    """log softmax at the tokens, and the entropy of the softmax: two [R, S], float32.

    A comparison instead of a gather, so that the vocabulary may stay split over devices.
    """
    hit = tokens_RS[..., None] == jnp.arange(logits_RSV.shape[-1])
    top = checkpoint_name(jax.lax.stop_gradient(logits_RSV.max(-1)), KEPT)
    below = logits_RSV - top[..., None]
    # What follows the maximum is summed side by side, so that logits are read once for all three.
    mass = jnp.exp(below)
    picked = jnp.where(hit, below, 0.0).sum(-1)
    total = checkpoint_name(mass.sum(-1), KEPT)
    weighted = jax.lax.stop_gradient(mass * below).sum(-1)
    log_total = jnp.log(total)
    return picked - log_total, jax.lax.stop_gradient(log_total - weighted / total)


@jax.named_scope("head")
def token_logprobs(
    text: Decoder,
    hidden_RgCD: Float[Array, "R g C D"],
    tokens_RgC: Int[Array, "R g C"],
    temperature: float,
    chunk: int,
) -> tuple[Float32[Array, "R g C"], Float32[Array, "R g C"]]:
    """log p(token | past) at `temperature` and the policy's entropy there: two float32 [R, g, C].

    Logits are made for `chunk` tokens of each row at a time (see `chunk_size`) and made again for
    the backward pass, so a [R, g, C, V] array never exists. The entropy carries no gradient.
    """
    R, g, C, _ = hidden_RgCD.shape
    S = g * C
    chunk = min(chunk_size(chunk, R // (axis_size("data") * axis_size("fsdp"))), S)
    pad = -S % chunk

    def pieces(x: jax.Array) -> jax.Array:
        """[R, g, C, ..] -> [n, R, chunk, ..]"""
        x = fold(x, "R g C ... -> R (g C) ...")
        x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return rearrange(fold(x, "R (n c) ... -> R n c ...", c=chunk), "R n ... -> n R ...")

    def whole(x_nRc: jax.Array) -> jax.Array:
        """[n, R, chunk] -> [R, g, C]"""
        x_RS = fold(rearrange(x_nRc, "n R c -> R n c"), "R n c -> R (n c)")
        return fold(x_RS[:, :S], "R (g C) -> R g C", g=g)

    table_VD = text.table()

    # Kept for the backward pass, sums need no second look at the logits.
    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
    def body(_, piece):
        hidden_RSD, tokens_RS = piece
        return None, pick(text.logits(hidden_RSD, table_VD) / temperature, tokens_RS)

    _, (logps, entropy) = jax.lax.scan(body, None, (pieces(hidden_RgCD), pieces(tokens_RgC)))
    return whole(logps), whole(entropy)
