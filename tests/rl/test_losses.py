# SPDX-License-Identifier: Apache-2.0
"""Losses against plain numpy in float64, one token at a time, and its finite differences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.config import Bnpo, Cispo, Dapo, DrGrpo, Grpo, Gspo
from jaxvl.rl.losses import (
    KL,
    BatchCounts,
    clipped_objective,
    grpo_loss,
    kl_k3,
    next_beta,
    policy_loss,
    sequence_ratio,
    sft_loss,
    truncated_weights,
)

N, C = 4, 5
EXACT = 1e-12  # float64 on both sides
SLOPE = 1e-7  # central differences of step 1e-6 in float64
LOSSES = [
    Grpo(),
    Grpo(epsilon_high=0.28),
    Grpo(delta=1.3),
    DrGrpo(),
    Dapo(epsilon_high=0.28),
    Bnpo(),
    Cispo(epsilon_high=1.2),
    Gspo(epsilon=0.05, epsilon_high=0.1),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def arrays(seed=0):
    """Log-probabilities whose ratios fall on both sides of the clip; sequence 2 has no token."""
    rng = np.random.default_rng(seed)
    logps = rng.normal(-2, 1, (N, C))
    old = logps + rng.normal(0, 0.4, (N, C))
    old[1, :2] += 0.4  # A < 0 and the ratio low: clipped
    ref = logps + rng.normal(0, 0.5, (N, C))
    advantages = np.array([1.5, -0.7, 2.0, -1.0])
    mask = np.arange(C) < np.array([5, 3, 0, 1])[:, None]
    return logps, old, ref, advantages, mask


def plain_objective(loss, n, c, logps, old, A, mask, frozen):
    """What token c of sequence n is to make large. `frozen` are log-probabilities that no
    derivative is taken by."""
    log_ratio = logps - old
    if isinstance(loss, Cispo):
        return min(np.exp(frozen[n, c] - old[n, c]), loss.epsilon_high) * A[n] * logps[n, c]
    ratio = np.exp(log_ratio[n, c])
    if isinstance(loss, Gspo):
        ratio = np.exp(log_ratio[n][mask[n]].mean())
    high = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
    clipped = min(max(ratio, 1 - loss.epsilon), 1 + high)
    bounded = min(ratio, getattr(loss, "delta", None) or np.inf)
    return min(bounded * A[n], clipped * A[n])


def plain_weight(loss, n, mask):
    """The weight of each token of sequence n in a batch that is all there is."""
    per_sequence = 1 / (mask[n].sum() * N)
    per_token = 1 / mask.sum()
    return {
        "Grpo": per_sequence,
        "Gspo": per_sequence,
        "DrGrpo": 1 / (N * C),
        "Dapo": per_token,
        "Bnpo": per_token,
        "Cispo": per_token,
    }[type(loss).__name__]


def plain_loss(loss, logps, old, ref, A, mask, beta, frozen, correction=None):
    """The module's formula in a loop, with k3."""
    total = 0.0
    for n, c in zip(*np.nonzero(mask), strict=True):
        gain = plain_objective(loss, n, c, logps, old, A, mask, frozen)
        d = ref[n, c] - logps[n, c]
        weight = 1.0 if correction is None else correction[n, c]
        total += plain_weight(loss, n, mask) * (beta * (np.exp(d) - d - 1) - weight * gain)
    return total


def slopes(function, x, step=1e-6):
    """Central differences of a scalar function by every entry of x."""
    grad = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        grad[at] = (function(up) - function(down)) / (2 * step)
    return grad


@functools.cache
def jitted(loss, beta=None):
    def run(logps, old, ref, advantages, mask, correction):
        arrays = (logps, old, ref, advantages, mask)
        return policy_loss(loss, *arrays, beta=beta, correction=correction)

    return jax.jit(jax.value_and_grad(run, has_aux=True))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient(loss, seed):
    """With KL, and every token's objective weighted by a correction of its own."""
    logps, old, ref, advantages, mask = arrays(seed)
    correction = np.random.default_rng(2).uniform(0.5, 2, (N, C))
    (value, _), grad = jitted(loss, 0.04)(logps, old, ref, advantages, mask, correction)

    def plain(x):
        return plain_loss(loss, x, old, ref, advantages, mask, 0.04, logps, correction)

    np.testing.assert_allclose(value, plain(logps), rtol=EXACT)
    np.testing.assert_allclose(grad, slopes(plain, logps), atol=SLOPE)
    assert (np.asarray(grad)[~mask] == 0).all() and np.asarray(grad).any()


def test_grpo_loss_is_the_loss_of_the_defaults():
    logps, old, ref, advantages, mask = arrays()
    value, stats = grpo_loss(logps, old, ref, advantages, mask, epsilon_high=0.28, beta=0.1)
    expected = plain_loss(
        Grpo(epsilon_high=0.28), logps, old, ref, advantages, mask, 0.1, frozen=logps
    )
    np.testing.assert_allclose(value, expected, rtol=EXACT)
    assert stats["kl"] > 0
    assert "kl" not in grpo_loss(logps, old, None, advantages, mask)[1]


def test_epsilon_high_widens_the_upper_side_alone():
    """Ratio 1.25: clipped at 1.2, free at 1.28; ratio 0.75 with A < 0 is clipped by both."""
    old, mask = np.zeros((2, 1)), np.ones((2, 1), bool)
    logps, advantages = np.log([[1.25], [0.75]]), np.array([1.0, -1.0])

    def grads(high):
        return np.asarray(
            jax.grad(lambda x: grpo_loss(x, old, None, advantages, mask, epsilon_high=high)[0])(
                logps
            )
        )

    np.testing.assert_allclose(grads(None), [[0.0], [0.0]])
    np.testing.assert_allclose(grads(0.28), [[-1.25 / 2], [0.0]], rtol=EXACT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope", "flags"),
    [
        # A > 0: gain is cut above 1.2 and never below; A < 0: cut below 0.8 and never above.
        (1.5, 2.0, 1.2 * 2.0, 0.0, (False, True)),
        (1.1, 2.0, 1.1 * 2.0, 1.1 * 2.0, (False, False)),
        (0.5, 2.0, 0.5 * 2.0, 0.5 * 2.0, (False, False)),
        (0.5, -2.0, 0.8 * -2.0, 0.0, (True, False)),
        (0.9, -2.0, 0.9 * -2.0, 0.9 * -2.0, (False, False)),
        (1.5, -2.0, 1.5 * -2.0, 1.5 * -2.0, (False, False)),
        (1.5, 0.0, 0.0, 0.0, (False, False)),
    ],
)
def test_the_clip_for_either_sign_of_the_advantage(ratio, advantage, objective, slope, flags):
    def run(logps):
        value, low, high = clipped_objective(
            logps, jnp.zeros((1, 1)), jnp.array([advantage]), 0.2, 0.2
        )
        return value[0, 0], (bool(low[0, 0]), bool(high[0, 0]))

    (value, found), grad = jax.value_and_grad(run, has_aux=True)(jnp.log(jnp.array([[ratio]])))
    np.testing.assert_allclose(value, objective, rtol=EXACT)
    np.testing.assert_allclose(grad, [[slope]], atol=EXACT)
    assert found == flags


def test_delta_bounds_the_ratio_where_the_advantage_is_negative():
    """Ratio 4: without delta a pull of 4, with delta 3 none; A > 0 is clipped at 1.2 already."""
    old, logps = jnp.zeros((2, 1)), jnp.log(jnp.full((2, 1), 4.0))
    advantages = jnp.array([-1.0, 1.0])

    def run(logps, delta):
        return clipped_objective(logps, old, advantages, 0.2, 0.2, delta)[0].sum()

    free, bound = (jax.grad(run)(logps, delta) for delta in (None, 3.0))
    np.testing.assert_allclose(free, [[-4.0], [0.0]], rtol=EXACT)
    np.testing.assert_allclose(bound, [[0.0], [0.0]])
    np.testing.assert_allclose(run(logps, 3.0), -3.0 + 1.2, rtol=EXACT)


def test_the_weight_of_cispo_has_no_gradient():
    """d/dlogp = -min(r, 2) A: above the bound a token still learns. A gradient through the weight
    would add log p: at log p = -2 the sign would turn."""
    old = np.array([[-2.0 - np.log(1.5), -2.0 - np.log(8.0)]])
    logps, mask, advantages = np.full((1, 2), -2.0), np.ones((1, 2), bool), np.array([3.0])
    (_, stats), grad = jitted(Cispo(epsilon_high=2.0))(logps, old, None, advantages, mask, None)
    np.testing.assert_allclose(grad, [[-1.5 * 3 / 2, -2.0 * 3 / 2]], rtol=EXACT)
    assert stats["cispo_clip_ratio"] == 0.5


def test_gspo_has_one_ratio_a_sequence():
    """The geometric mean of the tokens' ratios: 2 and 1/2 make 1, and padding is not asked."""
    logps = np.log([[2.0, 0.5, 7.0], [3.0, 3.0, 3.0]])
    mask = np.array([[True, True, False], [True, True, True]])
    got = sequence_ratio(jnp.asarray(logps), jnp.zeros((2, 3)), mask)
    np.testing.assert_allclose(np.exp(got), [[1.0], [3.0]], rtol=EXACT)
    advantages, old = np.array([1.0, -1.0]), np.zeros((2, 3))
    (value, stats), grad = jitted(Gspo(0.2, 0.3))(logps, old, None, advantages, mask, None)
    # no token of the first is clipped, though their own ratios are 2 and 1/2
    np.testing.assert_allclose(value, -(1.0 - 3.0) / 2, rtol=EXACT)
    np.testing.assert_allclose(grad, [[-0.25, -0.25, 0], [0.5, 0.5, 0.5]], rtol=EXACT)
    assert stats["clip_ratio/region_mean"] == 0


def test_shares_that_are_clipped_and_kl_are_means_over_tokens():
    logps, old, ref, advantages, mask = arrays()
    _, stats = grpo_loss(logps, old, ref, advantages, mask, beta=0.1)
    ratio = np.exp(logps - old)
    low = (ratio < 0.8) & (advantages[:, None] < 0)
    high = (ratio > 1.2) & (advantages[:, None] > 0)
    expected = {"low": low, "high": high, "region": low | high}
    assert set(stats) == {"kl", *(f"clip_ratio/{name}_mean" for name in expected)}
    for name, hit in expected.items():
        assert 0 < hit[mask].mean() < 1
        np.testing.assert_allclose(stats[f"clip_ratio/{name}_mean"], hit[mask].mean())
    d = (ref - logps)[mask]
    np.testing.assert_allclose(stats["kl"], (np.exp(d) - d - 1).mean(), rtol=EXACT)


def test_kl_k3_is_its_formula_and_never_negative():
    d = np.array([-3.0, -0.1, 0.0, 1e-9, 0.2, 4.0])
    got = np.asarray(kl_k3(jnp.zeros(6), jnp.asarray(d)))
    assert (got >= 0).all() and got[2] == 0
    np.testing.assert_allclose(got[[0, 1, 4, 5]], np.exp(d)[[0, 1, 4, 5]] - d[[0, 1, 4, 5]] - 1)


def test_estimators_of_kl_under_the_policy():
    """k1 and k3 are unbiased; k2 is half a square, and what a derivative of it means is the KL's.

    The derivative of E_p[KL] by log p_i (p held in the expectation): for k2 it is p_i log(p_i/q_i),
    that of the KL itself; for k1 it is p_i, the same for every policy: no signal.
    """
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    true = (p * np.log(p / q)).sum()
    for name in ("k1", "k3"):
        np.testing.assert_allclose((p * KL[name](np.log(p), np.log(q))).sum(), true)
    np.testing.assert_allclose(KL["k2"](np.log(p), np.log(q)), np.log(p / q) ** 2 / 2)
    slope = {k: jax.grad(lambda x, k=k: (p * KL[k](x, np.log(q))).sum())(np.log(p)) for k in KL}
    np.testing.assert_allclose(slope["k1"], p)
    np.testing.assert_allclose(slope["k2"], p * np.log(p / q))
    np.testing.assert_allclose(slope["k3"], p - q)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(1e-3, 1.04096), (5e-4, 1.0), (5.5e-4, 1.02048), (0.0, 0.95904), (1.0, 1.04096)],
)
def test_the_adaptive_coefficient(kl, factor):
    """VLAA-Thinker's: target 5e-4, 2048 completions, horizon 10,000: 4.1% a step at most."""
    got = next_beta(1e-3, kl, target=5e-4, horizon=10_000, completions=2048)
    np.testing.assert_allclose(got, 1e-3 * factor, rtol=EXACT)


@pytest.mark.parametrize("kl", [0.0, 1e-9, 4.9e-4, -1.0, 1e-3, 1e30])
@pytest.mark.parametrize(("horizon", "completions"), [(100, 2048), (1, 10**6), (50, 300), (10, 51)])
def test_the_adaptive_coefficient_never_turns_its_sign(kl, horizon, completions):
    """Many horizons in a step: what the formula takes away is bounded, what it adds is not."""
    beta = 1e-3
    for _ in range(5):
        after = next_beta(beta, kl, 5e-4, horizon, completions)
        error = min(max(kl / 5e-4 - 1, -0.2), 0.2)
        formula = beta * (1 + error * completions / horizon)
        assert after == (formula if formula > 0.1 * beta else 0.1 * beta) > 0
        beta = after


@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_the_adaptive_coefficient_stays_where_there_is_no_kl(kl):
    """As after a step whose updates were skipped."""
    assert next_beta(1e-3, kl, 5e-4, 10_000, 2048) == 1e-3


def test_truncated_importance_sampling():
    """min(learner's / sampler's, cap), a weight that no gradient goes through."""
    sampler = np.log([[0.5, 0.1, 0.2]])
    ours = np.log([[0.25, 0.4, 0.2]])
    np.testing.assert_allclose(truncated_weights(ours, sampler, 2.0), [[0.5, 2.0, 1.0]])
    assert not np.any(jax.grad(lambda x: truncated_weights(x, sampler, 9.0).sum())(ours))
    # On policy the gradient of the loss is that weight times -A / tokens.
    mask, A = np.ones((1, 3), bool), np.array([2.0])
    weight = truncated_weights(ours, sampler, 2.0)
    _, grad = jitted(Dapo())(ours, ours, None, A, mask, weight)
    np.testing.assert_allclose(grad, -2.0 / 3 * np.array([[0.5, 2.0, 1.0]]), rtol=EXACT)


def test_a_sequence_without_tokens_counts_in_the_mean():
    logps, old, ref, advantages, mask = arrays()
    kept = [0, 1, 3]
    all_four = grpo_loss(logps, old, ref, advantages, mask, beta=0.1)[0]
    three = grpo_loss(logps[kept], old[kept], ref[kept], advantages[kept], mask[kept], beta=0.1)[0]
    np.testing.assert_allclose(all_four, three * 3 / 4, rtol=EXACT)


@pytest.mark.parametrize("loss", [Grpo(), Cispo(), Gspo()], ids=str)
@pytest.mark.parametrize("junk", [1e4, -1e4, np.inf, np.nan])
def test_padding_may_hold_anything(loss, junk):
    logps, old, ref, advantages, mask = arrays()
    run = jitted(loss, 0.1)
    inputs = [logps, old, ref, advantages, mask, np.ones((N, C))]
    (value, _), grad = run(*inputs)
    for where in (0, 1, 2, 5):
        spoilt = list(inputs)
        spoilt[where] = np.where(mask, spoilt[where], junk)
        (found, _), other = run(*spoilt)
        np.testing.assert_array_equal(found, value)
        np.testing.assert_array_equal(other, grad)


@pytest.mark.parametrize("loss", [Grpo(), DrGrpo(), Dapo(), Cispo(), Gspo()], ids=str)
def test_parts_of_a_batch_add_up_to_the_whole(loss):
    """However they are cut, though the parts have 5 and 4 tokens: DAPO's mean is over all nine."""
    batch = arrays()
    whole = policy_loss(loss, *batch, beta=0.1)[0]
    counts = BatchCounts.of(jnp.asarray(batch[-1]))
    assert counts.tokens == 9
    for cut in (1, 2, 3):
        parts = [[x[i] for x in batch] for i in (slice(0, cut), slice(cut, N))]
        found = [policy_loss(loss, *part, beta=0.1, whole=counts)[0] for part in parts]
        np.testing.assert_allclose(sum(found), whole, rtol=EXACT)


def test_bnpo_is_a_mean_of_the_parts_own_means():
    batch = arrays()
    counts = BatchCounts.of(jnp.asarray(batch[-1]))
    halves = [[x[i] for x in batch] for i in (slice(0, 2), slice(2, N))]
    found = [policy_loss(Bnpo(), *half, whole=counts)[0] for half in halves]
    alone = [policy_loss(Dapo(), *half)[0] for half in halves]
    np.testing.assert_allclose(found, np.array(alone) / 2, rtol=EXACT)
    assert abs(sum(found) - policy_loss(Dapo(), *batch)[0]) > 1e-3


def test_dr_grpo_divides_by_the_longest_that_a_completion_may_be():
    """Not by the longest there is: the same tokens in an array with room for twice as many."""
    batch = arrays()
    wide = [np.pad(x, ((0, 0), (0, C))) if x.ndim > 1 else x for x in batch]
    value = policy_loss(DrGrpo(), *batch)[0]
    np.testing.assert_allclose(policy_loss(DrGrpo(), *wide)[0], value / 2, rtol=EXACT)
    given = BatchCounts.of(jnp.asarray(wide[-1]), length=C)
    np.testing.assert_allclose(policy_loss(DrGrpo(), *wide, whole=given)[0], value, rtol=EXACT)


def test_leading_axes_do_not_matter():
    """[R, g, C] is [R * g, C]."""
    logps, old, ref, advantages, mask = arrays()
    flat = grpo_loss(logps, old, ref, advantages, mask, beta=0.1)[0]
    rows = [x.reshape(2, 2, *x.shape[1:]) for x in (logps, old, ref, advantages, mask)]
    np.testing.assert_allclose(grpo_loss(*rows, beta=0.1)[0], flat, rtol=EXACT)


def test_sft_is_the_mean_over_tokens():
    logps, *_, mask = arrays()
    np.testing.assert_allclose(sft_loss(logps, mask), -logps[mask].mean(), rtol=EXACT)
    np.testing.assert_allclose(sft_loss(logps, mask, tokens=20), -logps[mask].sum() / 20)
    grad = jax.grad(sft_loss)(jnp.asarray(logps), mask)
    np.testing.assert_allclose(grad, np.where(mask, -1 / mask.sum(), 0), rtol=EXACT)
    assert sft_loss(logps, np.zeros_like(mask)) == 0
