# SPDX-License-Identifier: Apache-2.0
"""Losses and KL estimators: small pure functions of log-probabilities.

Arrays are [..., C]: sequences in front, tokens last; advantages have one value a sequence. `mask`
is true where a token counts. A loss divides by a count the caller may give, so that micro-batches
add up to the loss of the whole batch: the mean is taken once, over everything.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def kl_k3(logps: jax.Array, ref_logps: jax.Array) -> jax.Array:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1, d = ref - policy.

    Unbiased under the policy and never negative (J. Schulman, "Approximating KL divergence").
    """
    d = ref_logps - logps
    return jnp.expm1(d) - d


def clipped_objective(
    logps: jax.Array,
    old_logps: jax.Array,
    advantages: jax.Array,
    epsilon_low: float,
    epsilon_high: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """PPO's per-token objective min(r A, clip(r, 1 - low, 1 + high) A), with r = exp(logps - old).

    Also returns where the clip took the gradient away: (low: A < 0 and r below, high: A > 0 and
    r above).
    """
    ratio = jnp.exp(logps - old_logps)
    A = advantages[..., None]
    clipped = jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high)
    low = (ratio < 1 - epsilon_low) & (A < 0)
    high = (ratio > 1 + epsilon_high) & (A > 0)
    return jnp.minimum(ratio * A, clipped * A), low, high


def grpo_loss(
    logps: jax.Array,
    old_logps: jax.Array,
    ref_logps: jax.Array | None,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    sequences: float | jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """GRPO (Shao et al., 2024, eq. 3): the mean over sequences of the mean over their tokens of

        -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta * k3(policy, reference)

    logps, old_logps, ref_logps, mask: [..., C]; advantages: [...]. `epsilon_high` defaults to
    epsilon; `ref_logps` may be None where beta is 0. `sequences` is the number of sequences to
    divide by (default: those given; a sequence without tokens counts, as in TRL).

    Returns the loss and its parts, all under the same mean: kl, clip_ratio/low_mean,
    clip_ratio/high_mean, clip_ratio/region_mean.
    """
    high = epsilon if epsilon_high is None else epsilon_high
    sequences = float(advantages.size) if sequences is None else sequences
    length = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    weight = mask / (length * sequences)  # sums to 1 over a batch

    def real(x):  # padding may hold anything; what overflows there would be a NaN in the gradient
        return jnp.where(mask, x, 0.0)

    def mean(x):
        return (x * weight).sum()

    logps, old_logps = real(logps), real(old_logps)
    objective, low_clip, high_clip = clipped_objective(logps, old_logps, advantages, epsilon, high)
    loss = -mean(objective)
    stats = {
        "clip_ratio/low_mean": mean(low_clip),
        "clip_ratio/high_mean": mean(high_clip),
        "clip_ratio/region_mean": mean(low_clip | high_clip),
    }
    if beta:
        kl = mean(kl_k3(logps, real(ref_logps)))
        loss = loss + beta * kl
        stats["kl"] = kl
    return loss, jax.lax.stop_gradient(stats)


def sft_loss(
    logps: jax.Array, mask: jax.Array, *, tokens: float | jax.Array | None = None
) -> jax.Array:
    """Mean negative log-likelihood over the tokens that count (`tokens`: how many)."""
    tokens = jnp.maximum(mask.sum(), 1) if tokens is None else tokens
    return -jnp.where(mask, logps, 0.0).sum() / tokens
