# SPDX-License-Identifier: Apache-2.0
"""Losses and KL estimators: small pure functions of log-probabilities.

Arrays are [..., C]: sequences in front, tokens last; advantages have one value a sequence. `mask`
is true where a token counts. With r = exp(logps - old) the ratio of a token, a loss is

    sum over tokens of  weight * (beta * KL - correction * objective(r, A))

where the objective says what is clipped and the weight which mean is taken. Names and means are
TRL's. A mean may be that of a larger batch (`BatchCounts`), so that its parts add up to its loss.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvl.config import Bnpo, Cispo, Dapo, DrGrpo, Grpo, Gspo, Loss

Numbers = Float[Array | np.ndarray, "*any"]
PerToken = Float[Array | np.ndarray, "*Rg C"]
PerSequence = Float[Array | np.ndarray, "*Rg"]
Mask = Bool[Array | np.ndarray, "*Rg C"]
Stats = dict[str, Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class BatchCounts:
    """What a loss divides by: the counts of the whole batch."""

    sequences: float | jax.Array  # those without a token count too, as in TRL
    tokens: float | jax.Array  # that count, at least 1
    length: int  # tokens that a completion may have at most

    @classmethod
    def of(cls, mask: Mask, length: int | None = None) -> BatchCounts:
        """Of the batch whose mask this is; `length` defaults to the mask's last axis."""
        sequences = float(mask.size // mask.shape[-1])
        return cls(sequences, jnp.maximum(mask.sum(), 1), length or mask.shape[-1])


def kl_k1(logps: Numbers, ref_logps: Numbers) -> Numbers:
    """policy - reference: unbiased, and of either sign. In a loss its gradient has mean zero."""
    return logps - ref_logps


def kl_k2(logps: Numbers, ref_logps: Numbers) -> Numbers:
    """(policy - reference)^2 / 2: biased a little, never negative, and of the right gradient."""
    return (logps - ref_logps) ** 2 / 2


def kl_k3(logps: Numbers, ref_logps: Numbers) -> Numbers:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1, d = ref - policy.

    Unbiased under the policy and never negative (J. Schulman, "Approximating KL divergence", as
    the two above).
    """
    d = ref_logps - logps
    return jnp.expm1(d) - d


KL = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def next_beta(beta: float, kl: float, target: float, horizon: int, completions: int) -> float:
    """The adaptive controller of Ziegler et al. (2019, arXiv 1909.08593, Sec. 2.2):

    beta * (1 + clip(kl / target - 1, -0.2, 0.2) * completions / horizon)

    A step takes at most nine tenths of it away: with more than 5 horizons of completions in a step
    the formula alone would turn its sign. A `kl` that is not finite says nothing, and beta stays.
    """
    if not math.isfinite(kl):
        return beta
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * max(1 + error * completions / horizon, 0.1)


def clipped_objective(
    logps: PerToken,
    old_logps: PerToken,
    advantages: PerSequence,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None = None,
) -> tuple[PerToken, Mask, Mask]:
    """PPO's per-token objective min(r A, clip(r, 1 - low, 1 + high) A), with r = exp(logps - old).

    With `delta` the first r is at most that (two-sided clipping, arXiv 2505.07291): where A < 0 it
    would pull without bound. Also returns where the clip took the gradient away: (low: A < 0 and r
    below, high: A > 0 and r above).
    """
    ratio = jnp.exp(logps - old_logps)
    A = advantages[..., None]
    clipped = jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high)
    low = (ratio < 1 - epsilon_low) & (A < 0)
    high = (ratio > 1 + epsilon_high) & (A > 0)
    bounded = ratio if delta is None else jnp.minimum(ratio, delta)
    return jnp.minimum(bounded * A, clipped * A), low, high


def cispo_objective(
    logps: PerToken,
    old_logps: PerToken,
    advantages: PerSequence,
    epsilon_high: float,
) -> tuple[PerToken, Mask]:
    """CISPO's min(r, epsilon_high) A log p (arXiv 2506.13585), the weight without a gradient:
    a token that is above the bound still learns. Also returns where it is, for A > 0."""
    ratio = jax.lax.stop_gradient(jnp.exp(logps - old_logps))
    A = advantages[..., None]
    return jnp.minimum(ratio, epsilon_high) * A * logps, (ratio > epsilon_high) & (A > 0)


def sequence_ratio(logps: PerToken, old_logps: PerToken, mask: Mask) -> Float[Array, "*Rg 1"]:
    """log of GSPO's ratio (arXiv 2507.18071), the mean of the tokens' log-ratios: [..., 1].

    A mean and not the sum: the ratio of a long sequence stays near 1.
    """
    total = jnp.where(mask, logps - old_logps, 0.0).sum(-1, keepdims=True)
    return total / jnp.maximum(mask.sum(-1, keepdims=True), 1)


def objective(
    loss: Loss,
    logps: PerToken,
    old_logps: PerToken,
    advantages: PerSequence,
    mask: Mask,
) -> tuple[Float[Array | np.ndarray, "*Rg c"], Stats]:
    """What each token is to make large, [..., C] or for GSPO [..., 1], and where it is clipped."""
    if isinstance(loss, Cispo):
        value, high = cispo_objective(logps, old_logps, advantages, loss.epsilon_high)
        return value, {"cispo_clip_ratio": high}
    if isinstance(loss, Gspo):
        logps = sequence_ratio(logps, old_logps, mask)
        old_logps = jnp.zeros_like(logps)
    above = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
    bound = getattr(loss, "delta", None)
    value, low, high = clipped_objective(logps, old_logps, advantages, loss.epsilon, above, bound)
    clipped = {"low_mean": low, "high_mean": high, "region_mean": low | high}
    return value, {f"clip_ratio/{name}": where for name, where in clipped.items()}


def weights(loss: Loss, mask: Mask, whole: BatchCounts) -> PerToken:
    """Each token's weight in the mean that `loss` takes, [..., C]; 0 where the mask is false."""
    length = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    part = mask.size / mask.shape[-1] / whole.sequences  # of the whole batch
    match loss:
        case DrGrpo():
            return mask / (whole.sequences * whole.length)
        case Dapo() | Cispo():
            return mask / whole.tokens
        case Bnpo():
            return mask * part / jnp.maximum(mask.sum(), 1)
        case Grpo() | Gspo():
            return mask / (length * whole.sequences)
    raise TypeError(f"{type(loss).__name__} is no loss")


def policy_loss(
    loss: Loss,
    logps: PerToken,
    old_logps: PerToken,
    ref_logps: PerToken | None,
    advantages: PerSequence,
    mask: Mask,
    *,
    beta: float | jax.Array | None = None,
    kl: str = "k3",
    correction: PerToken | None = None,
    whole: BatchCounts | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """The loss that the config names, with its parameters, for tokens of `mask`; and its parts.

    logps, old_logps, ref_logps, mask, correction: [..., C]; advantages: [...]. Without a `beta`
    there is no KL, and `ref_logps` may be None. `correction` is a weight of each token's objective
    without a gradient (importance sampling). `whole` is the batch that this is a part of (default:
    this is all).

    The parts, "kl" and the shares that are clipped, are means over the tokens given, as TRL's are.
    """
    whole = whole or BatchCounts.of(mask)

    def real(x):  # padding may hold anything; what overflows there would be a NaN in the gradient
        return jnp.where(mask, x, 0.0)

    logps, old_logps = real(logps), real(old_logps)
    gain, stats = objective(loss, logps, old_logps, advantages, mask)
    if correction is not None:
        gain = gain * jax.lax.stop_gradient(real(correction))
    weight = weights(loss, mask, whole)
    value = -jnp.sum(gain * weight)
    if beta is not None:
        stats["kl"] = KL[kl](logps, real(ref_logps))
        value = value + beta * jnp.sum(stats["kl"] * weight)
    tokens = jnp.maximum(mask.sum(), 1)
    means = {name: (real(x).sum() / tokens) for name, x in stats.items()}
    return value, jax.lax.stop_gradient(means)


def grpo_loss(
    logps: PerToken,
    old_logps: PerToken,
    ref_logps: PerToken | None,
    advantages: PerSequence,
    mask: Mask,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
) -> tuple[Float[Array, ""], Stats]:
    """`policy_loss` of GRPO (Shao et al., 2024, eq. 3): the mean over sequences of the mean over
    their tokens of

        -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta * k3(policy, reference)
    """
    loss = Grpo(epsilon, epsilon_high, delta)
    arrays = (logps, old_logps, ref_logps, advantages, mask)
    return policy_loss(loss, *arrays, beta=beta or None)


def truncated_weights(old_logps: PerToken, sampler_logps: PerToken, cap: float) -> PerToken:
    """Truncated importance sampling: min(exp(old - sampler), cap) of each token, no gradient.

    `old` is the learner's own log-probability of what the sampler drew.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(old_logps - sampler_logps), cap))


def sft_loss(
    logps: PerToken,
    mask: Mask,
    *,
    tokens: float | jax.Array | None = None,
) -> Float[Array, ""]:
    """Mean negative log-likelihood over the tokens that count (`tokens`: how many)."""
    tokens = jnp.maximum(mask.sum(), 1) if tokens is None else tokens
    return -jnp.where(mask, logps, 0.0).sum() / tokens
